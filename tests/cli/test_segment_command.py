"""`seglens segment` on a file, several, a folder, a glob and a video."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Run
from inference.test_video import write_video
from seglens.cli.segment import segment as command
from seglens.core.schema import AnswerLine, FaultLine, Line
from seglens.core.types import Sample
from seglens.data import load_data
from seglens.data.images import load_labels
from seglens.data.maskfile import load_mask
from seglens.data.masks import decode_rle
from seglens.exports import DEFAULT, FORMATS
from seglens.inference.segmenter import Segmenter

SEGLENS = Path(sys.executable).with_name("seglens")


@pytest.fixture
def folder(tmp_path: Path, scene: Sample, monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter) -> Path:
    """Two images at two depths with a bad one between them; the model is loaded once for all tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["seglens.cli.segment"], "load_segmenter", lambda *_, **__: segmenter)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(scene.image).save("in/a.png")
    Image.fromarray(scene.image[:, ::-1]).save("in/deep/a.png")
    Path("in/bad.png").write_text("no image")
    return Path("in")


@pytest.fixture
def query(scene: Sample) -> str:
    return next(target.query for target in scene.targets if target.present)


def test_a_folder(seglens: Run, folder: Path, query: str) -> None:
    code, out, err = seglens("segment", "in", query, "the leftmost thing")
    assert code == 1
    assert [line.split(": ")[:2] for line in out.splitlines()] == [
        [image, words] for image in ("in/a.png", "in/deep/a.png") for words in (query, "the leftmost thing")
    ]
    assert "segmenting: 3 of 3" in err
    assert err.splitlines()[-2:] == [
        "seglens: 1 of 3 images could not be segmented:",
        "  'in/bad.png' is not an image; need JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, JPEG2000, AVIF: check the file, or "
        "save it as PNG",
    ]
    assert len(list(Path("out").glob("*_mask.png"))) == len(list(Path("out").glob("*_overlay.png"))) == 4
    assert not list(Path().glob("**/.*.tmp"))


def test_json_lines(seglens: Run, folder: Path, query: str) -> None:
    """A line for every query of every image, and one for a bad image; also when a folder holds one image only."""
    code, out, _ = seglens("segment", "in", query, "each thing", "--json", "--format", "mask,png", "--format", "coco")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [one["image"] for one in records] == ["in/a.png", "in/a.png", "in/bad.png", "in/deep/a.png", "in/deep/a.png"]
    assert "'in/bad.png' is not an image" in records[2]["error"]
    for one in records[:2] + records[3:]:
        assert list(one["files"]) == ["mask", "png", "coco"]
        np.testing.assert_array_equal(load_mask(one["files"]["mask"]), decode_rle(one["segmentation"]))
    for line in out.splitlines():
        assert isinstance(Line.model_validate_json(line).root, FaultLine if "error" in line else AnswerLine)
    assert load_labels(records[0]["files"]["png"]).max() == len(records[1]["instances"]) + records[0]["found"]
    code, out, _ = seglens("segment", "in/deep", query, "--json", "--out", "deep")
    assert (code, len(out.splitlines())) == (0, 1)


def test_one_image_has_the_same_lines(seglens: Run, folder: Path, query: str) -> None:
    """One query, several, and an image that cannot be read."""
    for queries in ([query], [query, "the leftmost thing"]):
        code, out, _ = seglens("segment", "in/a.png", *queries, "--json", "--out", f"out{len(queries)}")
        lines = [Line.model_validate_json(line).root for line in out.splitlines()]
        assert code == 0
        assert [(type(one), one.image, one.query) for one in lines] == [(AnswerLine, "in/a.png", q) for q in queries]
    code, out, err = seglens("segment", "in/bad.png", query, "--json")
    (line,) = map(Line.model_validate_json, out.splitlines())
    assert code == 2
    assert isinstance(line.root, FaultLine)
    assert line.root.query is None
    assert line.root.error in err


def test_what_is_written_can_be_read_as_data(seglens: Run, folder: Path, query: str) -> None:
    code, out, _ = seglens("segment", "in/**/a.png", query, "--json", "--format", "coco,coco-polygons,yolo,mask")
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    masks = [decode_rle(one["segmentation"]) for one in records if one["found"]]
    assert masks
    for data in (
        "coco:images=in,annotations=out/coco.json",
        "coco:images=in,annotations=out/coco_polygons.json",
        "yolo:data=out/data.yaml",
    ):
        read = list(load_data(data))
        assert [sample.targets[0].query for sample in read] == [query] * len(masks)
        for sample, mask in zip(read, masks, strict=True):
            np.testing.assert_array_equal(sample.targets[0].mask, mask)
    code, out, _ = seglens("eval", "--data", "coco:images=in,annotations=out/coco.json,split=val", "--json")
    assert (code, json.loads(out)["queries"]) == (0, len(masks))


def test_instances(seglens: Run, folder: Path) -> None:
    code, out, _ = seglens("segment", "in/a.png", "the thing", "--each", "--json")
    records = json.loads(out)
    assert code == 0
    for number, one in enumerate(records["instances"], 1):
        file = Path(records["files"]["mask"].replace("_mask.png", f"-{number}_mask.png"))
        np.testing.assert_array_equal(load_mask(file), decode_rle(one["segmentation"]))
    assert records["instances"]
    code, out, _ = seglens("segment", "in/a.png", "each thing", "--no-each", "--json")
    assert (code, json.loads(out)["instances"]) == (0, [])


def test_several_files_as_a_shell_writes_them(seglens: Run, folder: Path, query: str) -> None:
    code, out, _ = seglens("segment", "in/a.png", "in/deep/a.png", "in/deep/", query)
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["in/a.png", "in/deep/a.png"]
    assert {path.name for path in Path("out").glob("*_mask.png")} == {
        path.name.replace("overlay", "mask") for path in Path("out").glob("*_overlay.png")
    }


def test_a_video(seglens: Run, folder: Path) -> None:
    write_video(Path("clip.mp4"))
    arguments = ("segment", "clip.mp4", "the white corner", "--every", "3", "--json", "--format", "coco,mask")
    code, out, err = seglens(*arguments)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert "segmenting: 3 of 3" in err
    assert [one["image"] for one in records] == [f"clip.mp4 frame {number}" for number in (0, 3, 6)]
    assert Path(records[1]["files"]["mask"]).name == "clip_000003_the_white_corner_mask.png"
    names = [one["file_name"] for one in json.loads(Path("out/coco.json").read_text())["images"]]
    assert names == [f"clip_{number:06d}.png" for number in (0, 3, 6)]
    assert all(Path("out/images", name).is_file() for name in names)


def test_results_are_no_sources(seglens: Run, folder: Path, query: str) -> None:
    """Neither below the folder nor beside the pictures."""
    for out in ("in/out", "in", "in/other"):
        code, records, err = seglens("segment", "in", query, "--out", out)
        assert (code, len(records.splitlines())) == (1, 2)
    assert "seglens: left out: 8 made by SegLens" in err
    code, _, err = seglens("segment", "in", query, "--out", "in/all", "--format", "yolo")
    code, records, err = seglens("segment", "in", query, "--out", "in/all", "--format", "yolo")
    assert (code, len(records.splitlines())) == (1, 2)
    assert "14 made by SegLens" in err  # the copies of pictures too


def test_standard_input(seglens: Run, folder: Path, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("in/a.png").read_bytes())))
    code, out, _ = seglens("segment", "-", query, "--format", "mask,coco")
    assert (code, out.split(":")[0]) == (0, query)
    assert Path("out/images/stdin.png").is_file()
    names = [one["file_name"] for one in json.loads(Path("out/coco.json").read_text())["images"]]
    assert names == ["stdin.png"]


def test_a_head_that_cannot_refuse_prints_a_note(
    seglens: Run, tmp_path: Path, scene: Sample, segmenter: Segmenter
) -> None:
    picture, head = tmp_path / "a.png", tmp_path / "head"
    Image.fromarray(scene.image).save(picture)
    config = replace(segmenter.config, presence="untrained")
    Segmenter(segmenter.backbone, segmenter.decoder, segmenter.method, config).save_pretrained(head)
    ask = ("segment", picture, "a zeppelin", "--trust", "--out", tmp_path / "out", "--model")
    code, out, err = seglens(*ask, head, "--json")
    assert (code, json.loads(out)["presence"]) == (0, None)
    assert f"note: {head} was trained without absent targets: expect masks also for what is not in the picture" in err
    assert "absent targets" not in seglens(*ask, "embedded", "--overwrite")[2]


def test_arguments_that_could_be_either_are_refused(seglens: Run, folder: Path) -> None:
    code, out, err = seglens("segment", "in/a.png", "the", "duck")
    assert (code, out) == (2, "")
    assert "look like one without its quotes; for one query write 'the duck'" in err
    code, out, _ = seglens("segment", "in/a.png", "-q", "the", "--query", "duck")
    assert (code, [line.split(":")[0] for line in out.splitlines()]) == (0, ["the", "duck"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("in/a.png", "cat", "--format", "cocoo"), "no format 'cocoo'; choose from mask, overlay,"),
        (("in/a.png", "cat", "--format", "geo-json"), "did you mean 'geojson'?"),
        (("in/a.png",), "and no query"),
        (("in/a.png", "in/deep/a.png"), "and no query"),
        (("nothing/*.png", "cat"), "'nothing/*.png' matches nothing"),
        (("in/none.png", "cat"), "'in/none.png' does not exist"),
        (("in", " "), "got an empty query"),
    ],
)
def test_errors_in_one_line(seglens: Run, folder: Path, words: tuple[str, ...], says: str) -> None:
    code, out, err = seglens("segment", *words)
    assert (code, out) == (2, "")
    assert says in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("seglens: ")
    assert not Path("out").exists()


def test_an_image_that_the_model_cannot_open_is_listed(
    seglens: Run, folder: Path, query: str, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures that would have shared a pass with it are answered."""
    whole = segmenter.backbone.open_many
    Image.new("RGB", (3, 2)).save("in/b.png")

    def open_large(images: list[np.ndarray]) -> object:
        if any(image.shape == (2, 3, 3) for image in images):
            raise ValueError("too small for the model")
        return whole(images)

    monkeypatch.setattr(segmenter.backbone, "open_many", open_large)
    code, out, err = seglens("segment", "in", query)
    assert (code, len(out.splitlines())) == (1, 2)
    assert "  'in/b.png': too small for the model" in err.splitlines()


def test_the_help_names_every_format() -> None:
    records = command.__annotations__["formats"]
    assert all(name in records for name in FORMATS)
    assert f"{', '.join(DEFAULT)} (these two by default)" in records


@pytest.mark.slow
def test_an_interrupted_run_leaves_whole_files(tmp_path: Path, scene: Sample, query: str) -> None:
    """Answers go to a pipe while a terminal shows the bar; then the user presses Ctrl-C."""
    Image.fromarray(scene.image).save(tmp_path / "000.png")
    for number in range(1, 300):
        (tmp_path / f"{number:03d}.png").symlink_to(tmp_path / "000.png")
    arguments = [SEGLENS, "segment", "*.png", query, "--json", "--format", "mask,coco,geojson"]
    terminal, end = pty.openpty()
    with subprocess.Popen(
        arguments,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=end,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    ) as running:
        assert running.stdout is not None
        answers = [json.loads(running.stdout.readline())["image"] for _ in range(3)]
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    os.close(end)
    bar = os.read(terminal, 1 << 16)
    os.close(terminal)
    assert answers == ["000.png", "001.png", "002.png"]
    assert b"/300" in bar
    assert running.returncode == 130
    out = tmp_path / "out"
    listed = json.loads((out / "coco.json").read_text())["images"]
    assert 3 <= len(listed) < 300
    assert len(list(out.glob("*_mask.png"))) in (len(listed), len(listed) + 1)
    for path in out.glob("*_mask.png"):
        load_mask(path)
    for path in out.glob("*.geojson"):
        json.loads(path.read_text())
    assert [path.name for path in out.glob(".*")] == [".seglens"]


@pytest.mark.slow
def test_a_killed_run_continues(seglens: Run, folder: Path, query: str) -> None:
    """SIGKILL, then the same command: only what is missing is computed, all lines are printed, and every file is as one
    run leaves it."""
    for number in range(8):
        Path("in", f"{number}.png").write_bytes(Path("in/a.png").read_bytes())
    arguments = ["segment", "in/*.png", query, "--json", "--format", "mask,coco,yolo,labelstudio"]
    with subprocess.Popen(
        [SEGLENS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as running:
        assert running.stdout is not None
        first = [json.loads(running.stdout.readline()) for _ in range(3)]
        running.kill()
        running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL
    assert not Path("out/coco.json").exists()
    code, out, err = seglens(*arguments)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1  # in/bad.png
    assert records[:3] == first
    assert [one["image"] for one in records] == [f"in/{name}.png" for name in (*range(8), "a", "bad")]
    done = int(re.search(r"seglens: (\d) of 10 images were done before", err)[1])  # type: ignore[index]
    assert 3 <= done < 9
    seglens(*arguments, "--out", "whole")
    assert _files("out") == _files("whole")
    assert len(json.loads(Path("out/coco.json").read_text())["images"]) == 9


def _files(folder: str) -> dict[str, bytes]:
    """What a run leaves, but its ledger."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and ".seglens" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_no_file_is_overwritten(seglens: Run, folder: Path, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures themselves, labels made by hand, another run's results: refused before the model is loaded."""
    loaded = list[object]()
    monkeypatch.setattr(sys.modules["seglens.cli.segment"], "load_segmenter", lambda *_, **__: loaded.append(1))
    Path("in/bad.png").unlink()
    for place in ("images", "labels"):
        Path("set", place).mkdir(parents=True)
    Path("set/images/a.png").write_bytes(Path("in/a.png").read_bytes())
    Path("set/labels/a.txt").write_text("0 0 0 1 0 1 1")
    before = _files("set")
    code, out, err = seglens("segment", "set/images", query, "--format", "yolo", "--out", "set")
    assert (code, out) == (2, "")
    assert "'set/images/a.png' is a picture that is to be segmented; choose another folder" in err
    code, out, err = seglens("segment", "in/a.png", query, "--format", "yolo", "--out", "set")
    assert (code, out) == (2, "")
    assert "'set/images/a.png' is there already, and not from this command" in err
    code, out, err = seglens("segment", "set/images", query, "--format", "yolo", "--out", "set", "--overwrite")
    assert code == 2
    assert _files("set") == before
    assert loaded == []


def test_one_bad_query_or_export_does_not_end_the_run(
    seglens: Run, folder: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that is too long is a separate fault, as is a file that cannot be written."""
    Path("in/bad.png").unlink()
    Path("out/deep_a_the_thing_overlay.png").mkdir(parents=True)
    code, out, err = seglens("segment", "in", "the thing", "cat " * 5000, "--json")
    records = [Line.model_validate_json(line).root for line in out.splitlines()]
    assert code == 2
    assert "deep_a_the_thing_overlay.png' is there already" in err
    Path("out/deep_a_the_thing_overlay.png").rmdir()
    code, out, err = seglens("segment", "in", "the thing", "cat " * 5000, "--json")
    records = [Line.model_validate_json(line).root for line in out.splitlines()]
    assert code == 1
    assert [type(one) for one in records] == [AnswerLine, FaultLine] * 2
    assert [one.query for one in records] == ["the thing", "cat " * 5000] * 2
    assert "seglens: 2 of 2 images could not be segmented:" in err

    def broken(page: object) -> None:
        if page.name == "deep_a":  # type: ignore[attr-defined]
            raise OSError(errno.EIO, "Input/output error", "out/x.png")
        return whole(page)

    whole = FORMATS["geojson"]()._files  # type: ignore[attr-defined]
    monkeypatch.setattr("seglens.exports.formats.geojson", broken)
    code, out, err = seglens("segment", "in", "the thing", "--format", "geojson", "--out", "other")
    assert (code, len(out.splitlines())) == (1, 1)
    assert "the results for 'in/deep/a.png' cannot be written: [Errno 5] Input/output error" in err
    monkeypatch.undo()


def test_a_full_disk_stops_the_run(seglens: Run, folder: Path, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(page: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/x.png")

    monkeypatch.setattr("seglens.exports.formats.geojson", full)
    code, out, err = seglens("segment", "in", query, "--format", "geojson")
    assert (code, out) == (2, "")
    assert "'out/x.png' cannot be written: No space left on device; what is done is kept: make room, and" in err
