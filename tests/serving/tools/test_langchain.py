"""The LangChain tools, called as langchain-core's own machinery calls them."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, ToolException
from langchain_core.utils.function_calling import convert_to_openai_tool
from PIL import Image

from seglens.core.png_files import png_bytes
from seglens.core.schema import TextAnswer
from seglens.core.types import Sample
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.langchain import ask_tool, segment_tool, tools
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import ToolAnswer, ToolService

QUERY = 2  # of the scene: one that the embedded model finds


@pytest.fixture(scope="module")
def path(scene: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "scene.png"
    file.write_bytes(png_bytes(Image.fromarray(scene.image)))
    return file


@pytest.fixture(scope="module")
def pair(segmenter: Segmenter) -> list[BaseTool]:
    return tools(segmenter)


def call(name: str, **args: object) -> ToolCall:
    return ToolCall(name=name, args=args, id="call-1", type="tool_call")


def test_a_tool_call_gives_words_for_the_model_and_predictions_as_artifact(
    pair: list[BaseTool], path: Path, scene: Sample, opened: OpenedImage
) -> None:
    query = scene.targets[QUERY].query
    message = pair[0].invoke(call("segment", image=str(path), queries=[query, "the house"]))
    assert isinstance(message, ToolMessage)
    assert message.status == "success"
    assert message.tool_call_id == "call-1"
    sight = message.artifact
    assert isinstance(sight, ToolAnswer)
    expected = opened.segment(query)
    assert (sight.predictions[0].mask == expected.mask).all()
    assert sight.answer.answers[0].segmentation == expected.answer().segmentation
    assert [picture.size for picture in sight.overlays()] == [(256, 256)] * 2
    assert f"{query!r}: found" in message.content
    assert str(expected.box) in message.content
    assert "'the house': not found. Nothing in the image fits 'the house'" in message.content
    assert sight.answer.answers[0].segmentation.counts not in message.content  # a mask is not words


def test_a_second_question_finds_the_image_open(pair: list[BaseTool], path: Path) -> None:
    first = pair[0].invoke(call("segment", image=str(path), queries=["the cup"])).artifact
    for image in (first.answer.image, base64.b64encode(path.read_bytes()).decode()):
        again = pair[0].invoke(call("segment", image=image, queries=["the sock"])).artifact
        assert again.answer.image == first.answer.image
        assert again.predictions[0].image is first.predictions[0].image  # not opened a second time
    message = pair[1].invoke(call("ask", image=first.answer.image, question="what is in the picture?"))
    assert isinstance(message.artifact, TextAnswer)
    assert message.artifact.image == first.answer.image


def test_answers_are_those_of_the_unchanged_model(segmenter: Segmenter, path: Path, scene: Sample) -> None:
    question = "what is in the picture?"
    message = ask_tool(segmenter).invoke(call("ask", image=str(path), question=question))
    assert message.content == segmenter.ask(scene.image, question)


def test_for_a_given_image_the_model_gives_only_queries(segmenter: Segmenter, scene: Sample) -> None:
    segment, ask = tools(segmenter, image=scene.image)
    assert set(segment.args) == {"queries", "each", "trust"}
    assert set(ask.args) == {"question"}
    sight = segment.invoke(call("segment", queries=["each of the cups"])).artifact
    assert len(sight.predictions[0].instances) >= 1
    assert "instances" in sight.words()


def test_the_schema_describes_every_argument_to_the_model(pair: list[BaseTool]) -> None:
    schema = convert_to_openai_tool(pair[0])["function"]
    assert schema["name"] == "segment"
    assert "pixel-exact" in schema["description"]
    assert set(schema["parameters"]["required"]) == {"image", "queries"}
    assert schema["parameters"]["properties"]["queries"]["type"] == "array"
    assert all(entry["description"] for entry in schema["parameters"]["properties"].values())


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        ({"image": "/no/such.png", "queries": ["cup"]}, "does not exist"),
        ({"image": "https://example.com/a.png", "queries": ["cup"]}, "is a URL"),
        ({"image": "image-0123456789abcdef", "queries": ["cup"]}, "no open image"),
        ({"image": "data:image/png;base64,AAAA", "queries": ["cup"]}, "not an image"),
        ({"image": "QUERY", "queries": [" "]}, "without words"),
        ({"image": "QUERY", "queries": []}, "queries got []: list should have at least 1 item"),
        ({"image": "QUERY", "queries": ["cup"] * 33}, "a list of 1 to 32 texts"),
        ({"image": "QUERY", "queries": "the red cup"}, "queries got 'the red cup': input should be a valid list"),
        ({"image": "QUERY", "queries": [7]}, "queries.0 got 7: input should be a valid string"),
        ({"image": "QUERY", "queries": ["cup"], "each": "maybe"}, "each got 'maybe': input should be a valid boolean"),
        ({"image": "QUERY", "queries": ["cup"], "colour": 1}, "colour is no argument of this tool; there are image,"),
        ({"image": 7, "queries": ["cup"]}, "image got 7: input should be a valid string"),
        ({"queries": ["cup"]}, "image is missing. What is needed: image: A file path, base64, a data URI, or the id"),
        ({}, "image is missing; queries is missing"),
    ],
)
def test_errors_are_returned_to_the_model_as_text(pair: list[BaseTool], args: dict[str, object], fault: str) -> None:
    message = pair[0].invoke(call("segment", **args))
    assert message.status == "error"
    assert fault in message.content


def test_a_wrong_question_is_returned_as_text(pair: list[BaseTool]) -> None:
    for args, fault in (
        ({"image": "x"}, "question is missing"),
        ({"image": "x", "question": ""}, "at least 1 character"),
    ):
        message = pair[1].invoke(call("ask", **args))
        assert message.status == "error"
        assert fault in message.content
        assert "A question about the image, in words." in message.content
        assert message.content.endswith("Correct it and call again.")


def test_an_answer_to_a_wrong_call_is_short(pair: list[BaseTool]) -> None:
    message = pair[0].invoke(call("segment", image=["x" * 9000], queries=list(range(30))))
    assert message.status == "error"
    assert len(message.content) < 2000


def test_errors_can_be_raised_as_langchains_own_exception(segmenter: Segmenter) -> None:
    tool = segment_tool(segmenter)
    tool.handle_tool_error = False
    with pytest.raises(ToolException, match="does not exist; need an image file"):
        tool.invoke(call("segment", image="/no/such.png", queries=["cup"]))


def test_a_tool_service_decides_which_images_are_read(segmenter: Segmenter, path: Path) -> None:
    closed = segment_tool(ToolService(segmenter, ImageReader(Limits(), files=False)))
    message = closed.invoke(call("segment", image=str(path), queries=["cup"]))
    assert message.status == "error"
    assert "file paths are not read here" in message.content


def test_an_agents_turn_runs_its_tool_calls_at_once(pair: list[BaseTool], path: Path, scene: Sample) -> None:
    """A model's message with three calls, through a runnable, as agents do it: sync in threads, then async."""
    named = {tool.name: tool for tool in pair}
    queries = [target.query for target in scene.targets]
    turn = AIMessage(
        "", tool_calls=[{**call("segment", image=str(path), queries=[q]), "id": f"call-{q}"} for q in queries]
    )
    run = (
        RunnableLambda(lambda message: message.tool_calls)
        | RunnableLambda(lambda one: named[one["name"]].invoke(one)).map()
    )

    def masks(messages: list[ToolMessage]) -> list[np.ndarray]:
        assert [message.tool_call_id for message in messages] == [f"call-{q}" for q in queries]
        return [message.artifact.predictions[0].mask for message in messages]

    for first, second in zip(masks(run.invoke(turn)), masks(asyncio.run(run.ainvoke(turn))), strict=True):
        assert (first == second).all()
