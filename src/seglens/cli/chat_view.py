"""How `seglens chat` shows a conversation: on a terminal, or as lines of JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seglens.agent import Reply


class ChatView(ABC):
    """Where a conversation is shown."""

    @abstractmethod
    def note(self, text: str) -> None:
        """A remark about the conversation itself."""

    @abstractmethod
    def fault(self, text: str) -> None:
        """What was wrong with the last line."""

    @abstractmethod
    def reply(self, reply: Reply, files: dict[str, str]) -> None:
        """A reply, and the files with its masks."""


class TerminalView(ChatView):
    """For people: answers on standard output, everything else on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self.out, self.err = Console(highlight=False), Console(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        self.err.print(text, style="dim", markup=False, soft_wrap=True)

    def fault(self, text: str) -> None:
        self.err.print(text, style="red", markup=False, soft_wrap=True)

    def reply(self, reply: Reply, files: dict[str, str]) -> None:
        scores = ", ".join(f"{intent} {score:.2f}" for intent, score in reply.route.scores.items())
        route = f"[{reply.route.intent}{f': {scores}' if scores else ', as you chose'}]"
        self.out.print(route, style="dim cyan", markup=False, soft_wrap=True)
        self.out.print(reply.text, style="bold", markup=False, soft_wrap=True)
        if reply.notice is not None:
            self.note(reply.notice)
        for kind, path in files.items():
            self.out.print(f"  {kind}: {path}", markup=False, soft_wrap=True)


class JsonView(ChatView):
    """For programs: one line of JSON for each line that was read."""

    def _print(self, value: dict[str, object]) -> None:
        print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)

    def note(self, text: str) -> None:
        self._print({"note": text})

    def fault(self, text: str) -> None:
        self._print({"error": text})

    def reply(self, reply: Reply, files: dict[str, str]) -> None:
        self._print({**reply.answer().model_dump(mode="json"), "files": files})
