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
from seglens.core.png_files import png_bytes
from seglens.data.world import WorldData
from seglens.inference.prediction import on_mask
from seglens.methods.keypoints import suppress

SEED, SCENE = 6, 7  # a deer among other things
QUERY = "the thing that runs shy in the forest"
SIDE, GAP, CAPTION, TEXT = 320, 12, 34, 16  # pixels
COLOURS = 160  # of the palette: a drawing needs no more, and the file stays small
PAPER, INK, RUNS, IDLE, KEPT = (250, 250, 248), (30, 30, 34), (214, 64, 96), (226, 226, 230), (250, 190, 60)

Picture = tuple[str, Image.Image]  # its caption, and itself


@dataclass(frozen=True)
class Example:
    """One query about one scene, with everything that explains the answer."""

    opened: OpenedImage
    prediction: Prediction

    @classmethod
    @torch.no_grad()
    def at(cls, segmenter: Segmenter) -> Example:
        opened = segmenter.open(WorldData(n=SCENE + 1, seed=SEED)[SCENE].image)
        return cls(opened, opened.segment(QUERY))

    @property
    def scene(self) -> Image.Image:
        return Image.fromarray(self.opened.image)

    def overlay(
        self,
        heat: Float[np.ndarray, "gh gw"] | None = None,
        points: Float[np.ndarray, "n 2"] | None = None,
        mask: bool = False,
    ) -> Image.Image:
        """The scene with a heat map, with points (white on the target, red off it), or with the mask."""
        points = np.zeros((0, 2), np.float32) if points is None else points
        target = self.prediction.mask
        drawn = target if mask else np.zeros_like(target)
        return replace(
            self.prediction,
            heat_map=heat,
            keypoints=points,
            keypoint_scores=np.ones(len(points), np.float32),
            keypoint_labels=on_mask(target, points),
            mask=drawn,
        ).overlay()


def attention(example: Example) -> list[Picture]:
    """What the frozen MLLM itself attends to, and the map after the head."""
    backbone = example.opened.segmenter.backbone
    own = AttentionReader(backbone).maps(example.opened.image, [QUERY])[backbone.layer, 0].numpy()
    return [
        ("the scene", example.scene),
        ("attention of the frozen MLLM", example.overlay(own)),
        ("refined by the head: the map A_c", example.overlay(example.prediction.heat_map)),
    ]


def keypoints(example: Example) -> list[Picture]:
    """All peaks of the map, those that are strong enough, and which of them lie on the target."""
    config, heat = example.opened.segmenter.method.config, torch.tensor(example.prediction.heat_map)
    cells, _, present = suppress(heat[None], config.keypoints, config.radius * heat.shape[1])
    frame = example.opened.seen.frame
    peaks = frame.to_image(frame.cells_to_canvas(cells[0][present[0]], tuple(heat.shape))).numpy()
    strong = example.prediction.keypoints
    return [
        (f"{len(peaks)} peaks, none near another", example.overlay(example.prediction.heat_map, peaks)),
        (f"{len(strong)} are strong: each moves to its top", example.overlay(example.prediction.heat_map, strong)),
    ]


def masks(example: Example) -> list[Picture]:
    """What SAM draws: the probability of every pixel, and the mask."""
    probability = 1 / (1 + np.exp(-example.prediction.mask_logits))
    grey = Image.fromarray((255 * probability).astype(np.uint8)).convert("RGB")
    return [
        ("points with descriptions", example.overlay(None, example.prediction.keypoints)),
        ("SAM: how likely is each pixel?", grey),
        ("the mask", example.overlay(mask=True)),
    ]


@dataclass(frozen=True)
class Work:
    """What is computed for a question: a rectangle per layer, as wide as the number of tokens that go through it."""

    image: int
    words: int
    layers: int
    read: int  # the layer that LENS reads

    @classmethod
    def of(cls, example: Example) -> Work:
        backbone = example.opened.segmenter.backbone
        readout = backbone.read(example.opened.seen, [QUERY])
        layers = len(backbone.module.get_decoder().layers)
        return cls(readout.prefix.shape[1], int(readout.question_mask.sum()), layers, backbone.layer)

    def draw(self, image: Sequence[bool], words: Sequence[bool], kept: bool) -> Image.Image:
        """Which layers are computed for the image's tokens and for the words, from the first layer at the bottom."""
        picture = Image.new("RGB", (SIDE, SIDE), PAPER)
        draw, unit = ImageDraw.Draw(picture), (SIDE - 20) / (self.image + self.words)
        height = (SIDE - 40) / self.layers
        for k in range(self.layers):
            y = SIDE - 30 - (k + 1) * height
            middle = 10 + self.image * unit
            colour = RUNS if image[k] else KEPT if kept and k < self.read else IDLE
            draw.rectangle([10, y + 4, middle - 2, y + height - 4], colour)
            draw.rectangle([middle + 2, y + 4, SIDE - 10, y + height - 4], RUNS if words[k] else IDLE)
        font = ImageFont.load_default(14)
        draw.text((10, SIDE - 24), f"{self.image} tokens of the image", INK, font)
        draw.text((SIDE - 10, SIDE - 24), f"{self.words} of words", INK, font, "ra")
        return picture


def work(example: Example) -> list[Picture]:
    """What is computed in a whole pass, for the first question about an image, and for the next one."""
    cost = Work.of(example)
    whole, read, none = ([k < n for k in range(cost.layers)] for n in (cost.layers, cost.read, 0))
    return [
        (f"a whole pass: all {cost.layers} layers", cost.draw(whole, whole, kept=False)),
        (f"the first question: {cost.read} layers", cost.draw(read, read, kept=False)),
        ("the next question: its own words", cost.draw(none, read, kept=True)),
    ]


def sheet(pictures: Sequence[Picture]) -> Image.Image:
    """Pictures side by side, each above its caption."""
    width = len(pictures) * (SIDE + GAP) - GAP
    page = Image.new("RGB", (width, SIDE + CAPTION), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(TEXT)
    for column, (caption, picture) in enumerate(pictures):
        x = column * (SIDE + GAP)
        page.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, 0))
        draw.text((x + 4, SIDE + 7), caption, INK, font)
    return page.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def draw_all(segmenter: Segmenter, out: Path) -> Iterator[Path]:
    example = Example.at(segmenter)
    for draw in (attention, keypoints, masks, work):
        path = out / f"{draw.__name__}.png"
        write_atomic(path, png_bytes(sheet(draw(example))))
        yield path


def main(arguments: Sequence[str]) -> None:
    hide_loading_bars()
    for path in draw_all(Segmenter.from_pretrained(), Path(arguments[0] if arguments else "docs/images")):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
