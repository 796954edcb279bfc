"""A model's own processor, from its own files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import PROCESSOR_MAPPING, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.video_processing_utils import VideoProcessorMixin

PARTS = {
    "tokenizer": AutoTokenizer.from_pretrained,
    "image_processor": AutoImageProcessor.from_pretrained,
    "video_processor": lambda name, **_: VideoProcessorMixin(),
}


def load_processor(name: str | Path, config: PreTrainedConfig, **where: Any) -> Any:
    """What `AutoProcessor` loads, image processing by Pillow, without the part for videos. No remote code."""
    made = without_videos(PROCESSOR_MAPPING[type(config)])
    settings, _ = made.get_processor_dict(name, **where)
    how = {**where, "backend": "pil", "trust_remote_code": False}
    return made.from_args_and_dict([PARTS[part](name, **how) for part in made.get_attributes()], settings)


def without_videos(made: Any) -> Any:
    """The same processor, content with an empty part for videos: transformers makes no real one without torchvision,
    and no processor without a real one. No video is ever shown."""

    def check(self: Any, part: str, *given: Any, **named: Any) -> Any:
        return None if part == "video_processor" else made.check_argument_for_proper_class(self, part, *given, **named)

    return type(made.__name__, (made,), {"check_argument_for_proper_class": check})


def processor_hash(processor: Any) -> str:
    """Of all that the processor's files decide: the image's pixels and the words' numbers. Equal in every process."""
    tokenizer = processor.tokenizer
    said = {
        "images": processor.image_processor.to_dict(),
        "words": sorted(tokenizer.get_vocab().items()),
        "special": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
    }
    return text_hash(json.dumps(said, sort_keys=True, default=str))


def text_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
