"""A server as a process: its socket, its signals, how it stops."""

from __future__ import annotations

import signal
from functools import partial
from threading import Event, Thread
from time import monotonic, sleep
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from seglens.serving.http.admission import AdmissionControl
from seglens.serving.http.idle_timeout import IdleTimeoutProtocol
from seglens.serving.http.settings import Settings
from seglens.serving.sockets import BACKLOG, listen

MAX_HEADER = 32 * 1024  # bytes
POLL = 0.05  # seconds between checks of what is still under way
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunningServer:
    """An application at a socket, served by a thread. Raises OSError when the address cannot be used."""

    def __init__(self, app: FastAPI, settings: Settings):
        self.settings = settings
        self.admission: AdmissionControl = app.state.admission
        self._server = uvicorn.Server(_config(app, settings))
        self._socket = listen(settings.host, settings.port, "another --port, or 0 for a free one")
        self._thread = Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="seglens-http")
        self._stop_signal = Event()

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Returns as soon as requests are answered."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            sleep(POLL)

    def stop(self) -> None:
        """Refuse new requests, answer those that were accepted, close. A second signal ends this earlier, as do
        `shutdown_seconds`."""
        self.admission.close()
        self._stop_signal.clear()
        end = monotonic() + self.settings.shutdown_seconds
        while self.admission.requests and monotonic() < end and not self._stop_signal.is_set():
            sleep(POLL)
        self._server.should_exit = True
        self._server.force_exit = self.admission.requests > 0
        self._thread.join()

    def run_until_signal(self) -> None:
        """Serve until a signal comes, then `stop`. Call it from the main thread."""
        before = {one: signal.signal(one, self._receive_signal) for one in SIGNALS}
        try:
            self.start()
            while self._thread.is_alive() and not self._stop_signal.wait(POLL):
                pass
            self.stop()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _receive_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop_signal.set()


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    protocol: Any = partial(IdleTimeoutProtocol, settings.idle_seconds)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # a client must not be able to name another address as its own
        h11_max_incomplete_event_size=MAX_HEADER,
        timeout_keep_alive=max(1, round(settings.idle_seconds)),
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.idle_seconds)),
        limit_concurrency=2 * settings.connections + 16,  # `AdmissionControl` refuses earlier, with a clear message
    )
