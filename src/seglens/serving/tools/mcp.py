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
from seglens.core.interruption import MOST_STARTED, GivenUpError, interruptible, rested
from seglens.core.schema import Box, Click, Segmented, TextAnswer
from seglens.inference.compressed_predictions import bare
from seglens.serving.limits import Limits
from seglens.serving.tools.overlay_picture import drawn, jpeg
from seglens.serving.tools.result_sizes import within
from seglens.serving.tools.tool_service import MAX_QUERIES, ToolAnswer, ToolService

try:
    import anyio
    import anyio.to_thread
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.server.mcpserver.tools import Tool
    from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
except ImportError as error:
    raise ImportError("the MCP server needs the library 'mcp': pip install 'seglens[tools]'") from error

MAX_SECONDS = 60.0  # that one call may use the model
MAX_WAITING = 16  # calls; each holds its image's text in memory
MAX_RESULT = 900_000  # bytes: clients stop at a million, which includes what wraps a result
MAX_PICTURE = 240_000  # bytes of the picture in a result, before base64 makes four bytes of three
LIGHTER = (
    "The masks of these queries are given with fewer pixels than the image (see `size`), to keep this result short "
    "enough for every client: {}. Ask for one query alone, under the image's id, for more detail."
)

Fetch = Callable[[str], Awaitable[np.ndarray]]  # an image's address to its pixels
ImageText = Annotated[str, Field(description="The image, or the id under which an earlier call left it open.")]
# The MLLM has its own limit, in tokens, which its own error states.
Words = Annotated[str, Field(min_length=1, max_length=Limits.tool_characters)]
Query = Annotated[Words, Field(description="What to look for, in words; they may need reasoning.")]
Queries = Annotated[
    list[Words], Field(min_length=1, max_length=MAX_QUERIES, description="What to look for, in words; one mask each.")
]
Each = Annotated[
    bool | None, Field(description="Whether each of several things gets its own mask; null: if the words ask for it.")
]
Trust = Annotated[
    bool, Field(description="Whether to return the mask although the picture or a word is unfamiliar to the model.")
]
Overlay = Annotated[bool, Field(description="Whether to return a picture of the image with its masks drawn in, too.")]
Clicks = Annotated[
    list[Click], Field(max_length=256, description="All points so far, each on the target or outside it.")
]

T = TypeVar("T")
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class Tools:
    """The methods of a ToolService as MCP tools: the model runs outside the event loop, long calls take turns, and
    errors are text.

    `fetch` opens https addresses; None: they are refused. A call that has run for longer than `seconds`, or is
    cancelled, ends at its next safe point."""

    def __init__(
        self,
        service: ToolService,
        fetch: Fetch | None = None,
        max_waiting: int = MAX_WAITING,
        seconds: float = MAX_SECONDS,
    ):
        self.service, self.fetch, self.max_waiting, self.seconds = service, fetch, max_waiting, seconds
        self._running = anyio.CapacityLimiter(MOST_STARTED)
        self._calls = 0  # running or waiting

    def image_kinds(self) -> str:
        """How an image can be given, as a sentence."""
        kinds = ["base64 or a data URI"]
        if self.service.reader.files:
            kinds.append("a file path on this machine")
        if self.fetch is not None:
            kinds.append("an https address")
        return f"The image is given as {', or '.join(kinds)}; or by the id in an earlier answer."

    async def segment(
        self, image: ImageText, queries: Queries, each: Each = None, overlay: Overlay = True, trust: Trust = False
    ) -> Annotated[CallToolResult, Segmented]:
        """Find what each query means in the image: pixel-exact masks as COCO run-lengths, boxes and scores, and whether
        it is in the image at all."""
        pixels = await self._image(image)
        return await self._work(lambda: _result(self.service.segment(pixels, queries, each, trust), overlay))

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
        return await self._work(lambda: _result(self.service.refine(pixels, query, clicks, box, trust), overlay))

    async def ask(
        self, image: ImageText, question: Annotated[Words, Field(description="A question about the image.")]
    ) -> Annotated[CallToolResult, TextAnswer]:
        """Answer a question about the image in words."""
        pixels = await self._image(image)
        return await self._work(lambda: _text_result(self.service.ask(pixels, question)))

    async def describe_image(self, image: ImageText) -> Annotated[CallToolResult, TextAnswer]:
        """Describe what is in the image, and give its size."""
        pixels = await self._image(image)
        return await self._work(lambda: _text_result(self.service.describe(pixels)))

    async def _image(self, text: str) -> str | np.ndarray:
        """The text itself, unless it is an address and addresses are allowed: then the pixels of the image there."""
        if self.fetch is None or not re.match(r"\s*https?:", text, re.IGNORECASE):
            return text
        try:
            return await self.fetch(text.strip())
        except (ValueError, OSError) as error:
            raise ToolError(_line(error)) from error

    async def _work(self, call: Callable[[], T]) -> T:
        """A call that is cancelled while it waits never starts; one that runs ends soon, without a result, and the next
        one goes on."""
        if self._calls > self.max_waiting:
            raise ToolError(f"{self.max_waiting} calls are waiting already; ask again in a moment")
        self._calls += 1
        cancelled = threading.Event()
        try:
            work = partial(_bounded, call, cancelled, self.seconds)
            return await anyio.to_thread.run_sync(work, limiter=self._running, abandon_on_cancel=True)
        except (ValueError, OSError, GivenUpError) as error:
            raise ToolError(_line(error)) from error
        finally:
            cancelled.set()
            self._calls -= 1


def _bounded(call: Callable[[], T], cancelled: threading.Event, seconds: float) -> T:
    """The call, which ends at a safe point once it was cancelled or its own running time is over."""
    end = monotonic() + seconds - rested()

    def check() -> None:
        if cancelled.is_set() or monotonic() - rested() > end:
            raise GivenUpError(f"no answer within {seconds:g} seconds; ask less at once, or about a smaller image")

    with interruptible(check):
        return call()


def build_server(tools: Tools) -> MCPServer:
    """The server, not yet listening."""
    methods = (tools.segment, tools.refine, tools.ask, tools.describe_image)
    return MCPServer(
        "seglens",
        version=__version__,
        log_level="WARNING",
        tools=[_tool(method, tools.image_kinds()) for method in methods],
        instructions="Pixel-level sight: name a thing in words and get its mask. Send an image once, then name it by "
        "the id in every answer.",
    )


def _tool(method: Callable[..., Awaitable[CallToolResult]], image_kinds: str) -> Tool:
    """A method as a tool. An argument that it does not have is refused by name: a caller whose argument was silently
    ignored would believe that it had an effect."""
    tool = Tool.from_function(method, description=f"{_line(method.__doc__ or '')} {image_kinds}", annotations=_READS)
    arguments = tool.fn_metadata.arg_model
    strict = create_model(arguments.__name__, __base__=arguments, __cls_kwargs__={"extra": "forbid"})
    tool.fn_metadata.arg_model, tool.parameters = strict, strict.model_json_schema(by_alias=True)
    return tool


def _result(answer: ToolAnswer, overlay: bool) -> CallToolResult:
    """Text for the model, a picture for people, and the answer with its masks for programs: together no more bytes than
    clients accept."""
    content: list[ContentBlock] = [TextContent(type="text", text=answer.words())]
    predictions = bare(answer.predictions)
    numbers = [number for number, one in enumerate(predictions, 1) if one.found]
    if overlay and numbers:
        masks = (one.mask for one in answer.predictions if one.found)
        content.append(_picture(drawn(predictions[0].image, masks, numbers if len(predictions) > 1 else [])))
    rest = CallToolResult(content=[*content, TextContent(type="text", text=LIGHTER)], structured_content={})
    masked, long = within(answer.answer, MAX_RESULT - len(rest.model_dump_json().encode()))
    if long:
        content.append(TextContent(type="text", text=LIGHTER.format(_listed(long, len(predictions)))))
    return CallToolResult(content=content, structured_content=masked.model_dump(mode="json"))


def _listed(places: Sequence[int], count: int) -> str:
    return ", ".join(str(place + 1) for place in places) + f" of {count}"


def _text_result(answer: TextAnswer) -> CallToolResult:
    note = "" if answer.notice is None else f"\n({answer.notice})"
    size = f"{answer.width} x {answer.height} pixels"
    text = f"{answer.text}{note}\n({size}. Ask more about this image under its id: {answer.image})"
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=answer.model_dump(mode="json")
    )


def _picture(image: Image.Image) -> ImageContent:
    data = base64.b64encode(jpeg(image, MAX_PICTURE)).decode()
    return ImageContent(type="image", data=data, mime_type="image/jpeg")


def _line(text: object) -> str:
    return " ".join(str(text).split())
