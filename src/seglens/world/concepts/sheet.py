"""A contact sheet of concepts, a development aid: `python -m seglens.world.concepts.sheet GROUP OUT.png`."""

from __future__ import annotations

import sys
import time

import numpy as np
from PIL import Image, ImageDraw

from seglens.world.concepts import GROUPS
from seglens.world.draw import PALETTE, Pen, rasterise

CELL, ACROSS = 132, 6
HUES = np.array(  # by part index
    [(0, 0, 0), (90, 90, 90), (230, 60, 60), (60, 200, 60), (70, 90, 240), (230, 200, 40), (200, 60, 220)], np.uint8
)


def main(group: str, out: str) -> None:
    concepts = GROUPS[group]
    rng = np.random.default_rng(1)
    sheet = Image.new("RGB", (CELL * 2 * ACROSS, CELL * len(concepts)), (196, 208, 214))
    label = ImageDraw.Draw(sheet)
    for row, concept in enumerate(concepts):
        for column in range(ACROSS):
            pen = Pen(PALETTE[concept.colours[column % len(concept.colours)]], rng, tuple(concept.parts))
            concept.draw(pen)
            began = time.perf_counter()
            sprite = rasterise(pen, 112, rng.uniform(-concept.tilt, concept.tilt), bool(rng.random() < 0.5))
            spent = time.perf_counter() - began
            at = (column * 2 * CELL + 8, row * CELL + 8)
            sheet.paste(Image.fromarray(sprite.rgb), at, Image.fromarray(sprite.alpha))
            sheet.paste(Image.fromarray(HUES[sprite.parts]), (at[0] + CELL, at[1]))
            if column == 0:
                object_area = (sprite.parts > 0).sum()
                areas = {name: (sprite.parts == 2 + i).sum() for i, name in enumerate(concept.parts)}
                shares = " ".join(f"{name} {area / object_area:.2f}" for name, area in areas.items())
                print(f"{concept.name}: {spent * 1e3:.2f} ms, share of the object per part: {shares}")
        label.text((2, row * CELL), concept.name, fill=(0, 0, 0))
    sheet.save(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
