"""A model for VLMEvalKit (open-compass/VLMEvalKit): the untouched MLLM with the methods that its harness calls.

The harness (vlmeval/inference.py) builds a model by calling an entry of `supported_VLM`, then uses `set_dump_image`,
`use_custom_prompt`, `build_prompt` and `generate`, and needs no base class; so this is a plain class. To register
it, add to vlmeval/config.py, or run before `run.py`'s main:

    from functools import partial
    from vlmeval.config import supported_VLM
    from seglens.evaluation.vqa.vlmevalkit import SegLensVLM

    supported_VLM["seglens"] = partial(SegLensVLM, model_path="path/to/head")            # with a head: the same answers
    supported_VLM["llava-bare"] = partial(SegLensVLM, backbone="llava-hf/llava-1.5-7b-hf")  # the MLLM alone

    python run.py --data MME MMBench_DEV_EN MMMU_DEV_VAL MMStar POPE --model seglens
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglens.checkpoints.origin import EMBEDDED, Origin
from seglens.core.devices import AUTO
from seglens.data.images import load_image
from seglens.evaluation.vqa.answers import choice_prompt
from seglens.inference.frozen_models import place_backbone
from seglens.inference.segmenter import Segmenter

# datasets for which VLMEvalKit's own LLaVA builds the prompts: those of choices
WORDED = ("MMBench", "MMStar", "MMMU", "CCBench", "SEEDBench", "ScienceQA", "AI2D", "RealWorldQA")
MAX_NEW_TOKENS = 512  # as VLMEvalKit's LLaVA
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

Message = str | Mapping[str, str] | Sequence[str] | Sequence[Mapping[str, str]]


class SegLensVLM:
    """One image and the texts of a message go to the MLLM through its own processor, greedy. The image is padded to a
    square before a processor that would crop it, unless `as_is=True` is given.

    `model_path` is a head folder, a hub id, or "embedded"; `backbone` names a bare MLLM instead. `device` is a GPU
    where there is one. `loading` as in `Segmenter.from_pretrained`. Of several images the first is used, with a
    warning, as the harness does for models that take one."""

    INSTALL_REQ = False
    INTERLEAVE = False
    VIDEO_LLM = False
    is_api = False
    allowed_types = ("text", "image")

    def __init__(
        self,
        model_path: str | Path = EMBEDDED,
        *,
        backbone: str | None = None,
        device: str = AUTO,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **loading: Any,
    ):
        if backbone is None:
            self.backbone = Segmenter.from_pretrained(model_path, device=device, **loading).backbone
        else:
            self.backbone = place_backbone(Origin.of(backbone), device=device, **loading)
        self.max_new_tokens = max_new_tokens
        self.dump_image_func: Callable[[Any], list[str] | str] | None = None

    def set_dump_image(self, dump_image_func: Callable[[Any], list[str] | str]) -> None:
        """The harness passes the dataset's function that writes a row's images and returns their paths."""
        self.dump_image_func = dump_image_func

    def dump_image(self, line: Any, dataset: str | None = None) -> list[str]:
        """Paths of a row's images."""
        if self.dump_image_func is None:
            raise ValueError("no dataset is set; call set_dump_image(dataset.dump_image) first, as the harness does")
        paths = self.dump_image_func(line)
        return [paths] if isinstance(paths, str) else list(paths)

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Whether `build_prompt` makes the prompts of this dataset."""
        return dataset is not None and dataset.startswith(WORDED)

    def build_prompt(self, line: Any, dataset: str | None = None) -> list[dict[str, str]]:
        """The message for a row (a mapping or a pandas row), in the words of `seglens bench`."""
        choices = {letter: str(line[letter]) for letter in string.ascii_uppercase if _has_value(line, letter)}
        question, hint = str(line["question"]), str(line["hint"]) if _has_value(line, "hint") else ""
        if choices:
            text = choice_prompt(question, choices, hint)
        else:  # MMMU's open questions
            text = "\n".join([*([hint] if hint else []), question, "Answer the question directly."])
        return [*({"type": "image", "value": path} for path in self.dump_image(line, dataset)), _text(text)]

    def generate(self, message: Message, dataset: str | None = None) -> str:
        """The answer to a message: a text, a part {type, value}, or a list of either."""
        parts = _parts(message)
        for part in parts:
            if part["type"] not in self.allowed_types:
                raise ValueError(
                    f"got a part of type {part['type']!r}; the model takes {' and '.join(self.allowed_types)}"
                )
        return self.generate_inner(parts, dataset)

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The answer to a list of parts."""
        images = [part["value"] for part in message if part["type"] == "image"]
        if not images:
            raise ValueError("got a message without an image; the model needs one")
        if len(images) > 1:
            warnings.warn(f"got {len(images)} images; the model takes one and is shown the first", stacklevel=2)
        text = "\n".join(part["value"] for part in message if part["type"] == "text")
        return self.backbone.generate(load_image(images[0]), text, self.max_new_tokens)


def _parts(message: Message) -> list[Mapping[str, str]]:
    if isinstance(message, str):
        return [_text(message)]
    if isinstance(message, Mapping):
        message = [message]
    parts = [_part(part) if isinstance(part, str) else part for part in message]
    bad = next((part for part in parts if not isinstance(part, Mapping) or not {"type", "value"} <= set(part)), None)
    if bad is not None:
        raise ValueError(f"got {bad!r} in a message; need texts, or parts with type and value")
    return parts


def _part(text: str) -> dict[str, str]:
    """A bare text that names an image file is that image."""
    return {"type": "image", "value": text} if text.lower().endswith(ENDINGS) and Path(text).is_file() else _text(text)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "value": text}


def _has_value(line: Any, key: str) -> bool:
    """Whether a row has a value there; pandas writes NaN, which is unequal to itself, for none."""
    return key in line and line[key] is not None and line[key] == line[key] and str(line[key]) != ""
