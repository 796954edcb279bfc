"""The arithmetic of the ratios at the true size: `python benchmarks/operations.py [--size 7b]`. TFLOP, counted.

The same modules run on tensors without memory and PyTorch counts the operations of their matrix products, two for a
multiplication with its addition. It is no time: writing an answer token by token costs little arithmetic and much time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import models
import torch
from lisa import ANSWER
from measure import Ratio, Report, machine, options
from memory import BEFORE, BEHIND, IMAGES, QUESTIONS, AllPrompts, lens_loss, pretend
from models import Size
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from seglens.backbones import Backbone
from seglens.core.types import Embedding, Readout
from seglens.decoders.sam import SamDecoder
from seglens.methods import Lens, build_lens

TERA = 1e12


def tera(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / TERA


def counted(size: Size) -> dict[str, float]:
    """By part."""
    with torch.device("meta"):
        # a CPU's fused attention is not counted
        mllm, sam = models.llava(size, torch.bfloat16, "eager"), models.sam(size, attention="eager")
        backbone = models.backbone(mllm, size)
        decoder = SamDecoder(sam)
        head = build_lens(models.head_config(size), backbone, AllPrompts(decoder)).train()
    with FakeTensorMode():
        for module in (mllm, sam, head):
            pretend(module)
        with torch.no_grad():
            spent = parts(size, backbone, decoder, head)
            both = tera(lambda: lens_loss(head, size, "cpu"))
        step = tera(lambda: lens_loss(head, size, "cpu").backward())
    spent["head, question, with SAM's mask decoder"] = both / IMAGES / QUESTIONS - spent["head, image"] / QUESTIONS
    return spent | {f"a training step of the head, {IMAGES} images of {QUESTIONS} questions": step}


def parts(size: Size, backbone: Backbone, decoder: SamDecoder, head: Lens) -> dict[str, float]:
    """What an image, a question and a written token cost in each model."""
    side, p, below = models.PATCH * size.cells, BEFORE + size.cells**2, backbone.layers_below()
    e, at = size.canvas // models.SAM_PATCH, torch.arange(p + BEHIND)[None]
    pixels, canvas = torch.randn(3, side, side).bfloat16(), torch.randn(1, 3, size.canvas, size.canvas)
    embedding, prompts = Embedding(torch.randn(1, size.prompt_width, e, e)), torch.randn(1, 1, 1, size.prompt_width)
    mask, prefix = torch.ones(1, 1, BEHIND, dtype=torch.bool), torch.randn(1, p, size.width)
    language, grid = backbone.module.model.language_model, (size.cells, size.cells)

    def words(n: int) -> Tensor:
        return torch.randn(1, n, size.width).bfloat16()

    _, memory = below.prefix(words(p), at[:, :p])
    question = words(BEHIND)[None].float(), at[None, :, p:], mask
    readout = Readout(prefix, at[:, :p], *question, image_tokens=at[0, BEFORE:p], grid=grid)
    return {
        "CLIP and projector": tera(lambda: backbone.mllm.family.encode(pixels[None], backbone.tiling)),
        "all layers, image and question": tera(lambda: language(inputs_embeds=words(p + BEHIND), use_cache=False)),
        "layers that are read, image": tera(lambda: below.prefix(words(p), at[:, :p])),
        "layers that are read, question": tera(
            lambda: below.questions(words(BEHIND)[None], at[None, :, p:], mask, memory)
        ),
        "all layers, a written token": tera(lambda: language(inputs_embeds=words(1), use_cache=False)),
        "SAM's image encoder": tera(lambda: decoder._embed(canvas)),
        "SAM's mask decoder": tera(lambda: decoder.decode(embedding, prompts)),
        "head, image": tera(lambda: head.precompute(readout)),
    }


def compare(size: str, threads: int) -> Report:
    rows = counted(models.SIZES[size])
    clip, whole, image, question, token, sam, mask, look, head, step = rows.values()
    lisa = clip + whole + ANSWER * token + sam + mask
    later = question + head
    first = clip + image + sam + look + later
    read = IMAGES * (QUESTIONS * (clip + whole) + sam)
    live = IMAGES * (clip + image + QUESTIONS * question + sam)
    ratios = [
        Ratio("arithmetic: question n less than a LISA-style question by", lisa / later),
        Ratio("arithmetic: ... than one with SAM's embedding kept", (lisa - sam) / later),
        Ratio("arithmetic: first question as a share of a LISA-style question", first / lisa),
        Ratio("arithmetic: a training step from the cache less than with the whole MLLM by", (read + step) / step),
        Ratio("arithmetic: ... live less than with the whole MLLM by", (read + step) / (live + step)),
    ]
    return Report("operations", size, "TFLOP", rows, ratios, machine=machine("cpu", threads))


def main(arguments: Sequence[str] | None = None) -> None:
    settings = options(__doc__ or "", sizes=("7b", "small", "tiny")).parse_args(arguments)
    compare(settings.size, settings.threads).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
