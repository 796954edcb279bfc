"""Is this machine ready? Every check says what it saw."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

LIBRARIES = ("torch", "transformers", "safetensors", "tokenizers", "numpy", "pillow")


def examine() -> dict[str, Any]:
    """Run every check; one that raises has failed and says why."""
    checks = [_check(name, look) for name, look in CHECKS.items()]
    return {"ok": all(c["ok"] for c in checks), "checks": checks}


def _check(name: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "says": look()}
    except Exception as error:
        return {"name": name, "ok": False, "says": f"{type(error).__name__}: {error}"}


def _versions() -> str:
    libraries = (f"{name} {version(name)}" for name in ("seglens", *LIBRARIES))
    return ", ".join([f"python {platform.python_version()}", *libraries])


def _devices() -> str:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return ", ".join(found + (["mps"] if torch.backends.mps.is_available() else []))


def _weights() -> str:
    from seglens.checkpoint import EMBEDDED
    from seglens.hub import resolve_folder

    folder = resolve_folder(EMBEDDED).parent
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights in {folder}; install the package again")
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB in {len(files)} files"


def _canary() -> str:
    """A known scene must give a known mask: weights that loaded wrongly would not."""
    from seglens.data.world import WorldData
    from seglens.evaluation import run, summarise
    from seglens.segmenter import Segmenter

    report = summarise(run(Segmenter.from_pretrained(), WorldData(n=8, seed=11)))
    giou = report["with_target"]["gIoU"]
    if giou < 0.5:
        raise RuntimeError(f"gIoU {giou} on 8 scenes, needs 0.5: the weights do not do what they were trained for")
    return f"gIoU {giou} on 8 scenes of the world"


CHECKS = {"versions": _versions, "devices": _devices, "embedded weights": _weights, "canary": _canary}
