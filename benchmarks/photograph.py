"""What one photograph costs without a trained head: `python benchmarks/photograph.py [--size 7b]`.

Counted, not measured: LLaVA-1.5-7B up to the last layer that segmenting needs, and the image encoder of SAM 2.1
(Hiera-L). The real modules run on tensors without data: GB of all tensors that exist at a time (no workspaces of a GPU,
no fragments), and TFLOP, two operations for a multiplication with its addition.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import models
import torch
from measure import Report, machine, options
from memory import BEFORE, BEHIND, GB, Account, pretend
from models import Size
from operations import tera
from torch import nn
from torch._subclasses import FakeTensorMode
from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

from seglens.backbones import Backbone
from seglens.backbones.read_layer import COPIED
from seglens.decoders.sam2 import Sam2Decoder

CANVAS = 1024  # pixels of SAM's side


def sam2_large(attention: str | None = None) -> Sam2Decoder:
    """In the shapes of facebook/sam2.1-hiera-large, without its memory for videos."""
    hiera = Sam2HieraDetConfig(
        hidden_size=144,
        num_attention_heads=2,
        image_size=[CANVAS, CANVAS],
        blocks_per_stage=[2, 6, 36, 4],
        embed_dim_per_stage=[144, 288, 576, 1152],
        num_attention_heads_per_stage=[2, 4, 8, 16],
        window_size_per_stage=[8, 4, 16, 8],
        global_attention_blocks=[23, 33, 43],
        window_positional_embedding_background_size=[7, 7],
    )
    vision = Sam2VisionConfig(backbone_config=hiera, backbone_channel_list=[1152, 576, 288, 144])
    return Sam2Decoder(Sam2Model(Sam2Config(vision_config=vision, attn_implementation=attention)))


def mllm(size: Size, dtype: torch.dtype, attention: str | None = None) -> Backbone:
    """With the layers that segmenting loads."""
    short = replace(size, layers=size.read + COPIED)
    return models.backbone(models.llava(short, dtype, attention), size)


def read(backbone: Backbone, size: Size) -> None:
    """An image, and one question about it."""
    memory = open_image(backbone, size)
    ask(backbone, size, memory)


def open_image(backbone: Backbone, size: Size) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    side, words = models.PATCH * size.cells, backbone.module.get_input_embeddings()
    rows = backbone.mllm.family.encode(torch.randn(1, 3, side, side, dtype=words.weight.dtype), backbone.tiling).rows
    prefix = torch.cat([words(torch.ones(1, BEFORE, dtype=torch.long)), rows], 1)
    return backbone.mllm.layers(size.read + COPIED).prefix(prefix, torch.arange(prefix.shape[1])[None])[1]


def ask(backbone: Backbone, size: Size, memory: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    start = BEFORE + size.cells**2
    rows = backbone.module.get_input_embeddings()(torch.ones(1, 1, BEHIND, dtype=torch.long))
    mask, positions = torch.ones(1, 1, BEHIND, dtype=torch.bool), torch.arange(start, start + BEHIND)[None, None]
    backbone.mllm.layers(size.read + COPIED).questions(rows, positions, mask, memory)


def encode(decoder: Sam2Decoder) -> None:
    decoder._embed(torch.randn(1, 3, CANVAS, CANVAS))


def memory(module: nn.Module, work: Callable[[], object]) -> tuple[float, float]:
    """GB of the weights, and at most while `work` runs. Call it within a FakeTensorMode."""
    account = Account()
    pretend(module)
    for tensor in (*module.parameters(), *module.buffers()):
        account.hold(tensor)
    weights = account.now
    with account:
        work()
    return weights / GB, account.peak / GB


@torch.no_grad()
def counted(size: Size) -> dict[str, float]:
    rows = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with torch.device("meta"):
            backbone = mllm(size, dtype)
        with FakeTensorMode():
            rows[f"GB: MLLM in {name}, weights"], rows[f"GB: MLLM in {name}, peak"] = memory(
                backbone.module, lambda backbone=backbone: read(backbone, size)
            )
    with torch.device("meta"):
        sam, plain_sam, plain = sam2_large(), sam2_large("eager"), mllm(size, torch.bfloat16, "eager")
    with FakeTensorMode():
        rows["GB: SAM 2.1 L in fp32, weights"], rows["GB: SAM 2.1 L in fp32, peak"] = memory(
            sam.module, lambda: encode(sam)
        )
        pretend(plain_sam.module)  # a CPU's fused attention is not counted
        pretend(plain.module)
        rows["TFLOP: MLLM, image"] = tera(lambda: open_image(plain, size))
        opened = open_image(plain, size)
        rows["TFLOP: MLLM, question"] = tera(lambda: ask(plain, size, opened))
        rows["TFLOP: SAM 2.1 L, image"] = tera(lambda: encode(plain_sam))
    gc.collect()
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    settings = options(__doc__ or "", sizes=("7b", "small", "tiny")).parse_args(arguments)
    torch.set_num_threads(settings.threads)
    notes = ["an account of tensors without data, not a measurement"]
    report = Report(
        "one photograph without a trained head", settings.size, "", counted(models.SIZES[settings.size]), (), notes
    )
    replace(report, machine=machine(settings.device, settings.threads)).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
