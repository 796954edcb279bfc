"""Tools for LangChain agents: words for the model, and the predictions as the message's artifact.

    from seglens import Segmenter
    from seglens.serving.tools.langchain import tools

    segment, ask = tools(Segmenter.from_pretrained())                      # the model names the image: path or base64
    segment, ask = tools(Segmenter.from_pretrained(), image="scene.png")   # about one image; the model only asks

`segment.invoke(tool_call).artifact` is a `Sight`: `.predictions`, `.overlays()` and `.answer`, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from seglens.data.images import load_image
from seglens.inference.segmenter import ImageSource, Segmenter
from seglens.serving.tools.tool_images import Doors
from seglens.serving.tools.tool_service import LONGEST_ECHO, MOST_QUERIES, ToolService
from seglens.serving.uploads import UploadLimits

try:
    from langchain_core.tools import BaseTool, StructuredTool, ToolException
except ImportError as error:
    raise ImportError("a LangChain tool needs 'langchain-core': pip install 'seglens[tools]'") from error

T = TypeVar("T")
MOST_FAULTS = 5  # of one call that are told
SEGMENT = (
    "Find things in an image by words, plain or in need of thought ('the thing that keeps you dry'): says of each "
    "whether it is there, where, and how sure that is, and keeps its pixel-exact mask."
)
ASK = "Answer a question about an image in words."


class Arguments(BaseModel):
    """What a model gives a tool; an argument that nobody knows is an error, never passed over."""

    model_config = ConfigDict(extra="forbid")


class Queries(Arguments):
    """What is asked of an image that is known."""

    queries: list[str] = Field(
        min_length=1,
        max_length=MOST_QUERIES,
        description=f"What to look for, in words: a list of 1 to {MOST_QUERIES} texts, one mask each.",
    )
    each: bool | None = Field(
        None, description="Whether several things get masks of their own; null: if the words say so."
    )
    trust: bool = Field(
        False, description="Whether to show the mask in spite of an unfamiliar picture or unknown words."
    )


class QuestionInput(Arguments):
    """What is asked about an image that is known, to be answered in words."""

    question: str = Field(min_length=1, description="A question about the image, in words.")


class Named(Arguments):
    """Which image."""

    image: str = Field(description="A file path, base64, a data URI, or the id that an earlier answer named.")


class NamedQueries(Queries, Named):
    """What is asked of an image."""


class NamedQuestion(QuestionInput, Named):
    """What is asked about an image, to be answered in words."""


def tools(segmenter: Segmenter | ToolService, image: ImageSource | None = None) -> list[BaseTool]:
    """`segment_tool` and `ask_tool` over the same open images."""
    desk = _desk(segmenter)
    return [segment_tool(desk, image), ask_tool(desk, image)]


def segment_tool(segmenter: Segmenter | ToolService, image: ImageSource | None = None) -> BaseTool:
    """A tool that segments: an image that the model names, or only `image`. Its artifact is a `Sight`.

    What is wrong comes back to the model in words, as a ToolMessage of status "error"; with `handle_tool_error = False`
    set on the tool, it is raised as ToolException. A Desk may be given to say which images are taken."""
    desk, known = _desk(segmenter), _pixels(image)

    def segment(
        queries: list[str], each: bool | None = None, trust: bool = False, image: str | np.ndarray | None = known
    ) -> Any:
        assert image is not None, "the schema asks for it"
        sight = _in_words(lambda: desk.segment(image, queries, each, trust))
        return sight.words(), sight

    return _tool(segment, SEGMENT, NamedQueries if known is None else Queries)


def ask_tool(segmenter: Segmenter | ToolService, image: ImageSource | None = None) -> BaseTool:
    """A tool that asks the untouched MLLM. Its artifact is a `Told`; all else is as with `segment_tool`."""
    desk, known = _desk(segmenter), _pixels(image)

    def ask(question: str, image: str | np.ndarray | None = known) -> Any:
        assert image is not None, "the schema asks for it"
        told = _in_words(lambda: desk.ask(image, question))
        return told.text if told.notice is None else f"{told.text}\n({told.notice})", told

    return _tool(ask, ASK, NamedQuestion if known is None else QuestionInput)


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
    """What is wrong with a call, argument by argument, and what each of them takes: a model corrects itself by it."""
    faults = error.errors(include_url=False)
    said = "; ".join(_fault(one, args) for one in faults[:MOST_FAULTS])
    wrong = {str(one["loc"][0]) for one in faults if one["loc"]}
    needed = "; ".join(
        f"{name}: {(field.description or '').rstrip('.')}" for name, field in args.model_fields.items() if name in wrong
    )
    return f"The call does not fit. {said}. {f'What is needed: {needed}. ' if needed else ''}Correct it and call again."


def _fault(one: Mapping[str, Any], args: type[BaseModel]) -> str:
    place = ".".join(str(step) for step in one["loc"])
    if one["type"] == "missing":
        return f"{place} is missing"
    if one["type"] == "extra_forbidden":
        return f"{place} is no argument of this tool; there are {', '.join(args.model_fields)}"
    came = repr(one["input"])
    came = came if len(came) <= LONGEST_ECHO else f"{came[:LONGEST_ECHO]}..."
    return f"{place} got {came}: {one['msg'][0].lower()}{one['msg'][1:]}"


def _desk(given: Segmenter | ToolService) -> ToolService:
    return given if isinstance(given, ToolService) else ToolService(given, Doors(UploadLimits(), files=True))


def _pixels(image: ImageSource | None) -> np.ndarray | None:
    return None if image is None else load_image(image)


def _in_words(call: Callable[[], T]) -> T:
    try:
        return call()
    except (ValueError, OSError) as error:
        raise ToolException(" ".join(str(error).split())) from error
