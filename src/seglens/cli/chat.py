"""`seglens chat`: a conversation in the terminal, or line by line with another program."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.shared import AsJson, TalkingSystem, Thresholds, Trust, load_segmenter
from seglens.core.names import check_name

if TYPE_CHECKING:
    from seglens.agent import Conversation, Reply

HELP = """Type what you want to know, or what you want segmented. Commands:
  /image PATH         go on with another image
  /refine X,Y [...]   correct the last mask: X,Y belongs to it, X,Y,0 does not; X0,Y0,X1,Y1 is a box around it
  /route NAME         send what you type this way: dialogue, segmentation or followup; auto: as the model finds
  /quit               end (as Ctrl-D and Ctrl-C do)"""
AUTO = "auto"


class ChatView(ABC):
    """Where a conversation is shown."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Something about the conversation itself."""

    @abstractmethod
    def fault(self, text: str) -> None:
        """What was wrong with the last line."""

    @abstractmethod
    def reply(self, reply: Reply, files: dict[str, str]) -> None:
        """A reply, and the files of what it segmented."""


class Screen(ChatView):
    """For eyes: answers on standard output, all else on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self.out, self.err = Console(highlight=False), Console(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        self.err.print(text, style="dim", markup=False, soft_wrap=True)

    def fault(self, text: str) -> None:
        self.err.print(text, style="red", markup=False, soft_wrap=True)

    def reply(self, reply: Reply, files: dict[str, str]) -> None:
        scores = ", ".join(f"{intent} {score:.2f}" for intent, score in reply.route.scores.items())
        way = f"[{reply.route.intent}{f': {scores}' if scores else ', as you chose'}]"
        self.out.print(way, style="dim cyan", markup=False, soft_wrap=True)
        self.out.print(reply.text, style="bold", markup=False, soft_wrap=True)
        if reply.notice is not None:
            self.note(reply.notice)
        for kind, path in files.items():
            self.out.print(f"  {kind}: {path}", markup=False, soft_wrap=True)


class Lines(ChatView):
    """For programs: a line of JSON per line that was read."""

    def _say(self, value: dict[str, object]) -> None:
        print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)

    def note(self, text: str) -> None:
        self._say({"note": text})

    def fault(self, text: str) -> None:
        self._say({"error": text})

    def reply(self, reply: Reply, files: dict[str, str]) -> None:
        self._say({**reply.answer().model_dump(mode="json"), "files": files})


class Chat:
    """Takes lines, one after another, and shows what comes of each. A line that cannot be followed is told, and changes
    nothing."""

    def __init__(self, talk: Conversation, view: ChatView, out: Path, name: str, trust: bool = False):
        self.talk, self.view, self.out, self.name, self.trust = talk, view, out, name, trust
        self.route: str | None = None
        self.shown = 0
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/refine": self._refine,
            "/route": self._route,
            "/help": self._help,
        }

    def follow(self, line: str) -> bool:
        """Whether the conversation goes on."""
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            return False
        try:
            if word.startswith("/"):
                check_name(word, (*self.commands, "/quit"), "command")
                self.commands[word](rest.strip())
            elif word:
                self._show(self.talk.say(line.strip(), self.route, self.trust))
        except (ValueError, OSError) as error:
            self.view.fault(" ".join(str(error).split()))
        return True

    def _show(self, reply: Reply) -> None:
        files: dict[str, str] = {}
        for found in reply.predictions:
            paths = found.save(self.out, self._free_name())
            files |= {kind: str(path) for kind, path in paths.items()}
        self.view.reply(reply, files)

    def _free_name(self) -> str:
        """The next number that no file has: an earlier conversation may have left some."""
        while True:
            self.shown += 1
            name = f"{self.name}_{self.shown}"
            if not any((self.out / f"{name}_{kind}.png").exists() for kind in ("mask", "overlay")):
                return name

    def _image(self, path: str) -> None:
        from seglens.core.file_names import slug

        if not path:
            raise ValueError("/image needs the path of an image, such as /image photo.jpg")
        self.talk.show(path)
        self.name = slug(Path(path).stem)
        self.view.note(f"looking at {path}")

    def _refine(self, given: str) -> None:
        from seglens.core.schema import Box, Click

        clicks, box = list[Click](), None
        for said in map(numbers, given.split()):
            if len(said) == 4:
                box = Box(x0=said[0], y0=said[1], x1=said[2], y1=said[3])
            else:
                clicks.append(Click(x=said[0], y=said[1], label=0 if len(said) == 3 and said[2] == 0 else 1))
        if not clicks and box is None:
            raise ValueError("/refine needs a point or a box, such as /refine 120,80 or /refine 40,30,0")
        self._show(self.talk.refine(clicks, box))

    def _route(self, name: str) -> None:
        from seglens.agent import INTENTS

        check_name(name, (AUTO, *INTENTS), "route")
        self.route = None if name == AUTO else name
        self.view.note(f"route: {name}")

    def _help(self, _: str) -> None:
        self.view.note(HELP)


def numbers(word: str) -> list[float]:
    """A click (two numbers, and 0 or 1 for whether it belongs to the target) or a box (four), from "120,80,0"."""
    try:
        found = [float(part) for part in word.split(",")]
    except ValueError:
        found = []
    if len(found) not in (2, 3, 4) or (len(found) == 3 and found[2] not in (0, 1)):
        raise ValueError(f"got {word!r}; need X,Y or X,Y,0 or X,Y,1 for a click, X0,Y0,X1,Y1 for a box, in pixels")
    return found


def chat(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    system: TalkingSystem,
    thresholds: Thresholds,
    out: Annotated[Path, typer.Option(help="Folder for masks and overlays.")] = Path("out"),
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Talk about an image: the frozen MLLM decides whether you want words, a mask, or words about the last mask.

    Reads lines until /quit or their end; /help lists the commands. With --json every line is answered by one."""
    from seglens.agent import Agent
    from seglens.core.file_names import slug
    from seglens.data.images import load_image

    sure = thresholds.options()
    pixels = load_image(image)  # before the model is loaded: a wrong name is told at once
    view: ChatView = Lines() if as_json else Screen()
    talk = Chat(Agent(load_segmenter(system, **sure)).start(pixels), view, out, slug(image.stem), trust)
    if not as_json:
        view.note(f"looking at {image}; /help lists the commands")
    try:
        for line in _typed(prompt="" if as_json else "> "):
            if not talk.follow(line):
                break
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt starts on a line of its own


def _typed(prompt: str) -> Iterator[str]:
    """Lines until their end; at a terminal behind a prompt, with the keys that go back in what was typed."""
    if not sys.stdin.isatty():
        for number, line in enumerate(sys.stdin):
            yield line if number else line.removeprefix("\ufeff")  # the byte order mark of Windows' tools
        return
    import readline  # noqa: F401  (`input` then knows the arrow keys)

    while True:
        try:
            yield input(prompt)
        except EOFError:
            print(file=sys.stderr)
            return
