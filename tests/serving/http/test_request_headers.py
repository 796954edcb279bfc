"""The headers of a request: its content type, its address, the web page that it comes from; and the API's own page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from http_server import Serve, Served
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.app import create_app
from seglens.serving.http.settings import Settings

PAGE = "https://page.example"
POSTS = ("/v1/segment", "/v1/refine", "/v1/chat/completions")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/xml"])
def test_json_needs_its_content_type(server: Served, path: str, kind: str) -> None:
    """`curl -d` sends another type: the body would be read as bytes, and the error would be about bytes."""
    answer = server.client.post(path, content=json.dumps({"image": "a"}), headers={"content-type": kind})
    assert answer.status_code == 415
    assert "-H 'content-type: application/json'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [*POSTS, "/v1/images"])
def test_parameters_in_the_address_are_refused(server: Served, data_uri: str, path: str) -> None:
    answer = server.client.post(path, params={"each": "true"}, json={"image": data_uri, "queries": ["a cup"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "each")
    assert "in the body" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/refine", "/v1/images", "/v1/chat/completions"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"[" * 50_000, b"\xff", b'{"image": NaN}'])
def test_an_invalid_body_gets_an_error_in_words(server: Served, path: str, body: bytes) -> None:
    answer = server.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_address_gets_an_error_that_names_the_known_ones(server: Served) -> None:
    for method, path in (("POST", "/chat/completions"), ("POST", "/v1/responses"), ("GET", "/"), ("GET", "/docs")):
        error = server.client.request(method, path).json()["error"]
        assert error["code"] == "not_found"
        assert "/v1/chat/completions" in error["message"]


# ---------------------------------------------------------------- other pages


def preflight(served: Served, origin: str) -> Any:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    return served.client.options("/v1/segment", headers=headers)


def test_no_other_web_page_may_send_requests_unless_it_is_named(server: Served) -> None:
    assert preflight(server, PAGE).status_code == 405
    answer = server.client.get("/v1/models", headers={"origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(("origins", "named"), [(f"https://a.org, {PAGE}/", PAGE), ("*", "*")])
def test_a_named_web_page_may_send_requests_and_read_errors(serve: Serve, origins: str, named: str) -> None:
    keyed = serve(cors_origins=origins, api_key="right")
    allowed = preflight(keyed, PAGE)
    assert allowed.status_code == 200  # without the key: a browser sends this request before the one with the key
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    for path, status in (("/v1/models", 401), ("/healthz", 200), ("/nowhere", 401)):
        answer = keyed.client.get(path, headers={"origin": PAGE})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, named)
        assert "access-control-allow-credentials" not in answer.headers
    if named != "*":
        assert preflight(keyed, "https://evil.example").status_code == 400


@pytest.mark.parametrize(
    "wrong", ["page.example", "https://a.org/path", "https://*.a.org", "null", "https://a.org https://b.org"]
)
def test_an_invalid_origin_is_reported_before_the_start(segmenter: Segmenter, wrong: str) -> None:
    with pytest.raises(ValueError, match="need '\\*', or scheme and host"):
        create_app(segmenter, Settings(cors_origins=wrong))


# ---------------------------------------------------------------- the page about the API


def test_the_page_about_the_api_is_served_if_switched_on(serve: Serve) -> None:
    keyed = serve(docs=True, api_key="right")
    page = keyed.client.get("/docs")  # a browser that opens a page sends no key
    assert page.status_code == 200
    assert "/openapi.json" in page.text
    described = keyed.client.get("/openapi.json").json()
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert keyed.client.get("/v1/models").status_code == 401
    assert keyed.client.get("/redoc", headers={"authorization": "Bearer right"}).status_code == 404
