"""`make test-latest`: does the installed wheel work with the newest packages? Run by the environment that has them.

It tells which packages moved from constraints.txt, before all else and again at the end of a failure, then takes the
demo, starts what users start, and runs the tests that stand on other packages' interfaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/test_private.py",
    "tests/cli/test_tested_versions.py",  # what we use of their insides
    "tests/backbones/test_transformers_cache.py",
    "tests/backbones/test_contract.py",
    "tests/backbones/test_loading.py",
    "tests/backbones/test_chat_prefix.py",
    "tests/backbones/test_lora.py",  # transformers, peft
    "tests/decoders/test_decoder_contract.py",
    "tests/serving/http/test_routes.py",
    "tests/serving/http/test_process.py",  # fastapi, uvicorn, pydantic
    "tests/serving/tools/test_langchain.py",
    "tests/serving/tools/test_mcp.py",
    "tests/training/test_launch.py",  # accelerate
)


def main(folder: Path) -> int:
    import seglens

    home = Path(seglens.__file__).resolve()
    if not home.is_relative_to(Path(sys.prefix).resolve()):
        print(f"seglens is imported from {home}, not from the wheel that was installed in {sys.prefix}")
        return 2
    from seglens.cli.tested_versions import moved_packages

    moved = ", ".join(map(str, moved_packages())) or "none"
    print(f"newer than constraints.txt: {moved}", flush=True)
    for name, command in commands(folder).items():
        print(f"{name}: {' '.join(command)}", flush=True)
        if code := subprocess.run(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}).returncode:
            print(f"{name} failed with these packages newer than constraints.txt: {moved}")
            print("mend it, or give the package that broke it an upper bound in pyproject.toml")
            return code
    return 0


def commands(folder: Path) -> dict[str, list[str]]:
    seglens, out = [sys.executable, "-m", "seglens"], folder.resolve() / "out"
    lesson = "world:n=4,split=train,queries=2"
    step = ["--backbone", "embedded/mllm", "--decoder", "embedded/sam", "--set", "steps=1", "--set", "images=2"]
    return {
        "demo": [*seglens, "demo", "--out", str(out / "demo")],
        "doctor": [*seglens, "doctor"],
        "page": [sys.executable, "-c", PAGE],
        "a training step": [*seglens, "train", "--data", lesson, *step, "--out", str(out / "run")],
        "tests": [sys.executable, "-m", "pytest", "-q", "-n", "2", *TESTS],
    }


PAGE = """
from urllib.request import urlopen
from seglens import Segmenter
from seglens.serving.web.page_limits import PageLimits
from seglens.serving.web.launch import build, launch
blocks = build(Segmenter.from_pretrained(), "embedded", PageLimits())
address = launch(blocks, PageLimits(), host="127.0.0.1", port=None, browser=False)
assert b"SegLens" in urlopen(address).read()
blocks.close()
"""


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
