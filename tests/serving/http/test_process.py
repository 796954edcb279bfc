"""`seglens serve` as a process: started, sent requests, stopped."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch

from command import Run
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.settings import Settings
from seglens.serving.sockets import listen

KEY = "a-key-that-no-log-shows"


@dataclass
class Process:
    """A separate server, and what it writes."""

    running: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    address: str = ""

    def read(self) -> None:
        """Up to the address; the rest is read on in a thread, so that the pipe never fills."""
        assert self.running.stderr is not None
        for line in self.running.stderr:
            self.lines.append(line)
            if match := re.search(r"serving embedded on (\S+)", line):
                self.address = match[1]
                break
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.running.stderr or ()))
        self.reader.start()

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.address, headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
        )


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    (tmp_path / "key").write_text(f"{KEY}\n")
    words = [sys.executable, "-m", "seglens", "serve", "--port", "0", "--api-key-file", str(tmp_path / "key")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as running:
        process = Process(running)
        process.read()
        yield process
        running.kill()


def test_a_stopped_server_finishes_accepted_requests(process: Process, png: bytes) -> None:
    with process.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        name = client.post("/v1/images", files={"file": png}).json()["id"]
    statuses, under_way = list[int](), threading.Barrier(9)

    def ask(number: int) -> None:
        with process.client() as own:
            own.get("/healthz")  # connected
            under_way.wait(30)
            queries = [f"the cup, {k}" for k in range(6)]
            statuses.append(own.post("/v1/segment", json={"image": name, "queries": queries}).status_code)

    askers = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
    with process.client() as watcher:
        for asker in askers:
            asker.start()
        under_way.wait(30)
        while "seglens_requests_under_way 9.0" not in watcher.get("/metrics").text:  # they, and this request
            assert not statuses, "the questions were over before the server could be stopped"
        process.running.send_signal(signal.SIGTERM)
        refused = watcher.get("/v1/models")
        while refused.status_code == 200:  # the signal is on its way
            refused = watcher.get("/v1/models")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "stopping"
        assert watcher.get("/healthz").status_code == 503
    for asker in askers:
        asker.join()
    assert statuses == [200] * 8
    assert process.running.wait(30) == 0
    process.reader.join()
    log = "".join(process.lines)
    assert len(re.findall(r"req_[0-9a-f]{16} 127\.0\.0\.1 POST /v1/segment 200 [0-9.]+ ms \d+ bytes\n", log)) == 8
    assert "seglens: stopped" in log
    assert KEY not in log
    assert "Traceback" not in log


def test_its_options_are_its_settings(seglens: Run) -> None:
    status, out, _ = seglens("serve", "--help")
    assert status == 0
    words = " ".join(out.split())
    assert "--image-ttl" in words
    assert "SEGLENS_IMAGE_TTL" in words
    assert "--api-key-file" in words
    assert re.search(r"--presence-threshold\W+float", words, re.IGNORECASE)
    assert re.search(r"--mask-threshold\W+float", words, re.IGNORECASE)
    assert "--api-key " not in words  # a command line is seen by all
    status, _, err = seglens("serve", "--prot", "1")
    assert status == 2
    assert "--port" in err
    status, _, err = seglens("serve", "--queue", "0")
    assert status == 2
    assert err == "seglens: --queue 0: Input should be greater than or equal to 1; see seglens serve --help\n"


def test_settings_of_the_model_reach_it(seglens: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an option and from the environment alike."""
    loaded = list[Segmenter]()

    def take(segmenter: Segmenter, settings: Settings) -> None:
        loaded.append(segmenter)
        raise ValueError("far enough")

    monkeypatch.setattr("seglens.serving.http.app.create_app", take)
    monkeypatch.setenv("SEGLENS_PRESENCE_THRESHOLD", "0.9")
    monkeypatch.setenv("SEGLENS_PORT", "tcp://10.0.0.1:8000")
    status, _, err = seglens("serve", "--mask-threshold", "0.6", "--dtype", "bf16", "--device", "cpu")
    assert (status, err) == (2, "seglens: far enough\n")
    (segmenter,) = loaded
    assert segmenter.presence_threshold == 0.9
    assert segmenter.mask_threshold == pytest.approx(math.log(0.6 / 0.4))
    assert segmenter.backbone.module.dtype == torch.bfloat16
    for words, message in (
        (("--presence-threshold", "2"), "needs a probability from 0 to 1"),
        (("--load-in", "3bit"), "choose from 8bit, 4bit"),
        (("--cors-origins", "a.org"), "for a CORS origin"),
    ):
        status, _, err = seglens("serve", *words)
        assert status == 2
        assert message in err
    assert len(loaded) == 1


def test_an_address_in_use_is_reported(seglens: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        status, _, err = seglens("serve", "--port", port)
    assert status == 2
    assert f"port {port} (Address already in use); choose another --port" in err
    status, _, err = seglens("serve", "--host", "256.0.0.1", "--port", "0")
    assert status == 2
    assert "cannot listen on '256.0.0.1'" in err


def test_an_answer_in_two_packets_never_waits_for_the_client() -> None:
    """What the socket accepts sends at once: with Nagle's algorithm each answer took 40 ms more."""
    with listen("127.0.0.1", 0, "another") as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
