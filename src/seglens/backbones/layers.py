"""Decoder layers of any family, run one after another with a shared prefix and, on request, visible attention."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import call
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface

from seglens.backbones.layer_copies import plain_copy, shared_copy
from seglens.backbones.recomputing import recomputed
from seglens.backbones.transformers_cache import Memory, PrefixCache, QuestionCache, as_cache
from seglens.core.tuning_types import Attention

SHARING = 16  # questions that stand in one row; attention is worked out for all pairs of its tokens
VISIBLE = "seglens_visible"  # name of the attention function of cloned layers


@dataclass
class Rows:
    """Receives the attention probabilities of the last layer that ran with it: "b heads rows columns", fp32."""

    probabilities: Tensor | None = None


def visible_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    rows: Rows | None = None,
    **_: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention that gives its probabilities on request. Queries and keys come after rotary (and q/k norms) in every
    family, so the rows are those that the layer really used."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # grouped keys: each serves `groups` heads
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(-1, dtype=torch.float32)
    if rows is not None:
        rows.probabilities = probabilities
    out = nn.functional.dropout(probabilities.to(query.dtype), dropout) @ value
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(VISIBLE, visible_attention)


class DecoderLayers(nn.Module):
    """A run of a language model's decoder layers with its rotary positions. Holds the layers given, owned or shared.
    With `recompute` the activations inside a layer are computed again in the backward pass.

    The last `image` rows of every prefix see each other in both directions, as the image tokens of Gemma 3 do. A layer
    without attention is a convolution along the tokens, as in LFM2: it continues the prefix for each question alone."""

    def __init__(self, layers: Iterable[nn.Module], rotary: nn.Module, image: int = 0, recompute: bool = False):
        super().__init__()
        self.layers, self.rotary, self.image, self.recompute = nn.ModuleList(layers), rotary, image, recompute
        self._by_type = "layer_type" in inspect.signature(type(rotary).forward).parameters

    @staticmethod
    def rows() -> Rows:
        """A place for attention probabilities: hand it to `questions`. A run without attention leaves it empty."""
        return Rows()

    def prefix(
        self,
        hidden: Float[Tensor, "b p d"],
        positions: Int[Tensor, "b p ..."],
        later: Sequence[Float[Tensor, "b i d"]] = (),
        image: int = 0,
    ) -> tuple[Float[Tensor, "b p d"], list[Memory]]:
        """Run the prefix under a causal mask, but for its last `image` rows (or those of the model, if more), which see
        each other. Returns its rows and every layer's keys and values, or last inputs of its convolution.

        `later[n]` is added to the last i rows, those of the image, after layer n of this run."""
        n, image = hidden.shape[1], max(image, self.image)
        visible = torch.ones(n, n, dtype=torch.bool, device=hidden.device).tril()[None, None]
        visible[..., n - image :, n - image :] = True
        recorders = [PrefixCache() for _ in self.layers]
        out = self._run(hidden, positions, visible, recorders, later=later, image_end=n)
        return out, [r.memory for r in recorders if r.memory is not None]

    def questions(
        self,
        hidden: Float[Tensor, "b q t d"],
        positions: Int[Tensor, "b q t ..."],
        mask: Bool[Tensor, "b q t"],
        memory: Sequence[Memory],
        rows: Rows | None = None,
    ) -> Float[Tensor, "b q t d"]:
        """Run all questions in one pass: each attends to the prefix and its own earlier tokens, none to another.

        Few of them share a row, so that the cost grows with their number, not with its square. `rows` receives, for
        every token of the questions, its attention: to the prefix, then to its row."""
        q, t = hidden.shape[1:3]
        count = -(-q // SHARING)  # rows of as many questions each, the last perhaps with empty ones
        each = -(-q // count)
        split = lambda x: rearrange(_longer(x, count * each), "b (n g) ... -> (b n) g ...", n=count)  # noqa: E731
        mask = split(mask)
        caches = [QuestionCache(_for_questions(layer, count, each)) for layer in memory]
        visible = question_mask(mask, _prefix_length(memory))
        line = lambda x: rearrange(split(x), "n g t ... -> n (g t) ...")  # noqa: E731
        out = self._run(line(hidden), line(positions), visible, caches, rows, each=each)
        if rows is not None and rows.probabilities is not None:
            joined = rearrange(rows.probabilities, "(b n) h gt c -> b h (n gt) c", n=count)
            rows.probabilities = joined[:, :, : q * t]
        return rearrange(out, "(b n) (g t) d -> b (n g) t d", n=count, t=t)[:, :q]

    def whole(
        self,
        hidden: Float[Tensor, "n l d"],
        positions: Int[Tensor, "n l ..."],
        visible: Bool[Tensor, "n l l"],
        later: Sequence[Float[Tensor, "n i d"]] = (),
        image_end: int = 0,
    ) -> Float[Tensor, "n l d"]:
        """Run whole sequences; `visible` states row by row which rows it attends to. The image of `later` ends before
        row `image_end`."""
        caches = [None] * len(self.layers)
        return self._run(hidden, positions, visible[:, None], caches, later=later, image_end=image_end)

    def _run(
        self,
        hidden: Tensor,
        positions: Tensor,
        visible: Tensor,
        caches: Sequence[PrefixCache | QuestionCache | None],
        rows: Rows | None = None,
        later: Sequence[Tensor] = (),
        image_end: int = 0,
        each: int = 1,
    ) -> Tensor:
        """`each` sequences of one length share a row: `visible` keeps them apart, and a convolution runs on each."""
        blocked = torch.finfo(hidden.dtype).min
        mask = torch.zeros(visible.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~visible, blocked)
        if positions.ndim > 2:  # rotary modules want the axes of M-RoPE first
            positions = rearrange(positions, "b n a -> a b n")
        rotary = self._factors(hidden, positions)
        options = {} if rows is None else {"rows": rows}
        run = recomputed if self.recompute else call
        for n, (layer, cache) in enumerate(zip(self.layers, caches, strict=True)):
            held = as_cache(layer, cache)
            if attends(layer):
                shared = {"attention_mask": mask, "use_cache": cache is not None, "position_embeddings": rotary[n]}
                hidden = run(layer, hidden, **shared, **held, **options)
            else:
                apart = run(layer, rearrange(hidden, "n (g t) d -> (n g) t d", g=each), attention_mask=None, **held)
                hidden = rearrange(apart, "(n g) t d -> n (g t) d", g=each)
            if n < len(later):
                first = image_end - later[n].shape[1]
                image = hidden[:, first:image_end] + later[n].to(hidden)
                hidden = torch.cat([hidden[:, :first], image, hidden[:, image_end:]], 1)
        return hidden

    def _factors(self, hidden: Tensor, positions: Tensor) -> list[Any]:
        """Rotary factors for each layer. Those of Gemma 3 differ with the layer's type of attention."""
        if not self._by_type:
            return [self.rotary(hidden, positions)] * len(self.layers)
        layers: list[Any] = list(self.layers)
        types = [layer.self_attn.layer_type for layer in layers]
        factors = {kind: self.rotary(hidden, positions, kind) for kind in dict.fromkeys(types)}
        return [factors[kind] for kind in types]


def attends(layer: nn.Module) -> bool:
    """Whether a decoder layer has attention; the others are convolutions."""
    return any(name == "self_attn" for name, _ in layer.named_children())


def _for_questions(memory: Memory, count: int, each: int) -> Memory:
    """A layer's memory for `count` rows of every image, of `each` questions; a convolution needs it for each."""
    if isinstance(memory, Tensor):
        return _repeated(memory, count * each)
    return _repeated(memory[0], count), _repeated(memory[1], count)


def _prefix_length(memory: Sequence[Memory]) -> int:
    """Tokens of the prefix, by its keys; 0 for layers that are all convolutions, of which none attends to it."""
    return next((layer[0].shape[2] for layer in memory if not isinstance(layer, Tensor)), 0)


def _longer(x: Tensor, length: int) -> Tensor:
    """With zeros at the end of its second axis."""
    missing = length - x.shape[1]
    return torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], 1) if missing else x


def _repeated(x: Float[Tensor, "b ..."], count: int) -> Float[Tensor, "bn ..."]:
    """Every image `count` times; for a single image nothing is copied."""
    return x[:, None].expand(-1, count, *x.shape[1:]).flatten(0, 1)


def question_mask(mask: Bool[Tensor, "b q t"], prefix: int) -> Bool[Tensor, "b 1 qt pqt"]:
    """Which token attends to which when the questions of an image stand in one row after its prefix."""
    _, q, t = mask.shape
    same = torch.eye(q, dtype=torch.bool, device=mask.device).repeat_interleave(t, 0).repeat_interleave(t, 1)
    earlier = torch.ones(q * t, q * t, dtype=torch.bool, device=mask.device).tril()
    own = (same & earlier)[None] & rearrange(mask, "b q t -> b 1 (q t)")
    own = own | torch.eye(q * t, dtype=torch.bool, device=mask.device)  # padding attends to itself: no empty soft-max
    before = torch.ones(*own.shape[:2], prefix, dtype=torch.bool, device=mask.device)
    return torch.cat([before, own], 2)[:, None]


def sequence_mask(
    attention: Attention,
    prefix: int,
    image: int,
    mask: Bool[Tensor, "b q t"],
    places: Int[Tensor, "b q k"],
    spoken: Bool[Tensor, "b q"],
    mutual: bool = False,
) -> Bool[Tensor, "bq l l"]:
    """Which token attends to which when each question stands after a copy of the prefix, whose last `image` rows are
    image tokens (SELF1E, section 3.5 and Table 7): each token to all that came before; image tokens to each other
    ("images"); also to the segmentation tokens ("dual"); also to all words ("text"); or all to all ("full"). Questions
    that are answered in words alone are read causally. With `mutual` image tokens always see each other, because those
    of the model do."""
    whole = torch.cat([mask.new_ones(*mask.shape[:2], prefix), mask], 2).flatten(0, 1)
    n, length = whole.shape
    visible = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()[None]
    row = torch.arange(length, device=mask.device)
    inside = (row >= prefix - image) & (row < prefix)
    if mutual:
        visible = visible | (inside[:, None] & inside)[None]
    if attention != "causal":
        rows = torch.ones_like(inside) if attention == "full" else inside
        columns = {"text": row >= prefix - image, "full": torch.ones_like(inside)}.get(attention, inside).expand(n, -1)
        if attention == "dual":
            columns = columns.scatter(1, places.flatten(0, 1) + prefix, True)
        visible = visible | (rows[:, None] & columns[:, None] & ~spoken.flatten()[:, None, None])
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)  # padding attends to itself: no empty soft-max
    return (visible & whole[:, None]) | itself


def readable_layers(layers: Iterable[nn.Module], rotary: nn.Module) -> list[DecoderLayers]:
    """Single layers that share every weight with those given, and whose attention can be watched."""
    return [DecoderLayers([_watched(shared_copy(source))], rotary) for source in layers]


def clone_layers(runs: Iterable[Iterable[nn.Module]], rotary: nn.Module, image: int = 0) -> list[DecoderLayers]:
    """Deep copies of runs of layers, in fp32 and trainable, whose attention can be watched; `image` as in
    `DecoderLayers`.

    Raises ValueError when a layer's weights cannot be copied."""
    clones = []
    for run in runs:
        layers = [_watched(plain_copy(source)) for source in run]
        rotary_copy = plain_copy(rotary).to(next(layers[0].parameters()).device)
        clones.append(DecoderLayers(layers, rotary_copy, image).requires_grad_(True))
    return clones


def _watched(copied: Any) -> Any:
    """A copy of a layer, whose config was copied too, so that the backbone keeps its own attention."""
    if attends(copied):
        copied.self_attn.config._attn_implementation = VISIBLE
    return copied
