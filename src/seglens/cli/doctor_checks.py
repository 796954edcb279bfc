"""Is this machine ready? Every check reports what it found."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from seglens import __version__
from seglens.cli.tested_versions import installed_packages, remedy

LIBRARIES = ("torch", "transformers", "safetensors", "tokenizers", "numpy", "pillow")


def examine(verify: bool = False) -> dict[str, Any]:
    """Run every check, and of converted checkpoints if `verify`; one that raises has failed, and its report states why
    and what to do."""
    chosen = {VERIFY: _converted, **CHECKS} if verify else CHECKS  # the self-test stays the last
    checks = [_check(name, check) for name, check in chosen.items()]
    return {"ok": all(c["ok"] for c in checks), "checks": checks}


def _check(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "says": check(), "remedy": None}
    except Exception as error:
        return {"name": name, "ok": False, "says": f"{type(error).__name__}: {error}", "remedy": remedy()}


def _versions() -> str:
    libraries = (f"{name} {version(name)}" for name in LIBRARIES)
    return ", ".join([f"python {platform.python_version()}", f"seglens {__version__}", *libraries])


def _tested() -> str:
    """Newer versions are no fault: the check `self-test` shows whether they work."""
    packages = installed_packages()
    moved = [str(package) for package in packages if package.moved]
    text = f"{len(packages) - len(moved)} of {len(packages)} packages have the version that the tests ran with"
    return f"{text}; not {', '.join(moved)}" if moved else text


def _devices() -> str:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return ", ".join(devices + (["mps"] if torch.backends.mps.is_available() else []))


def _weights() -> str:
    from seglens.checkpoints.hub import resolve_folder
    from seglens.checkpoints.origin import EMBEDDED

    folder = resolve_folder(EMBEDDED).parent
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights in {folder}; install the package again")
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB in {len(files)} files"


def _converted() -> str:
    """Every byte of every copy that is kept."""
    from seglens.convert.kept import cache_folder, check, copies

    kept = copies()
    for copy in kept:
        check(copy, whole=True)
    size = sum(file.stat().st_size for copy in kept for file in copy.rglob("*") if file.is_file())
    return f"{len(kept)} in {cache_folder()}, {size / 1e9:.1f} GB, as they were converted"


def _self_test() -> str:
    """Known scenes must give good masks, which wrongly loaded weights would not."""
    from seglens.data.world import WorldData
    from seglens.evaluation.evaluate import run
    from seglens.evaluation.summary import summarise
    from seglens.inference.segmenter import Segmenter

    report = summarise(run(Segmenter.from_pretrained(), WorldData(n=8, seed=11)))
    giou = report["with_target"]["gIoU"]
    if giou < 0.5:
        raise RuntimeError(f"gIoU {giou} on 8 scenes, needs 0.5: the weights do not do what they were trained for")
    return f"gIoU {giou} on 8 drawn scenes"


VERIFY = "converted checkpoints"
CHECKS = {
    "versions": _versions,
    "tested versions": _tested,
    "devices": _devices,
    "embedded weights": _weights,
    "self-test": _self_test,
}
