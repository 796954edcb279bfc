"""Scenes on disk, for other programs: images and everything that is true of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from seglens.data.masks import encode_rle
from seglens.data.world import kind_of, union
from seglens.files import write_atomic
from seglens.miniature.language import VQA_KINDS, speaker
from seglens.miniature.world import SPLITS, Scene, Thing, World
from seglens.prediction import png_bytes


def write_samples(n: int, seed: int, split: str, out: Path) -> Path:
    """Write `n` scenes into `out`: NNNN.png and scenes.jsonl. Returns the path of the JSONL."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; choose from {', '.join(SPLITS)}")
    if n < 1:
        raise ValueError(f"got n={n}; need at least 1 scene")
    if seed < 0:
        raise ValueError(f"got seed={seed}; need 0 or more")
    world, lines = World(split, seed), []
    for index in range(n):
        scene = world.scene(index)
        name = f"{index:04d}.png"
        write_atomic(out / name, png_bytes(Image.fromarray(scene.image)))
        lines.append(
            json.dumps({"image": name, "split": split, "seed": seed, "index": index, **_truth(world, index, scene)})
        )
    write_atomic(out / "scenes.jsonl", ("\n".join(lines) + "\n").encode())
    return out / "scenes.jsonl"


def _truth(world: World, index: int, scene: Scene) -> dict[str, Any]:
    one = speaker(world, index, scene)
    queries = [
        {
            "kind": kind_of(q),
            "query": q.text,
            "targets": [[t.index, part] for t, part in q.targets],
            "segmentation": encode_rle(union(scene, q)),
        }
        for q in one.queries(8)
    ]
    questions = [q for q in (one.question(kind) for kind in VQA_KINDS) if q is not None]
    return {
        "height": scene.ids.shape[0],
        "width": scene.ids.shape[1],
        "caption": one.caption().answer,
        "things": [_thing(scene, t) for t in scene.things],
        "queries": queries,
        "questions": [{"kind": q.kind, "question": q.text, "answer": q.answer} for q in questions],
    }


def _thing(scene: Scene, thing: Thing) -> dict[str, Any]:
    x0, y0, x1, y1 = thing.box
    return {
        "id": thing.index, "name": thing.name, "group": thing.group, "colour": thing.colour,
        "bbox": [x0, y0, x1 - x0, y1 - y0], "area": thing.area, "visible": round(thing.visible, 3),
        "segmentation": encode_rle(scene.mask(thing)),
        "parts": {part: encode_rle(scene.mask(thing, part)) for part, area in thing.parts.items() if area},
    }  # fmt: skip
