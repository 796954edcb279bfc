"""Answers while they are made: the words come as the model writes them, and no client holds up the model."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from http_server import Serve, Served, as_uri, ours, user_message
from seglens.backbones import Backbone, GenerationOptions
from seglens.core.interruption import GivenUpError
from seglens.core.types import Sample
from seglens.data.masks import decode_rle
from seglens.inference.segmenter import Segmenter

WORDS = "what is in the picture?"


def request_body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "embedded", "messages": [*messages], **more}


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


class Held:
    """The model speaks, and waits after its first piece until it is let go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.go, self.spoken, self.ended = threading.Event(), list[Any](), list[Exception]()
        speak = Backbone.generate_text

        def slowly(backbone: Backbone, images: Any, question: str, manner: GenerationOptions) -> Any:
            def tell(piece: str) -> None:
                manner.on_text(piece)  # type: ignore[misc]
                assert self.go.wait(30)

            try:
                self.spoken.append(speak(backbone, images, question, replace(manner, on_text=tell)))
            except Exception as error:
                self.ended.append(error)
                raise
            return self.spoken[-1]

        monkeypatch.setattr(Backbone, "generate_text", slowly)


def test_words_come_before_the_model_is_done(client: openai.OpenAI, data_uri: str, held: Held) -> None:
    stream = client.chat.completions.create(**request_body(user_message(WORDS, data_uri)), stream=True)
    first, second = next(stream), next(stream)
    assert first.choices[0].delta.role == "assistant"
    assert second.choices[0].delta.content
    assert not held.spoken  # the model is at its first words still
    held.go.set()
    rest = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert second.choices[0].delta.content + rest == held.spoken[0].text


@pytest.mark.parametrize("words", [WORDS, "segment the umbrella."])
def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI, data_uri: str, words: str) -> None:
    whole = client.chat.completions.create(**request_body(user_message(words, data_uri)))
    with client.chat.completions.stream(
        **request_body(user_message(words, data_uri)), stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert final.usage == whole.usage

    async def again() -> str:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="unused", max_retries=0) as other:
            stream = await other.chat.completions.create(**request_body(user_message(words, data_uri)), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(again()) == whole.choices[0].message.content


def test_the_events_are_those_of_openai(server: Served, data_uri: str) -> None:
    body = request_body(user_message(WORDS, data_uri), stream=True, stream_options={"include_usage": True})
    answer = server.client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = events(answer.text)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + usage["usage"]["completion_tokens"]
    assert all("usage" not in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in (*chunks, usage)}) == 1
    assert sum("content" in chunk["choices"][0]["delta"] for chunk in chunks) > 4  # word by word
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    without = server.client.post("/v1/chat/completions", json=request_body(user_message(WORDS, data_uri), stream=True))
    assert "usage" not in without.text


@pytest.mark.parametrize("stream", [False, True])
def test_what_an_answer_took_is_counted(
    client: openai.OpenAI, data_uri: str, segmenter: Segmenter, stream: bool
) -> None:
    def took(**more: Any) -> tuple[int, int]:
        if stream:
            *_, last = client.chat.completions.create(
                **request_body(**more), stream=True, stream_options={"include_usage": True}
            )
        else:
            last = client.chat.completions.create(**request_body(**more))
        return last.usage.prompt_tokens, last.usage.completion_tokens

    def request_body(*messages: Any, **more: Any) -> dict[str, Any]:
        return {"model": "embedded", **more}

    processor, image = segmenter.backbone.processor, 12 * 12
    words = len(processor.tokenizer(segmenter.backbone.prompts.text("hello").replace("<image>", "")).input_ids)
    assert took(messages=[user_message("hello", data_uri)], max_tokens=3) == (words + image, 3)
    assert took(messages=[user_message("hello")], max_completion_tokens=2)[0] in (words, words - 1)
    assert took(messages=[user_message("hello", data_uri, data_uri)], max_tokens=3)[0] >= words + 2 * image
    read, written = took(messages=[user_message("segment the umbrella.", data_uri)])
    assert read > image
    assert written > 0


def test_an_answer_ends_before_a_text(client: openai.OpenAI, data_uri: str) -> None:
    whole = client.chat.completions.create(**request_body(user_message(WORDS, data_uri))).choices[0].message.content
    assert whole
    stop = whole.split()[3]
    for stops in (stop, ["never", stop]):
        cut = client.chat.completions.create(**request_body(user_message(WORDS, data_uri)), stop=stops)
        assert cut.choices[0].message.content == whole[: whole.find(stop)]
        assert cut.choices[0].finish_reason == "stop"
        stream = client.chat.completions.create(**request_body(user_message(WORDS, data_uri)), stop=stops, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in stream) == cut.choices[0].message.content


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"stream": True, "model": "another"}, 404, "model"),
        ({"stream": True, "temperature": 0.5}, 400, "temperature"),
        ({"stream": True, "messages": [user_message(" ")]}, 400, None),
        ({"stream": True, "messages": [user_message("hello", "img_none")]}, 404, "image"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, 422, "stream_options.include_obfuscation"),
        ({"stop": ["a"] * 5}, 422, None),
        ({"stop": ""}, 422, None),
    ],
)
def test_what_is_refused_before_a_word_has_a_status(
    server: Served, data_uri: str, change: dict[str, Any], status: int, param: str | None
) -> None:
    answer = server.client.post(
        "/v1/chat/completions", json={**request_body(user_message("hello", data_uri)), **change}
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert param is None or answer.json()["error"]["param"] == param


def test_what_breaks_behind_the_first_word_is_an_event(
    server: Served,
    client: openai.OpenAI,
    data_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(backbone: Backbone, images: Any, question: str, manner: GenerationOptions) -> Any:
        manner.on_text("Well")  # type: ignore[misc]
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(Backbone, "generate_text", broken)
    answer = server.client.post("/v1/chat/completions", json=request_body(user_message(WORDS, data_uri), stream=True))
    assert answer.status_code == 200
    error = events(answer.text)[-1]["error"]
    assert (error["code"], error["request_id"]) == ("internal_error", answer.headers["x-request-id"])
    assert "secret" not in answer.text
    assert "a secret of the inside" in caplog.text
    with pytest.raises(openai.APIError, match="error of the server"):
        list(client.chat.completions.create(**request_body(user_message(WORDS, data_uri)), stream=True))
    monkeypatch.undo()
    assert client.chat.completions.create(**request_body(user_message(WORDS, data_uri))).choices[0].message.content


def test_an_answer_that_takes_too_long_is_told_so(serve: Serve, data_uri: str, held: Held) -> None:
    hurried = serve(request_seconds=0.5)
    answer = hurried.client.post("/v1/chat/completions", json=request_body(user_message(WORDS, data_uri), stream=True))
    held.go.set()
    assert events(answer.text)[-1]["error"]["code"] == "timeout"
    assert hurried.client.get("/healthz").status_code == 200


def test_a_client_that_leaves_is_not_spoken_to(serve: Serve, data_uri: str, held: Held) -> None:
    one = serve()
    with httpx.Client(base_url=one.address, trust_env=False) as leaving:
        body = request_body(user_message(WORDS, data_uri), stream=True)
        with leaving.stream("POST", "/v1/chat/completions", json=body) as answer:
            next(answer.iter_lines())
    _until(lambda: "seglens_requests_under_way 1.0" in one.client.get("/metrics").text)  # this request
    held.go.set()
    _until(lambda: held.ended)
    assert isinstance(held.ended[0], GivenUpError)
    assert not held.spoken
    asks = request_body(user_message(WORDS, data_uri), stream=True)
    assert events(one.client.post("/v1/chat/completions", json=asks).text)[-1] == "[DONE]"


def _until(true: Any) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_does_not_read_holds_up_nobody(serve: Serve, data_uri: str) -> None:
    one = serve()
    name = one.client.post("/v1/images", json={"image": data_uri}).json()["id"]
    body = json.dumps(request_body(user_message(WORDS, name), stream=True)).encode()
    host, port = one.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(3):
            assert (
                one.client.post("/v1/chat/completions", json=request_body(user_message(WORDS, name))).status_code == 200
            )


# ---------------------------------------------------------------- no image, and several


def test_words_alone_are_answered_in_words(client: openai.OpenAI, segmenter: Segmenter, data_uri: str) -> None:
    answer = client.chat.completions.create(**request_body(user_message(WORDS)))
    spoken = segmenter.backbone.generate_text([], WORDS, GenerationOptions(256))
    message = answer.choices[0].message
    assert (message.content or "").startswith(spoken.text)
    assert (ours(message).route.intent, ours(message).route.scores, ours(message).answers) == ("dialogue", {}, [])
    later = client.chat.completions.create(
        **request_body(user_message(WORDS), user_message("segment the umbrella.", data_uri))
    )
    assert ours(later.choices[0].message).route.intent == "segmentation"
    with pytest.raises(openai.BadRequestError, match="no image; send one"):
        client.chat.completions.create(
            **request_body(user_message(WORDS)), extra_body={"seglens": {"route": "segmentation"}}
        )


def test_several_images_are_each_segmented(
    client: openai.OpenAI, server: Served, segmenter: Segmenter, data_uri: str, scene: Sample
) -> None:
    grey = np.full_like(scene.image, 128)
    force = {"extra_body": {"seglens": {"route": "segmentation"}}}
    query = scene.targets[2].query
    answer = (
        client.chat.completions.create(**request_body(user_message(query, as_uri(grey), data_uri)), **force)
        .choices[0]
        .message
    )
    talk = ours(answer)
    assert talk.images == [0, 1]
    right = [segmenter.open(image).segment(query) for image in (grey, scene.image)]
    for one, expected in zip(talk.answers, right, strict=True):
        assert one.found == expected.found
        assert (decode_rle(one.segmentation.model_dump()) == expected.mask).mean() > 0.999
    assert [one.found for one in talk.answers] == [False, True]
    assert re.fullmatch("Image 1: .+\nImage 2: Sure, .+", answer.content or "")
    again = client.chat.completions.create(
        **request_body(user_message(query, as_uri(grey), data_uri), user_message(query)), **force
    )
    assert ours(again.choices[0].message).images == [0, 1]  # the words after them are about both


def test_several_images_are_all_seen_in_talk(
    client: openai.OpenAI, segmenter: Segmenter, data_uri: str, scene: Sample
) -> None:
    flipped = scene.image[:, ::-1].copy()
    force = {"extra_body": {"seglens": {"route": "dialogue"}}}
    answer = client.chat.completions.create(**request_body(user_message(WORDS, data_uri, as_uri(flipped))), **force)
    spoken = segmenter.backbone.generate_text([scene.image, flipped], WORDS, GenerationOptions(256))
    assert (answer.choices[0].message.content or "").startswith(spoken.text)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == spoken.read
