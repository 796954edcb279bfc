"""The agent: a segmenter with its router."""

from __future__ import annotations

from seglens.agent.conversation import Conversation, ConversationImage, ImageInput, prepare_image
from seglens.agent.router import RoutePrompt, Router
from seglens.inference.segmenter import Segmenter

LONGEST_ANSWER = 128  # tokens


class Agent:
    """Starts conversations, any number at a time; it stores nothing of them.

    `prompt` asks the MLLM for a route; by default the prompt that it was trained on, or a few-shot prompt. Raises
    ValueError for a segmenter that was loaded with segmentation_only=True."""

    def __init__(
        self, segmenter: Segmenter, prompt: RoutePrompt | None = None, *, max_new_tokens: int = LONGEST_ANSWER
    ):
        self.segmenter, self.router = segmenter, Router(segmenter.backbone, prompt)
        self.max_new_tokens = max_new_tokens

    def start(self, *images: ImageInput, max_new_tokens: int | None = None) -> Conversation:
        """A conversation about an image, in any form; about several, or none."""
        return Conversation(self.segmenter, self.router, images, max_new_tokens or self.max_new_tokens)

    def prepare(self, image: ImageInput) -> ConversationImage:
        """Encode an image once for any number of conversations."""
        return prepare_image(self.segmenter, self.router, image)
