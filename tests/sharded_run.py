"""`train_run` under FSDP on the CPU. accelerate chooses FSDP for GPUs only, so it is set here; the shards, gathered and
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

    accelerator = accelerator_for(device, trackers, out)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    return accelerator


def train_sharded(llava: str, sam: str, out: str, **settings: object) -> Lens:
    training.accelerator_for = sharded  # in a separate process
    return train(llava, sam, out, **settings)
