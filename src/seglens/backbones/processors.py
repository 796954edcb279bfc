"""A model's own processor, from its own files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import FunctionType
from typing import Any

from transformers import PROCESSOR_MAPPING, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.video_processing_utils import VideoProcessorMixin

PARTS = {
    "tokenizer": AutoTokenizer.from_pretrained,
    "image_processor": AutoImageProcessor.from_pretrained,
    "video_processor": lambda name, **_: VideoProcessorMixin(num_frames=None, fps=None),  # SmolVLM reads both
}


def load_processor(name: str | Path, config: PreTrainedConfig, **where: Any) -> Any:
    """What `AutoProcessor` loads, image processing by Pillow, without the part for videos. No remote code."""
    kind = without_videos(PROCESSOR_MAPPING[type(config)])
    settings, _ = kind.get_processor_dict(name, **where)
    how = {**where, "backend": "pil", "trust_remote_code": False}
    return kind.from_args_and_dict([PARTS[part](name, **how) for part in kind.get_attributes()], settings)


def without_videos(kind: Any) -> Any:
    """The same processor, content with an empty part for videos: transformers makes no real one without torchvision,
    and no processor without a real one. No video is ever given to it."""

    def check(self: Any, part: str, *values: Any, **named: Any) -> Any:
        return None if part == "video_processor" else kind.check_argument_for_proper_class(self, part, *values, **named)

    changed: dict[str, Any] = {"check_argument_for_proper_class": check}
    if "num2words" in kind.__init__.__globals__:
        changed["__init__"] = _without_number_words(kind.__init__)
    return type(kind.__name__, (kind,), changed)


def _without_number_words(init: Any) -> FunctionType:
    """The constructor of SmolVLM's processor, which refuses to run where num2words is not installed; only the text of a
    video needs that. A copy with `num2words` among its globals: the class of transformers stays as it is."""
    names = {**init.__globals__, "num2words": str}
    return FunctionType(init.__code__, names, init.__name__, init.__defaults__, init.__closure__)


def processor_hash(processor: Any) -> str:
    """Of all that the processor's files decide: the image's pixels and the words' numbers. Equal in every process."""
    tokenizer = processor.tokenizer
    settings = {
        "images": processor.image_processor.to_dict(),
        "words": sorted(tokenizer.get_vocab().items()),
        "special": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
    }
    return text_hash(json.dumps(settings, sort_keys=True, default=str))


def text_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
