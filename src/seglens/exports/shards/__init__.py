"""Answers about a million images, in shards that any number of machines write."""

from seglens.exports.shards.encoding import ENCODERS
from seglens.exports.shards.image_list import ImageList
from seglens.exports.shards.plan import ShardPlan, ShardRecord
from seglens.exports.shards.run import ShardOutcome, ShardRun

__all__ = ["ENCODERS", "ImageList", "ShardOutcome", "ShardPlan", "ShardRecord", "ShardRun"]
