"""Actors of Ray Data, on as many machines as it has. Needs `pip install 'seglens[ray]'`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WAIT = 5.0  # seconds for an address to answer: Ray itself would try for minutes


@dataclass(frozen=True)
class Actors:
    """How many actors compute, at most; the GPUs of each (of a part, several share one); the address of the Ray
    (default: that of RAY_ADDRESS, else one of this machine alone)."""

    count: int
    gpus: float = 0.0
    address: str | None = None


def import_ray() -> Any:
    """Ray with its `ray.data`. Raises ImportError, with the command that installs it."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors are raised here
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"several machines need Ray ({error}); run: pip install 'seglens[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports each run at length
    return ray


def connect(actors: Actors) -> None:
    """Join the Ray.

    Raises ValueError when it does not answer, and when actors ask for a GPU and no machine has one: they would wait
    for ever."""
    ray = import_ray()
    if not ray.is_initialized():
        _check_address(actors.address or os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(address=actors.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"the Ray cannot be joined: {' '.join(str(error).split())}") from error
    most = max((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if actors.gpus > most:
        raise ValueError(
            f"each actor asks for {actors.gpus:g} GPU, and no machine of this Ray has more than {most:g}; give fewer"
        )


def _check_address(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto", "local", or none
    try:
        socket.create_connection((host, int(port)), WAIT).close()
    except OSError as error:
        raise ValueError(
            f"no Ray answers at {address} ({error}); start one there with `ray start --head --port {port}`, or give "
            "the address of another"
        ) from error


def rows_of_actors(
    actor: type, arguments: tuple[Any, ...], shards: Sequence[int], actors: Actors
) -> Iterator[dict[str, Any]]:
    """What actors give for each shard, as it is done: dicts of plain values. An actor is built once, from `arguments`,
    and called with {"shard": an array of one number}; one that is lost is replaced, and its shard computed again.
    Errors are values: exceptions would be retried and wrapped. Raises ValueError as `connect` does."""
    connect(actors)
    ray = import_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False  # the caller shows its own
    work = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    yield from work.map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=1,
        num_gpus=actors.gpus or None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors.count, len(shards))),
    ).iter_rows()
