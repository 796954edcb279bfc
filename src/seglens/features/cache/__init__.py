"""Frozen features on disk: computed once per image and question, refused when stale or damaged."""

from seglens.features.cache.check import check
from seglens.features.cache.estimate import Estimate, estimate
from seglens.features.cache.fingerprint import CacheError, differing, identity
from seglens.features.cache.manifest import DTYPES, MANIFEST, PER_SHARD, Manifest, Stored, read_manifest
from seglens.features.cache.reader import Cache
from seglens.features.cache.writer import Built, build, left_out

__all__ = [
    "DTYPES",
    "MANIFEST",
    "PER_SHARD",
    "Built",
    "Cache",
    "CacheError",
    "Estimate",
    "Manifest",
    "Stored",
    "build",
    "check",
    "differing",
    "estimate",
    "identity",
    "left_out",
    "read_manifest",
]
