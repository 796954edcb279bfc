"""LENS: segmentation as a plug-and-play capability for frozen multimodal LLMs (arXiv 2510.16785).

A head of two layers copied from the MLLM refines its text-to-image attention (Eq. 1 and 2), takes keypoints from it and
describes each as target or not (Eq. 3), and prompts SAM's mask decoder with both (Eq. 4); it learns by Eq. 5 to 7. The
equations follow here in this order. Symbols and numbers are the paper's; "S" marks its supplement. Where the paper
leaves a choice, or its released code differs from its text, `LensConfig` has an option and `PRESETS` names both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seglens.core.geometry import Canvas, Frame
from seglens.core.types import Embedding, Keypoints, MethodOutput, Readout, Totals, Truth
from seglens.methods.base import BackboneSource, PromptDecoder, PromptingMethod, check_choices, check_numbers, mean_over
from seglens.methods.descriptor import Descriptor
from seglens.methods.head_weights import HeadWeights, copied_heads
from seglens.methods.keypoints import guarded_newton_step, newton_step, suppress
from seglens.methods.losses import bce, mask_terms
from seglens.methods.preset import LLAVA_SAM, VICUNA, Preset

NEWTON = {"guarded": guarded_newton_step, "paper": newton_step}


@dataclass(frozen=True)
class LensConfig:
    """Every choice of LENS that the paper or the released code ("authors") makes."""

    keypoints: int = 16  # m
    radius: float = 4 / 24  # of NMS, as a share of the grid's side, or of a square's of as many cells
    threshold: float = 0.4  # keep points of at least this share of the peak; 0 keeps all m (paper)
    neighbourhood: int = 3  # p x p features around a keypoint
    aggregate: Literal["mean", "last"] = "last"  # A_c from all question tokens (Eq. 1: mean), or the last (authors)
    # the heads in A^1: their mean, as we read Eq. 1, or a sum with weights that are trained (not in the paper)
    head_weights: Literal["mean", "learned"] = "mean"
    heads: tuple[tuple[int, int], ...] = ()  # (layer, head) of the MLLM, from 0, where learned weights start; (): all
    map_scale: Literal["raw", "peak"] = "raw"  # L_attn on the map as it is (Eq. 5), or divided by its peak (authors)
    map_size: int | None = None  # side at which L_attn compares; None is the grid itself, authors use 128
    # the target of a cell of `map_size`: the share of it that is mask, rounded; or 1 only where its first pixel is
    # entirely mask (authors: `geometry.floor_targets`)
    map_target: Literal["share", "floor"] = "share"
    coordinates: Literal["centre", "corner"] = "centre"  # cell i lies at (i + 1/2) / W, or at i / (W - 1) (authors)
    newton: Literal["guarded", "paper", "none"] = "guarded"  # sub-pixel step (S1.2): with guards, as written, none
    descriptor_width: int | None = None  # of the MLP after cross-attention; None is the MLLM's own
    encoder_width: int = 2048  # of the MLP after self-attention
    train_mask_decoder: bool = True
    local_descriptions: bool = True  # d_i; False is an ablation
    global_description: bool = True  # f_s; False is an ablation
    cls_std: float = 0.02  # deviation of the numbers that [CLS] starts with; authors: 1
    drop: float = 0.5  # probability of a sample using only the global description in training (S1.4)
    dice_weight: float = 2.0
    bce_weight: float = 4.0
    attention_weight: float = 16.0  # 1 in Eq. 7; more of it puts more keypoints on the target at no cost in gIoU
    presence_weight: float = 0.5  # not in the paper, where every target is present; 0 leaves it out

    def __post_init__(self) -> None:
        check_choices(self, "LENS")
        check_numbers(self, "LENS", "a number above 0", "keypoints", "radius", "neighbourhood", "encoder_width")
        check_numbers(self, "LENS", "a number from 0 to 1", "threshold", "drop", "cls_std")
        if self.map_target == "floor" and self.map_size is None:
            raise ValueError("LENS got map_target='floor' without a map_size; give the side too, 128 for the authors")
        if self.heads and self.head_weights == "mean":
            raise ValueError("LENS got heads for a mean over all of them; set head_weights=learned, or leave heads out")
        sound = all(len(pair) == 2 and min(pair) >= 0 for pair in self.heads)
        if not sound or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"LENS got heads={self.heads}; they are pairs (layer, head), each once, from 0 (--heads)")

    @property
    def floors(self) -> int | None:
        """The side at which L_attn needs targets from the masks themselves; None: it needs no further ones."""
        return self.map_size if self.map_target == "floor" else None


@dataclass(frozen=True)
class HeadPrefix:
    """What the head computes of an image before any question: keys and values of both layers, and F_i^2."""

    memory: tuple[list, list]
    features: Float[Tensor, "b d h w"]


class Lens(PromptingMethod):
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
        copied: Sequence[int] = (0, 1),
    ):
        """`layers` are copies of the MLLM's, each with the attention of one of its layers `copied`. Raises ValueError
        when `config` names heads of others."""
        super().__init__()
        self.config, self._decoder = config, (decoder,)
        self.layers = nn.ModuleList(layers)
        located = copied_heads(config.heads, copied, heads)
        self.head_weights = HeadWeights(heads, located) if config.head_weights == "learned" else None
        self.norm = nn.RMSNorm(width, eps=1e-6)  # not in the paper: H_out^2 is read through it, as in the released code
        mlp = config.descriptor_width or feed_forward
        self.descriptor = Descriptor(width, heads, mlp, config.encoder_width, decoder.width)
        self.cls = nn.Parameter(torch.randn(decoder.width) * config.cls_std)  # [CLS] of section 3.3
        self.presence = nn.Linear(width, 1) if config.presence_weight > 0 else None  # not in the paper
        self.mask_decoder = decoder.trainable_decoder() if config.train_mask_decoder else None

    def decode(self, read: Readout, embedding: Embedding | None, precomputed: HeadPrefix | None = None) -> MethodOutput:
        assert embedding is not None
        return self(read, embedding, precomputed)

    def forward(
        self,
        readout: Readout,
        embedding: Embedding,
        precomputed: HeadPrefix | None = None,
        local: Bool[Tensor, "b q"] | None = None,
    ) -> MethodOutput:
        """Masks for all questions of all images by Eq. 1 to 4. `precomputed` is a result of `precompute`; `local`
        switches the keypoints of single questions off (S1.4)."""
        prefix = self.precompute(readout) if precomputed is None else precomputed
        a_c, f_s = self._two_layers(readout, prefix)  # Eq. 1 and 2
        keypoints = self._keypoints(a_c)  # Eq. 3
        points, keep = keypoints.points, keypoints.keep & self.config.local_descriptions
        if not self.training:
            points, keep = _without_void(points, keep)
        descriptions = self._describe(f_s, self._sample(prefix.features, points), keep)
        masks = self._draw(descriptions, points, self._used(keep, local), embedding)  # Eq. 4
        presence = None if self.presence is None else self.presence(f_s)[..., 0].float()
        return MethodOutput(masks, a_c, keypoints, presence)

    # ---------------------------------------------------------------- section 3.1: the segmentation head

    def _aggregate(self, attention: Float[Tensor, "b q t i"], mask: Bool[Tensor, "b q t"]) -> Float[Tensor, "b q i"]:
        """Eq. 1:  A^1 = Softmax(Q K^T / √d + M_a),   A_c^1 = 1/L_t Σ_k A^1[k, 1:L_i]  over k = L_i+1 ... L_i+L_t.

        `attention` holds A^1[k, 1:L_i]: as layer 1, a layer of the MLLM, computes it, so d is a head's width; averaged
        over the heads, which the paper leaves open, or weighted by `HeadWeights`. k are the tokens after the image that
        `mask` marks. aggregate="last" (authors) takes the last k alone."""
        counted = (mask if self.config.aggregate == "mean" else _last(mask)).to(attention)[..., None]
        # sums, not a matrix product: autocast would round the map to half precision, and cells would tie
        return (counted * attention).sum(2) / counted.sum(2)

    def _two_layers(
        self, readout: Readout, prefix: HeadPrefix
    ) -> tuple[Float[Tensor, "b q h w"], Float[Tensor, "b q d"]]:
        """Eq. 2:  A^1, H_out^1 ← Layer_1([F_i; F_t]),   A_c^1 ← Aggregate(A^1),   H_out^2 ← Layer_2(H_out^1).

        Returns A_c^1 as a map, and f_s^2, the row of H_out^2 at the question's last token (footnote 2). Computed are
        the rows of the questions; `precompute` has those before them."""
        first, second = self._copies
        where, mask = (readout.question_positions, readout.question_mask), readout.question_mask
        rows = first.rows(), second.rows()  # receive A^1 and A^2
        both = self.head_weights is not None and self.head_weights.layers == 2  # A^2 is used
        hidden = first.questions(readout.question.float(), *where, prefix.memory[0], rows[0])
        hidden = second.questions(hidden, *where, prefix.memory[1], rows[1] if both else None)
        attention = self._over_heads([one.probabilities for one in rows[: 1 + both]])[:, :, readout.image_tokens]
        a_c = self._aggregate(rearrange(attention, "b (q t) i -> b q t i", q=mask.shape[1]), mask)
        f_s = self.norm((_last(mask)[..., None] * hidden.float()).sum(2))
        return rearrange(a_c, "b q (h w) -> b q h w", h=readout.grid[0]), f_s

    def _over_heads(self, attention: Sequence[Float[Tensor, "b n t p"]]) -> Float[Tensor, "b t p"]:
        return attention[0].mean(1) if self.head_weights is None else self.head_weights(attention)

    def precompute(self, read: Readout) -> HeadPrefix:
        """Eq. 2 for all tokens up to the image's last, any system text included: M_a is causal, so no question changes
        their rows. Once per image."""
        first, second = self._copies
        hidden, memory_1 = first.prefix(read.prefix.float(), read.prefix_positions)
        hidden, memory_2 = second.prefix(hidden, read.prefix_positions)
        features = self.norm(hidden[:, read.image_tokens].float())  # F_i^2, the image's rows of H_out^2
        return HeadPrefix((memory_1, memory_2), rearrange(features, "b (h w) d -> b d h w", h=read.grid[0]))

    @property
    def _copies(self) -> tuple[Any, Any]:
        """Layer_1 and Layer_2; their class belongs to the backbone."""
        first, second = self.layers
        return first, second

    # ---------------------------------------------------------------- section 3.2: keypoints and their descriptions

    def _keypoints(self, a_c: Float[Tensor, "b q h w"]) -> Keypoints:
        """Eq. 3, first part:  P ← Sub-pixel(NMS(A_c^1))  (S1.1, S1.2). Points move by L_attn alone: no gradient."""
        b, q, h, w = a_c.shape
        flat = rearrange(a_c, "b q h w -> (b q) h w").detach()
        cells, score, keep = suppress(
            flat, self.config.keypoints, self.config.radius * math.sqrt(h * w), self.config.threshold
        )
        if self.config.newton != "none":
            cells = NEWTON[self.config.newton](flat, cells)
        split = lambda x: x.reshape(b, q, *x.shape[1:])  # noqa: E731
        return Keypoints(split(self._to_canvas(cells, (h, w))), split(score), split(keep))

    def _to_canvas(self, cells: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.config.coordinates == "centre":
            return Frame.cells_to_canvas(cells, grid)
        return cells / cells.new_tensor([grid[1] - 1, grid[0] - 1])  # authors: off by up to half a cell at the border

    def _sample(
        self, features: Float[Tensor, "b d h w"], points: Float[Tensor, "b q m 2"]
    ) -> Float[Tensor, "b q m k d"]:
        """Eq. 3, second part:  {d_N(i)} ← Sample(F_i^2, P), bilinear, at p x p places one cell apart."""
        height, width = features.shape[2:]
        corner = self.config.coordinates == "corner"
        cell = 1 / (points.new_tensor([width, height]) - (1 if corner else 0))
        tap = torch.arange(self.config.neighbourhood, device=points.device) - (self.config.neighbourhood - 1) / 2
        taps = torch.stack(torch.meshgrid(tap, tap, indexing="xy"), -1).reshape(-1, 2) * cell
        at = rearrange(points[..., None, :] + taps, "b q m k two -> b (q m) k two")
        sampled = F.grid_sample(features, 2 * at - 1, align_corners=corner, padding_mode="border")
        return rearrange(sampled, "b d (q m) k -> b q m k d", m=points.shape[2])

    def _describe(
        self, f_s: Float[Tensor, "b q d"], near: Float[Tensor, "b q m k d"], keep: Bool[Tensor, "b q m"]
    ) -> Float[Tensor, "b q m1 c"]:
        """Eq. 3, last parts:  {d_i} ← Cross-attn(f_s^2, {d_N(i)}),   D ← Self-attn({f_s^2} ∪ {d_i})."""
        flat = lambda x: rearrange(x, "b q ... -> (b q) ...")  # noqa: E731
        return rearrange(self.descriptor(flat(f_s), flat(near), flat(keep)), "(b q) m c -> b q m c", b=len(keep))

    # ---------------------------------------------------------------- section 3.3: the mask decoder

    def _draw(
        self,
        descriptions: Float[Tensor, "b q m1 c"],
        points: Float[Tensor, "b q m 2"],
        used: Bool[Tensor, "b q m1"],
        embedding: Embedding,
    ) -> Float[Tensor, "b q s s"]:
        """Eq. 4:  P^pos ← {CLS} ∪ PosEnc(P),   M̂ ← Decoder(D ⊕ P^pos, F_img^SAM), as logits."""
        positions = self.decoder.positions(points.detach())
        cls = self.cls.expand_as(positions[:, :, :1])
        p_pos = torch.cat([cls, positions], 2)
        return self.decoder.decode(embedding, descriptions + p_pos, used, self.mask_decoder)

    def _used(self, keep: Bool[Tensor, "b q m"], local: Bool[Tensor, "b q"] | None) -> Bool[Tensor, "b q m1"]:
        """Which prompts SAM gets: no place of an absent keypoint, and none that S1.4 or an ablation leaves out."""
        points = keep if local is None else keep & local[..., None]
        whole = torch.full_like(keep[..., :1], self.config.global_description)
        return torch.cat([whole, points], -1)

    # ---------------------------------------------------------------- section 3.4: training

    def _attention_loss(
        self, a_c: Float[Tensor, "n h w"], masks: Float[Tensor, "n s s"], cells: Float[Tensor, "n _ _"]
    ) -> Float[Tensor, " n"]:
        """Eq. 5:  L_attn = -1/(h w) Σ_ij [M_ij log A_c^1_ij + (1 - M_ij) log(1 - A_c^1_ij)].

        M are the `cells`: the share of each that is mask, where the paper has 0 or 1. map_scale, map_size and
        map_target are the authors' options for both sides."""
        if self.config.map_scale == "peak":
            # a soft-max row cannot reach 1 over a region; the detached peak, scaled to 0.99, keeps the peak's gradient
            a_c = 0.99 * a_c / a_c.detach().flatten(1).amax(-1).clamp(min=1e-12)[:, None, None]
        if self.config.map_size is None:
            return bce(a_c, cells)
        size = (self.config.map_size,) * 2
        fine = F.interpolate(a_c[:, None], size, mode="bilinear", align_corners=True)[:, 0]
        if self.config.map_target == "share":
            return bce(fine, F.interpolate(masks[:, None], size, mode="nearest")[:, 0].round())
        if cells.shape[1:] != size:
            raise ValueError(
                f"L_attn with map_target='floor' needs targets of {size[0]} x {size[0]} cells and got "
                f"{cells.shape[1]} x {cells.shape[2]}; read the features with floors={size[0]}"
            )
        return bce(fine, cells)

    def _segmentation_loss(
        self, logits: Float[Tensor, "n s s"], masks: Float[Tensor, "n s s"]
    ) -> dict[str, Float[Tensor, " n"]]:
        """Eq. 6:  L_seg = λ_dice L_dice + λ_bce L_bce, its two terms by name, with LISA's dice.

        Both compare on the decoder's canvas, padding included, with the share of each cell that is mask; the paper
        does not state where."""
        terms = mask_terms(logits, masks)
        return {"dice": self.config.dice_weight * terms["dice"], "bce": self.config.bce_weight * terms["bce"]}

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> dict[str, Tensor]:
        """Eq. 7:  L = L_seg(M̂, M) + L_attn(A_c^1, M), as named, weighted terms that are averaged over the masks (and
        questions) of this batch, or over `totals`. The paper weighs L_attn 1.

        Absent targets teach only the presence logit; void questions teach nothing."""
        assert output.heat_map is not None
        totals, taught = totals or truth.totals(), truth.present & truth.valid
        masks = truth.masks[taught]
        terms = self._segmentation_loss(output.mask_logits[taught], masks)
        attention = self._attention_loss(output.heat_map[taught], masks, truth.cells[taught])
        terms["attention"] = self.config.attention_weight * attention
        means = {name: mean_over(term, totals.present) for name, term in terms.items()}
        if output.presence_logits is not None:
            logits, present = output.presence_logits[truth.valid], truth.present[truth.valid].float()
            absence = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
            means["presence"] = self.config.presence_weight * mean_over(absence, totals.valid)
        return means

    def random_inputs(self, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """S1.4: which samples of a training batch use their keypoints: all but a share p = `drop`. The others leave
        the keypoints out of SAM's prompts, after the self-attention, as in the released code."""
        if not (self.config.global_description and self.config.local_descriptions):
            return {"local": torch.ones(shape, dtype=torch.bool)}
        return {"local": torch.rand(shape, generator=generator) >= self.config.drop}


def _last(mask: Bool[Tensor, "b q t"]) -> Bool[Tensor, "b q t"]:
    """The last token of each question: the start-of-answer token."""
    return F.one_hot(mask.sum(-1) - 1, mask.shape[2]).bool()


def _without_void(
    points: Float[Tensor, "b q m 2"], keep: Bool[Tensor, "b q m"]
) -> tuple[Float[Tensor, "b q k 2"], Bool[Tensor, "b q k"]]:
    """Without the places that no question uses: with m = 16 a map uses about two. At least one place is left."""
    used = keep.flatten(0, 1).any(0)
    used[0] = True
    return points[:, :, used], keep[:, :, used]


def build_lens(config: LensConfig, backbone: BackboneSource, decoder: PromptDecoder) -> Lens:
    """A fresh LENS head: its two layers continue the backbone exactly, the rest is new."""
    sizes = backbone.width, backbone.heads, backbone.feed_forward
    return Lens(config, backbone.clone_layers(2), *sizes, decoder, backbone.copied)


PRESETS: dict[str, Preset[LensConfig]] = {
    # as measured best with the embedded models: see the ablation table in docs/ablations.md
    "default": Preset(LensConfig()),
    # a head in an evening on one GPU of 24 GB: the defaults, with 24,000 images where the paper's training has 800,000
    "quick": Preset(LensConfig(), {"steps": 3000, "images": 8, "micro": 2, "lr": 1e-4}, **LLAVA_SAM),
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
    # N(0, 1), relative threshold, i / (W - 1); what still differs from it is listed in docs/fidelity.md
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
