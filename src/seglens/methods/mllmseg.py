"""MLLMSeg: referring segmentation with a light mask decoder and no second vision tower (arXiv 2508.04107).

The MLLM answers with [SEG], or with [REJ] where nothing fits. DSFF fuses three maps of the image: the vision tower's
patches, the same enhanced by the language model's image states (step A), and those states up-sampled (step B). The
fused patches attend to the state that predicts [SEG] (step C); a head draws each patch's pixels (`light_decoder.py`).
Where the paper leaves a choice, the released code decides, unless a comment states another source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from seglens.core.tuning_types import AnswerTemplates, TrainingFormat, TunedReadout, Tuning
from seglens.core.types import Embedding, MethodOutput, Totals, Truth
from seglens.methods.base import BackboneSource, check_choices, check_numbers, mean_over
from seglens.methods.light_decoder import DecoderConfig, LightDecoder
from seglens.methods.losses import focal, smooth_dice
from seglens.methods.preset import TILE, Preset, TrainingNumbers
from seglens.methods.tuned import Absent, TextMean, TunedMethod, TunedReader, check_words, tuning_of

SEG, REJ = "[SEG]", "[REJ]"


@dataclass(frozen=True)
class MLLMSegConfig(DecoderConfig):
    """Every choice of MLLMSeg that the paper or its released code makes; those of its mask decoder are inherited."""

    shift_image_tokens: bool = False  # image states one token early, as in the authors' code and weights
    refusal_by: Literal["argmax", "two-way"] = "argmax"  # [REJ] against every word, or against [SEG] alone
    absent: Absent = "skip"
    rank: int = 64  # of the language model's adapters, and the next three
    alpha: float = 128.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    vocabulary: bool = False  # also train word embedding and output layer (authors, on InternLM2), not just new rows
    final_norm: bool = False  # also train the norm after the last layer (authors)
    request: str = "What are {} in this image? Please output segmentation masks."
    answers: tuple[str, ...] = ("Sure, {}:[SEG].",)
    refusal: str | None = "Sure, {}:[REJ]."  # None: every query gets a mask
    # in training only: the most queries about an image in one conversation, their forms (without any, those above, one
    # query at a time; the opening and the item of an answer have the same number), and two qualities of JPEG, between
    # which that of an image lies
    conversation: int = 1
    taught_requests: tuple[str, ...] = ()
    taught_openings: tuple[str, ...] = ()
    taught_items: tuple[str, ...] = ()
    jpeg: tuple[int, ...] = ()
    text_weight: float = 1.0
    text_mean: TextMean = "answers"  # over answers, or over all tokens of them alike (authors)
    focal_weight: float = 1.0
    dice_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    double_sigmoid: bool = False  # in the focal term's cross-entropy, as in the authors' code

    def __post_init__(self) -> None:
        check_choices(self, "MLLMSeg")
        for name in ("targets", "answers", "taught_requests", "taught_openings", "taught_items", "jpeg"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON makes lists of them
        self._check_decoder()
        check_numbers(self, "MLLMSeg", "a whole number above 0", "conversation")
        check_numbers(self, "MLLMSeg", "a number from 0 to 1", "dropout", "focal_alpha")
        self._check_words()
        self._check_training_format()

    def _check_training_format(self) -> None:
        forms = (self.taught_requests, self.taught_openings, self.taught_items)
        if not any(forms):
            if self.conversation > 1 or self.jpeg:
                raise ValueError(
                    f"MLLMSeg got conversation={self.conversation} and jpeg={list(self.jpeg)} without words to teach; "
                    "give taught_requests, taught_openings and taught_items"
                )
            return
        if any(one.count("{}") != 1 for one in self.taught_requests) or not self.taught_requests:
            raise ValueError(f"MLLMSeg got taught_requests={list(self.taught_requests)}; each needs one {{}}")
        if len(self.taught_openings) != len(self.taught_items) or any(
            (item.count("{}"), item.count(SEG), REJ in item) != (1, 1, False) for item in self.taught_items
        ):
            raise ValueError(
                f"MLLMSeg got taught_openings={list(self.taught_openings)} and taught_items={list(self.taught_items)}; "
                f"it needs an item for each opening, with one {{}} and one {SEG}"
            )
        if self.jpeg and not (len(self.jpeg) == 2 and 1 <= self.jpeg[0] <= self.jpeg[1] <= 100):
            raise ValueError(f"MLLMSeg got jpeg={list(self.jpeg)}; it needs two qualities from 1 to 100, as in 75+100")

    def _check_words(self) -> None:
        check_words(self, "MLLMSeg", SEG)
        if any(REJ in answer for answer in self.answers):
            raise ValueError(f"MLLMSeg got answers={list(self.answers)}; an answer with {REJ} is a refusal")
        if self.refusal is not None and (self.refusal.count(REJ) != 1 or SEG in self.refusal):
            raise ValueError(f"MLLMSeg got refusal={self.refusal!r}; it needs one {REJ} and no {SEG}, or None")
        if self.refusal is not None and self.refusal.partition(REJ)[0] != self.answers[0].partition(SEG)[0]:
            raise ValueError(
                f"MLLMSeg got refusal={self.refusal!r} and answers[0]={self.answers[0]!r}; they must begin alike, "
                f"because after that beginning {SEG} or {REJ} is chosen"
            )

    def training_format(self) -> TrainingFormat | None:
        """The form of an image and its queries in training."""
        if not self.taught_items:
            return None
        refuses = self.refusal is not None
        refusals = tuple(item.replace(SEG, REJ) if refuses else item for item in self.taught_items)
        return TrainingFormat(
            self.conversation, self.taught_requests, self.taught_openings, self.taught_items, refusals, self.jpeg
        )

    @property
    def tokens(self) -> tuple[str, ...]:
        return (SEG,) if self.refusal is None else (SEG, REJ)

    def tuning(self) -> Tuning:
        """What of the MLLM is trained."""
        return tuning_of(self, self.tokens)

    def templates(self) -> AnswerTemplates:
        """The texts of request and answer."""
        return AnswerTemplates((SEG,), self.request, self.answers, self.refusal)


class MLLMSeg(TunedMethod):
    """The MLLM's adapter and the mask decoder."""

    def __init__(self, config: MLLMSegConfig, mllm: TunedReader):
        super().__init__(mllm)
        self.config = config
        rows, columns = (side * mllm.shuffle for side in mllm.grid)
        if rows != columns:
            raise ValueError(f"MLLMSeg got an MLLM of {rows} x {columns} patches; it draws on square grids only")
        self._mask_side = rows * config.subpixels
        self.decoder = LightDecoder(config, mllm.width, mllm.patch_width, mllm.shuffle)

    @property
    def mask_side(self) -> int:
        return self._mask_side

    @property
    def training_format(self) -> TrainingFormat | None:
        return self.config.training_format()

    # ---------------------------------------------------------------- forward

    def precompute(self, read: TunedReadout) -> Float[Tensor, "b r f c"]:
        """The part of the decoder that no question changes: once per image."""
        return self.decoder.precompute(read.patches, self._image(read), read.grid)

    def _image(self, read: TunedReadout) -> Float[Tensor, "b r i d"]:
        """The image's states, or those of one token earlier (authors): the first of these is of no image token."""
        if not self.config.shift_image_tokens:
            return read.image
        if read.before is None:
            raise ValueError(
                "shift_image_tokens=true needs the state in front of the image, and this MLLM does not give it; "
                "set shift_image_tokens=false"
            )
        first = repeat(read.before, "b d -> b r 1 d", r=read.image.shape[1])
        return torch.cat([first, read.image[:, :, :-1]], 2)

    def decode(
        self,
        read: TunedReadout,
        embedding: Embedding | None = None,
        precomputed: Float[Tensor, "b r f c"] | None = None,
    ) -> MethodOutput:
        """Masks for all questions of all images. `precomputed` is a result of `precompute`."""
        fused = self.precompute(read) if precomputed is None else precomputed
        logits = self._square(self.decoder(fused, read.segment, read.fine_grid[0]).float())
        return MethodOutput(logits, presence_logits=self._presence(read.choice), text_loss=read.text_loss)

    def _square(self, logits: Float[Tensor, "b q _ _"]) -> Float[Tensor, "b q s s"]:
        """On the canvas of masks, which is that of a square picture."""
        side = (self.mask_side, self.mask_side)
        if logits.shape[-2:] == side:
            return logits
        return F.interpolate(logits, side, mode="bilinear", align_corners=False)

    def _presence(self, choice: Float[Tensor, "b q a"]) -> Float[Tensor, "b q"] | None:
        """How much likelier another word is than [REJ], in nats: above 0 there is a target."""
        if self.config.refusal is None:
            return None
        segment, reject = choice[..., -2].float(), choice[..., -1].float()  # new tokens come last, in their order
        return (segment if self.config.refusal_by == "two-way" else choice[..., :-1].amax(-1).float()) - reject

    # ---------------------------------------------------------------- loss

    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> dict[str, Tensor]:
        """CE, focal and dice as named, weighted terms: the first is averaged over answers, the others over masks."""
        config, totals = self.config, totals or truth.totals()
        taught, count = self.with_mask(truth, totals)
        logits, target = output.mask_logits[taught], truth.masks[taught]
        hard = focal(logits, target, config.focal_alpha, config.focal_gamma, config.double_sigmoid)
        return {
            "text": self.text_loss(output, truth, totals),
            "focal": config.focal_weight * mean_over(hard, count),
            "dice": config.dice_weight * mean_over(smooth_dice(logits, target), count),
        }


def build_mllmseg(config: MLLMSegConfig, backbone: BackboneSource, decoder: None = None) -> MLLMSeg:
    """A fresh MLLMSeg on an MLLM that does not change; it needs no other mask decoder."""
    return MLLMSeg(config, backbone.adapt(config.tuning(), config.templates()))


AUTHORS = MLLMSegConfig(
    norm="batch",
    upright=False,
    shift_image_tokens=True,
    double_sigmoid=True,
    vocabulary=True,
    final_norm=True,
    text_mean="tokens",
    # training has other words, and several queries at once
    conversation=5,
    jpeg=(75, 100),
    taught_requests=(
        "Can you segment {} in this image?",
        "Please segment {} in this image.",
        "What are {} in this image? Please respond with segmentation masks.",
        "What are {} in this image? Please output segmentation masks.",
    ),
    taught_openings=("The segmentation results are ", "Sure, they are ", "Sure, ", "Sure, ", "Sure, "),
    taught_items=(
        "{} [SEG]",
        "{}:[SEG]",
        "the mask of {} is [SEG]",
        "the segmentation of {} is [SEG]",
        "the referred {} is [SEG]",
    ),
    request=" What are {}in this image? Please output segmentation masks.",
    answers=("Sure,{}:[SEG].",),
    refusal="Sure,{}:[REJ].",
)
# both: 50,000 steps of 32 images, 3 % of them warm-up, then a cosine; 8B sizes need an InternVL in -hf form
TRAINING: TrainingNumbers = {
    "steps": 50_000,
    "images": 32,
    "micro": 4,
    "lr": 4e-5,
    "betas": (0.9, 0.999),
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup": 1500,
}
# the Trainer of transformers exempts biases and norms from weight decay
AUTHORS_TRAINING: TrainingNumbers = {**TRAINING, "decay": "weights"}
# internvl/conversation.py: InternVL 2.5's own
SYSTEM = {
    "internvl": "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
    "联合开发的多模态大语言模型。"
}
PRESETS: dict[str, Preset[MLLMSegConfig]] = {
    "default": Preset(MLLMSegConfig(), {"lr": 4e-5}, prompt="none"),
    # the architecture, the losses and the norm of the publication
    "paper": Preset(MLLMSegConfig(norm="batch", upright=False), TRAINING, prompt="none"),
    # the released code: image states one token early, two sigmoids in the focal term, and the words, without the space
    # that belongs there, in which its evaluation asks and answers
    "authors": Preset(AUTHORS, AUTHORS_TRAINING, prompt="mllmseg", system=SYSTEM, canvas=TILE),
    # the second stage: gRefCOCO only, from a head of the first stage (--init)
    "authors-gres": Preset(
        AUTHORS, {**AUTHORS_TRAINING, "steps": 20_000, "warmup": 600}, prompt="mllmseg", system=SYSTEM, canvas=TILE
    ),
}
