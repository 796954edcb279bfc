"""The chat of an MLLM through its own processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from seglens.backbones.chat_template import QuestionError
from seglens.backbones.generation import GeneratedText, GenerationOptions, StreamingCriterion, before_stop
from seglens.backbones.mllm import MLLM
from seglens.backbones.uncropped import squared

Images = Sequence[UInt8[np.ndarray, "_ _ 3"]]  # each of its own size


@final
@dataclass(frozen=True, eq=False)
class MLLMChat:
    """Answers of the model itself, greedy, about pictures or none. `as_is` shows a processor that crops every picture
    as it came."""

    mllm: MLLM
    as_is: bool = False

    @property
    def pads(self) -> bool:
        """Whether pictures are padded to squares, because the processor would cut off the ends of long ones. The inputs
        of other processors, and of any with `as_is`, are those of the bare model, bit for bit."""
        return not self.as_is and self.mllm.crops

    @torch.no_grad()
    def generate_text(self, images: Images, question: str, options: GenerationOptions) -> GeneratedText:
        """An answer about one image, several, or none: through the processor, which is shown all of each (`pads`).

        Raises as `inputs` does, and ValueError for a model without the layers of the chat."""
        self.check()
        inputs = self.inputs(images, question)
        read = inputs["input_ids"].shape[1]
        criterion = StreamingCriterion(options, self._text, read)
        ids = self.mllm.model.generate(
            **inputs, max_new_tokens=options.max_new_tokens, do_sample=False, stopping_criteria=[criterion]
        )[0, read:].tolist()
        text = before_stop(self._text(ids), options.stop)
        criterion.finish(text)
        ends = [token for token in ids if token in self.end_tokens]
        whole = bool(ends) or len(ids) < options.max_new_tokens or text != self._text(ids)
        return GeneratedText(text, read, len(ids) - len(ends), whole)

    @torch.no_grad()
    def generate_tokens(
        self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128
    ) -> Int[Tensor, " n"]:
        """The token ids of an answer about one image. Raises as `generate_text` does."""
        self.check()
        inputs = self.inputs([image], question)
        ids = self.mllm.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return ids[0, inputs["input_ids"].shape[1] :]

    def inputs(self, images: Images, question: str) -> dict[str, Tensor]:
        """The processor's own inputs for a question about images: nothing is added to them but the padding of `pads`.

        Raises QuestionError as `Prompts.after` does, and for more tokens than the model was made for."""
        mllm = self.mllm
        mllm.prompts.after(question)
        whole = [squared(image, mllm.processor.image_processor) for image in images] if self.pads else images
        pictures = [Image.fromarray(image) for image in whole] or None
        text = mllm.prompts.text(question, len(images))
        special = mllm.prompts.begins(text)
        inputs = mllm.processor(images=pictures, text=text, return_tensors="pt", add_special_tokens=special)
        tokens, most = inputs["input_ids"].shape[1], mllm.model.config.get_text_config().max_position_embeddings
        if tokens > most:
            raise QuestionError(
                f"got a question of {tokens} tokens with its image; the model takes {most}; shorten it"
                + (f", or show it fewer than {len(images)} images" if len(images) > 1 else "")
            )
        return dict(inputs.to(mllm.device, mllm.model.dtype))

    def check(self) -> None:
        """Raises ValueError for a model without the layers of the chat."""
        if not self.mllm.can_chat:
            raise ValueError(
                "this backbone was loaded with segmentation_only=True, without the layers that talk; "
                "load it again without"
            )

    @property
    def end_tokens(self) -> set[int]:
        """Tokens that end an answer."""
        ends = self.mllm.model.generation_config.eos_token_id
        return {*(ends if isinstance(ends, list) else [] if ends is None else [ends])}

    def _text(self, ids: list[int]) -> str:
        return self.mllm.processor.decode(ids, skip_special_tokens=True).strip()
