"""`seglens mcp` as its clients know it: the official client, over standard input and output and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, ImageContent
from PIL import Image

from command import Run
from seglens.core.png_files import png_bytes
from seglens.core.schema import Segmented, TextAnswer
from seglens.core.types import Sample
from seglens.data.masks import decode_rle
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.mcp import Tools, build_server
from seglens.serving.tools.overlay_picture import drawn
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import ToolService
from serving.test_uploads import bomb

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
LIMITS = Limits()
COMMAND = [sys.executable, "-m", "seglens", "mcp"]


@dataclass
class Talk:
    """A connected client, spoken to from a test."""

    client: Client
    portal: BlockingPortal

    def call(self, name: str, **args: object) -> CallToolResult:
        return self.portal.call(lambda: self.client.call_tool(name, args))

    def run(self, conversation: Callable[[Client], Awaitable[Any]]) -> Any:
        return self.portal.call(lambda: conversation(self.client))


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@contextmanager
def _connected(portal: BlockingPortal, client: Client) -> Iterator[Talk]:
    with portal.wrap_async_context_manager(client):
        yield Talk(client, portal)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server on standard input and output writes to standard error."""
    return tmp_path_factory.mktemp("errors") / "stdio.txt"


@pytest.fixture(scope="module")
def strays() -> list[Exception]:
    """What it wrote on standard output that is not the protocol's."""
    return []


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server listens, on a port that the system chose; in the end it gets a signal, and stops in order."""
    log = tmp_path_factory.mktemp("errors") / "http.txt"
    with log.open("w") as errors:
        words = [*COMMAND, "--http", "127.0.0.1:0", "--allow-urls"]
        process = subprocess.Popen(words, stderr=errors, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT)
    try:
        yield _announced(process, log)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, b""), log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _announced(process: subprocess.Popen[bytes], log: Path) -> str:
    with anyio.from_thread.start_blocking_portal() as portal:

        async def wait() -> str:
            with anyio.fail_after(120):
                while not (match := re.search(r"MCP at (\S+)", log.read_text())):
                    assert process.poll() is None, log.read_text()
                    await anyio.sleep(0.05)
            return match[1]

        return portal.call(wait)


@pytest.fixture(scope="module")
def stdio(portal: BlockingPortal, errors: Path, strays: list[Exception]) -> Iterator[Talk]:
    async def on_message(message: object) -> None:
        if isinstance(message, Exception):
            strays.append(message)

    with ExitStack() as stack:
        log = stack.enter_context(errors.open("w"))
        server = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=ENVIRONMENT)
        yield stack.enter_context(
            _connected(portal, Client(stdio_client(server, errlog=log), message_handler=on_message))
        )


@pytest.fixture(scope="module")
def http(portal: BlockingPortal, address: str) -> Iterator[Talk]:
    with _connected(portal, Client(address)) as talk:
        yield talk


@pytest.fixture(scope="module", params=["stdio", "http"])
def talk(request: pytest.FixtureRequest) -> Talk:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def text(scene: Sample) -> str:
    return base64.b64encode(png_bytes(Image.fromarray(scene.image))).decode()


def _text(result: CallToolResult) -> str:
    return " ".join(part.text for part in result.content if part.type == "text")


def _refused(result: CallToolResult) -> str:
    assert result.is_error
    assert result.structured_content is None
    message = _text(result)
    assert len(message) < 600
    assert "Traceback" not in message
    return message


# ---------------------------------------------------------------- the tools, over both transports


def test_the_tools_are_listed_with_what_they_take_and_give(talk: Talk) -> None:
    tools = {tool.name: tool for tool in talk.run(lambda client: client.list_tools()).tools}
    assert set(tools) == {"segment", "ask", "refine", "describe_image"}
    assert set(tools["segment"].input_schema["properties"]) == {"image", "queries", "each", "overlay", "trust"}
    assert tools["segment"].input_schema["required"] == ["image", "queries"]
    assert tools["segment"].output_schema["properties"]["answers"]["type"] == "array"
    assert set(tools["refine"].input_schema["properties"]) == {"image", "query", "clicks", "box", "overlay", "trust"}
    assert all(tool.annotations.read_only_hint for tool in tools.values())
    assert all(tool.input_schema["additionalProperties"] is False for tool in tools.values())


def test_segment_answers_as_the_package_does(talk: Talk, text: str, scene: Sample, opened: OpenedImage) -> None:
    queries = [target.query for target in scene.targets]
    result = talk.call("segment", image=f"data:image/png;base64,{text}", queries=queries)
    assert not result.is_error
    segmented = Segmented.model_validate(result.structured_content)
    expected = [prediction.answer() for prediction in opened.segment(queries)]
    without = {"milliseconds"}  # which are another run's
    assert [a.model_dump(exclude=without) for a in segmented.answers] == [
        a.model_dump(exclude=without) for a in expected
    ]
    assert (segmented.height, segmented.width) == scene.image.shape[:2]
    found = [answer for answer in segmented.answers if answer.found]
    assert found
    assert all(str(answer.box) in _text(result) for answer in found)
    assert found[0].segmentation.counts not in _text(result)


def test_an_overlay_comes_as_an_image_unless_it_is_not_wanted(talk: Talk, text: str, opened: OpenedImage) -> None:
    result = talk.call("segment", image=text, queries=["the cup", "the sock"])
    (picture,) = (part for part in result.content if isinstance(part, ImageContent))  # one, of both
    assert picture.mime_type == "image/jpeg"
    overlay = np.array(Image.open(io.BytesIO(base64.b64decode(picture.data))), float)
    found = [k for k, one in enumerate(opened.segment(["the cup", "the sock"])) if one.found]
    masks = [one.mask for one in opened.segment(["the cup", "the sock"]) if one.found]
    right = np.array(drawn(opened.image, masks, [k + 1 for k in found]), float)
    assert np.abs(overlay - right).mean() < 6  # of 255: what JPEG leaves out
    bare = talk.call("segment", image=text, queries=["the cup"], overlay=False)
    assert [part.type for part in bare.content] == ["text"]


def test_an_open_image_is_asked_by_its_id(talk: Talk, text: str) -> None:
    first = talk.call("segment", image=text, queries=["the cup"], overlay=False).structured_content
    name = first["image"]
    again = talk.call("segment", image=name, queries=["the cup"], overlay=False).structured_content
    assert again["image"] == name
    assert again["answers"][0]["segmentation"] == first["answers"][0]["segmentation"]
    # the same opening: its time is the first one's, to the last digit
    assert again["answers"][0]["milliseconds"]["open"] == first["answers"][0]["milliseconds"]["open"]


def test_each_of_several_things_gets_its_own_mask(talk: Talk, text: str, opened: OpenedImage) -> None:
    result = talk.call("segment", image=text, queries=["each of the cups"], overlay=False)
    (answer,) = Segmented.model_validate(result.structured_content).answers
    expected = opened.segment("each of the cups").instances
    assert len(answer.instances) == len(expected) > 0
    assert (decode_rle(answer.instances[0].segmentation.model_dump()) == expected[0].mask).all()


def test_refine_takes_clicks_and_a_box(talk: Talk, text: str, opened: OpenedImage) -> None:
    name = talk.call("segment", image=text, queries=["the cup"], overlay=False).structured_content["image"]
    clicks = [{"x": 40, "y": 90}, {"x": 200, "y": 20, "label": 0}]
    result = talk.call(
        "refine", image=name, query="the cup", clicks=clicks, box={"x0": 0, "y0": 50, "x1": 95, "y1": 130}
    )
    assert not result.is_error, _text(result)
    (answer,) = Segmented.model_validate(result.structured_content).answers
    mask = decode_rle(answer.segmentation.model_dump())
    assert mask[90, 40]
    assert not mask[20, 200]
    assert any(isinstance(part, ImageContent) for part in result.content)
    assert "neither clicks nor a box" in _refused(talk.call("refine", image=name, query="the cup"))
    outside = talk.call("refine", image=name, query="the cup", clicks=[{"x": 9999, "y": 1}])
    assert "outside the image" in _refused(outside)


def test_ask_and_describe_are_answers_of_the_unchanged_model(
    talk: Talk, text: str, scene: Sample, segmenter: Segmenter
) -> None:
    question = "what is in the picture?"
    answer = TextAnswer.model_validate(talk.call("ask", image=text, question=question).structured_content)
    assert answer.text == segmenter.ask(scene.image, question)
    described = talk.call("describe_image", image=answer.image)
    assert TextAnswer.model_validate(described.structured_content).text == answer.text
    assert "256 x 256 pixels" in _text(described)
    assert answer.image in _text(described)


# ---------------------------------------------------------------- what is wrong, over both transports


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("segment", {"image": "data:image/png;base64,AAAA", "queries": ["cup"]}, "is not an image"),
        ("segment", {"image": "data:text/plain,cup", "queries": ["cup"]}, "need base64"),
        ("segment", {"image": "image-0123456789abcdef", "queries": ["cup"]}, "no open image"),
        ("segment", {"image": "", "queries": ["cup"]}, "need"),
        ("segment", {"image": "OPEN", "queries": []}, "at least 1 item"),
        ("segment", {"image": "OPEN", "queries": ["cup"] * 33}, "at most 32 items"),
        ("segment", {"image": "OPEN", "queries": ["  "]}, "without words"),
        ("segment", {"image": "OPEN", "queries": ["cup " * 900]}, "at most 512 are read"),
        ("segment", {"image": "OPEN", "queries": ["cup " * 9000]}, "at most 4000 characters"),
        ("segment", {"image": "OPEN", "queries": "cup"}, "valid list"),
        ("segment", {"image": 7, "queries": ["cup"]}, "valid string"),
        ("segment", {"queries": ["cup"]}, "image"),
        ("refine", {"image": "OPEN", "query": "cup", "clicks": [{"x": 1, "y": 1, "label": 2}]}, "label"),
        ("refine", {"image": "OPEN", "query": "cup", "clicks": [{"x": 1}]}, "Field required"),
        ("refine", {"image": "OPEN", "query": "cup", "box": {"x0": 5, "y0": 5, "x1": 1, "y1": 1}}, "box"),
        ("segment", {"image": "OPEN", "queries": ["cup"], "threshold": 0.7}, "threshold\n  Extra inputs are not"),
        ("refine", {"image": "OPEN", "query": "cup", "points": [[1, 1]]}, "points\n  Extra inputs are not"),
        ("ask", {"image": "OPEN", "question": "what is it?", "max_tokens": 5}, "max_tokens\n  Extra inputs are not"),
        ("describe_image", {"image": "OPEN", "language": "fr"}, "language\n  Extra inputs are not"),
        ("ask", {"image": "OPEN", "question": ""}, "at least 1 character"),
        ("describe_image", {}, "Field required"),
        ("paint", {"image": "OPEN"}, "Unknown tool"),
    ],
)
def test_errors_are_text_and_the_server_goes_on(
    talk: Talk, text: str, name: str, args: dict[str, object], message: str
) -> None:
    if args.get("image") == "OPEN":
        args = {**args, "image": text}
    assert message in _refused(talk.call(name, **args))
    assert not talk.call("segment", image=text, queries=["cup"], overlay=False).is_error


def test_a_bomb_and_too_many_bytes_are_refused_before_they_are_opened(talk: Talk) -> None:
    for side in (9_000, 60_000):
        result = talk.call("segment", image=base64.b64encode(bomb(side)).decode(), queries=["cup"])
        assert "pixels" in _refused(result)
    big = talk.call("describe_image", image="A" * (LIMITS.image_bytes * 4 // 3 + 100))
    assert f"need at most {LIMITS.image_bytes}" in _refused(big)


# ---------------------------------------------------------------- what the transports differ in


def test_a_local_client_may_name_a_file(stdio: Talk, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(base64.b64decode(text))
    name = stdio.call("segment", image=text, queries=["cup"], overlay=False).structured_content["image"]
    for file in (str(path), path.as_uri()):
        result = stdio.call("segment", image=file, queries=["cup"], overlay=False)
        assert result.structured_content["image"] == name  # the same pixels are the same image
    assert "does not exist" in _refused(stdio.call("describe_image", image=str(tmp_path / "none.png")))
    assert "is a folder" in _refused(stdio.call("describe_image", image=str(tmp_path)))
    assert "not an image" in _refused(stdio.call("describe_image", image="/etc/hosts"))
    assert "is a URL" in _refused(stdio.call("describe_image", image="https://example.com/a.png"))


def test_over_http_no_path_is_ever_read(http: Talk, text: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"  # a real image, under a name in base64's own letters
    path.write_bytes(base64.b64decode(text))
    for file in (str(path), path.as_uri(), "/etc/passwd", "~/.ssh/id_rsa", "../../etc/hosts"):
        message = _refused(http.call("segment", image=file, queries=["cup"]))
        assert "need" in message
        assert "exist" not in message  # which would show a stranger what is there


def test_over_http_addresses_are_fetched_if_allowed_and_public(http: Talk) -> None:
    """Allowed on this server's command line; what is public is `tests/serving/http/test_fetch.py`'s."""
    assert "public internet" in _refused(http.call("segment", image="https://127.0.0.1/a.png", queries=["cup"]))
    assert "begins with https://" in _refused(http.call("segment", image="http://127.0.0.1/a.png", queries=["cup"]))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.test"}, 421),
        ({"Host": "127.0.0.1.evil.test"}, 421),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
    ],
)
def test_a_web_page_whose_name_resolves_here_is_refused(address: str, headers: dict[str, str], status: int) -> None:
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    sent = {"Accept": "application/json, text/event-stream", **headers}
    assert httpx.post(address, json=hello, headers=sent).status_code == status


def test_a_giant_body_is_refused_without_reading_it(address: str) -> None:
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    assert httpx.post(address, content=b"[" * (LIMITS.image_bytes * 2), headers=headers).status_code == 413


def test_an_older_client_is_served_too(portal: BlockingPortal, address: str, text: str) -> None:
    with _connected(portal, Client(address, mode="legacy")) as talk:
        assert not talk.call("segment", image=text, queries=["cup"], overlay=False).is_error


# ---------------------------------------------------------------- many calls at once, and calls that are given up


@pytest.mark.slow
def test_many_calls_at_once_each_get_their_own_answer(talk: Talk, text: str, opened: OpenedImage) -> None:
    queries = ["the cup", "the sock", "the dog", "the red cup", "the white cup", "the pink cup"]

    async def all_of(client: Client) -> list[CallToolResult]:
        calls = (client.call_tool("segment", {"image": text, "queries": [q], "overlay": False}) for q in queries)
        return await asyncio.gather(*calls)

    for query, result in zip(queries, talk.run(all_of), strict=True):
        (answer,) = Segmented.model_validate(result.structured_content).answers
        assert answer.query == query
        assert answer.segmentation == opened.segment(query).answer().segmentation


def test_the_server_works_after_calls_that_were_given_up(talk: Talk, text: str) -> None:
    async def impatient(client: Client) -> None:
        for seconds in (0.001, 0.02, 0.1):
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as group:
                    for question in ("the cup", "the sock", "the dog"):
                        group.start_soon(client.call_tool, "segment", {"image": text, "queries": [question]})

    talk.run(impatient)
    assert not talk.call("segment", image=text, queries=["the cup"], overlay=False).is_error


@pytest.fixture
def service(segmenter: Segmenter) -> ToolService:
    return ToolService(segmenter, ImageReader(LIMITS))


def test_too_many_waiting_calls_are_refused(portal: BlockingPortal, service: ToolService, text: str) -> None:
    async def crowd() -> list[CallToolResult]:
        async with Client(build_server(Tools(service, max_waiting=1))) as client:
            args = {"image": text, "question": "what do you see?"}
            return await asyncio.gather(*(client.call_tool("ask", args) for _ in range(5)))

    results = portal.call(crowd)
    refused = [_refused(result) for result in results if result.is_error]
    assert len(refused) == 3  # one at work, one waiting
    assert all("1 calls are waiting already" in message for message in refused)


def test_a_call_that_is_given_up_while_it_waits_never_starts(
    portal: BlockingPortal, service: ToolService, text: str, picture: np.ndarray
) -> None:
    other = base64.b64encode(png_bytes(Image.fromarray(picture))).decode()

    async def impatient() -> None:
        async with Client(build_server(Tools(service))) as client:
            with service._turns.turn():  # the model is at work for somebody else
                with anyio.move_on_after(0.1):
                    await client.call_tool("segment", {"image": other, "queries": ["cup"]})
                await anyio.sleep(0.1)  # the server hears of it
            await client.call_tool("ask", {"image": text, "question": "what do you see?"})

    portal.call(impatient)
    assert len(service.images) == 1


def test_nothing_but_the_protocol_was_on_standard_output(stdio: Talk, strays: list[Exception], errors: Path) -> None:
    """After all of the above; the client hands on every line that it cannot read."""
    assert not stdio.call("describe_image", image="/etc/hosts").structured_content
    assert strays == []
    assert "Traceback" not in errors.read_text()


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--http", "nonsense"], "need HOST:PORT"),
        (["--http", "127.0.0.1:99999"], "need HOST:PORT"),
        (["--http", "0.0.0.0:8000"], "--allow-host NAME"),
        (["--http", "192.168.1.5:8000"], "--allow-host NAME"),
        (["--model", "no-such-folder-here"], "no-such-folder-here"),
    ],
)
def test_wrong_options_are_one_line(seglens: Run, words: list[str], message: str) -> None:
    code, out, err = seglens("mcp", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
