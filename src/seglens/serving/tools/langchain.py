"""Tools for LangChain agents: text for the model, and the predictions as the message's artifact.

    from seglens import Segmenter
    from seglens.serving.tools.langchain import tools

    segment, ask = tools(Segmenter.from_pretrained())                      # the model gives the image: path or base64
    segment, ask = tools(Segmenter.from_pretrained(), image="scene.png")   # about one image; the model gives queries

`segment.invoke(tool_call).artifact` is a `ToolAnswer`: `.predictions`, `.overlays()` and `.answer`, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from seglens.data.images import load_image
from seglens.inference.segmenter import ImageSource, Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import MAX_ECHO, MAX_QUERIES, ToolService

try:
    from langchain_core.tools import BaseTool, StructuredTool, ToolException
except ImportError as error:
    raise ImportError("a LangChain tool needs 'langchain-core': pip install 'seglens[tools]'") from error

T = TypeVar("T")
MAX_FAULTS = 5  # of one call that an error lists
SEGMENT = (
    "Find things in an image by words, also by words that need reasoning ('the thing that keeps you dry'): reports of "
    "each whether it is in the image, where, and with which score, and stores its pixel-exact mask."
)
ASK = "Answer a question about an image in words."


class Arguments(BaseModel):
    """What a model gives to a tool; an unknown argument is an error, never ignored."""

    model_config = ConfigDict(extra="forbid")


class Queries(Arguments):
    """Queries about an image that is given already."""

    queries: list[str] = Field(
        min_length=1,
        max_length=MAX_QUERIES,
        description=f"What to look for, in words: a list of 1 to {MAX_QUERIES} texts, one mask each.",
    )
    each: bool | None = Field(
        None, description="Whether each of several things gets its own mask; null: if the words ask for it."
    )
    trust: bool = Field(
        False, description="Whether to return the mask although the picture or a word is unfamiliar to the model."
    )


class QuestionInput(Arguments):
    """A question about an image that is given already, to be answered in words."""

    question: str = Field(min_length=1, description="A question about the image, in words.")


class NamedImage(Arguments):
    """Which image."""

    image: str = Field(description="A file path, base64, a data URI, or the id that an earlier answer named.")


class NamedQueries(Queries, NamedImage):
    """Queries about an image."""


class NamedQuestion(QuestionInput, NamedImage):
    """A question about an image, to be answered in words."""


def tools(segmenter: Segmenter | ToolService, image: ImageSource | None = None) -> list[BaseTool]:
    """`segment_tool` and `ask_tool` over the same open images."""
    service = _service(segmenter)
    return [segment_tool(service, image), ask_tool(service, image)]


def segment_tool(segmenter: Segmenter | ToolService, image: ImageSource | None = None) -> BaseTool:
    """A tool that segments: an image that the model gives, or only `image`. Its artifact is a `ToolAnswer`.

    Errors are returned to the model as text, in a ToolMessage of status "error"; with `handle_tool_error = False`
    set on the tool, they are raised as ToolException. A ToolService decides which images are read."""
    service, pixels = _service(segmenter), _pixels(image)

    def segment(
        queries: list[str], each: bool | None = None, trust: bool = False, image: str | np.ndarray | None = pixels
    ) -> Any:
        assert image is not None, "the schema asks for it"
        answer = _with_tool_errors(lambda: service.segment(image, queries, each, trust))
        return answer.words(), answer

    return _tool(segment, SEGMENT, NamedQueries if pixels is None else Queries)


def ask_tool(segmenter: Segmenter | ToolService, image: ImageSource | None = None) -> BaseTool:
    """A tool that asks the unchanged MLLM. Its artifact is a `TextAnswer`; all else is as with `segment_tool`."""
    service, pixels = _service(segmenter), _pixels(image)

    def ask(question: str, image: str | np.ndarray | None = pixels) -> Any:
        assert image is not None, "the schema asks for it"
        answer = _with_tool_errors(lambda: service.ask(image, question))
        return answer.text if answer.notice is None else f"{answer.text}\n({answer.notice})", answer

    return _tool(ask, ASK, NamedQuestion if pixels is None else QuestionInput)


def _tool(function: Callable[..., Any], description: str, args: type[BaseModel]) -> BaseTool:
    return StructuredTool.from_function(
        function,
        description=description,
        args_schema=args,
        response_format="content_and_artifact",
        handle_tool_error=True,
        handle_validation_error=partial(_advice, args),
    )


def _advice(args: type[BaseModel], error: Any) -> str:
    """What is wrong with each argument of a call, and what it must be, so that a model can correct the call."""
    faults = error.errors(include_url=False)
    text = "; ".join(_fault(one, args) for one in faults[:MAX_FAULTS])
    wrong = {str(one["loc"][0]) for one in faults if one["loc"]}
    needed = "; ".join(
        f"{name}: {(field.description or '').rstrip('.')}" for name, field in args.model_fields.items() if name in wrong
    )
    return f"The call does not fit. {text}. {f'What is needed: {needed}. ' if needed else ''}Correct it and call again."


def _fault(one: Mapping[str, Any], args: type[BaseModel]) -> str:
    place = ".".join(str(step) for step in one["loc"])
    if one["type"] == "missing":
        return f"{place} is missing"
    if one["type"] == "extra_forbidden":
        return f"{place} is no argument of this tool; there are {', '.join(args.model_fields)}"
    value = repr(one["input"])
    value = value if len(value) <= MAX_ECHO else f"{value[:MAX_ECHO]}..."
    return f"{place} got {value}: {one['msg'][0].lower()}{one['msg'][1:]}"


def _service(segmenter: Segmenter | ToolService) -> ToolService:
    if isinstance(segmenter, ToolService):
        return segmenter
    return ToolService(segmenter, ImageReader(Limits(), files=True))


def _pixels(image: ImageSource | None) -> np.ndarray | None:
    return None if image is None else load_image(image)


def _with_tool_errors(call: Callable[[], T]) -> T:
    try:
        return call()
    except (ValueError, OSError) as error:
        raise ToolException(" ".join(str(error).split())) from error
