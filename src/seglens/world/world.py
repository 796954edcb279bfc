"""The drawn world: scenes with exact masks of every object and part, each a pure function of (split, seed, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seglens.world.backgrounds import background
from seglens.world.concepts import CONCEPTS, GROUP_OF, HELD_OUT_COLOURS
from seglens.world.concepts.base import Concept
from seglens.world.draw import PALETTE, Pen, Sprite, mix, rasterise

SIZE = 256
SPLITS = ("train", "test")
SMALL = 0.02  # a target that covers less of the image than this is called small, and reported apart
MARGIN = 3


@dataclass(frozen=True)
class Thing:
    """One object of a scene. Coordinates are pixels; `index` is its value in `Scene.ids`."""

    index: int
    concept: Concept
    colour: str
    box: tuple[int, int, int, int]  # x0, y0, x1, y1; x1 and y1 are exclusive
    centre: tuple[float, float]
    area: int  # visible pixels
    visible: float  # share of its own pixels that nothing covers
    parts: dict[str, int]  # visible pixels of each named part

    @property
    def name(self) -> str:
        return self.concept.name

    @property
    def group(self) -> str:
        return GROUP_OF[self.concept.name]


@dataclass(frozen=True)
class Scene:
    """An image with all its objects and parts."""

    image: np.ndarray  # uint8 "h w 3"
    ids: np.ndarray  # uint8 "h w": 0 background, else Thing.index
    parts: np.ndarray  # uint8 "h w": part index inside the object (see draw.BODY)
    things: tuple[Thing, ...]

    def mask(self, thing: Thing, part: str | None = None) -> np.ndarray:
        """The visible pixels of an object, or of one of its parts: bool "h w"."""
        inside = self.ids == thing.index
        if part is None:
            return inside
        return inside & (self.parts == 2 + list(thing.concept.parts).index(part))


@dataclass(frozen=True)
class World:
    """An endless supply of scenes. Train and test never share a scene seed; test also shows held-out colours."""

    split: str = "train"
    seed: int = 0

    def rng(self, index: int) -> np.random.Generator:
        """The random generator for the pixels of scene `index` (its words have another, see `language.speaker`)."""
        return np.random.default_rng([SPLITS.index(self.split), self.seed, index, 0])

    def scene(self, index: int, most: int = 7) -> Scene:
        """Scene number `index` with 2 to `most` objects."""
        rng = self.rng(index)
        canvas = _Canvas(background(rng, SIZE))
        for concept, colour, size in self._cast(rng, most):
            canvas.place(concept, colour, size, rng)
        return canvas.finish()

    def _cast(self, rng: np.random.Generator, most: int) -> list[tuple[Concept, str, float]]:
        """The objects: concepts, colours and sizes. Half of the scenes hold two to four of one kind."""
        count = min(most, int(rng.choice([2, 3, 4, 5, 6, 7], p=[0.15, 0.28, 0.27, 0.17, 0.09, 0.04])))
        chosen = [CONCEPTS[i] for i in rng.choice(len(CONCEPTS), count, replace=False)]
        if count >= 3 and rng.random() < 0.5:
            clones = int(rng.integers(2, min(4, count - 1) + 1))
            chosen[:clones] = [chosen[0]] * clones
        crowd = {2: 1.12, 3: 1.06, 4: 1.0}.get(count, 0.86)
        cast = []
        for concept in chosen:
            small = rng.random() < 0.13
            size = rng.uniform(34, 48) if small else rng.uniform(60, 106) * crowd
            cast.append((concept, self._colour(concept, rng), float(size)))
        return sorted(cast, key=lambda one: -one[2])  # large first, while there is room

    def _colour(self, concept: Concept, rng: np.random.Generator) -> str:
        allowed = [c for c in concept.colours if self.split == "test" or (concept.name, c) not in HELD_OUT_COLOURS]
        return allowed[int(rng.integers(len(allowed)))]


@dataclass
class _Canvas:
    """A scene under construction."""

    image: np.ndarray

    def __post_init__(self) -> None:
        self.ids: np.ndarray = np.zeros(self.image.shape[:2], np.uint8)
        self.parts: np.ndarray = np.zeros(self.image.shape[:2], np.uint8)
        self.placed: list[tuple[Concept, str, int]] = []  # concept, colour, pixels when drawn
        self.windows: list[tuple[slice, slice]] = []  # where each was pasted
        self.visible = np.array([self.ids.size])  # visible pixels of the background and of each object

    def place(self, concept: Concept, colour: str, size: float, rng: np.random.Generator) -> None:
        """Draw one object where there is room; a third of the objects may partly cover another."""
        shade = tuple(int(np.clip(c + rng.integers(-14, 15), 0, 255)) for c in PALETTE[colour])
        shade = mix(shade, PALETTE[colour], 0.3)  # type: ignore[arg-type]
        for shrink in (1.0, 0.85, 0.7):
            pen = Pen(shade, rng, tuple(concept.parts))
            concept.draw(pen)
            tilt, stretch = rng.uniform(-concept.tilt, concept.tilt), rng.uniform(0.92, 1.09)
            sprite = rasterise(pen, max(32.0, size * shrink), tilt, bool(rng.random() < 0.5), stretch)
            spot = self._room(sprite, rng, may_overlap=bool(rng.random() < 0.33))
            if spot is not None:
                self._paste(sprite, *spot)
                self.placed.append((concept, colour, int((sprite.parts > 0).sum())))
                return

    def _room(self, sprite: Sprite, rng: np.random.Generator, may_overlap: bool) -> tuple[int, int] | None:
        h, w = sprite.alpha.shape
        height, width = self.ids.shape
        solid = sprite.parts > 0
        for y, x in zip(rng.integers(0, height - h, 24), rng.integers(0, width - w, 24), strict=True):
            around = self.ids[max(0, y - MARGIN) : y + h + MARGIN, max(0, x - MARGIN) : x + w + MARGIN]
            if not around.any():
                return int(y), int(x)
            if may_overlap and self._keeps_visible(self.ids[y : y + h, x : x + w][solid]):
                return int(y), int(x)
        return None

    def _keeps_visible(self, covered: np.ndarray) -> bool:
        """Whether no object loses more than a quarter of its pixels, all coverings counted."""
        lost = np.bincount(covered, minlength=len(self.placed) + 1)
        left = (self.visible - lost)[1:]
        return all(pixels >= 0.75 * one[2] for pixels, one in zip(left, self.placed, strict=True))

    def _paste(self, sprite: Sprite, y: int, x: int) -> None:
        h, w = sprite.alpha.shape
        cover = sprite.alpha[..., None].astype(np.uint16)
        below = self.image[y : y + h, x : x + w]
        dark = below[3:, 2:]  # a soft shadow, a little down and to the right
        dark -= (dark * (cover[:-3, :-2] / 1100.0)).astype(np.uint8)
        below[:] = ((below * (255 - cover) + sprite.rgb * cover) // 255).astype(np.uint8)
        solid = sprite.parts > 0
        ids = self.ids[y : y + h, x : x + w]
        lost = np.bincount(ids[solid], minlength=len(self.visible))
        self.visible = np.append(self.visible - lost, solid.sum())
        ids[solid] = len(self.placed) + 1
        self.parts[y : y + h, x : x + w][solid] = sprite.parts[solid]
        self.windows.append((slice(y, y + h), slice(x, x + w)))

    def finish(self) -> Scene:
        things = []
        for i, ((concept, colour, drawn), window) in enumerate(zip(self.placed, self.windows, strict=True)):
            rows, columns = np.nonzero(self.ids[window] == i + 1)
            rows, columns = rows + window[0].start, columns + window[1].start
            kinds = np.bincount(self.parts[rows, columns], minlength=2 + len(concept.parts))
            things.append(
                Thing(
                    index=i + 1,
                    concept=concept,
                    colour=colour,
                    box=(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1),
                    centre=(float(columns.mean()) + 0.5, float(rows.mean()) + 0.5),
                    area=len(rows),
                    visible=len(rows) / drawn,
                    parts={part: int(kinds[2 + k]) for k, part in enumerate(concept.parts)},
                )
            )
        return Scene(self.image, self.ids, self.parts, tuple(things))
