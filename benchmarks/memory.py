"""Peak memory of training: `python benchmarks/memory.py [--size 7b|small] [--device cuda]`. GB of 10^9 bytes.

A step of 2 images with 3 questions each, AdamW included: LENS's head on features from a cache, or with the frozen parts
beside it, against LoRA as LISA trains it, through the same MLLM. On a GPU the allocator's peak is measured. Without one
the same modules run on fake tensors at the true size, and every tensor that is alive is accounted for: that is no
measurement of a GPU (no workspaces, no fragments, a CPU's attention kernels). How far the account agrees with the
memory that a process really takes is then checked at a small size on this CPU.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import models
import torch
from lora import LoraModel
from measure import Ratio, Report, machine, options
from models import Size
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from seglens.backbones import Backbone
from seglens.core.types import Embedding, Prompt, Readout
from seglens.decoders.sam import SamDecoder
from seglens.embedded.profiling import Resident
from seglens.methods import Lens, build_lens
from seglens.methods.losses import bce, mask_terms
from seglens.training.config import TrainConfig

IMAGES, QUESTIONS = 2, 3
BEFORE, BEHIND = 5, 24  # tokens before the image, and of a question
ANSWER = 7  # LISA's answer is trained too
GB = 1e9


class AllPrompts:
    """A mask decoder that hides no prompt: whether any is void depends on data, which fake tensors have not."""

    def __init__(self, decoder: SamDecoder):
        self.decoder, self.width = decoder, decoder.width

    @property
    def mask_side(self) -> int:
        return self.decoder.mask_side

    def positions(self, points: Tensor) -> Tensor:
        return self.decoder.positions(points)

    def answer(self, embedding: Embedding, prompts: Sequence[Prompt]) -> Tensor:
        return self.decoder.answer(embedding, prompts)

    def trainable_decoder(self) -> nn.Module:
        return self.decoder.trainable_decoder()

    def decode(
        self, embedding: Embedding, prompts: Tensor, keep: Tensor | None = None, decoder: nn.Module | None = None
    ) -> Tensor:
        return self.decoder.decode(embedding, prompts, None, decoder)


def optimiser(module: nn.Module, fused: bool) -> torch.optim.AdamW:
    """As `fit` has it: on a GPU PyTorch updates all weights together unless the update is fused."""
    config, how = TrainConfig(), {"fused": True} if fused else {"foreach": True}
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, **how)


@dataclass(frozen=True)
class Ready:
    """What is trained, what is in memory beside it, and the loss of a step on a device."""

    trained: nn.Module
    beside: tuple[nn.Module, ...]
    loss: Callable[[str], Tensor]


# ---------------------------------------------------------------- LENS


def lens(size: Size, device: str, live: bool = False) -> Ready:
    """The head. `live`: the layers that are read and SAM stay in memory and read the images first."""
    short = replace(size, layers=size.read + 2)
    with torch.device(device):
        mllm = models.backbone(models.llava(short, torch.bfloat16), size)
        decoder = SamDecoder(models.sam(size))
        head = build_lens(models.head_config(size), mllm, AllPrompts(decoder)).train()
    if not live:
        decoder.module.vision_encoder = None
        return Ready(head, (decoder.module,), partial(lens_loss, head, size))

    def loss(device: str) -> Tensor:
        look(mllm, decoder, size, device)
        return lens_loss(head, size, device)

    return Ready(head, (mllm.module, decoder.module), loss)


@torch.no_grad()
def look(mllm: Backbone, decoder: SamDecoder, size: Size, device: str) -> None:
    """Read the images of a step, as `Backbone.open`, `Backbone.read` and `MaskDecoder.encode` do."""
    side, p, words = models.PATCH * size.cells, BEFORE + size.cells**2, mllm.module.get_input_embeddings()
    for _ in range(IMAGES):
        with torch.device(device):
            rows = mllm.mllm.family.encode(torch.randn(1, 3, side, side, dtype=torch.bfloat16), mllm.tiling).rows
            prefix = torch.cat([words(torch.ones(1, BEFORE, dtype=torch.long)), rows], 1)
            _, memory = mllm.layers_below().prefix(prefix, torch.arange(p)[None])
            questions = words(torch.ones(1, QUESTIONS, BEHIND, dtype=torch.long))
            mask, positions = torch.ones(questions.shape[:-1], dtype=torch.bool), torch.arange(p, p + BEHIND)
            mllm.layers_below().questions(questions, positions.expand(1, QUESTIONS, -1), mask, memory)
            decoder._embed(torch.randn(1, 3, size.canvas, size.canvas))


def lens_loss(head: Lens, size: Size, device: str) -> Tensor:
    b, q, side, s = IMAGES, QUESTIONS, size.canvas // 16, size.canvas // 4
    p, grid = BEFORE + size.cells**2, (size.cells, size.cells)
    with torch.device(device):
        readout = Readout(
            prefix=torch.randn(b, p, size.width),
            prefix_positions=torch.arange(p).expand(b, -1),
            question=torch.randn(b, q, BEHIND, size.width),
            question_positions=torch.arange(p, p + BEHIND).expand(b, q, -1),
            question_mask=torch.ones(b, q, BEHIND, dtype=torch.bool),
            image_tokens=torch.arange(BEFORE, p),
            grid=grid,
        )
        embedding = Embedding(torch.randn(b, size.prompt_width, side, side))
        masks, cells = torch.rand(b, q, s, s), torch.rand(b, q, *grid)
        present = torch.ones(b, q)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        output = head(readout, embedding, local=torch.ones(b, q, dtype=torch.bool, device=device))
    # the terms of `Lens.losses`; its choice of those that are asked depends on data
    terms = mask_terms(output.mask_logits.flatten(0, 1), masks.flatten(0, 1))
    loss = sum(terms.values()).mean() + bce(output.heat_map.flatten(0, 1), cells.flatten(0, 1)).mean()
    return loss + nn.functional.binary_cross_entropy_with_logits(output.presence_logits, present)


def update(loss: Tensor, stepper: torch.optim.AdamW) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(stepper.param_groups[0]["params"], 1.0)
    stepper.step()
    stepper.zero_grad()


# ---------------------------------------------------------------- LISA


def lora(size: Size, device: str, words: bool = True, checkpointing: bool = False) -> Ready:
    """Of LISA's training."""
    with torch.device(device):
        mllm = models.llava(size, torch.bfloat16)
        decoder = SamDecoder(models.sam(size, torch.bfloat16))
        model = LoraModel(mllm, decoder, words, checkpointing)
    n, s, side = IMAGES * QUESTIONS, size.canvas // 4, models.PATCH * size.cells

    def loss(device: str) -> Tensor:
        with torch.device(device):
            batch = (
                torch.randn(n, 3, side, side, dtype=torch.bfloat16),
                torch.randn(IMAGES, 3, size.canvas, size.canvas, dtype=torch.bfloat16),
                torch.ones(n, BEFORE, dtype=torch.long),
                torch.ones(n, BEHIND + ANSWER, dtype=torch.long),
                torch.rand(IMAGES, QUESTIONS, s, s),
            )
        return model(*batch, slice(-3, -2))

    return Ready(model, (decoder.module,), loss)


# ---------------------------------------------------------------- how it is measured

WAYS: dict[str, Callable[[Size, str], Ready]] = {
    "LENS, features from a cache": lens,
    "LENS, MLLM to the read layer and SAM beside it": partial(lens, live=True),
    "LISA-style LoRA": lora,
    "LISA-style LoRA, gradient checkpointing": partial(lora, checkpointing=True),
    "LoRA without words": partial(lora, words=False),
    "LoRA without words, gradient checkpointing": partial(lora, words=False, checkpointing=True),
}
CHECKED = ("LENS, features from a cache", "LISA-style LoRA")


@dataclass(frozen=True)
class Peak:
    """Bytes between two steps (weights, what the optimiser keeps), and at most within one."""

    resting: float
    peak: float


class Account(TorchDispatchMode):
    """Bytes of all tensors that are alive at a time, those passed to `hold` and all that are created inside it.

    (PyTorch's own MemTracker refuses modules with frozen parameters.)"""

    BLOCK = 512  # bytes; what a GPU's allocator rounds up to

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self._known = 0, 0, WeakIdKeyDictionary()

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = -(-storage.nbytes() // self.BLOCK) * self.BLOCK
        self._known[storage] = size
        weakref.finalize(storage, self._freed, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.hold, out)
        return out


def accounted(way: str, size: Size, fused: bool = False) -> Peak:
    """Of fake tensors."""
    ready, account = WAYS[way](size, "meta"), Account()
    with FakeTensorMode():
        for module in (ready.trained, *ready.beside):
            pretend(module)
            for tensor in (*module.parameters(), *module.buffers()):
                account.hold(tensor)
        with account:
            stepper = optimiser(ready.trained, fused)
            update(ready.loss("cpu"), stepper)
            resting, account.peak = account.now, 0
            update(ready.loss("cpu"), stepper)
    return Peak(resting, account.peak)


def pretend(module: nn.Module) -> None:
    """Tensors that have a shape but no memory, in place of those that have not even a device."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None and p.is_meta:
                part._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None and b.is_meta:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype)


def measured(way: str, size: Size, device: str, fused: bool = False) -> Peak:
    """Of a GPU's allocator, or of this process: what is resident now and was at most since the last call."""
    before = 0
    if device == "cpu":
        if size is not models.SIZES["tiny"]:
            measured(way, models.SIZES["tiny"], device, fused)  # code is loaded when it is first used
            gc.collect()
        before = Resident.now()
    ready = WAYS[way](size, device)
    stepper = optimiser(ready.trained, fused)
    update(ready.loss(device), stepper)
    gc.collect()
    if device == "cpu":
        Resident.forget()
        resting = Resident.now()
        update(ready.loss(device), stepper)
        return Peak(resting - before, Resident.most() - before)
    torch.cuda.reset_peak_memory_stats(device)
    resting = torch.cuda.memory_allocated(device)
    update(ready.loss(device), stepper)
    return Peak(resting, torch.cuda.max_memory_allocated(device))


def in_a_process(way: str, size: str, threads: int) -> Peak:
    """`measured` on this CPU, in a separate process that gives back what it frees."""
    command = [sys.executable, __file__, "--size", size, "--one", way, "--threads", str(threads)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Peak(**json.loads(finished.stdout))


def compare(size: str, device: str, threads: int, check: str | None) -> Report:
    """`check` is the size at which the account is compared with a process; None leaves that out."""
    shapes, cuda, fused = models.SIZES[size], torch.device(device).type == "cuda", "LENS ... and a fused AdamW"

    def find(way: str, fused: bool = False) -> Peak:
        peak = measured(way, shapes, device, fused) if cuda else accounted(way, shapes, fused)
        gc.collect()
        return peak

    peaks = {way: find(way) for way in WAYS} | {fused: find(CHECKED[0], fused=True)}
    rows = {way: peak.peak / GB for way, peak in peaks.items()}
    rows |= {f"between steps: {way}": peak.resting / GB for way, peak in peaks.items()}
    cached, live, whole, spared = (peaks[way].peak for way in list(WAYS)[:4])
    third = 1 / 3
    ratios = [
        Ratio("LENS from a cache as a share of LISA-style LoRA", cached / whole, third, most=True),
        Ratio("... with a fused AdamW", peaks[fused].peak / whole, third, most=True),
        Ratio("LENS from a cache as a share of LoRA with gradient checkpointing", cached / spared, third, most=True),
        Ratio("... with a fused AdamW", peaks[fused].peak / spared, third, most=True),
        Ratio("LENS with the MLLM and SAM beside it as a share of LISA-style LoRA", live / whole, third, most=True),
    ]
    notes = [f"a step: {IMAGES} images, {QUESTIONS} questions each; trained weights fp32, computed in bf16"]
    notes.append("measured: the peak of the GPU's allocator" if cuda else "an account of tensors, not a measured GPU")
    for way in CHECKED if check else ():
        real, account = in_a_process(way, check or size, threads), accounted(way, models.SIZES[check or size])
        notes.append(
            f"checked at size {check}, {way}: accounted {account.peak / GB:.3f} GB, process {real.peak / GB:.3f} GB "
            f"({account.peak / real.peak:.2f} of it)"
        )
    return Report("peak memory of a training step", size, "GB", rows, ratios, notes, machine(device, threads))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", sizes=("7b", "small", "tiny"))
    parser.add_argument("--one", choices=WAYS, help="measure one way in this process and print bytes")
    parser.add_argument("--no-check", action="store_true", help="leave out the comparison with a real process")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    if settings.one:
        print(json.dumps(asdict(measured(settings.one, models.SIZES[settings.size], settings.device))))
        return
    check = None if settings.no_check or settings.device != "cpu" else "small"
    compare(settings.size, settings.device, settings.threads, check).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
