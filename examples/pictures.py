"""The pictures of docs/how-lens-works.md, drawn from the embedded model: `python examples/pictures.py [FOLDER]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from seglens import OpenedImage, Prediction, Segmenter
from seglens.backbones import AttentionReader, hide_loading_bars
from seglens.core.files import write_atomic
from seglens.data.world import WorldData
from seglens.inference.prediction import on_mask, png_bytes
from seglens.methods.keypoints import suppress

SEED, SCENE = 6, 7  # a deer among other things
QUERY = "the thing that runs shy in the forest"
SIDE, GAP, CAPTION, TEXT = 320, 12, 34, 16  # pixels
COLOURS = 160  # of the palette: a drawing needs no more, and the file stays small
PAPER, INK, RUNS, IDLE, KEPT = (250, 250, 248), (30, 30, 34), (214, 64, 96), (226, 226, 230), (250, 190, 60)

Picture = tuple[str, Image.Image]  # its caption, and itself


@dataclass(frozen=True)
class Look:
    """One query about one scene, with everything that explains the answer."""

    opened: OpenedImage
    said: Prediction

    @classmethod
    @torch.no_grad()
    def at(cls, segmenter: Segmenter) -> Look:
        opened = segmenter.open(WorldData(n=SCENE + 1, seed=SEED)[SCENE].image)
        return cls(opened, opened.segment(QUERY))

    @property
    def scene(self) -> Image.Image:
        return Image.fromarray(self.opened.image)

    def shown(
        self,
        heat: Float[np.ndarray, "gh gw"] | None = None,
        points: Float[np.ndarray, "n 2"] | None = None,
        mask: bool = False,
    ) -> Image.Image:
        """The scene with a heat map, with points (white on the target, red off it), or with the mask."""
        points = np.zeros((0, 2), np.float32) if points is None else points
        found = self.said.mask
        drawn = found if mask else np.zeros_like(found)
        return replace(
            self.said,
            heat_map=heat,
            keypoints=points,
            keypoint_scores=np.ones(len(points), np.float32),
            keypoint_labels=on_mask(found, points),
            mask=drawn,
        ).overlay()


def attention(look: Look) -> list[Picture]:
    """What the frozen MLLM looks at by itself, and what the head makes of it."""
    backbone = look.opened.segmenter.backbone
    own = AttentionReader(backbone).maps(look.opened.image, [QUERY])[backbone.layer, 0].numpy()
    return [
        ("the scene", look.scene),
        ("attention of the frozen MLLM", look.shown(own)),
        ("refined by the head: the map A_c", look.shown(look.said.heat_map)),
    ]


def keypoints(look: Look) -> list[Picture]:
    """All peaks of the map, those that are strong enough, and which of them lie on the target."""
    config, heat = look.opened.segmenter.method.config, torch.tensor(look.said.heat_map)
    cells, _, some = suppress(heat[None], config.keypoints, config.radius * heat.shape[1])
    frame = look.opened.seen.frame
    peaks = frame.to_image(frame.cells_to_canvas(cells[0][some[0]], tuple(heat.shape))).numpy()
    kept = look.said.keypoints
    return [
        (f"{len(peaks)} peaks, none near another", look.shown(look.said.heat_map, peaks)),
        (f"{len(kept)} are strong: each moves to its top", look.shown(look.said.heat_map, kept)),
    ]


def masks(look: Look) -> list[Picture]:
    """What SAM draws: how sure it is of every pixel, and the mask."""
    sure = 1 / (1 + np.exp(-look.said.mask_logits))
    grey = Image.fromarray((255 * sure).astype(np.uint8)).convert("RGB")
    return [
        ("points with descriptions", look.shown(None, look.said.keypoints)),
        ("SAM: how likely is each pixel?", grey),
        ("the mask", look.shown(mask=True)),
    ]


@dataclass(frozen=True)
class Work:
    """What runs for a question: a rectangle per layer, as wide as the tokens that go through it."""

    image: int
    words: int
    layers: int
    read: int

    @classmethod
    def of(cls, look: Look) -> Work:
        backbone = look.opened.segmenter.backbone
        read = backbone.read(look.opened.seen, [QUERY])
        layers = len(backbone.module.get_decoder().layers)
        return cls(read.prefix.shape[1], int(read.question_mask.sum()), layers, backbone.layer)

    def draw(self, image: Sequence[bool], words: Sequence[bool], kept: bool) -> Image.Image:
        """Which layers run for the image's tokens and for the words, from the first layer at the bottom."""
        picture = Image.new("RGB", (SIDE, SIDE), PAPER)
        draw, unit = ImageDraw.Draw(picture), (SIDE - 20) / (self.image + self.words)
        height = (SIDE - 40) / self.layers
        for k in range(self.layers):
            y = SIDE - 30 - (k + 1) * height
            middle = 10 + self.image * unit
            seen = RUNS if image[k] else KEPT if kept and k < self.read else IDLE
            draw.rectangle([10, y + 4, middle - 2, y + height - 4], seen)
            draw.rectangle([middle + 2, y + 4, SIDE - 10, y + height - 4], RUNS if words[k] else IDLE)
        font = ImageFont.load_default(14)
        draw.text((10, SIDE - 24), f"{self.image} tokens of the image", INK, font)
        draw.text((SIDE - 10, SIDE - 24), f"{self.words} of words", INK, font, "ra")
        return picture


def work(look: Look) -> list[Picture]:
    """What runs when a whole model is asked, when an image is first asked about, and when it is asked again."""
    made = Work.of(look)
    whole, read, none = ([k < n for k in range(made.layers)] for n in (made.layers, made.read, 0))
    return [
        (f"a whole pass: all {made.layers} layers", made.draw(whole, whole, kept=False)),
        (f"the first question: {made.read} layers", made.draw(read, read, kept=False)),
        ("the next question: its own words", made.draw(none, read, kept=True)),
    ]


def sheet(pictures: Sequence[Picture]) -> Image.Image:
    """Pictures side by side, each over its caption."""
    width = len(pictures) * (SIDE + GAP) - GAP
    made = Image.new("RGB", (width, SIDE + CAPTION), PAPER)
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(TEXT)
    for column, (caption, picture) in enumerate(pictures):
        x = column * (SIDE + GAP)
        made.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, 0))
        draw.text((x + 4, SIDE + 7), caption, INK, font)
    return made.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def draw_all(segmenter: Segmenter, out: Path) -> Iterator[Path]:
    look = Look.at(segmenter)
    for draw in (attention, keypoints, masks, work):
        path = out / f"{draw.__name__}.png"
        write_atomic(path, png_bytes(sheet(draw(look))))
        yield path


def main(arguments: Sequence[str]) -> None:
    hide_loading_bars()
    for path in draw_all(Segmenter.from_pretrained(), Path(arguments[0] if arguments else "docs/images")):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
