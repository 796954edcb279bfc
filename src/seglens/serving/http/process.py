"""A server as a process: its socket, its signals, its end."""

from __future__ import annotations

import signal
from functools import partial
from threading import Event, Thread
from time import monotonic, sleep
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from seglens.serving.http.idle_timeout import Patient
from seglens.serving.http.middleware import AdmissionControl
from seglens.serving.http.settings import Settings
from seglens.serving.sockets import BACKLOG, listen

LONGEST_HEADER = 32 * 1024  # bytes
LOOK = 0.05  # seconds between looks at what is still under way
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Running:
    """An application behind a socket, served by a thread. Raises OSError when the address cannot be had."""

    def __init__(self, app: FastAPI, settings: Settings):
        self.settings = settings
        self.door: AdmissionControl = app.state.door
        self._server = uvicorn.Server(_config(app, settings))
        self._socket = listen(settings.host, settings.port, "another --port, or 0 for a free one")
        self._thread = Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="seglens-http")
        self._told = Event()

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Returns when requests are answered."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            sleep(LOOK)

    def stop(self) -> None:
        """Refuse what is new, answer what was accepted, close. A second signal, or time, cuts this short."""
        self.door.close()
        self._told.clear()
        until = monotonic() + self.settings.shutdown_seconds
        while self.door.inside and monotonic() < until and not self._told.is_set():
            sleep(LOOK)
        self._server.should_exit = True
        self._server.force_exit = self.door.inside > 0
        self._thread.join()

    def until_told(self) -> None:
        """Serve until a signal comes, then `stop`. Call it from the main thread."""
        before = {one: signal.signal(one, self._hear) for one in SIGNALS}
        try:
            self.start()
            while self._thread.is_alive() and not self._told.wait(LOOK):
                pass
            self.stop()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._told.set()


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    protocol: Any = partial(Patient, settings.idle_seconds)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # who the client is must not be his to say
        h11_max_incomplete_event_size=LONGEST_HEADER,
        timeout_keep_alive=max(1, round(settings.idle_seconds)),
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.idle_seconds)),
        limit_concurrency=2 * settings.connections + 16,  # the door refuses first, and in better words
    )
