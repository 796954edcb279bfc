"""Scenes on disk, for other programs: images and everything that is true of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from seglens.core.files import ELSEWHERE, write_new
from seglens.core.png_files import png_bytes
from seglens.data.masks import encode_rle
from seglens.data.world import kind_of, union
from seglens.world.language import VQA_KINDS, speaker
from seglens.world.world import SPLITS, Scene, Thing, World

LISTED = "scenes.jsonl"


def write_samples(n: int, seed: int, split: str, out: Path, overwrite: bool = False) -> Path:
    """Write `n` scenes into `out`: NNNN.png and scenes.jsonl. Returns the path of the JSONL.

    More scenes of the same world may come to those that are there. Raises FileExistsError where other files are,
    unless `overwrite` allows to write over them."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; choose from {', '.join(SPLITS)}")
    if n < 1:
        raise ValueError(f"got n={n}; need at least 1 scene")
    if seed < 0:
        raise ValueError(f"got seed={seed}; need 0 or more")
    world, lines = World(split, seed), list[str]()
    if not overwrite:
        _check_same(out / LISTED, n, seed, split)
    for index in range(n):
        scene = world.scene(index)
        name = f"{index:04d}.png"
        write_new({out / name: png_bytes(Image.fromarray(scene.image))}, overwrite)
        lines.append(
            json.dumps({"image": name, "split": split, "seed": seed, "index": index, **_truth(world, index, scene)})
        )
    listed = ("\n".join(lines) + "\n").encode()
    continued = (out / LISTED).is_file() and listed.startswith((out / LISTED).read_bytes())
    write_new({out / LISTED: listed}, overwrite or continued)
    return out / LISTED


def _check_same(listed: Path, n: int, seed: int, split: str) -> None:
    """Raises FileExistsError, before anything is drawn, where the list is of other scenes, or of more of them."""
    if not listed.is_file():
        return
    try:
        held = [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()]
        worlds = {(one["split"], one["seed"]) for one in held}
    except (ValueError, KeyError, TypeError):
        raise FileExistsError(f"{str(listed)!r} is there already, and is no list of scenes; {ELSEWHERE}") from None
    if worlds - {(split, seed)} or len(held) > n:
        theirs = ", ".join(f"{len(held)} scenes of split {one} and seed {number}" for one, number in sorted(worlds))
        raise FileExistsError(
            f"{str(listed)!r} lists {theirs}; these are {n} of split {split} and seed {seed}; {ELSEWHERE}"
        )


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
        "id": thing.index,
        "name": thing.name,
        "group": thing.group,
        "colour": thing.colour,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": thing.area,
        "visible": round(thing.visible, 3),
        "segmentation": encode_rle(scene.mask(thing)),
        "parts": {part: encode_rle(scene.mask(thing, part)) for part, area in thing.parts.items() if area},
    }
