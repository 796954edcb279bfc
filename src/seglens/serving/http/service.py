"""What the routes ask for, done: images decoded and opened, questions batched, within limits and time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from hashlib import sha256
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from seglens.core.interruption import GivenUpError, interruptible
from seglens.inference.compressed_predictions import CompressedPredictions, Folded
from seglens.inference.instances import asked
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.api_errors import ApiError
from seglens.serving.http.batcher import Batcher, Job
from seglens.serving.http.fetch import Fetcher
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.open_images import PREFIX, Held, Images
from seglens.serving.http.schema import ImageAnswer, RefineRequest
from seglens.serving.http.settings import Settings
from seglens.serving.uploads import decode_bytes, decode_data_uri

T = TypeVar("T")
Receive = Callable[[], Awaitable[Any]]
DECODERS = 2  # images that are decoded, or answers written, at a time


class Service:
    """One model, its queue and its open images. The coroutines run on the event loop; the model and the pixels never
    do. A request that waits is given up with its client (`receive` tells) and at the end of its time."""

    def __init__(self, segmenter: Segmenter, settings: Settings, metrics: Metrics):
        self.segmenter, self.settings, self.metrics = segmenter, settings, metrics
        self.batcher = Batcher(settings.queue, settings.together, metrics)
        self.images = Images(settings.images_bytes, settings.image_ttl, metrics)
        self._fetcher = Fetcher(settings.limits) if settings.allow_urls else None
        self._hands = ThreadPoolExecutor(DECODERS, thread_name_prefix="seglens-hand")

    def start(self) -> None:
        self.batcher.start()

    def close(self) -> bool:
        """Finish what was accepted. False when that took too long."""
        done = self.batcher.close(self.settings.shutdown_seconds)
        self._hands.shutdown(wait=done, cancel_futures=not done)
        return done

    # ---------------------------------------------------------------- images

    async def keep(self, image: str | bytes, receive: Receive) -> ImageAnswer:
        """Open an image, told as a data URI or by its file's bytes, and keep it."""
        return self.images.put(await self.open(image, receive))

    async def open(self, image: str | bytes, receive: Receive) -> OpenedImage:
        """Raises ImageError for what is no image, and Refusals."""
        if self._fetcher is not None and isinstance(image, str) and image[:8].lower() == "https://":
            image = await self._fetcher.data(image)
        pixels = await self.by_hand(partial(self._pixels, image))
        return (await self.wait(Job([pixels], self._open), receive))[0]

    async def shown(self, image: str, receive: Receive) -> AbstractContextManager[Held]:
        """The image that a request is about, for as long as it needs it: told by its id, or itself, to be opened."""
        if not image.startswith(PREFIX):
            image = (await self.keep(image, receive)).id
        return self.images.use(image)

    async def shown_before(self, image: str, receive: Receive) -> AbstractContextManager[Held]:
        """As `shown`; an image that comes again and again, as in a chat, is opened once. Its id is told to nobody: who
        knows an id may drop the image."""
        if image.startswith(PREFIX):
            return self.images.use(image)
        digest = await self.by_hand(lambda: sha256(image.encode("utf-8", "surrogatepass")).hexdigest())
        name = self.images.find(digest) or self.images.put(await self.open(image, receive), digest).id
        return self.images.use(name)

    def _pixels(self, image: str | bytes) -> np.ndarray:
        limits = self.settings.limits
        return decode_bytes(image, limits) if isinstance(image, bytes) else decode_data_uri(image, limits)

    def _open(self, images: Sequence[np.ndarray]) -> list[OpenedImage]:
        with self.metrics.opening.time():
            return [self.segmenter.open(image) for image in images]

    # ---------------------------------------------------------------- questions

    async def segment(
        self, opened: OpenedImage, queries: Sequence[str], each: bool | None, trust: bool, receive: Receive
    ) -> CompressedPredictions:
        """In passes of as many masks as memory allows, between which the model is the others', who wait too. Of what
        was found no mask stays at the image's size.

        Raises QuestionError for a query that cannot be read, and Refusals."""
        self._check_queries(queries)
        height, width = opened.image.shape[:2]
        at_once = max(1, self.settings.together_pixels // (height * width))
        run, key = partial(self._segment, opened, each, trust), (id(opened), each, trust)
        long = each if each is not None else any(asked(query).each for query in queries)
        end, made = self._end(), list[Folded]()
        for start in range(0, len(queries), at_once):
            part = list(queries[start : start + at_once])
            made += await self.wait(Job(part, run, key, self._check_query, at_once, long), receive, end)
        return CompressedPredictions(made)

    def _check_queries(self, queries: Sequence[str]) -> None:
        most = self.settings.queries
        if len(queries) > most:
            raise ApiError(
                413, "too_many_queries", f"got {len(queries)} queries; at most {most} go into one request", "queries"
            )
        for query in queries:
            self.check_length(query, "queries")

    def check_model(self, name: str) -> None:
        """Raises a Refusal (404) for the name of another model."""
        served = self.settings.model_name
        if name != served:
            raise ApiError(404, "model_not_found", f"there is no model {name[:60]!r} here; ask for {served!r}", "model")

    def check_length(self, question: str, param: str) -> None:
        """Raises a Refusal for a question of too many letters."""
        if len(question) > self.settings.question_letters:
            raise ApiError(
                413,
                "question_too_long",
                f"got a question of {len(question)} letters; at most {self.settings.question_letters} are read: "
                "shorten it",
                param,
            )

    def _check_query(self, query: str) -> None:
        self.segmenter.backbone.reading.question_tokens([self.segmenter.head_prompt.apply(query)])

    async def refine(self, opened: OpenedImage, request: RefineRequest, receive: Receive) -> Prediction:
        """Raises QuestionError, CorrectionError and Refusals."""
        self.check_length(request.query, "query")
        if not self.segmenter.can_refine:
            raise ApiError(
                400,
                "cannot_refine",
                f"{self.segmenter.config.method} draws its masks without SAM: nothing takes clicks",
            )
        return (await self.wait(Job([request], partial(self._refine, opened)), receive))[0]

    def _refine(self, opened: OpenedImage, requests: Sequence[RefineRequest]) -> list[Prediction]:
        with self.metrics.asking.time():
            return [opened.refine(opened.segment(r.query, False, r.trust), r.clicks, r.box) for r in requests]

    def _segment(self, opened: OpenedImage, each: bool | None, trust: bool, queries: Sequence[str]) -> list[Folded]:
        with self.metrics.asking.time():
            return [Folded.of(one) for one in opened.predictions(list(queries), each, trust)]

    # ---------------------------------------------------------------- waiting

    async def by_hand(self, work: Callable[[], T]) -> T:
        """On one of few threads, in turn. Raises a Refusal for work that takes longer than a request may."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hands, partial(self._in_time, work))
        except GivenUpError as error:
            raise self._late() from error

    def _in_time(self, work: Callable[[], T]) -> T:
        end = self._end()

        def check() -> None:
            if monotonic() > end:
                raise GivenUpError("it takes longer than a request may")

        with interruptible(check):
            return work()

    def _end(self) -> float:
        """When a request that begins now is given up."""
        return monotonic() + self.settings.request_seconds

    def _late(self) -> ApiError:
        return ApiError(
            504,
            "timeout",
            f"no answer within {self.settings.request_seconds:g} seconds; ask less at once, or try again later",
        )

    async def wait(self, job: Job, receive: Receive, end: float | None = None) -> list[Any]:
        """The results of a job, until `end` (by default as long as a request may take from now).

        Raises what it raised, and a Refusal when its time is over or its client left; it is then not begun any more, or
        ends at its next safe point: the model is the others'."""
        future = asyncio.wrap_future(self.batcher.submit(job))
        left = asyncio.ensure_future(_departure(receive))
        try:
            time = (self._end() if end is None else end) - monotonic()
            await asyncio.wait((future, left), timeout=max(0.0, time), return_when="FIRST_COMPLETED")
            if future.done():
                return future.result()
            if left.done():
                raise ApiError(499, "client_left", "the client left before it was answered")
            raise self._late()
        finally:
            job.given_up.set()
            left.cancel()
            future.cancel()


async def _departure(receive: Receive) -> None:
    """Ends when the client has gone. A request's body has been read by then."""
    while (await receive())["type"] != "http.disconnect":
        pass
