"""One training run from files alone: what a killed process, the one that goes on and every process of many call."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from seglens.backbones import Backbone, load_backbone
from seglens.checkpoint import HeadConfig, Origin
from seglens.data.mixing import Epochs
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder, load_decoder
from seglens.features import Live
from seglens.lessons import Drawn
from seglens.methods import Lens, LensConfig, build_lens
from seglens.training import TrainConfig, fit

SMALL = replace(LensConfig(), descriptor_width=16, encoder_width=16)
LONG = TrainConfig(steps=30, images=3, lr=1e-3, warmup=3, save_every=3, log_every=1, seed=4)
LESSONS = WorldData(n=6, seed=3, split="train", queries=4)


def fresh(backbone: Backbone, decoder: MaskDecoder, config: LensConfig = SMALL) -> Lens:
    torch.manual_seed(1)
    return build_lens(config, backbone, decoder)


def head_config(backbone: Backbone, decoder: MaskDecoder, config: LensConfig = SMALL) -> HeadConfig:
    origins = Origin.of(backbone.name), Origin.of(decoder.name)
    return HeadConfig("lens", vars(config), origins[0], backbone.layer, origins[1])


def lessons(backbone: Backbone, decoder: MaskDecoder, data: WorldData = LESSONS, name: str = "world") -> Drawn:
    live = Live(data, backbone, decoder, name)
    return Drawn([live], Epochs(len(live), live.questions, seed=4))


def train(llava: str, sam: str, out: str, **settings: object) -> Lens:
    torch.set_num_threads(1)
    parts = load_backbone(llava, attn_implementation="eager"), load_decoder(sam)
    head = fresh(*parts)
    config = replace(LONG, **settings)
    exam = Live(WorldData(n=3, seed=9, queries=2), *parts, "exam")
    fit(head, lessons(*parts), config, head_config(*parts), Path(out), exam=exam, quiet=True)
    return head


if __name__ == "__main__":
    train(*sys.argv[1:4], **json.loads(sys.argv[4]))
