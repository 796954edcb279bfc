"""Every limit, with a request just inside and one just over it; and the clients that are refused."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import pytest

from http_server import Serve, Served, noise
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.settings import PORT, Settings


def code(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, error["code"]


def test_bodies_are_counted_whatever_their_headers_state(serve: Serve) -> None:
    small = serve(body_bytes=20_000, image_bytes=10_000)
    fits = small.client.post("/v1/images", files={"file": b"x" * 9_000})
    assert code(fits) == (400, "invalid_image")
    assert code(small.client.post("/v1/images", files={"file": b"x" * 10_001})) == (413, "image_too_large")
    over = json.dumps({"image": "x" * 20_001})
    headers = {"content-type": "application/json"}
    assert code(small.client.post("/v1/images", content=over, headers=headers)) == (413, "request_too_large")
    pieces = (over[k : k + 1000].encode() for k in range(0, len(over), 1000))  # chunked: no length is stated
    assert code(small.client.post("/v1/images", content=pieces, headers=headers)) == (413, "request_too_large")
    assert code(small.client.post("/v1/images", files={"file": b"x" * 25_000})) == (413, "request_too_large")


def test_pixels_are_counted_by_the_header(serve: Serve) -> None:
    small = serve(pixels=40 * 50)
    assert small.client.post("/v1/images", files={"file": noise(40, 50)}).status_code == 201
    assert code(small.client.post("/v1/images", files={"file": noise(41, 50)})) == (413, "image_too_large")


def test_queries_and_characters_are_limited(serve: Serve) -> None:
    small = serve(queries=2, question_characters=10, messages=2, chat_images=1)
    name = small.client.post("/v1/images", files={"file": noise(20, 20)}).json()["id"]

    def ask(*queries: str) -> httpx.Response:
        return small.client.post("/v1/segment", json={"image": name, "queries": queries})

    assert ask("a cup", "0123456789").status_code == 200
    assert code(ask("a", "b", "c")) == (413, "too_many_queries")
    assert code(ask("01234567890")) == (413, "question_too_long")
    assert code(ask("a", " ")) == (400, "invalid_question")
    talk = {"model": "embedded", "messages": [{"role": "user", "content": "hi"}] * 3}
    talk["messages"][0] = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": name}}]}
    assert code(small.client.post("/v1/chat/completions", json=talk)) == (413, "chat_too_long")


def test_a_slow_body_is_given_up(serve: Serve) -> None:
    slow = serve(body_seconds=0.3)
    host, port = slow.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        line.sendall(b'Content-Length: 100\r\n\r\n{"image"')
        assert line.recv(4096).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("start", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_silent_connection_is_closed(serve: Serve, start: bytes) -> None:
    short = serve(idle_seconds=0.4)
    host, port = short.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(start)
        started = time.monotonic()
        while line.recv(4096):
            pass
        assert time.monotonic() - started < 8


def test_a_request_over_its_time_is_given_up(
    serve: Serve, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = serve(request_seconds=0.2)
    held = threading.Event()
    open_image = segmenter.open
    monkeypatch.setattr(segmenter, "open", lambda image: (held.wait(10), open_image(image))[1])
    answer = hurried.client.post("/v1/images", files={"file": noise(20, 20)})
    held.set()
    assert code(answer) == (504, "timeout")
    monkeypatch.undo()
    deadline = time.monotonic() + 10
    while hurried.client.get("/v1/models").status_code != 200 and time.monotonic() < deadline:
        pass
    assert hurried.client.get("/healthz").status_code == 200


def test_too_many_requests_get_503_with_retry_after(
    serve: Serve, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = serve(connections=1)
    held, inside = threading.Event(), threading.Event()
    open_image = segmenter.open

    def slow(image: object) -> object:
        inside.set()
        assert held.wait(10)
        return open_image(image)

    monkeypatch.setattr(segmenter, "open", slow)
    first = threading.Thread(target=lambda: narrow.client.post("/v1/images", files={"file": noise(20, 20)}))
    first.start()
    assert inside.wait(10)
    with httpx.Client(base_url=narrow.address, trust_env=False) as second:
        refused = second.get("/v1/models")
        assert code(refused) == (503, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        assert second.get("/healthz").status_code == 200  # the health check is never refused
    held.set()
    first.join()


def test_what_is_not_answered_when_the_server_must_end_is_refused(
    serve: Serve, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = serve(shutdown_seconds=0.2)
    held, inside = threading.Event(), threading.Event()
    monkeypatch.setattr(segmenter, "open", lambda image: (inside.set(), held.wait(20)))
    answers = list[httpx.Response]()
    post = lambda: answers.append(short.client.post("/v1/images", files={"file": noise(20, 20)}))  # noqa: E731
    client = threading.Thread(target=post)
    client.start()
    assert inside.wait(10)
    short.running.stop()
    client.join(10)
    held.set()
    assert [code(answer) for answer in answers] == [(503, "stopping")]
    assert answers[0].headers["retry-after"] == "5"
    assert "Exception in ASGI application" not in caplog.text  # no error of the request


def test_everything_but_the_health_check_needs_the_key(serve: Serve, tmp_path: object) -> None:
    keyed = serve(api_key="right")
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic right"},
        {"authorization": "right"},
    ):
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            answer = keyed.client.get(path, headers=headers)
            assert code(answer) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert keyed.client.get("/healthz").status_code == 200
    assert keyed.client.get("/v1/models", headers={"authorization": "bearer right"}).status_code == 200


@pytest.mark.parametrize(
    ("request_id", "kept"), [("a-b_c.9", True), ("x" * 64, True), ("x" * 65, False), ("a b", False)]
)
def test_request_ids(server: Served, request_id: str, kept: bool) -> None:
    answer = server.client.get("/nowhere", headers={"x-request-id": request_id})
    assert (answer.headers["x-request-id"] == request_id) is kept
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


def test_work_for_a_client_that_disconnected_is_not_begun(
    serve: Serve, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = serve()
    held, inside, opened = threading.Event(), threading.Event(), list[object]()
    open_image = segmenter.open

    def slow(image: object) -> object:
        opened.append(image)
        inside.set()
        assert held.wait(10)
        return open_image(image)

    monkeypatch.setattr(segmenter, "open", slow)
    first = threading.Thread(target=lambda: one.client.post("/v1/images", files={"file": noise(20, 20)}))
    first.start()
    assert inside.wait(10)
    with httpx.Client(base_url=one.address, trust_env=False, timeout=0.5) as leaving, pytest.raises(httpx.ReadTimeout):
        leaving.post("/v1/images", files={"file": noise(21, 21)})
    time.sleep(0.2)
    held.set()
    first.join()
    assert one.client.post("/v1/images", files={"file": noise(22, 22)}).status_code == 201
    assert [image.shape[0] for image in opened] == [20, 22]  # type: ignore[attr-defined]
    assert 'route="/v1/images",status="499"} 1.0' in one.client.get("/metrics").text


@pytest.mark.slow
def test_images_of_two_clients_never_mix(server: Served, segmenter: Segmenter) -> None:
    sizes = [(30, 40 + k) for k in range(6)]
    wrong = list[object]()

    def visit(height: int, width: int) -> None:
        with httpx.Client(base_url=server.address, trust_env=False, timeout=60) as client:
            name = client.post("/v1/images", files={"file": noise(height, width, width)}).json()["id"]
            for _ in range(3):
                answer = client.post("/v1/segment", json={"image": name, "queries": ["the cup"]}).json()
                if answer["answers"][0]["segmentation"]["size"] != [height, width] or answer["image"] != name:
                    wrong.append(answer)

    threads = [threading.Thread(target=visit, args=size) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_wrong_settings_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("SEGLENS_QUERIES", "5")
    assert Settings().queries == 5
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Settings(queue=0)
    assert "secret" not in repr(Settings(api_key="secret"))
    with pytest.raises(ValueError, match="one of them"):
        Settings(api_key="a", api_key_file="b").key()
    with pytest.raises(ValueError, match="must be a word"):
        Settings(api_key=" ").key()


@pytest.mark.parametrize("link", ["tcp://10.0.0.1:8000", "tcp://[fd00::1]:8000", "udp://10.0.0.1:53"])
def test_a_link_to_a_service_is_no_port(monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    """Kubernetes sets it in every container beside a service of the name "seglens"."""
    monkeypatch.setenv("SEGLENS_PORT", link)
    assert Settings().port == PORT
    for wrong in ("tcp://nonsense", "http://10.0.0.1:8000", "70000", "many", ""):
        monkeypatch.setenv("SEGLENS_PORT", wrong)
        with pytest.raises(ValueError, match="port"):
            Settings()
