"""The official OpenAI client against a real server."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest

from http_server import Serve, Served, ours, user_message
from seglens.core.types import Sample
from seglens.data.masks import decode_rle
from seglens.inference.opened_image import OpenedImage


def test_a_mask_comes_in_the_extension(
    client: openai.OpenAI, data_uri: str, scene: Sample, opened: OpenedImage
) -> None:
    query = scene.targets[2].query
    answer = client.chat.completions.create(
        model="embedded", messages=[user_message(query, data_uri)], extra_body={"seglens": {"route": "segmentation"}}
    )
    message = answer.choices[0].message
    talk, right = ours(message), opened.segment(query)
    assert message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert (talk.route.intent, talk.route.given) == ("segmentation", True)
    assert (decode_rle(talk.answers[0].segmentation.model_dump()) == right.mask).mean() > 0.999
    assert answer.usage is not None


def test_the_mllm_chooses_the_route(client: openai.OpenAI, data_uri: str, scene: Sample) -> None:
    routes = []
    for words in ("segment the red cup.", "how many things are there?"):
        message = (
            client.chat.completions.create(model="embedded", messages=[user_message(words, data_uri)])
            .choices[0]
            .message
        )
        talk = ours(message)
        routes.append(talk.route.intent)
        assert message.content
        assert not talk.route.given
        assert sum(talk.route.scores.values()) == pytest.approx(1)
        assert bool(talk.answers) == (talk.route.intent == "segmentation")
    assert routes == ["segmentation", "dialogue"]


def test_the_masks_of_earlier_turns_are_computed_again(client: openai.OpenAI, data_uri: str, scene: Sample) -> None:
    talk = [user_message(scene.targets[2].query, data_uri)]
    first = client.chat.completions.create(
        model="embedded", messages=talk, extra_body={"seglens": {"route": "segmentation"}}
    )
    talk += [first.choices[0].message, user_message("what did you segment?")]  # the client sends the extension back
    force = {"seglens": {"route": "followup"}}
    second = client.chat.completions.create(model="embedded", messages=talk, extra_body=force)
    assert ours(second.choices[0].message).route.intent == "followup"
    talk[1] = {"role": "assistant", "content": first.choices[0].message.content}  # as most clients keep it
    again = client.chat.completions.create(model="embedded", messages=talk, extra_body=force)
    assert again.choices[0].message.content == second.choices[0].message.content
    lonely = client.chat.completions.create(
        model="embedded", messages=[user_message("what did you segment?", data_uri)], extra_body=force
    )
    assert ours(lonely.choices[0].message).route.intent != "followup"


def test_a_stream_gives_the_same_answer(client: openai.OpenAI, data_uri: str, scene: Sample) -> None:
    request_body = {
        "model": "embedded",
        "messages": [user_message(scene.targets[2].query, data_uri)],
        "user": "somebody",
    }
    whole = client.chat.completions.create(**request_body)
    chunks = list(client.chat.completions.create(**request_body, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    last, talk = ours(chunks[-1].choices[0].delta), ours(whole.choices[0].message)
    assert [a.segmentation for a in last.answers] == [a.segmentation for a in talk.answers]
    assert last.ignored == ["user"]
    assert len({c.id for c in chunks}) == 1


def test_a_chat_can_name_an_open_image_by_its_id(
    client: openai.OpenAI, server: Served, png: bytes, data_uri: str
) -> None:
    name = server.client.post("/v1/images", files={"file": png}).json()["id"]
    answers = [
        client.chat.completions.create(
            model="embedded", messages=[user_message("describe the picture.", image)], max_tokens=4
        )
        for image in (name, data_uri)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].choices[0].finish_reason == "length"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embedded"]


@pytest.mark.parametrize(
    ("messages", "kind", "code"),
    [
        ([user_message("hello", "/etc/passwd")], openai.BadRequestError, "invalid_image"),
        ([user_message("hello", "file:///etc/passwd")], openai.BadRequestError, "invalid_image"),
        ([user_message("hello", "https://example.com/a.png")], openai.BadRequestError, "invalid_image"),
        ([user_message("hello", "img_unknown")], openai.NotFoundError, "image_not_found"),
        ([{"role": "assistant", "content": "hello"}], openai.BadRequestError, "invalid_messages"),
        ([{"role": "tool", "content": "hello", "tool_call_id": "c"}], openai.BadRequestError, "invalid_messages"),
        ([{"role": "critic", "content": "hello"}], openai.UnprocessableEntityError, "invalid_request"),
        ([], openai.UnprocessableEntityError, "invalid_request"),
    ],
)
def test_errors_are_those_of_the_client(client: openai.OpenAI, messages: Any, kind: Any, code: str) -> None:
    with pytest.raises(kind) as refused:
        client.chat.completions.create(model="embedded", messages=messages)
    assert refused.value.code == code
    assert refused.value.request_id.startswith("req_")
    assert refused.value.body["request_id"] == refused.value.request_id


def test_another_model_and_other_refusals(client: openai.OpenAI, data_uri: str, serve: Serve) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=[user_message("hello", data_uri)])
    with pytest.raises(openai.BadRequestError, match="empty question"):
        client.chat.completions.create(model="embedded", messages=[user_message(" ", data_uri)])
    keyed = serve(api_key="a-key")
    wrong = openai.OpenAI(base_url=f"{keyed.address}/v1", api_key="another", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError, match="asks for a key"):
        wrong.models.list()
    with openai.OpenAI(base_url=f"{keyed.address}/v1", api_key="a-key", max_retries=0) as right:
        assert right.models.list().data[0].id == "embedded"


def test_heat_maps_are_told_when_asked_for(client: openai.OpenAI, data_uri: str, opened: OpenedImage) -> None:
    request_body = {"seglens": {"route": "segmentation", "heat_map": True}}
    answer = client.chat.completions.create(
        model="embedded", messages=[user_message("the cup", data_uri)], extra_body=request_body
    )
    maps = ours(answer.choices[0].message).heat_maps
    assert maps is not None
    np.testing.assert_allclose(np.array(maps[0]), opened.segment("the cup").heat_map, atol=1e-4)
