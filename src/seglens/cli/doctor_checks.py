"""Is this machine ready? Every check says what it saw."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from seglens import __version__
from seglens.cli.tested_versions import installed_packages, remedy

LIBRARIES = ("torch", "transformers", "safetensors", "tokenizers", "numpy", "pillow")


def examine() -> dict[str, Any]:
    """Run every check; one that raises has failed, says why and what to do."""
    checks = [_check(name, look) for name, look in CHECKS.items()]
    return {"ok": all(c["ok"] for c in checks), "checks": checks}


def _check(name: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "says": look(), "remedy": None}
    except Exception as error:
        return {"name": name, "ok": False, "says": f"{type(error).__name__}: {error}", "remedy": remedy()}


def _versions() -> str:
    libraries = (f"{name} {version(name)}" for name in LIBRARIES)
    return ", ".join([f"python {platform.python_version()}", f"seglens {__version__}", *libraries])


def _tested() -> str:
    """Newer versions are no fault: whether they do what they should, the canary says."""
    packages = installed_packages()
    moved = [str(package) for package in packages if package.moved]
    said = f"{len(packages) - len(moved)} of {len(packages)} packages have the version that the tests ran with"
    return f"{said}; not {', '.join(moved)}" if moved else said


def _devices() -> str:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return ", ".join(found + (["mps"] if torch.backends.mps.is_available() else []))


def _weights() -> str:
    from seglens.checkpoints.hub import resolve_folder
    from seglens.checkpoints.origin import EMBEDDED

    folder = resolve_folder(EMBEDDED).parent
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights in {folder}; install the package again")
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB in {len(files)} files"


def _canary() -> str:
    """A known scene must give a known mask: weights that loaded wrongly would not."""
    from seglens.data.world import WorldData
    from seglens.evaluation.evaluate import run
    from seglens.evaluation.summary import summarise
    from seglens.inference.segmenter import Segmenter

    report = summarise(run(Segmenter.from_pretrained(), WorldData(n=8, seed=11)))
    giou = report["with_target"]["gIoU"]
    if giou < 0.5:
        raise RuntimeError(f"gIoU {giou} on 8 scenes, needs 0.5: the weights do not do what they were trained for")
    return f"gIoU {giou} on 8 scenes of the world"


CHECKS = {
    "versions": _versions,
    "tested versions": _tested,
    "devices": _devices,
    "embedded weights": _weights,
    "canary": _canary,
}
