"""The limits of this process. Light to import: they are read before anything heavy is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

try:
    import resource
except ImportError:  # Windows, which has no such limits
    resource = None  # type: ignore[assignment]

CGROUPS = Path("/proc/self/cgroup")  # lines of number:controllers:path
MOUNT = Path("/sys/fs/cgroup")


def address_space_limit() -> int | None:
    """Bytes of address space that this process may take (ulimit -v); None without a limit."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit in (resource.RLIM_INFINITY, -1) else limit


def usable_cores() -> int:
    """How many cores this process may use at a time: those of its affinity (taskset), within the quota of its container
    (`docker run --cpus`), which is rounded up."""
    quota = cpu_quota()
    cores = affinity_cores()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def affinity_cores() -> int:
    """The cores on which this process may run, whatever its quota; where the system has no affinity, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(cgroups: Path = CGROUPS, mount: Path = MOUNT) -> float | None:
    """Seconds of processor time per second that the control groups of this process allow: the least of its group and
    of all above; None without a limit."""
    try:
        lines = cgroups.read_text().splitlines()
    except OSError:  # not Linux
        return None
    groups = (line.split(":", 2) for line in lines)
    quotas = [quota for _, controllers, path in groups for quota in _quotas(controllers, path, mount)]
    return min(quotas, default=None)


def _quotas(controllers: str, path: str, mount: Path) -> Iterator[float]:
    """Those of a line of /proc/self/cgroup. Inside a container its path may be that of the host: then only the root of
    what is mounted exists, which is the container's own group."""
    if controllers and "cpu" not in controllers.split(","):
        return
    root = mount / controllers if controllers else mount  # version 1, or version 2 with one tree for all
    relative = PurePosixPath(path.lstrip("/"))
    for group in (relative, *relative.parents):
        quota = _version_1(root / group) if controllers else _version_2(root / group)
        if quota is not None:
            yield quota


def _version_2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _version_1(group: Path) -> float | None:
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 < period else None
    except (OSError, ValueError):
        return None
