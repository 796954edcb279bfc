"""The limits of this process. Light to import: they are read before anything heavy is loaded."""

from __future__ import annotations

try:
    import resource
except ImportError:  # Windows, which has no such limits
    resource = None  # type: ignore[assignment]


def address_space_limit() -> int | None:
    """Bytes of address space that this process may take (ulimit -v); None without a limit."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit in (resource.RLIM_INFINITY, -1) else limit
