"""How fast training data is read: `python benchmarks/reading.py [--root LISA_TREE] [--readers 1]`.

Samples in a second of one core (image, three queries and their masks on the canvases), by dataset, as a share of
decoding the files alone at their full size. Without `--root` the files are made: photographs and label maps
of the usual sizes, in the formats of the datasets. Then the mixture, read by processes, in samples per second.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measure import Ratio, Report, machine, options
from PIL import Image

from seglens.core.geometry import Frame
from seglens.data.coco import coco_data
from seglens.data.records import Records
from seglens.data.sampling import Mixed, Mixture, SamplingSource
from seglens.data.semantic import ade20k, mapillary
from seglens.features.examples import areas
from seglens.training.sample_readers import draws_ahead

SIDES = 256, 24  # cells of SAM's masks and of an MLLM's grid
NEEDED = 1024  # pixels of SAM's canvas: larger pictures are reduced
PICTURES = 6
AIM = 0.6


def photograph(path: Path, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Smooth noise, saved as cameras do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 255, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=92)


def label_map(path: Path, size: tuple[int, int], classes: int, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(1, classes, (size[0] // 60, size[1] // 60), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST).save(path)


def made(root: Path) -> dict[str, Records]:
    """A dataset of label maps, one of polygons, and one of 12 megapixels, in their own formats."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(PICTURES):
        photograph(root / f"ade20k/images/training/{n}.jpg", (512, 683), rng)
        label_map(root / f"ade20k/annotations/training/{n}.png", (512, 683), 150, rng)
        photograph(root / f"mapillary/training/images/{n}.jpg", (3024, 4032), rng)
        label_map(root / f"mapillary/training/v2.0/labels/{n}.png", (3024, 4032), 100, rng)
        photograph(root / f"photos/{n}.jpg", (480, 640), rng)
        images.append({"id": n, "file_name": f"{n}.jpg", "height": 480, "width": 640})
        for k in range(7):
            corners = (rng.random((40, 2)) * (639, 479)).round(1).ravel().tolist()
            annotations.append({"id": 7 * n + k, "image_id": n, "category_id": k, "segmentation": [corners]})
    config = {"labels": [{"readable": f"class {n}"} for n in range(100)]}
    (root / "mapillary/config_v2.0.json").write_text(json.dumps(config))
    categories = [{"id": k, "name": f"thing {k}"} for k in range(7)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    polygons = coco_data(root / "photos", root / "instances.json")
    return {"label maps (ade20k)": ade20k(root), "polygons (coco)": polygons, "12 MP (mapillary)": mapillary(root)}


def found(root: Path) -> dict[str, Records]:
    """Those of the three that are below a tree of LISA's."""
    places: dict[str, Callable[[], Records]] = {
        "label maps (ade20k)": lambda: ade20k(root),
        "12 MP (mapillary)": lambda: mapillary(root),
    }
    return {name: open_() for name, open_ in places.items() if (root / name.split("(")[1].rstrip(")")).is_dir()}


def read(data: Records, index: int) -> None:
    sample, _ = data.decode(index, lambda count: range(min(count, 3)), NEEDED)
    assert sample is not None
    frame = Frame(*sample.image.shape[:2])
    for side in SIDES:
        areas(sample.targets, frame, side)


def decoded(data: Records, index: int) -> None:
    """The files alone: pixels of the photograph and, where there is one, of the label map."""
    entry = data.entries[index]
    np.asarray(Image.open(entry.image).convert("RGB"))
    if entry.file.endswith(".png"):
        np.asarray(Image.open(entry.file))


def rate(work: Callable[[Records, int], None], data: Records) -> float:
    """Samples in a second of one core; the better of two rounds."""
    count, best = min(PICTURES, len(data)), 0.0
    for _ in range(2):
        start = time.process_time()
        for index in range(count):
            work(data, index)
        best = max(best, count / (time.process_time() - start))
    return best


def mixed_rate(datasets: Sequence[Records], readers: int, draws: int) -> float:
    """Samples of all datasets in a second of the clock, decoded by processes; the first few are not counted."""
    sources = tuple(SamplingSource("all", len(data), data.count) for data in datasets)
    coming = draws_ahead(
        Mixed(datasets, Mixture(sources, {"all": 1})).reduced(NEEDED), range(draws + 2 * readers), readers
    )
    for _ in range(2 * readers):
        next(coming)
    start = time.perf_counter()
    for _ in coming:
        pass
    return draws / (time.perf_counter() - start)


def compare(datasets: dict[str, Records], readers: int, threads: int) -> Report:
    rows, ratios = dict[str, float](), []
    for name, data in datasets.items():
        ours, files = rate(read, data), rate(decoded, data)
        rows |= {f"{name}: read": ours, f"{name}: its files decoded alone": files}
        ratios.append(Ratio(f"{name}: read, over its files decoded alone", ours / files, AIM))
    rows[f"the mixture, {readers} processes, by the clock"] = mixed_rate(list(datasets.values()), readers, 24)
    return Report("training data", "true", "samples/s", rows, ratios, machine=machine("cpu", threads))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", sizes=("true",))
    parser.add_argument("--root", type=Path, help="a tree with ade20k/ or mapillary/, as LISA's README has it")
    parser.add_argument("--readers", type=int, default=1, help="processes of the last line")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    with TemporaryDirectory() as folder:
        datasets = made(Path(folder)) if settings.root is None else found(settings.root)
        compare(datasets, settings.readers, settings.threads).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
