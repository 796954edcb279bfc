"""LENS: segmentation as a plug-and-play capability for frozen multimodal LLMs (arXiv 2510.16785).

A head of two layers copied from the MLLM refines its text-to-image attention into keypoints, describes each as target
or not, and hands both to SAM's mask decoder. Symbols and equation numbers are the paper's; "S" marks its supplement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seglens.core.geometry import Canvas, Frame
from seglens.core.types import Embedding, Keypoints, MethodOutput, Readout, Totals, Truth
from seglens.methods.base import BackboneSource, Method, PromptDecoder, check_choices, spread
from seglens.methods.keypoints import refine, refine_unguarded, suppress
from seglens.methods.losses import bce, mask_terms
from seglens.methods.preset import LLAVA_SAM, VICUNA, Preset

NEWTON = {"guarded": refine, "paper": refine_unguarded}


@dataclass(frozen=True)
class LensConfig:
    """Every choice of LENS that the paper or the authors' code makes; named ones in `PRESETS`."""

    keypoints: int = 16  # m
    radius: float = 4 / 24  # of NMS, as a share of the grid's width (4 cells of 24)
    threshold: float = 0.4  # keep points of at least this share of the peak; 0 keeps all m (paper)
    neighbourhood: int = 3  # p x p features around a keypoint
    aggregate: Literal["mean", "last"] = "last"  # A_c from all question tokens (Eq. 1: mean), or the last (authors)
    map_scale: Literal["raw", "peak"] = "raw"  # L_attn on the map as it is (Eq. 5), or divided by its peak (authors)
    map_size: int | None = None  # side at which L_attn compares; None is the grid itself, authors use 128
    # what a cell of `map_size` is compared with: the share of it that is mask, rounded; or the mask's own first pixel,
    # where it is mask to the last bit (authors: `geometry.floor_targets`)
    map_target: Literal["share", "floor"] = "share"
    coordinates: Literal["centre", "corner"] = "centre"  # cell i lies at (i + 1/2) / W, or at i / (W - 1) (authors)
    newton: Literal["guarded", "paper", "none"] = "guarded"  # sub-pixel step (S1.2): with guards, to the letter, none
    descriptor_width: int | None = None  # of the MLP after cross-attention; None is the MLLM's own
    encoder_width: int = 2048  # of the MLP after self-attention
    train_mask_decoder: bool = True
    local_descriptions: bool = True  # d_i; False is an ablation
    global_description: bool = True  # f_s; False is an ablation
    cls_std: float = 0.02  # of the numbers that [CLS] starts with; 1 for the authors
    drop: float = 0.5  # probability of a sample using only the global description in training (S1.4)
    dice_weight: float = 2.0
    bce_weight: float = 4.0
    attention_weight: float = 16.0  # 1 in Eq. 7; more of it puts more keypoints on the target at no cost in gIoU
    presence_weight: float = 0.5  # ours: the paper has no notion of an absent target; 0 leaves it out

    def __post_init__(self) -> None:
        check_choices(self, "LENS")
        for name in ("keypoints", "radius", "neighbourhood", "encoder_width"):
            if not (isinstance(getattr(self, name), int | float) and getattr(self, name) > 0):
                raise ValueError(f"LENS got {name}={getattr(self, name)!r}; it must be a number above 0")
        for name in ("threshold", "drop", "cls_std"):
            if not (isinstance(getattr(self, name), int | float) and 0 <= getattr(self, name) <= 1):
                raise ValueError(f"LENS got {name}={getattr(self, name)!r}; it must be a number from 0 to 1")
        if self.map_target == "floor" and self.map_size is None:
            raise ValueError("LENS got map_target='floor' without a map_size; give the side too, 128 for the authors")

    @property
    def floors(self) -> int | None:
        """The side at which L_attn needs its targets from the masks themselves; None: what it needs is there anyway."""
        return self.map_size if self.map_target == "floor" else None


@dataclass(frozen=True)
class HeadPrefix:
    """What the head knows of an image before any question: layer-1 and layer-2 keys and values, layer-2 features."""

    memory: tuple[list, list]
    features: Float[Tensor, "b d h w"]


class Descriptor(nn.Module):
    """S1.3: is the region around each keypoint what the question means? Cross-attention, self-attention, projection."""

    def __init__(self, width: int, heads: int, feed_forward: int, encoder_width: int, out: int):
        super().__init__()
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_cross, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))
        self.mix = nn.TransformerEncoderLayer(width, heads, encoder_width, batch_first=True)
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))

    def forward(
        self, f_s: Float[Tensor, "n d"], near: Float[Tensor, "n m k d"], keep: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n m1 c"]:
        """Descriptions {f_s} and d_i of Eq. 3 as SAM prompts, the global one first."""
        n, m = keep.shape
        query = repeat(f_s, "n d -> (n m) 1 d", m=m)
        seen = self.cross(query, *(rearrange(near, "n m k d -> (n m) k d"),) * 2, need_weights=False)[0]
        d = self.norm_cross(query + seen)
        d = self.norm_mlp(d + self.mlp(d))
        tokens = torch.cat([f_s[:, None], rearrange(d, "(n m) 1 d -> n m d", n=n)], 1)
        void = torch.cat([torch.zeros_like(keep[:, :1]), ~keep], 1)
        return self.project(self.mix(tokens, src_key_padding_mask=void))


class Lens(Method):
    """The trainable head. It never owns the MLLM or the image encoder."""

    config: LensConfig

    def __init__(
        self,
        config: LensConfig,
        layers: Sequence[nn.Module],
        width: int,
        heads: int,
        feed_forward: int,
        decoder: PromptDecoder,
    ):
        super().__init__()
        self.config, self._decoder = config, (decoder,)  # in a tuple: not a submodule
        self.layers = nn.ModuleList(layers)
        self.norm = nn.RMSNorm(width, eps=1e-6)  # fresh; the copied layers end where the MLLM's own norm does not reach
        mlp = config.descriptor_width or feed_forward
        self.descriptor = Descriptor(width, heads, mlp, config.encoder_width, decoder.width)
        self.cls = nn.Parameter(
            torch.randn(decoder.width) * config.cls_std
        )  # the global description's "position" (section 3.3)
        self.presence = nn.Linear(width, 1) if config.presence_weight > 0 else None
        self.mask_decoder = decoder.trainable_decoder() if config.train_mask_decoder else None

    @property
    def decoder(self) -> PromptDecoder:
        return self._decoder[0]

    @property
    def mask_side(self) -> int:
        return self.decoder.mask_side

    @property
    def _copies(self) -> tuple[Any, Any]:
        """The two copied layers; their class belongs to the backbone."""
        first, second = self.layers
        return first, second

    # ---------------------------------------------------------------- forward

    def precompute(self, read: Readout) -> HeadPrefix:
        """The part of the head that no question changes (attention is causal): once per image."""
        first, second = self._copies
        hidden, memory_1 = first.prefix(read.prefix.float(), read.prefix_positions)
        hidden, memory_2 = second.prefix(hidden, read.prefix_positions)
        features = self.norm(hidden[:, read.image_tokens].float())  # F_i^2
        return HeadPrefix((memory_1, memory_2), rearrange(features, "b (h w) d -> b d h w", h=read.grid[0]))

    def decode(self, read: Readout, embedding: Embedding | None, seen: HeadPrefix | None = None) -> MethodOutput:
        assert embedding is not None
        return self(read, embedding, seen)

    def forward(
        self,
        readout: Readout,
        embedding: Embedding,
        seen: HeadPrefix | None = None,
        local: Bool[Tensor, "b q"] | None = None,
    ) -> MethodOutput:
        """Masks for all questions of all images. `seen` is a kept result of `precompute`; `local` switches the
        keypoints of single questions off (S1.4)."""
        seen = self.precompute(readout) if seen is None else seen
        heat, f_s = self._attend(readout, seen)
        keypoints = self._keypoints(heat)
        described = keypoints.keep & self.config.local_descriptions  # without: no d_i, not even in the self-attention
        points = keypoints.points
        if not self.training:
            points, described = _without_void(points, described)
        near = self._neighbours(seen.features, points)
        flat = lambda x: rearrange(x, "b q ... -> (b q) ...")  # noqa: E731
        tokens = self.descriptor(flat(f_s), flat(near), flat(described))
        tokens = rearrange(tokens, "(b q) m c -> b q m c", b=len(heat))
        # Eq. 4: descriptions plus positions; [CLS] stands for the position of the global one
        where = self.decoder.positions(points.detach())
        prompts = torch.cat([tokens[:, :, :1] + self.cls, tokens[:, :, 1:] + where], 2)
        logits = self.decoder.decode(embedding, prompts, self._used(described, local), self.mask_decoder)
        presence = None if self.presence is None else self.presence(f_s)[..., 0].float()
        return MethodOutput(logits, heat, keypoints, presence)

    def _attend(self, readout: Readout, seen: HeadPrefix) -> tuple[Float[Tensor, "b q h w"], Float[Tensor, "b q d"]]:
        """Eq. 1 and 2: the refined map A_c^1, and f_s^2, the start-of-answer token after layer 2."""
        first, second = self._copies
        given = (readout.question_positions, readout.question_mask)
        rows = first.rows()
        hidden = first.questions(readout.question.float(), *given, seen.memory[0], rows)
        hidden = second.questions(hidden, *given, seen.memory[1])
        mask = readout.question_mask
        attention = rows.probabilities.mean(1)[:, :, readout.image_tokens]
        attention = rearrange(attention, "b (q t) i -> b q t i", q=mask.shape[1])
        last = F.one_hot(mask.sum(-1) - 1, mask.shape[2]).bool()
        weight = (mask if self.config.aggregate == "mean" else last).to(attention)[..., None]
        # sums, not a matrix product: autocast would round the map to half precision, and cells would tie
        a_c = (weight * attention).sum(2) / weight.sum(2)
        f_s = self.norm((last[..., None] * hidden.float()).sum(2))
        return rearrange(a_c, "b q (h w) -> b q h w", h=readout.grid[0]), f_s

    def _keypoints(self, heat: Float[Tensor, "b q h w"]) -> Keypoints:
        b, q, h, w = heat.shape
        flat = rearrange(heat, "b q h w -> (b q) h w").detach()
        cells, score, keep = suppress(flat, self.config.keypoints, self.config.radius * w, self.config.threshold)
        if self.config.newton != "none":
            cells = NEWTON[self.config.newton](flat, cells)
        split = lambda x: x.reshape(b, q, *x.shape[1:])  # noqa: E731
        return Keypoints(split(self._to_canvas(cells, (h, w))), split(score), split(keep))

    def _to_canvas(self, cells: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.config.coordinates == "centre":
            return Frame.cells_to_canvas(cells, grid)
        return cells / cells.new_tensor([grid[1] - 1, grid[0] - 1])  # authors: off by up to half a cell at the border

    def _neighbours(
        self, features: Float[Tensor, "b d h w"], points: Float[Tensor, "b q m 2"]
    ) -> Float[Tensor, "b q m k d"]:
        """Bilinear samples of F_i^2 at p x p taps, one cell apart, around each keypoint."""
        height, width = features.shape[2:]
        corner = self.config.coordinates == "corner"
        cell = 1 / (points.new_tensor([width, height]) - (1 if corner else 0))
        tap = torch.arange(self.config.neighbourhood, device=points.device) - (self.config.neighbourhood - 1) / 2
        taps = torch.stack(torch.meshgrid(tap, tap, indexing="xy"), -1).reshape(-1, 2) * cell
        at = rearrange(points[..., None, :] + taps, "b q m k two -> b (q m) k two")
        sampled = F.grid_sample(features, 2 * at - 1, align_corners=corner, padding_mode="border")
        return rearrange(sampled, "b d (q m) k -> b q m k d", m=points.shape[2])

    def _used(self, keep: Bool[Tensor, "b q m"], local: Bool[Tensor, "b q"] | None) -> Bool[Tensor, "b q m1"]:
        points = keep if local is None else keep & local[..., None]
        whole = torch.full_like(keep[..., :1], self.config.global_description)
        return torch.cat([whole, points], -1)

    # ---------------------------------------------------------------- loss

    def random_inputs(self, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """S1.4: which samples of a training batch use their keypoints."""
        if not (self.config.global_description and self.config.local_descriptions):
            return {"local": torch.ones(shape, dtype=torch.bool)}
        return {"local": torch.rand(shape, generator=generator) >= self.config.drop}

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> dict[str, Tensor]:
        """Eq. 5 to 7 as named, weighted terms, averaged over the masks (and questions) of this batch, or over `totals`.

        Absent targets teach only the presence logit; void questions teach nothing."""
        assert output.heat_map is not None
        totals, asked = totals or truth.totals(), truth.present & truth.valid
        config, masks, cells = self.config, truth.masks[asked], truth.cells[asked]
        mask = mask_terms(output.mask_logits[asked], masks)
        attention = self._attention_loss(output.heat_map[asked], masks, cells)
        terms = {
            "dice": config.dice_weight * spread(mask["dice"], totals.present),
            "bce": config.bce_weight * spread(mask["bce"], totals.present),
            "attention": config.attention_weight * spread(attention, totals.present),
        }
        if output.presence_logits is not None:
            logits, present = output.presence_logits[truth.valid], truth.present[truth.valid].float()
            absence = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
            terms["presence"] = config.presence_weight * spread(absence, totals.valid)
        return terms

    def _attention_loss(
        self, heat: Float[Tensor, "n h w"], masks: Float[Tensor, "n s s"], cells: Float[Tensor, "n _ _"]
    ) -> Float[Tensor, " n"]:
        if self.config.map_scale == "peak":
            # a soft-max row cannot reach 1 over a region; the detached peak, scaled to 0.99, keeps the peak's gradient
            heat = 0.99 * heat / heat.detach().flatten(1).amax(-1).clamp(min=1e-12)[:, None, None]
        if self.config.map_size is None:
            return bce(heat, cells)
        size = (self.config.map_size,) * 2
        fine = F.interpolate(heat[:, None], size, mode="bilinear", align_corners=True)[:, 0]
        if self.config.map_target == "share":
            return bce(fine, F.interpolate(masks[:, None], size, mode="nearest")[:, 0].round())
        if cells.shape[1:] != size:
            raise ValueError(
                f"L_attn with map_target='floor' needs targets of {size[0]} x {size[0]} cells and got "
                f"{cells.shape[1]} x {cells.shape[2]}; read the features with floors={size[0]}"
            )
        return bce(fine, cells)


def _without_void(
    points: Float[Tensor, "b q m 2"], keep: Bool[Tensor, "b q m"]
) -> tuple[Float[Tensor, "b q k 2"], Bool[Tensor, "b q k"]]:
    """Without the places that hold a keypoint of no question: of m = 16 a map has some two. One at least is left."""
    held = keep.flatten(0, 1).any(0)
    held[0] = True
    return points[:, :, held], keep[:, :, held]


def build_lens(config: LensConfig, backbone: BackboneSource, decoder: PromptDecoder) -> Lens:
    """A fresh LENS head: its two layers continue the backbone exactly, the rest is new."""
    return Lens(config, backbone.clone_layers(2), backbone.width, backbone.heads, backbone.feed_forward, decoder)


PRESETS: dict[str, Preset[LensConfig]] = {
    # as measured best with the embedded models: see the ablation table in docs/ablations.md
    "default": Preset(LensConfig()),
    # the text of arXiv 2510.16785: Eq. 1, Eq. 5 (M is each cell's covered share) and S1.1 as written, no presence.
    # Section 4.1: AdamW at 5e-5, all else "follows LISA": 10 x 500 steps of 160 images, warm-up and linear decay
    "paper": Preset(
        LensConfig(
            aggregate="mean",
            map_scale="raw",
            threshold=0.0,
            newton="paper",
            drop=0.5,
            attention_weight=1.0,
            presence_weight=0.0,
        ),
        {"steps": 5000, "images": 160, "micro": 2},
        **LLAVA_SAM,
    ),
    # the released code: last token's row, map divided by its peak at 128 x 128 against floored masks, [CLS] from
    # N(0, 1), relative threshold, i / (W - 1); what still differs from it stands in docs/design.md, section 4
    "authors": Preset(
        LensConfig(
            aggregate="last",
            map_scale="peak",
            map_size=128,
            map_target="floor",
            cls_std=1.0,
            threshold=0.4,
            newton="paper",
            coordinates="corner",
            drop=0.9,
            bce_weight=2.0,
            dice_weight=4.0,
            attention_weight=1.0,
            presence_weight=0.0,
        ),
        # configs/default.yaml: 8 images x 8 devices x 4 passes at a rate that stays, no clipping; 10 x 100 steps
        {"steps": 1000, "images": 256, "micro": 8, "lr": 1e-4, "schedule": "constant", "warmup": 0, "clip": None},
        # LISA/model_lisa/llava/conversation.py, whose default is Vicuna's system text
        system={"llava": VICUNA.format("user")},
        # train.py and eval.py: SAM's square of 1024 with black padding, which the processor then shrinks
        canvas=Canvas(resample="sam-processor", padding="black"),
        **LLAVA_SAM,
    ),
}
