"""The work behind the routes: images are decoded and opened, questions run in batches, within limits and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from hashlib import sha256
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from seglens.core.interruption import GivenUpError, interruptible
from seglens.core.object_memory import compact
from seglens.core.process_limits import usable_cores
from seglens.inference.compressed_predictions import CompressedPredictions, Folded
from seglens.inference.encoding import encode, shares_passes
from seglens.inference.image_batches import batch_size, predictions_of_opened
from seglens.inference.instances import instance_query
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.api_errors import ApiError
from seglens.serving.http.batcher import Batcher, Job, QueueLimits
from seglens.serving.http.fetch import Fetcher
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.open_images import PREFIX, ImageStore, StoredImage
from seglens.serving.http.schema import ImageAnswer, RefineRequest
from seglens.serving.http.settings import Settings
from seglens.serving.uploads import decode_bytes, decode_data_uri

T = TypeVar("T")
OPEN = "open"  # the one key of all jobs that open an image
Receive = Callable[[], Awaitable[Any]]
MIN_WORKERS, MAX_WORKERS = 2, 8  # threads that decode images and write answers


class Service:
    """One model, its queue and its open images. The coroutines run on the event loop; the model and the work on pixels
    do not. A waiting request is given up when its client disconnects (as `receive` reports) and at the end of its
    time."""

    def __init__(self, segmenter: Segmenter, settings: Settings, metrics: Metrics):
        self.segmenter, self.settings, self.metrics = segmenter, settings, metrics
        limits = QueueLimits(settings.queue, settings.queue_seconds, settings.queue_pixels)
        self.batcher = Batcher(limits, settings.batch_questions, metrics)
        self.images = ImageStore(settings.images_bytes, settings.image_ttl, metrics)
        self._fetcher = Fetcher(settings.limits) if settings.allow_urls else None
        self._workers = ThreadPoolExecutor(
            max(MIN_WORKERS, min(MAX_WORKERS, usable_cores())), thread_name_prefix="seglens-worker"
        )

    def start(self) -> None:
        self.batcher.start()

    def close(self) -> bool:
        """Finish the accepted jobs. False when that took too long."""
        done = self.batcher.close(self.settings.shutdown_seconds)
        self._workers.shutdown(wait=done, cancel_futures=not done)
        return done

    # ---------------------------------------------------------------- images

    async def store(self, image: str | bytes, receive: Receive) -> ImageAnswer:
        """Open an image, given as a data URI or as the bytes of its file, and store it."""
        return self.images.put(await self.open(image, receive))

    async def open(self, image: str | bytes, receive: Receive) -> OpenedImage:
        """Raises ImageError for what is no image, and ApiErrors."""
        if self._fetcher is not None and isinstance(image, str) and image[:8].lower() == "https://":
            image = await self._fetcher.data(image)
        pixels = await self.in_worker(partial(self._pixels, image))
        size, area = batch_size(self.segmenter), pixels.shape[0] * pixels.shape[1]
        job = Job([pixels], self._open, OPEN, max_items=size, kind=OPEN, pixels=area, in_memory=area)
        return (await self.wait(job, receive))[0]

    async def image(self, image: str, receive: Receive) -> AbstractContextManager[StoredImage]:
        """The image that a request is about, for as long as the request needs it: given by its id, or as data, which is
        opened."""
        if not image.startswith(PREFIX):
            image = (await self.store(image, receive)).id
        return self.images.use(image)

    async def chat_image(self, image: str, receive: Receive) -> AbstractContextManager[StoredImage]:
        """As `image`; the same data is opened once, as a chat sends it again with every message. Its id is not given
        to clients, because a client that knows an id may drop the image."""
        if image.startswith(PREFIX):
            return self.images.use(image)
        digest = await self.in_worker(lambda: sha256(image.encode("utf-8", "surrogatepass")).hexdigest())
        id = self.images.find(digest) or self.images.put(await self.open(image, receive), digest).id
        return self.images.use(id)

    def _pixels(self, image: str | bytes) -> np.ndarray:
        limits = self.settings.limits
        return decode_bytes(image, limits) if isinstance(image, bytes) else decode_data_uri(image, limits)

    def _open(self, images: Sequence[np.ndarray]) -> list[OpenedImage]:
        """Images of all clients that wait, in one pass; each then has its own memory, which is freed when it is
        dropped."""
        with self.metrics.opening.time():
            if len(images) == 1:
                return [self.segmenter.open(images[0])]
            encoded = compact(encode(self.segmenter, images))
            return [OpenedImage(self.segmenter, *one) for one in zip(images, encoded, strict=True)]

    # ---------------------------------------------------------------- questions

    async def segment(
        self, opened: OpenedImage, queries: Sequence[str], each: bool | None, trust: bool, receive: Receive
    ) -> CompressedPredictions:
        """In batches of as many masks as memory allows; between them other requests use the model. No mask stays in
        memory at the image's size.

        Raises QuestionError for a query that cannot be read, and ApiErrors."""
        self._check_queries(queries)
        long = each if each is not None else any(instance_query(query).each for query in queries)
        joint = not long and shares_passes(self.segmenter)
        key = ("segment", each, trust, long, None if joint else id(opened))
        area = opened.image.shape[0] * opened.image.shape[1]
        batch = max(1, self.settings.batch_pixels // area)
        end, predictions = self._end(), list[Folded]()
        for start in range(0, len(queries), batch):
            part = [(opened, query) for query in queries[start : start + batch]]
            run, pixels = partial(self._segment, each, trust), len(part) * area
            job = Job(part, run, key, self._check_query, batch, long, kind="segment", pixels=pixels)
            predictions += await self.wait(job, receive, end)
        return CompressedPredictions(predictions)

    def _check_queries(self, queries: Sequence[str]) -> None:
        limit = self.settings.queries
        if len(queries) > limit:
            raise ApiError(
                413, "too_many_queries", f"got {len(queries)} queries; at most {limit} go into one request", "queries"
            )
        for query in queries:
            self.check_length(query, "queries")

    def check_model(self, name: str) -> None:
        """Raises an ApiError (404) for the name of another model."""
        served = self.settings.model_name
        if name != served:
            raise ApiError(404, "model_not_found", f"there is no model {name[:60]!r} here; ask for {served!r}", "model")

    def check_length(self, question: str, param: str) -> None:
        """Raises an ApiError for a question of too many characters."""
        if len(question) > self.settings.question_characters:
            raise ApiError(
                413,
                "question_too_long",
                f"got a question of {len(question)} characters; at most {self.settings.question_characters} are read: "
                "shorten it",
                param,
            )

    def _check_query(self, item: tuple[OpenedImage, str]) -> None:
        _, query = item
        self.segmenter.backbone.reading.question_tokens([self.segmenter.head_prompt.apply(query)])

    async def refine(self, opened: OpenedImage, request: RefineRequest, receive: Receive) -> Prediction:
        """Raises QuestionError, CorrectionError and ApiErrors."""
        self.check_length(request.query, "query")
        if not self.segmenter.can_refine:
            raise ApiError(
                400,
                "cannot_refine",
                f"{self.segmenter.config.method} draws its masks without SAM: clicks cannot correct them",
            )
        height, width = opened.image.shape[:2]
        job = Job([request], partial(self._refine, opened), kind="refine", pixels=2 * height * width)
        return (await self.wait(job, receive))[0]

    def _refine(self, opened: OpenedImage, requests: Sequence[RefineRequest]) -> list[Prediction]:
        with self.metrics.asking.time():
            return [opened.refine(opened.segment(r.query, False, r.trust), r.clicks, r.box) for r in requests]

    def _segment(
        self, each: bool | None, trust: bool, items: Sequence[tuple[OpenedImage, str]]
    ) -> Sequence[Folded | None]:
        """Questions of all clients that wait, about one image or several: those about several share passes, too."""
        places = dict[int, list[int]]()
        for place, (opened, _) in enumerate(items):
            places.setdefault(id(opened), []).append(place)
        answers: list[Folded | None] = [None] * len(items)
        groups, size = list(places.values()), batch_size(self.segmenter)
        with self.metrics.asking.time():
            for start in range(0, len(groups), size):
                some = groups[start : start + size]
                for group, predictions in zip(some, self._predictions(each, trust, items, some), strict=True):
                    for place, one in zip(group, predictions, strict=True):
                        answers[place] = Folded.of(one)
        return answers

    def _predictions(
        self, each: bool | None, trust: bool, items: Sequence[tuple[OpenedImage, str]], groups: Sequence[list[int]]
    ) -> list[Iterator[Prediction]]:
        """Per image those of its questions, whose places in `items` are a group."""
        opened = [items[group[0]][0] for group in groups]
        queries = [[items[place][1] for place in group] for group in groups]
        if len(opened) == 1:
            return [opened[0].predictions(queries[0], each, trust)]
        kinds = [[None] * len(some) for some in queries]
        return predictions_of_opened(self.segmenter, opened, queries, kinds, each, trust)

    # ---------------------------------------------------------------- waiting

    async def in_worker(self, work: Callable[[], T]) -> T:
        """Run on one of few threads, in turn. Raises an ApiError for work that takes longer than a request may."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, partial(self._in_time, work))
        except GivenUpError as error:
            raise self._timeout() from error

    def _in_time(self, work: Callable[[], T]) -> T:
        end = self._end()

        def check() -> None:
            if monotonic() > end:
                raise GivenUpError("it takes longer than a request may")

        with interruptible(check):
            return work()

    def _end(self) -> float:
        """The time at which a request that begins now is given up."""
        return monotonic() + self.settings.request_seconds

    def _timeout(self) -> ApiError:
        return ApiError(
            504,
            "timeout",
            f"no answer within {self.settings.request_seconds:g} seconds; ask less at once, or try again later",
        )

    async def wait(self, job: Job, receive: Receive, end: float | None = None) -> list[Any]:
        """The results of a job, until `end` (by default as long as a request may take from now).

        Raises what the job raised, and an ApiError when its time is over or its client has disconnected; the job is
        then not begun, or ends at its next safe point, and the model is free for others."""
        future = asyncio.wrap_future(self.batcher.submit(job))
        disconnected = asyncio.ensure_future(_disconnection(receive))
        try:
            seconds = (self._end() if end is None else end) - monotonic()
            await asyncio.wait((future, disconnected), timeout=max(0.0, seconds), return_when="FIRST_COMPLETED")
            if future.done():
                return future.result()
            if disconnected.done():
                raise ApiError(499, "client_left", "the client disconnected before the answer")
            raise self._timeout()
        finally:
            job.given_up.set()
            disconnected.cancel()
            future.cancel()


async def _disconnection(receive: Receive) -> None:
    """Ends when the client has disconnected. The body of the request must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
