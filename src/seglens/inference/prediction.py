"""What a user gets back: the mask and everything that explains it, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from seglens.core.connected_components import box_of
from seglens.core.files import write_new
from seglens.core.geometry import Frame, Lay
from seglens.core.interruption import safe_point
from seglens.core.mask_logits import Drawing, Moves
from seglens.core.png_files import marked_png
from seglens.core.schema import Answer, Corrections, InstanceAnswer, Keypoint, RunLengths
from seglens.data.masks import encode_rle
from seglens.inference.instance import Instance, read_only
from seglens.inference.notebook import as_html, plotted, small_png
from seglens.inference.overlay import draw_overlay

# Arrays of a prediction
ARRAYS = (
    "image",
    "mask",
    "heat_map",
    "keypoints",
    "keypoint_scores",
    "keypoint_labels",
    "canvas_logits",
    "logits",
)


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The answer to one query about one image, in the image's own pixels.

    `mask` is empty when nothing is shown (`found` is false), and `reason` gives the reason; `mask_logits` still hold
    what was drawn. `keypoints` are (x, y) in pixels; `keypoint_labels`: whether each is on the target. `timing` holds
    milliseconds: `open` is shared by all queries about an image, the rest by the queries of one call."""

    query: str
    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    score: float | None  # mean foreground probability over the mask, in [0, 1]; None when nothing was found
    presence: float | None  # probability that the image holds what the query asks for; None: the head cannot say
    found: bool
    heat_map: Float[np.ndarray, "gh gw"] | None  # A_c^1 of LENS over the square canvas
    keypoints: Float[np.ndarray, "n 2"]
    keypoint_scores: Float[np.ndarray, " n"]
    keypoint_labels: Bool[np.ndarray, " n"]
    reason: str | None = None  # why nothing was found, in a sentence, and what to do next; None when something was
    unknown_words: tuple[str, ...] = ()  # of the query: words that the model's tokenizer does not know
    familiar: bool | None = None  # is the picture of the kind the model was made for? None: the model cannot say
    instances: tuple[Instance, ...] = ()  # one mask each, best first; empty unless they were asked for
    corrections: Corrections = field(default_factory=Corrections)  # clicks and box so far
    canvas_logits: Float[np.ndarray, "s s"] | None = None  # what was drawn, on the square canvas
    lay: Lay = "letterbox"  # how the image lies on the canvas
    moves: Moves | None = None  # what clicks added to it, finer than the canvas
    logits: Float[np.ndarray, "h w"] | None = None  # `mask_logits` of a prediction made by hand, without a canvas
    timing: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Arrays become read-only views: a change would not reach the other fields."""
        for name in ARRAYS:
            array = getattr(self, name)
            if isinstance(array, np.ndarray) and array.flags.writeable:
                object.__setattr__(self, name, read_only(array))

    def __setstate__(self, fields: dict[str, Any]) -> None:
        """From a pickle or a copy: its arrays are read-only like those of the first one."""
        self.__dict__.update(fields)
        self.__post_init__()

    def __repr__(self) -> str:
        return f"Prediction({self._caption(repr(self.query))})"

    def _repr_png_(self) -> bytes:
        return small_png(self.overlay(heat=False))

    def _repr_html_(self) -> str:
        return as_html(self.overlay(heat=False), self._caption(self.query))

    def plot(self, axes: Any = None, heat: bool = True) -> Any:
        """Draw the overlay with matplotlib, into a new figure or into the `axes` given. Returns the axes.

        Raises ImportError without matplotlib."""
        return plotted(self.overlay(heat), self._caption(self.query), axes)

    def _caption(self, query: str) -> str:
        """Query and answer in a line."""
        height, width = self.mask.shape
        words = f"score {self.score:.2f}" if self.found and self.score is not None else "not found"
        likely = "" if self.presence is None else f", presence {self.presence:.2f}"
        several = f", {len(self.instances)} instances" if self.instances else ""
        area = int(np.count_nonzero(self.mask))
        return f"{query}: {words}{likely}{several}, {area} of {width} x {height} pixels"

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """x0, y0, x1, y1 of the mask (x1, y1 exclusive), or None when it is empty."""
        return box_of(self.mask)

    @property
    def mask_logits(self) -> Float[np.ndarray, "h w"]:
        """Logits of what was drawn, found or not: computed at each access, four bytes a pixel.

        Raises ValueError for a prediction made by hand without them."""
        if self.logits is not None:
            return self.logits
        whole = np.empty(self.image.shape[:2], np.float32)
        for rows, logits in self.logit_bands():
            whole[rows] = logits
        return read_only(whole)

    def logit_bands(self) -> Iterator[tuple[slice, Float[np.ndarray, "r w"]]]:
        """`mask_logits` from the top to the bottom, some rows at a time. Raises as they do."""
        if self.logits is not None:
            yield slice(0, len(self.logits)), self.logits
            return
        if self.canvas_logits is None:
            raise ValueError("the prediction was made by hand, without mask_logits; give them as logits=...")
        drawing = Drawing(self._frame, torch.tensor(self.canvas_logits)[None], self.moves)
        yield from ((rows, logits[0].numpy()) for rows, logits in drawing.bands())

    @property
    def _frame(self) -> Frame:
        height, width = self.image.shape[:2]
        return Frame(height, width, self.lay)

    def drawn(self, threshold: float) -> Bool[np.ndarray, "h w"]:
        """Pixels whose logit is above a threshold, found or not. Raises as `mask_logits` do."""
        mask = np.empty(self.image.shape[:2], bool)
        for rows, logits in self.logit_bands():
            mask[rows] = logits > threshold
        return mask

    @property
    def things(self) -> tuple[Instance, ...]:
        """The objects for other tools: the instances, or else the mask itself; none when nothing was found."""
        if self.instances or self.score is None or not self.mask.any():
            return self.instances
        return (Instance(self.mask, self.score),)

    def overlay(self, heat: bool = True) -> Image.Image:
        """The image with its attention map, the outline of the mask, and keypoints: white on the target, red off it."""
        heat_map = None if self.heat_map is None or not heat else self._heat
        return draw_overlay(self.image, self.mask, heat_map, self.keypoints, self.keypoint_labels)

    def heat_at_size(self) -> Float[np.ndarray, "h w"]:
        """The heat map relative to its peak, at the image's size (the canvas's padding cut off)."""
        return self._heat(slice(0, self.image.shape[0]))

    def _heat(self, rows: slice) -> Float[np.ndarray, "r w"]:
        assert self.heat_map is not None
        heat = torch.from_numpy(self.heat_map / max(float(self.heat_map.max()), 1e-12))
        return self._frame.to_image_logits(heat.float()[None], rows)[0].numpy()

    def answer(self) -> Answer:
        """Everything but pixels, as the schema has it; masks as COCO run-length encoding."""
        return Answer(
            query=self.query,
            found=self.found,
            presence=None if self.presence is None else round(self.presence, 4),
            score=None if self.score is None else round(self.score, 4),
            reason=self.reason,
            unknown_words=list(self.unknown_words),
            familiar=self.familiar,
            box=self.box,
            area=int(self.mask.sum()),
            segmentation=_runs(self.mask),
            instances=[
                InstanceAnswer(score=round(one.score, 4), box=one.box, area=one.area, segmentation=_runs(one.mask))
                for one in self.instances
            ],
            keypoints=[
                Keypoint(x=round(float(x), 2), y=round(float(y), 2), score=round(float(s), 5), on_target=bool(on))
                for (x, y), s, on in zip(self.keypoints, self.keypoint_scores, self.keypoint_labels, strict=True)
            ],
            milliseconds={k: round(v, 2) for k, v in self.timing.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """`answer`, ready for JSON."""
        return self.answer().model_dump(mode="json")

    def save(self, folder: str | Path, name: str = "prediction", overwrite: bool = False) -> dict[str, Path]:
        """Write `NAME_mask.png` (lossless, 0 and 255) and `NAME_overlay.png` into `folder`, both or neither.
        Returns their paths.

        Raises FileExistsError when something else is there, unless `overwrite` allows to write over it."""
        folder = Path(folder)
        paths = {kind: folder / f"{name}_{kind}.png" for kind in ("mask", "overlay")}
        mask = Image.fromarray(self.mask.astype(np.uint8) * 255)
        write_new({paths["mask"]: marked_png(mask), paths["overlay"]: marked_png(self.overlay())}, overwrite)
        return paths


def _runs(mask: Bool[np.ndarray, "h w"]) -> RunLengths:
    safe_point()
    return RunLengths.model_validate(encode_rle(mask))


def on_mask(mask: Bool[np.ndarray, "h w"], points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which points (x, y) lie on the mask; one beyond the image's border (in the canvas's padding) does not."""
    height, width = mask.shape
    x, y = np.floor(points).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return inside & mask[y.clip(0, height - 1), x.clip(0, width - 1)]
