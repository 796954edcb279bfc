"""`train_run` under FSDP on the CPU. accelerate picks FSDP for GPUs only, so it is told here; the shards, gathered and
scattered over gloo, are torch's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seglens.methods import Lens
from seglens.training import trainer as training
from seglens.training.launch import accelerator_for
from train_run import train


def sharded(device: torch.device, trackers: tuple, out: Path) -> Any:
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    made = accelerator_for(device, trackers, out)
    made.state.distributed_type = DistributedType.FSDP
    made.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    return made


def train_sharded(llava: str, sam: str, out: str, **settings: object) -> Lens:
    training.accelerator_for = sharded  # in a process of its own
    return train(llava, sam, out, **settings)
