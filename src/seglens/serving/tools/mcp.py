"""An MCP server: segment, refine, ask and describe_image for any agent that speaks the Model Context Protocol."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Annotated, TypeVar

import numpy as np
from PIL import Image
from pydantic import Field, create_model

from seglens import __version__
from seglens.core.interruption import ABREAST, GivenUpError, interruptible, rested
from seglens.core.schema import Box, Click, Segmented, TextAnswer
from seglens.inference.compressed_predictions import bare
from seglens.serving.tools.overlay_picture import drawn, jpeg
from seglens.serving.tools.result_sizes import within
from seglens.serving.tools.tool_service import MOST_QUERIES, ToolAnswer, ToolService

try:
    import anyio
    import anyio.to_thread
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.mcpserver.tools import Tool
    from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
except ImportError as error:
    raise ImportError("the MCP server needs the library 'mcp': pip install 'seglens[tools]'") from error

LONGEST_CALL = 60.0  # seconds that one call may keep the model from the others
MOST_WAITING = 16  # calls; each holds its image's text
LONGEST_RESULT = 900_000  # bytes: clients stop at a million, all that wraps a result included
LONGEST_PICTURE = 240_000  # bytes of it, before base64 makes four of three
LIGHTER = (
    "The masks of these queries are given with fewer pixels than the image (see `size`), to keep this result short "
    "enough for every client: {}. Ask for one query alone, under the image's id, for more detail."
)
LONGEST_WORDS = 4000  # characters; the MLLM's own limit, in tokens, is told by an error of its own

Fetch = Callable[[str], Awaitable[np.ndarray]]  # an image's address to its pixels
ImageText = Annotated[str, Field(description="The image, or the id under which an earlier call left it open.")]
Words = Annotated[str, Field(min_length=1, max_length=LONGEST_WORDS)]
Query = Annotated[Words, Field(description="What to look for, in words; plain, or in need of thought.")]
Queries = Annotated[
    list[Words], Field(min_length=1, max_length=MOST_QUERIES, description="What to look for, in words; one mask each.")
]
Each = Annotated[
    bool | None, Field(description="Whether several things get masks of their own; null: if the words say so.")
]
Trust = Annotated[
    bool, Field(description="Whether to show the mask in spite of an unfamiliar picture or unknown words.")
]
Overlay = Annotated[bool, Field(description="Whether to return the image with its masks drawn in.")]
Clicks = Annotated[list[Click], Field(max_length=256, description="All points so far: on the target, or off it.")]

T = TypeVar("T")
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class Tools:
    """The verbs of a desk as tools: the model works off the event loop, in turns on calls that take long, and errors
    come in words.

    `fetch` opens https addresses; None: they are refused. A call that is at work for longer than `seconds`, or is
    cancelled, ends at its next safe point."""

    def __init__(
        self,
        desk: ToolService,
        fetch: Fetch | None = None,
        most_waiting: int = MOST_WAITING,
        seconds: float = LONGEST_CALL,
    ):
        self.desk, self.fetch, self.most_waiting, self.seconds = desk, fetch, most_waiting, seconds
        self._begun = anyio.CapacityLimiter(ABREAST)
        self._inside = 0  # calls at work or waiting

    def taken(self) -> str:
        """Which images are taken, in words."""
        kinds = ["base64 or a data URI"]
        if self.desk.doors.files:
            kinds.append("a file path on this machine")
        if self.fetch is not None:
            kinds.append("an https address")
        return f"The image is given as {', or '.join(kinds)}; or by the id that an earlier answer named."

    async def segment(
        self, image: ImageText, queries: Queries, each: Each = None, overlay: Overlay = True, trust: Trust = False
    ) -> Annotated[CallToolResult, Segmented]:
        """Find what each query means in the image: pixel-exact masks as COCO run-lengths, boxes and scores, and whether
        it is there at all."""
        pixels = await self._image(image)
        return await self._work(lambda: _shown(self.desk.segment(pixels, queries, each, trust), overlay))

    async def refine(
        self,
        image: ImageText,
        query: Query,
        clicks: Clicks = [],  # noqa: B006 (a schema's default)
        box: Box | None = None,
        overlay: Overlay = True,
        trust: Trust = False,
    ) -> Annotated[CallToolResult, Segmented]:
        """Correct the mask of a query by points (label 1: belongs to it, 0: does not), by a box, or both, in pixels."""
        pixels = await self._image(image)
        return await self._work(lambda: _shown(self.desk.refine(pixels, query, clicks, box, trust), overlay))

    async def ask(
        self, image: ImageText, question: Annotated[Words, Field(description="A question about the image.")]
    ) -> Annotated[CallToolResult, TextAnswer]:
        """Answer a question about the image in words."""
        pixels = await self._image(image)
        return await self._work(lambda: _said(self.desk.ask(pixels, question)))

    async def describe_image(self, image: ImageText) -> Annotated[CallToolResult, TextAnswer]:
        """Say what is in the image, and how large it is."""
        pixels = await self._image(image)
        return await self._work(lambda: _said(self.desk.describe(pixels)))

    async def _image(self, text: str) -> str | np.ndarray:
        """The text itself, unless it is an address and addresses are allowed: then what lies there."""
        if self.fetch is None or not re.match(r"\s*https?:", text, re.IGNORECASE):
            return text
        try:
            return await self.fetch(text.strip())
        except (ValueError, OSError) as error:
            raise ToolError(_line(error)) from error

    async def _work(self, call: Callable[[], T]) -> T:
        """A call that is cancelled while it waits never starts; one at work ends soon and unheard, and the next one
        goes on."""
        if self._inside > self.most_waiting:
            raise ToolError(f"{self.most_waiting} calls are waiting already; ask again in a moment")
        self._inside += 1
        cancelled = threading.Event()
        try:
            work = partial(_bounded, call, cancelled, self.seconds)
            return await anyio.to_thread.run_sync(work, limiter=self._begun, abandon_on_cancel=True)
        except (ValueError, OSError, GivenUpError) as error:
            raise ToolError(_line(error)) from error
        finally:
            cancelled.set()
            self._inside -= 1


def _bounded(call: Callable[[], T], cancelled: threading.Event, seconds: float) -> T:
    """The call, which ends at a safe point once it was cancelled or its own time at work is over."""
    end = monotonic() + seconds - rested()

    def check() -> None:
        if cancelled.is_set() or monotonic() - rested() > end:
            raise GivenUpError(f"no answer within {seconds:g} seconds; ask less at once, or about a smaller image")

    with interruptible(check):
        return call()


def build_server(tools: Tools) -> MCPServer:
    """The server, not yet listening."""
    verbs = (tools.segment, tools.refine, tools.ask, tools.describe_image)
    return MCPServer(
        "seglens",
        version=__version__,
        log_level="WARNING",
        tools=[_tool(verb, tools.taken()) for verb in verbs],
        instructions="Pixel-level sight: name a thing in words and get its mask. Send an image once, then name it by "
        "the id that every answer carries.",
    )


def _tool(verb: Callable[..., Awaitable[CallToolResult]], taken: str) -> Tool:
    """A verb as a tool. An argument that it does not have is refused by name: a caller whose argument was dropped in
    silence believes that it was obeyed."""
    tool = Tool.from_function(verb, description=f"{_line(verb.__doc__ or '')} {taken}", annotations=_READS)
    arguments = tool.fn_metadata.arg_model
    strict = create_model(arguments.__name__, __base__=arguments, __cls_kwargs__={"extra": "forbid"})
    tool.fn_metadata.arg_model, tool.parameters = strict, strict.model_json_schema(by_alias=True)
    return tool


def _shown(sight: ToolAnswer, overlay: bool) -> CallToolResult:
    """Words for the model, a picture for eyes, the answer with its masks for programs: together within what clients
    take."""
    content: list[ContentBlock] = [TextContent(type="text", text=sight.words())]
    said = bare(sight.predictions)
    found = [number for number, one in enumerate(said, 1) if one.found]
    if overlay and found:
        masks = (one.mask for one in sight.predictions if one.found)
        content.append(_picture(drawn(said[0].image, masks, found if len(said) > 1 else [])))
    rest = CallToolResult(content=[*content, TextContent(type="text", text=LIGHTER)], structured_content={})
    answer, long = within(sight.answer, LONGEST_RESULT - len(rest.model_dump_json().encode()))
    if long:
        content.append(TextContent(type="text", text=LIGHTER.format(_listed(long, sight))))
    return CallToolResult(content=content, structured_content=answer.model_dump(mode="json"))


def _listed(places: Sequence[int], sight: ToolAnswer) -> str:
    return ", ".join(str(place + 1) for place in places) + f" of {len(sight.predictions)}"


def _said(told: TextAnswer) -> CallToolResult:
    note = "" if told.notice is None else f"\n({told.notice})"
    size = f"{told.width} x {told.height} pixels"
    words = f"{told.text}{note}\n({size}. Ask more about this image under its id: {told.image})"
    return CallToolResult(
        content=[TextContent(type="text", text=words)], structured_content=told.model_dump(mode="json")
    )


def _picture(image: Image.Image) -> ImageContent:
    data = base64.b64encode(jpeg(image, LONGEST_PICTURE)).decode()
    return ImageContent(type="image", data=data, mime_type="image/jpeg")


def _line(said: object) -> str:
    return " ".join(str(said).split())
