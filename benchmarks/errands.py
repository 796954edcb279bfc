"""What good clients want of the server, and the answers that the library itself gives."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image
from wire import Reply, post

from seglens import Prediction, Segmenter
from seglens.core.png_files import png_bytes
from seglens.core.schema import Click
from seglens.core.types import Sample
from seglens.data.masks import decode_rle
from seglens.data.world import WorldData

QUERIES, QUESTION = 6, "how many things are there?"
# Batches and threads round otherwise: a pixel on the edge of a mask may change sides
SAME = 0.999  # of the pixels


@dataclass(frozen=True)
class Errand:
    """An image, what may be asked about it, and what is right."""

    png: bytes
    queries: tuple[str, ...]
    masks: tuple[Bool[np.ndarray, "h w"], ...]
    found: tuple[bool, ...]
    click: Click
    refined: Bool[np.ndarray, "h w"]
    spoken: str

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @classmethod
    def of(cls, segmenter: Segmenter, sample: Sample) -> Errand:
        opened = segmenter.open(sample.image)
        queries = tuple(target.query for target in sample.targets)
        predictions = opened.segment(list(queries))
        click = _click(predictions[0])
        return cls(
            png_bytes(Image.fromarray(sample.image)),
            queries,
            tuple(p.mask for p in predictions),
            tuple(p.found for p in predictions),
            click,
            opened.refine(predictions[0], [click]).mask,
            segmenter.ask(sample.image, QUESTION),
        )

    def segment(self, image: str, which: Sequence[int]) -> bytes:
        return post("/v1/segment", {"image": image, "queries": [self.queries[k] for k in which]})

    def refine(self, image: str) -> bytes:
        return post(
            "/v1/refine", {"image": image, "query": self.queries[0], "clicks": [self.click.model_dump(mode="json")]}
        )

    def talk(self) -> bytes:
        content = [{"type": "image_url", "image_url": {"url": self.uri}}, {"type": "text", "text": QUESTION}]
        return post(
            "/v1/chat/completions",
            {"model": "embedded", "messages": [{"role": "user", "content": content}], "seglens": {"route": "dialogue"}},
        )

    def right(self, reply: Reply, which: Sequence[int]) -> Verdict:
        """Of an answer to `segment`."""
        answers = reply.json()["answers"] if reply.status == 200 else []
        if len(answers) != len(which):
            return Verdict(False)
        pairs = [(answer, self.masks[k], self.found[k]) for answer, k in zip(answers, which, strict=True)]
        shares = [_same(answer, mask) for answer, mask, _ in pairs]
        return Verdict(min(shares) >= SAME and all(answer["found"] == found for answer, _, found in pairs), min(shares))

    def right_refined(self, reply: Reply) -> Verdict:
        share = _same(reply.json()["answers"][0], self.refined) if reply.status == 200 else 0.0
        return Verdict(share >= SAME, share)

    def right_words(self, reply: Reply) -> Verdict:
        return Verdict(reply.status == 200 and reply.json()["choices"][0]["message"]["content"] == self.spoken)


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and the share of pixels in which its masks are the library's (None: it has none)."""

    right: bool
    same: float | None = None


def errands(segmenter: Segmenter, images: int, seed: int) -> list[Errand]:
    """Images of the drawn world that the server has not seen."""
    data = WorldData(n=images, seed=seed, queries=QUERIES)
    return [Errand.of(segmenter, data[k]) for k in range(images)]


def _same(answer: Any, mask: Bool[np.ndarray, "h w"]) -> float:
    other = decode_rle(answer["segmentation"])
    return float((other == mask).mean()) if other.shape == mask.shape else 0.0


def _click(prediction: Prediction) -> Click:
    """The image's middle: on the target or off it."""
    height, width = prediction.mask.shape
    return Click(x=width / 2, y=height / 2, label=1 if prediction.mask[height // 2, width // 2] else 0)
