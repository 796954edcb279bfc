"""Frozen features on disk: computed once per image and question, refused when stale or damaged."""

from seglens.cache.build import Built, Share, build, left_out
from seglens.cache.check import check
from seglens.cache.estimate import Estimate, estimate
from seglens.cache.key import CacheError, differing, identity
from seglens.cache.manifest import DTYPES, MANIFEST, PER_SHARD, Manifest, Stored, read_manifest
from seglens.cache.reader import Cache

__all__ = [
    "DTYPES",
    "MANIFEST",
    "PER_SHARD",
    "Built",
    "Cache",
    "CacheError",
    "Estimate",
    "Manifest",
    "Share",
    "Stored",
    "build",
    "check",
    "differing",
    "estimate",
    "identity",
    "left_out",
    "read_manifest",
]
