"""An answer in words while it is generated: passed on piece by piece, ended early on request, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from seglens.core.interruption import safe_point

UNFINISHED = "\ufffd"  # what a tokenizer shows of a character whose last bytes are not there yet


@dataclass(frozen=True)
class GeneratedText:
    """An answer of an MLLM: its text, and the tokens that it read and wrote (without the one that ends an answer)."""

    text: str
    read: int
    written: int
    whole: bool = True  # false: there was no room for more tokens


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated. `on_text` is called, in the thread of the model, with each new piece of it: together
    they are the answer. The answer ends before the first of the texts `stop`."""

    max_new_tokens: int = 128
    on_text: Callable[[str], None] | None = None
    stop: Sequence[str] = ()


class StreamingCriterion:
    """A stopping criterion of transformers' `generate`: it is given every token, and so it can pass them on, too."""

    def __init__(self, options: GenerationOptions, decode: Callable[[list[int]], str], read: int):
        self.options, self._decode, self._read = options, decode, read
        self._passed = ""

    def __call__(self, ids: Int[Tensor, "b n"], scores: Any, **_: Any) -> Bool[Tensor, " b"]:
        return torch.full((1,), self._ends(ids[0, self._read :]), device=ids.device)

    def _ends(self, ids: Int[Tensor, " n"]) -> bool:
        """Whether the answer ends here."""
        safe_point()  # an answer that was given up ends at any token
        if not self.options.on_text and not self.options.stop:
            return False
        text = self._decode(ids.tolist())
        sure = before_stop(text, self.options.stop)
        self._pass_on(sure if len(sure) < len(text) else _settled(text, self.options.stop))
        return len(sure) < len(text)

    def _pass_on(self, text: str) -> None:
        if self.options.on_text and len(text) > len(self._passed) and text.startswith(self._passed):
            self.options.on_text(text[len(self._passed) :])
            self._passed = text

    def finish(self, text: str) -> None:
        """Pass on what is left of the whole answer."""
        self._pass_on(text)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the texts that end it."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def _settled(text: str, stop: Sequence[str]) -> str:
    """What the next tokens cannot change: no white space at the end, which may be the answer's own, no half of a
    character, and nothing that may become a text to stop at."""
    begun = max((n for end in stop for n in range(1, len(end)) if text.endswith(end[:n])), default=0)
    return text[: len(text) - begun].rstrip(UNFINISHED).rstrip()
