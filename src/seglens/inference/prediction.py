"""What a user gets back: the mask and everything that explains it, for eyes and for programs."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from seglens.core.connected_components import box_of
from seglens.core.files import digest, write_new
from seglens.core.geometry import Frame, Lay
from seglens.core.image_marks import marked_png
from seglens.core.interruption import safe_point
from seglens.core.mask_edges import edge_pixels
from seglens.core.mask_logits import Drawing, Moves, bands
from seglens.core.schema import Answer, Corrections, InstanceAnswer, Keypoint, RunLengths
from seglens.data.masks import encode_rle
from seglens.inference.notebook import as_html, plotted, small_png

MASK_COLOUR = (255, 64, 96)
INSIDE, OUTSIDE = (255, 255, 255), (230, 30, 30)  # keypoints on and off the target, as in the paper's Figure 3


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


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to; the array itself stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


class Instance:
    """One of several things that a query means. Kept as the part of its mask within its box: a picture full of things
    costs about as much as one mask."""

    __slots__ = ("box", "cut", "score", "size")

    def __init__(
        self,
        mask: Bool[np.ndarray, "h w"],
        score: float,
        corner: tuple[int, int] = (0, 0),
        size: tuple[int, int] | None = None,
    ):
        """`mask` is of the whole image, or of a part of it whose first pixel is `corner` (x, y) of an image of `size`
        (height, width)."""
        box = box_of(mask)
        assert box is not None, "an instance has at least one pixel"
        x0, y0, x1, y1 = box
        left, top = corner
        self.box = (left + x0, top + y0, left + x1, top + y1)  # x0, y0, x1, y1 of the mask (x1, y1 exclusive)
        self.cut: Bool[np.ndarray, "ch cw"] = read_only(mask[y0:y1, x0:x1])
        self.size: tuple[int, int] = size or (mask.shape[0], mask.shape[1])
        self.score = score  # mean foreground probability over the mask, in [0, 1]

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        """From a pickle or a copy: what was cut out of the mask is read-only as in the first one."""
        for name, value in state[1].items():
            setattr(self, name, read_only(value) if name == "cut" else value)

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """At the image's size, made anew whenever it is asked for."""
        x0, y0, x1, y1 = self.box
        whole = np.zeros(self.size, bool)
        whole[y0:y1, x0:x1] = self.cut
        return read_only(whole)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.cut))


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The answer to one query about one image, in the image's own pixels.

    `mask` is empty when nothing is shown (`found` is false), and `reason` says why; `mask_logits` still tell what was
    drawn.
    `keypoints` are (x, y) in pixels; `keypoint_labels` says of each whether it lies on the target. `timing` holds
    milliseconds: `open` is shared by all questions about an image, the rest by those asked together."""

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
    corrections: Corrections = field(default_factory=Corrections)  # what the user has shown so far
    canvas_logits: Float[np.ndarray, "s s"] | None = None  # what was drawn, on the square canvas
    lay: Lay = "letterbox"  # how the image lies on the canvas
    moves: Moves | None = None  # what clicks added to it, finer than the canvas
    logits: Float[np.ndarray, "h w"] | None = None  # `mask_logits` of a prediction made by hand, without a canvas
    timing: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nobody writes into what was found, where others would not see it: arrays are read-only views."""
        for name in ARRAYS:
            given = getattr(self, name)
            if isinstance(given, np.ndarray) and given.flags.writeable:
                object.__setattr__(self, name, read_only(given))

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
        """Logits of what was drawn, found or not: made anew whenever they are asked for, four bytes a pixel.

        Raises ValueError for a prediction made by hand without them."""
        if self.logits is not None:
            return self.logits
        made = np.empty(self.image.shape[:2], np.float32)
        for rows, logits in self.logit_bands():
            made[rows] = logits
        return read_only(made)

    def logit_bands(self) -> Iterator[tuple[slice, Float[np.ndarray, "r w"]]]:
        """`mask_logits` from the top to the bottom, some rows at a time. Raises as they do."""
        if self.logits is not None:
            yield slice(0, len(self.logits)), self.logits
            return
        if self.canvas_logits is None:
            raise ValueError("the prediction was made by hand, without mask_logits; give them to ask for them")
        drawing = Drawing(self._frame, torch.tensor(self.canvas_logits)[None], self.moves)
        yield from ((rows, logits[0].numpy()) for rows, logits in drawing.bands())

    @property
    def _frame(self) -> Frame:
        height, width = self.image.shape[:2]
        return Frame(height, width, self.lay)

    def drawn(self, threshold: float) -> Bool[np.ndarray, "h w"]:
        """Pixels whose logit is above a threshold, found or not. Raises as `mask_logits` do."""
        made = np.empty(self.image.shape[:2], bool)
        for rows, logits in self.logit_bands():
            made[rows] = logits > threshold
        return made

    @property
    def things(self) -> tuple[Instance, ...]:
        """What other tools take as objects: the instances, or else the mask itself; nothing when nothing was found."""
        if self.instances or self.score is None or not self.mask.any():
            return self.instances
        return (Instance(self.mask, self.score),)

    def overlay(self, heat: bool = True) -> Image.Image:
        """The image with its attention map, mask outline and keypoints: white on the target, red off it."""
        shown, line = self.image.copy(), edge_pixels(self.mask)
        for rows in bands(*self.image.shape[:2]):
            picture = shown[rows].astype(np.float32)
            if heat and self.heat_map is not None:
                warm = self._heat(rows)[..., None]
                picture = picture * (1 - 0.55 * warm) + np.array((255, 200, 40), np.float32) * 0.55 * warm
            mixed = 0.6 * picture + 0.4 * np.array(MASK_COLOUR, np.float32)
            shown[rows] = np.where(self.mask[rows, :, None], mixed, picture).clip(0, 255).astype(np.uint8)
        shown[line] = MASK_COLOUR
        image = Image.fromarray(shown)
        draw = ImageDraw.Draw(image)
        r = max(2.0, max(image.size) / 110)
        for (x, y), inside in zip(self.keypoints, self.keypoint_labels, strict=True):
            draw.ellipse([x - r, y - r, x + r, y + r], fill=INSIDE if inside else OUTSIDE, outline=(20, 20, 20))
        return image

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


def _taking_logits(made: Callable[..., None]) -> Callable[..., None]:
    """Whoever makes a prediction by hand calls its logits what they are called when they are read."""

    @wraps(made)
    def init(self: Prediction, *fields: Any, mask_logits: Float[np.ndarray, "h w"] | None = None, **named: Any) -> None:
        made(self, *fields, **(named if mask_logits is None else {**named, "logits": mask_logits}))

    return init


Prediction.__init__ = _taking_logits(Prediction.__init__)  # type: ignore[method-assign]


def _runs(mask: Bool[np.ndarray, "h w"]) -> RunLengths:
    safe_point()
    return RunLengths.model_validate(encode_rle(mask))


def on_mask(mask: Bool[np.ndarray, "h w"], points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which points (x, y) lie on the mask; one beyond the image's border (in the canvas's padding) does not."""
    height, width = mask.shape
    x, y = np.floor(points).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return inside & mask[y.clip(0, height - 1), x.clip(0, width - 1)]


def slug(text: str, longest: int = 80) -> str:
    """A file name for a query: letters and digits of any script, never a path, at most `longest` bytes. A text that has
    none or is too long ends in a digest of the whole, so that two such texts have two names."""
    kept = letters(text)
    if kept and len(kept.encode()) <= longest:
        return kept
    mark = digest(text.encode("utf-8", "surrogatepass"))[:8]
    return f"{cut(kept, longest - len(mark) - 1) or 'query'}_{mark}"


def letters(text: str) -> str:
    """The letters (with their marks) and digits of any script, in lower case, the rest as "_" between them."""
    kept = "".join(c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in text.lower())
    return "_".join(unicodedata.normalize("NFC", kept).split())


def cut(name: str, longest: int) -> str:
    """The beginning of a name in so many bytes."""
    return name.encode()[:longest].decode(errors="ignore").strip("_")


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
