"""Who talks about images: a segmenter with its router."""

from __future__ import annotations

from seglens.agent.conversation import Conversation, ConversationImage, Shown, look
from seglens.agent.router import RoutePrompt, Router
from seglens.inference.segmenter import Segmenter

LONGEST_ANSWER = 128  # tokens


class Agent:
    """Starts conversations, any number at a time; it keeps nothing of them.

    `prompt` is how the MLLM is asked for a route; by default what it was taught, or a few-shot prompt. Raises
    ValueError for a segmenter that was loaded with segmentation_only=True."""

    def __init__(
        self, segmenter: Segmenter, prompt: RoutePrompt | None = None, *, max_new_tokens: int = LONGEST_ANSWER
    ):
        self.segmenter, self.router = segmenter, Router(segmenter.backbone, prompt)
        self.max_new_tokens = max_new_tokens

    def start(self, *images: Shown, max_new_tokens: int | None = None) -> Conversation:
        """A conversation about an image, or about what was made of one already; about several, or none."""
        return Conversation(self.segmenter, self.router, images, max_new_tokens or self.max_new_tokens)

    def look(self, image: Shown) -> ConversationImage:
        """See an image once for any number of conversations."""
        return look(self.segmenter, self.router, image)
