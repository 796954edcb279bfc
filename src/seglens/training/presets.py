"""Named ways to train a method. Every number is in a config class; a preset says what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from seglens.core.geometry import LETTERBOX, Canvas
from seglens.core.names import check_name
from seglens.data.negatives import USUAL
from seglens.inference.frozen_models import Parts
from seglens.methods import lisa, mllmseg, self1e, ufo
from seglens.methods.base import TILE
from seglens.methods.lens import LensConfig
from seglens.training.trainer import TrainConfig

LENS: dict[str, LensConfig] = {
    # as measured best with the embedded models: see the ablation table in docs/ablations.md
    "default": LensConfig(),
    # the text of arXiv 2510.16785: Eq. 1, Eq. 5 (M is each cell's covered share) and S1.1 as written, no presence
    "paper": LensConfig(
        aggregate="mean",
        map_scale="raw",
        threshold=0.0,
        newton="paper",
        drop=0.5,
        attention_weight=1.0,
        presence_weight=0.0,
    ),
    # the released code: last token's row, map divided by its peak at 128 x 128 against floored masks, [CLS] from
    # N(0, 1), relative threshold, i / (W - 1); what still differs from it stands in docs/design.md, section 4
    "authors": LensConfig(
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
}


@dataclass(frozen=True)
class Recipe:
    """A method with its settings, how it is trained and, where a publication says so, on what: `rates` are the shares
    of LISA's mixture, and `prompt` is what its queries are put in. How a head is asked follows from `prompt` and
    `system`, and goes into its config."""

    method: Any  # a config of seglens.methods
    training: TrainConfig
    backbone: str | None = None
    decoder: str | None = None
    layer: int | None = None
    rates: str = "paper"
    prompt: str | None = None  # in which queries are put, unless the data says otherwise; None: as it has them
    system: Mapping[str, str] = field(default_factory=dict)  # what an MLLM of a family is told before each image
    canvas: Canvas = LETTERBOX  # how pictures come to the MLLM
    negatives: float = (
        USUAL  # queries for what an image does not show, unless the data says otherwise: no paper has any
    )

    @property
    def floors(self) -> int | None:
        """As in `Parts`."""
        return self.method.floors if isinstance(self.method, LensConfig) else None

    def told(self, parts: Parts) -> Parts:
        """The parts with an MLLM that is told the system text of its family. One whose tokenizer does not know its
        words (the embedded ones) is told nothing."""
        system = self.system.get(parts.backbone.family)
        return parts.told(None if system is None or parts.backbone.prompts.unknown(system) else system)


# System texts of the released code. LENS: LISA/model_lisa/llava/conversation.py, whose default is Vicuna's own
# sentence. LISA: the same file's llava_v1, which train_ds.py chooses; UFO's LLaVA head (ufo_llava_referseg_head.py)
# has that too, and its InternVL head that of InternVL 2. MLLMSeg: internvl/conversation.py, InternVL 2.5's own.
# SELF1E: model/internvl3/conversation.py, which has another in its place.
POLITE = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the {0}'s questions."
)
LENS_SYSTEM, LISA_SYSTEM = {"llava": POLITE.format("user")}, {"llava": POLITE.format("human")}
INTERNVL_2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
INTERNVL_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
MLLMSEG_SYSTEM = {"internvl": INTERNVL_2_5}
SELF1E_SYSTEM = {"internvl": "You are an helpful assistant."}
UFO_SYSTEM = {"llava": POLITE.format("human"), "internvl": INTERNVL_2}
MLLMSEG_TRAINING = TrainConfig(
    steps=50_000, images=32, micro=4, lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05, schedule="cosine", warmup=1500
)
# 2.4 million samples in steps of 160: one epoch of the data preset "self1e-seg". One of "self1e", 561 thousand, is
# steps=3500
SELF1E_TRAINING = TrainConfig(steps=15_000, images=160, micro=5, lr=1e-4, schedule="cosine")
LLAVA_SAM: dict[str, Any] = {"backbone": "llava-hf/llava-1.5-7b-hf", "decoder": "facebook/sam-vit-huge", "layer": 14}
SELF1E_2B: dict[str, Any] = {"backbone": "OpenGVLab/InternVL3-2B-hf", "prompt": "lisa"}
ADJUSTABLE = ("method", "training", "canvas")
RECIPES: dict[str, dict[str, Recipe]] = {
    "lens": {
        "default": Recipe(LENS["default"], TrainConfig()),
        # section 4.1: AdamW at 5e-5, all else "follows LISA": 10 x 500 steps of 160 images, warm-up and linear decay
        "paper": Recipe(LENS["paper"], TrainConfig(steps=5000, images=160, micro=2), rates="paper", **LLAVA_SAM),
        # configs/default.yaml: 8 images x 8 devices x 4 passes at a rate that stays, no clipping; 10 x 100 steps
        "authors": Recipe(
            LENS["authors"],
            TrainConfig(steps=1000, images=256, micro=8, lr=1e-4, schedule="constant", warmup=0, clip=None),
            rates="authors",
            # train.py and eval.py: SAM's square of 1024 with black padding, which the processor then shrinks
            canvas=Canvas(resample="sam-processor", padding="black"),
            system=LENS_SYSTEM,
            **LLAVA_SAM,
        ),
    },
    "mllmseg": {
        "default": Recipe(mllmseg.PRESETS["default"], TrainConfig(lr=4e-5), prompt="none"),
        # both: 50,000 steps of 32 images, 3 % of them warm-up, then a cosine; 8B sizes need an InternVL in -hf form
        "paper": Recipe(mllmseg.PRESETS["paper"], MLLMSEG_TRAINING, prompt="none"),
        # the Trainer of transformers exempts biases and norms from weight decay
        "authors": Recipe(
            mllmseg.PRESETS["authors"],
            replace(MLLMSEG_TRAINING, decay="weights"),
            prompt="mllmseg",
            system=MLLMSEG_SYSTEM,
            canvas=TILE,
        ),
        # their second stage, on gRefCOCO alone, from a head of the first (--init)
        "authors-gres": Recipe(
            mllmseg.PRESETS["authors"],
            replace(MLLMSEG_TRAINING, decay="weights", steps=20_000, warmup=600),
            prompt="mllmseg",
            system=MLLMSEG_SYSTEM,
            canvas=TILE,
        ),
    },
    "self1e": {
        "default": Recipe(self1e.PRESETS["default"], TrainConfig(lr=1e-4, schedule="cosine"), prompt="none"),
        "paper": Recipe(self1e.PRESETS["paper"], SELF1E_TRAINING, **SELF1E_2B),
        "authors": Recipe(self1e.PRESETS["authors"], SELF1E_TRAINING, system=SELF1E_SYSTEM, canvas=TILE, **SELF1E_2B),
        # the vision side and the MLPs of 8B at 1e-4, the language model at 6e-5
        "authors-8b": Recipe(
            self1e.PRESETS["authors-8b"],
            replace(SELF1E_TRAINING, language_lr=6e-5),
            backbone="OpenGVLab/InternVL3-8B-hf",
            prompt="lisa",
            canvas=TILE,
            system=SELF1E_SYSTEM,
        ),
    },
    "lisa": {
        "default": Recipe(lisa.PRESETS["default"], TrainConfig(lr=3e-4)),
        # train_ds.py: 10 x 500 steps of 160 images
        "authors": Recipe(
            lisa.PRESETS["authors"],
            TrainConfig(steps=5000, images=160, micro=2, lr=3e-4),
            rates="lisa",
            prompt="lisa",
            canvas=Canvas(resample="processor"),
            system=LISA_SYSTEM,
            **LLAVA_SAM,
        ),
    },
    "ufo": {
        "default": Recipe(ufo.PRESETS["default"], TrainConfig(lr=2e-4)),
        # 20,000 passes of 4 images, 16 to a step, a twentieth of them warm-up; on how many devices is not told: 8 here
        "authors": Recipe(
            ufo.PRESETS["authors"],
            TrainConfig(
                steps=1250,
                images=512,
                micro=4,
                lr=2e-4,
                betas=(0.9, 0.999),
                weight_decay=0.01,
                schedule="cosine",
                warmup=62,
            ),
            canvas=TILE,
            prompt="ufo",
            system=UFO_SYSTEM,
        ),
    },
}


def recipe(name: str, method: str = "lens") -> Recipe:
    """The preset of that name for a method. Raises ValueError with the nearest name on a typo."""
    check_name(method, RECIPES, "method")
    check_name(name, RECIPES[method], f"preset of {method}")
    made = RECIPES[method][name]
    return made if name == "default" else replace(made, negatives=0.0)  # a publication's own data alone


def adjusted(made: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with settings "name=value" of its head, its training or its canvas changed.

    Raises ValueError on a name that none of them has, with the nearest, and on a value of another kind."""
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"got the setting {text!r}; write name=value, as in lr=1e-4")
        parts = {field.name: part for part in ADJUSTABLE for field in fields(getattr(made, part))}
        check_name(name.strip(), parts, "setting")
        part = parts[name.strip()]
        config: Any = getattr(made, part)
        kind = get_type_hints(type(config))[name.strip()]
        made = replace(made, **{part: replace(config, **{name.strip(): _typed(name, kind, value.strip())})})
    return made


def _typed(name: str, kind: Any, value: str) -> Any:
    """The value of a setting as its type wants it."""
    if get_origin(kind) is Literal:
        check_name(value, get_args(kind), f"value of {name}")
        return value
    kinds = get_args(kind) or (kind,)
    if value.lower() == "none" and type(None) in kinds:
        return None
    if bool in kinds and value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(value)
            except ValueError:
                continue
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(_typed(name, inner, part) for part in value.split("+"))
    if str in kinds:
        return value
    raise ValueError(f"the setting {name}={value!r} is no {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}")
