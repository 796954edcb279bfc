"""The memory of a training step, counted on tensors that have a shape and no data: nothing is loaded for it.

The real modules run on fake tensors, and the bytes of all tensors that are alive are counted. That is no measurement of
a GPU: no workspaces, no fragments, and the attention kernels of a CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from seglens.core.types import Embedding, Prompt, Readout
from seglens.decoders import MaskDecoder
from seglens.methods import Lens
from seglens.methods.losses import bce, mask_terms


class AllPrompts:
    """A mask decoder that hides no prompt: whether any is void depends on data, which fake tensors have not."""

    def __init__(self, decoder: MaskDecoder):
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


@dataclass(frozen=True)
class PassShape:
    """A pass of a LENS head: images, questions about each, tokens before the image and of a question, the grid of the
    image's tokens, the width of their rows, the axes of a position (1, or 3 of Qwen-VL), the decoder's maps (channels,
    rows, columns; the coarse one first) and the side of its masks."""

    images: int
    questions: int
    before: int
    words: int
    grid: tuple[int, int]
    width: int
    axes: int
    maps: tuple[tuple[int, int, int], ...]
    mask_side: int

    @property
    def prefix(self) -> int:
        """Tokens before the question."""
        return self.before + self.grid[0] * self.grid[1]

    def positions(self, first: int, count: int) -> Tensor:
        """Of consecutive tokens."""
        positions = torch.arange(first, first + count)
        return positions if self.axes == 1 else positions[:, None].expand(-1, self.axes)


def lens_loss(head: Lens, shape: PassShape, device: str) -> Tensor:
    """The loss of a pass on random inputs: the terms of `Lens.losses`, whose choice of those that are asked depends on
    data."""
    b, q, s, p = shape.images, shape.questions, shape.mask_side, shape.prefix
    with torch.device(device):
        prefix_positions, positions = shape.positions(0, p), shape.positions(p, shape.words)
        readout = Readout(
            prefix=torch.randn(b, p, shape.width),
            prefix_positions=prefix_positions.expand(b, *prefix_positions.shape),
            question=torch.randn(b, q, shape.words, shape.width),
            question_positions=positions.expand(b, q, *positions.shape),
            question_mask=torch.ones(b, q, shape.words, dtype=torch.bool),
            image_tokens=torch.arange(shape.before, p),
            grid=shape.grid,
        )
        coarse, *fine = (torch.randn(b, *one) for one in shape.maps)
        masks, cells, present = torch.rand(b, q, s, s), torch.rand(b, q, *shape.grid), torch.ones(b, q)
        local = torch.ones(b, q, dtype=torch.bool)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        output = head(readout, Embedding(coarse, tuple(fine)), local=local)
    terms = mask_terms(output.mask_logits.flatten(0, 1), masks.flatten(0, 1))
    loss = (
        torch.stack([term.mean() for term in terms.values()]).sum()
        + bce(output.heat_map.flatten(0, 1), cells.flatten(0, 1)).mean()
    )
    if output.presence_logits is None:
        return loss
    return loss + nn.functional.binary_cross_entropy_with_logits(output.presence_logits, present)


def update(loss: Tensor, stepper: torch.optim.AdamW) -> None:
    """One step of the optimiser."""
    loss.backward()
    nn.utils.clip_grad_norm_(stepper.param_groups[0]["params"], 1.0)
    stepper.step()
    stepper.zero_grad()


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


def pretend(*modules: nn.Module) -> None:
    """Tensors that have a shape but no memory, in place of those that have not even a device; one that several parts
    share stays one. Call it within a FakeTensorMode."""
    fakes: dict[int, tuple[Tensor, nn.Parameter]] = {}  # with what they stand for, whose id is no other's meanwhile
    for part in (part for module in modules for part in module.modules()):
        for name, p in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if p.is_meta and id(p) not in fakes:
                fakes[id(p)] = p, nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
            if id(p) in fakes:
                setattr(part, name, fakes[id(p)][1])
        for name, b in list(part.named_buffers(recurse=False)):
            if b.is_meta:
                setattr(part, name, torch.empty(b.shape, dtype=b.dtype))


def accounted(
    trained: nn.Module,
    beside: Sequence[nn.Module],
    loss: Callable[[], Tensor],
    optimiser: Callable[[], torch.optim.AdamW],
    passes: int = 1,
    buckets: bool = False,
) -> Peak:
    """Of a later step of a training, of that number of passes: those after the first run beside the gradients of those
    before, and a third changes nothing. With `buckets` gradients are never freed: they lie in the buckets that
    DDP exchanges between devices. All modules are on the meta device before, hold fake tensors after."""
    account = Account()
    with FakeTensorMode():
        pretend(trained, *beside)
        for module in (trained, *beside):
            for tensor in (*module.parameters(), *module.buffers()):
                account.hold(tensor)
        with account:
            stepper = optimiser()
            for parameter in stepper.param_groups[0]["params"]:  # a step that makes what the optimiser keeps
                parameter.grad = torch.empty_like(parameter)
            stepper.step()
            stepper.zero_grad(set_to_none=not buckets)
            resting, account.peak = account.now, 0
            if passes > 1:
                loss().backward()
            update(loss(), stepper)
    return Peak(float(resting), float(account.peak))


@torch.no_grad()
def encoding(decoder: MaskDecoder) -> tuple[int, float]:
    """Bytes beside the weights while the image encoder runs, and its operations (two for a multiplication with its
    addition). The decoder is on the meta device before, and holds fake tensors after."""
    account = Account()
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, account:
        pretend(decoder.module)
        for tensor in (*decoder.module.parameters(), *decoder.module.buffers()):
            account.hold(tensor)
        resting = account.peak = account.now
        decoder._embed(torch.randn(1, 3, decoder.image_size, decoder.image_size))
    return account.peak - resting, float(counter.get_total_flops())
