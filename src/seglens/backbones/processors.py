"""A model's own processor, from its own files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from transformers import PROCESSOR_MAPPING, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.video_processing_utils import VideoProcessorMixin

from seglens.backbones.lfm2_images import FILTERS, Lfm2Images

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
    parts = {**PARTS, **_without_pillow(config)}
    return kind.from_args_and_dict([parts[part](name, **how) for part in kind.get_attributes()], settings)


def _without_pillow(config: PreTrainedConfig) -> dict[str, Any]:
    """What loads the image processor of a model for which transformers has none by Pillow."""
    if config.model_type == "lfm2_vl":
        return {"image_processor": Lfm2Images.from_pretrained}
    if config.model_type != "molmo2":
        return {}
    from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

    kind = without_torchvision(Molmo2ImageProcessor)
    return {"image_processor": lambda name, backend, **how: kind.from_pretrained(name, **how)}


def without_torchvision(kind: Any) -> Any:
    """The same image processor, with PyTorch's own functions in place of torchvision's, which call them."""

    def convert(self: Any, image: torch.Tensor, **_: Any) -> torch.Tensor:
        return image[:3].expand(3, -1, -1)

    def resize(
        self: Any, image: torch.Tensor, size: Any, resample: int, antialias: bool = True, **_: Any
    ) -> torch.Tensor:
        return F.interpolate(image, (size.height, size.width), mode=FILTERS[Resampling(resample)], antialias=antialias)

    def normalize(self: Any, image: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, **_: Any) -> torch.Tensor:
        return (image - mean[:, None, None]) / std[:, None, None]

    return type(kind.__name__, (kind,), {"convert_to_rgb": convert, "resize": resize, "normalize": normalize})


def without_videos(kind: Any) -> Any:
    """The same processor, content with an empty part for videos: transformers makes no real one without torchvision,
    and no processor without a real one. No video is ever given to it. An image processor of ours will do, too."""

    def check(self: Any, part: str, *values: Any, **named: Any) -> Any:
        ours = part == "video_processor" or isinstance(values[0], Lfm2Images)
        return None if ours else kind.check_argument_for_proper_class(self, part, *values, **named)

    # its own `__repr__`, which transformers writes into its log, knows image processors of transformers alone
    changed: dict[str, Any] = {"check_argument_for_proper_class": check, "__repr__": object.__repr__}
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
