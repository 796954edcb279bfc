"""`seglens chat`: a conversation in the terminal, or line by line with another program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.chat_view import ChatView, JsonView, TerminalView
from seglens.cli.loading import load_segmenter
from seglens.cli.options import AsJson, ChatSegmenterOptions, Thresholds, Trust
from seglens.core.names import check_name

if TYPE_CHECKING:
    from seglens.agent import Conversation, Reply

HELP = """Type what you want to know, or what you want segmented. Commands:
  /image PATH         continue with another image
  /refine X,Y [...]   correct the last mask: X,Y is on the target, X,Y,0 outside it; X0,Y0,X1,Y1 is a box around it
  /route NAME         route of what you type: dialogue, segmentation or followup; auto: the model decides
  /quit               end (as Ctrl-D and Ctrl-C do)"""
AUTO = "auto"


class ChatSession:
    """Takes lines, one after another, and shows the reply to each. A line that is not understood is reported and
    changes nothing."""

    def __init__(self, conversation: Conversation, view: ChatView, out: Path, name: str, trust: bool = False):
        self.conversation, self.view, self.out, self.name, self.trust = conversation, view, out, name, trust
        self.route: str | None = None
        self.count = 0  # of predictions so far
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/refine": self._refine,
            "/route": self._route,
            "/help": self._help,
        }

    def follow(self, line: str) -> bool:
        """Take a line. Returns whether the conversation goes on."""
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            return False
        try:
            if word.startswith("/"):
                check_name(word, (*self.commands, "/quit"), "command")
                self.commands[word](rest.strip())
            elif word:
                self._show(self.conversation.say(line.strip(), self.route, self.trust))
        except (ValueError, OSError) as error:
            self.view.fault(" ".join(str(error).split()))
        return True

    def _show(self, reply: Reply) -> None:
        files: dict[str, str] = {}
        for prediction in reply.predictions:
            paths = prediction.save(self.out, self._free_name())
            files |= {kind: str(path) for kind, path in paths.items()}
        self.view.reply(reply, files)

    def _free_name(self) -> str:
        """A name with the next number that no file has: an earlier conversation may have left files."""
        while True:
            self.count += 1
            name = f"{self.name}_{self.count}"
            if not any((self.out / f"{name}_{kind}.png").exists() for kind in ("mask", "overlay")):
                return name

    def _image(self, path: str) -> None:
        from seglens.core.file_names import slug

        if not path:
            raise ValueError("/image needs the path of an image, such as /image photo.jpg")
        self.conversation.show(path)
        self.name = slug(Path(path).stem)
        self.view.note(f"looking at {path}")

    def _refine(self, text: str) -> None:
        from seglens.core.schema import Box, Click

        clicks, box = list[Click](), None
        for values in map(numbers, text.split()):
            if len(values) == 4:
                box = Box(x0=values[0], y0=values[1], x1=values[2], y1=values[3])
            else:
                clicks.append(Click(x=values[0], y=values[1], label=0 if values[2:] == [0] else 1))
        if not clicks and box is None:
            raise ValueError("/refine needs a point or a box, such as /refine 120,80 or /refine 40,30,0")
        self._show(self.conversation.refine(clicks, box))

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
        values = [float(part) for part in word.split(",")]
    except ValueError:
        values = []
    if len(values) not in (2, 3, 4) or (len(values) == 3 and values[2] not in (0, 1)):
        raise ValueError(f"got {word!r}; need X,Y or X,Y,0 or X,Y,1 for a click, X0,Y0,X1,Y1 for a box, in pixels")
    return values


def chat(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    model_options: ChatSegmenterOptions,
    thresholds: Thresholds,
    out: Annotated[Path, typer.Option(help="Folder for masks and overlays.")] = Path("out"),
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Chat about an image: the frozen MLLM decides whether you want words, a mask, or words about the last mask.

    Reads lines from standard input until /quit or their end; /help lists the commands. With --json, each line is
    answered by one line of JSON."""
    from seglens.agent import Agent
    from seglens.core.file_names import slug
    from seglens.data.images import load_image

    threshold_arguments = thresholds.arguments()
    pixels = load_image(image)  # before the model is loaded: a wrong name is reported at once
    view: ChatView = JsonView() if as_json else TerminalView()
    conversation = Agent(load_segmenter(model_options, **threshold_arguments)).start(pixels)
    session = ChatSession(conversation, view, out, slug(image.stem), trust)
    if not as_json:
        view.note(f"looking at {image}; /help lists the commands")
    try:
        for line in _typed(prompt="" if as_json else "> "):
            if not session.follow(line):
                break
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt starts on a new line


def _typed(prompt: str) -> Iterator[str]:
    """Lines until their end; at a terminal after a prompt, with the keys that edit a line."""
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
