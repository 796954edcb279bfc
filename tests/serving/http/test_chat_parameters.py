"""What other OpenAI-compatible servers take is taken, or refused by name."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from http_server import Serve, Served, ours, user_message


@pytest.mark.parametrize(
    "neutral",
    [
        {"temperature": 0},
        {"temperature": 1.0},
        {"top_p": 1},
        {"temperature": 0, "top_p": 0.3},
        {"n": 1},
        {"seed": 7},
        {"tools": []},
        {"tool_choice": "none"},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"parallel_tool_calls": False},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"logprobs": False},
        {"logit_bias": {}},
        {"presence_penalty": 0.0},
        {"frequency_penalty": 0},
        {"store": False},
        {"metadata": {}},
        {"service_tier": "auto"},
        {"reasoning_effort": "none"},
        {"user": "me"},
        {"audio": None},
        {"top_k": None},
        {"prompt_cache_key": "a"},
    ],
)
def test_parameters_that_ask_for_what_is_done_anyway_are_accepted(
    client: openai.OpenAI, data_uri: str, neutral: dict[str, Any]
) -> None:
    answer = client.chat.completions.create(
        model="embedded", messages=[user_message("how many things are there?", data_uri)], extra_body=neutral
    )
    assert answer.choices[0].message.content
    hints = [name for name in neutral if name in ("seed", "user", "prompt_cache_key")]
    assert ours(answer.choices[0].message).ignored == hints  # a hint is named


@pytest.mark.parametrize(
    "wanted",
    [
        {"temperature": 0.7},
        {"temperature": True},
        {"top_p": 0.3},
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "a"}},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"logit_bias": {"5": -100}},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -1},
        {"store": True},
        {"metadata": {"a": "b"}},
        {"service_tier": "flex"},
        {"reasoning_effort": "low"},
        {"verbosity": "low"},
        {"prediction": {"type": "content", "content": "a"}},
        {"web_search_options": {}},
        {"top_k": 5},
        {"guided_json": "{}"},
    ],
)
def test_unsupported_parameters_are_refused_by_name(server: Served, data_uri: str, wanted: dict[str, Any]) -> None:
    body = {"model": "embedded", "messages": [user_message("how many things are there?", data_uri)], **wanted}
    answer = server.client.post("/v1/chat/completions", json=body)
    error, (name,) = answer.json()["error"], wanted
    assert answer.status_code == 400
    assert error["code"] in ("unsupported_parameter", "unknown_parameter")
    assert error["param"] == name
    assert "leave it out" in error["message"]


def test_a_chat_with_earlier_tool_calls_is_accepted(client: openai.OpenAI, data_uri: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    messages: list[Any] = [
        {"role": "system", "content": "Be brief.", "name": "s"},
        user_message("how many things are there?", data_uri),
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "4"}]},
        {"role": "function", "name": "count", "content": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "4"}]},
        user_message("what colour is the umbrella?"),
    ]
    answer = client.chat.completions.create(model="embedded", messages=messages).choices[0].message
    alone = client.chat.completions.create(
        model="embedded", messages=[user_message("what colour is the umbrella?", data_uri)]
    )
    assert answer.content == alone.choices[0].message.content
    unread = {f"messages.{name}" for name in ("system", "user", "assistant", "tool", "function", "name")}
    assert {*ours(answer).ignored} == unread | {"messages.tool_calls", "messages.tool_call_id"}


def test_an_image_may_be_a_plain_string(client: openai.OpenAI, server: Served, data_uri: str) -> None:
    words = "how many things are there?"
    plain = {"role": "user", "content": [{"type": "text", "text": words}, {"type": "image_url", "image_url": data_uri}]}
    right = (
        client.chat.completions.create(model="embedded", messages=[user_message(words, data_uri)]).choices[0].message
    )
    body = {"model": "embedded", "messages": [plain]}
    answer = server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert answer["content"] == right.content


def test_a_part_of_another_kind_is_named(server: Served) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    body = {"model": "embedded", "messages": [{"role": "user", "content": [part]}]}
    answer = server.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 422
    assert "input_audio" in answer.json()["error"]["message"]


def test_a_model_is_looked_up_by_its_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve("embedded").id == "embedded"
    with pytest.raises(openai.NotFoundError, match="ask for 'embedded'") as refused:
        client.models.retrieve("some/body")  # with a slash, as ids of the hub have
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_heads_and_slashes(serve: Serve) -> None:
    keyed = serve(api_key="right")
    right = {"authorization": "Bearer right"}
    for path in ("/healthz", "/healthz/", "/v1/models", "/v1/models/", "/v1/models/embedded", "/metrics"):
        head = keyed.client.head(path, headers=right)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        assert keyed.client.get(path, headers=right).status_code == 200  # no redirection
    assert keyed.client.head("/healthz").status_code == 200
    assert keyed.client.head("/v1/models").status_code == 401
    wrong = keyed.client.head("/v1/segment", headers=right)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert keyed.client.put("/healthz", headers=right).headers["allow"] == "GET, HEAD"
    for method, path in (("PUT", "/v1/models/embedded"), ("POST", "/v1/models")):
        assert keyed.client.request(method, path, headers=right).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/refine", "/v1/images", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "body", ['{"\\ud800": 1}', '{"image": "\\ud800", "queries": ["\\udfff"]}', '{"model": "\\ud800"}']
)
def test_a_lone_surrogate_is_refused_with_a_message(server: Served, path: str, body: str) -> None:
    """JSON can spell it, and no answer can."""
    answer = server.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]
