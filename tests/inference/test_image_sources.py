"""What words name: files, folders, globs and videos, in a stable order."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.test_video import write_video
from seglens.core.png_files import marked_png
from seglens.data.image_decoding import ImageError
from seglens.inference.image_files import left_out_text
from seglens.inference.image_sources import BadImage, NamedImage, Sources, one_image


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images at two depths, one of them bad, and much that is no image."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("b.png", "a.jpg", "deep/c.png", "deep/er/a.jpg", "x[1].png", ".hidden/d.png")):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 30 * number, np.uint8)).save(Path("in", name))
    Path("in/deep/bad.png").write_text("no image")
    Path("in/notes.txt").write_text("no image")
    Path("in/folder.png").mkdir()
    return Path("in")


def names_of(*words: str, **options: object) -> list[str]:
    return [one.shown for one in Sources.of(words, **options)]


def test_a_folder_with_all_that_lies_in_it(root: Path) -> None:
    sources = Sources.of(["in"])
    read = list(sources)
    assert [one.shown for one in read] == [
        "in/a.jpg",
        "in/b.png",
        "in/deep/bad.png",
        "in/deep/c.png",
        "in/deep/er/a.jpg",
        "in/x[1].png",
    ]
    assert sources.total == 6
    assert sources.root == Path("in").absolute()
    assert not sources.alone
    assert [one.name for one in read if isinstance(one, NamedImage)] == [
        "a",
        "b",
        "deep/bad",
        "deep/c",
        "deep/er/a",
        "x[1]",
    ]
    bad = read.pop(2)
    assert isinstance(bad, NamedImage)
    with pytest.raises(ImageError, match=r"'in/deep/bad.png' is not an image"):
        _ = bad.pixels
    values = [int(one.pixels[0, 0, 0]) for one in read if isinstance(one, NamedImage) and str(one.file).endswith("png")]
    assert values == [0, 60, 120]
    assert len({one.key for one in read if isinstance(one, NamedImage)}) == 5
    assert names_of("in") == names_of("in") == names_of("in/")


def test_globs_and_several_words(root: Path) -> None:
    assert names_of("in/*.png") == ["in/b.png", "in/x[1].png"]
    assert names_of("in/**/a.*") == ["in/a.jpg", "in/deep/er/a.jpg"]
    assert names_of("in/x[1].png") == ["in/x[1].png"]  # a name that is there is no pattern
    assert names_of("in/b.png", "in/deep/er", "in/*.jpg", "in/b.png") == ["in/b.png", "in/deep/er/a.jpg", "in/a.jpg"]
    assert Sources.of(["in/deep/c.png", "in/b.png"]).root == root.absolute()


def test_the_folder_of_all_is_the_one_that_was_named(root: Path) -> None:
    """Whatever lies in it: an image that comes later moves no other one's name."""
    for word in ("in/deep", "in/deep/**/*.png", "in/deep/c.png"):
        assert Sources.of([word]).root == Path("in/deep").absolute()
    for word in ("in", "in/**/er/*.jpg"):
        assert Sources.of([word]).root == Path("in").absolute()


def test_a_picture_that_changed_has_another_stamp(root: Path) -> None:
    def stamp() -> tuple[str, str]:
        (image,) = Sources.of(["in/b.png"])
        assert isinstance(image, NamedImage)
        return image.key, image.stamp

    before = stamp()
    Path("in/b.png").touch()
    assert stamp() == before
    Image.new("RGB", (5, 4), "red").save("in/b.png")
    assert stamp()[0] == before[0]
    assert stamp()[1] != before[1]


def test_one_file_alone(root: Path) -> None:
    assert Sources.of(["in/b.png"]).alone
    assert Sources.of(["in/none.png"]).alone  # reported when it is read
    assert not Sources.of(["in/b.pn*"]).alone
    assert not Sources.of(["in/b.png", "in/a.jpg"]).alone
    (missing,) = Sources.of(["in/none.png"])
    assert isinstance(missing, NamedImage)
    with pytest.raises(ImageError, match="does not exist"):
        _ = missing.pixels


def test_words_that_match_nothing(root: Path) -> None:
    Path("empty").mkdir()
    Path("films").mkdir()
    write_video(Path("films/a.mp4"), 1)
    for word, says in {
        "empty": "the folder 'empty' holds no image",
        "films": "it holds 1 videos: name them, or use a glob",
        "in/*.gif": "'in/[*].gif' matches nothing",
        "in/*.txt": "matches 1 files, no image or video among them",
    }.items():
        with pytest.raises(ImageError, match=says):
            Sources.of(["in", word])
    with pytest.raises(ValueError, match="every=0"):
        Sources.of(["in"], every=0)


def test_results_are_no_sources(root: Path) -> None:
    """Masks and overlays are left alone wherever they lie; one that is named itself is taken."""
    Path("in/out").mkdir()
    for place in ("in/out/b_cat_mask.png", "in/b_cat_mask.png"):
        Path(place).write_bytes(marked_png(Image.new("P", (3, 3)), things="[]"))
    Path("in/images").mkdir()
    Path("in/images/b.png").write_bytes(marked_png(Image.new("RGB", (3, 3)), "copy"))
    sources = Sources.of(["in"])
    assert [one.shown for one in sources.each if "mask" in one.shown or "images" in one.shown] == []
    assert sources.left_out == {"made by SegLens": 3, ".txt": 1}
    assert names_of("in/images") == ["in/images/b.png"]  # copies of pictures, where there is nothing else
    assert "in/out/b_cat_mask.png" not in names_of("in/**/*.png")
    assert names_of("in/out/b_cat_mask.png") == ["in/out/b_cat_mask.png"]
    with pytest.raises(ImageError, match="the folder 'in/out' holds no image, but 1 made by SegLens"):
        Sources.of(["in/out"])


def test_what_is_left_out_is_counted(root: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.mp4", "LICENSE"):
        Path("in", name).touch()
    assert left_out_text(Sources.of(["in"]).left_out) == (
        "2 .heic (pip install pillow-heif to read them), 1 .mp4 (videos: name them, or use a glob), 1 .txt, "
        "1 without an ending"
    )
    assert Sources.of(["in/b.png"]).left_out == {}


def test_every_format_of_a_folder(root: Path) -> None:
    """Whatever Pillow saves under an ending and reads again, a folder takes."""
    Path("many").mkdir()
    endings = ("jfif", "jpe", "pgm", "pbm", "pnm", "j2k", "jpx", "apng", "webp", "tiff", "gif", "avif", "BMP", "mpo")
    for ending in endings:
        Image.new("L", (16, 16), 99).save(Path("many", f"a.{ending}"))
    assert [one.shown for one in Sources.of(["many"])] == sorted(f"many/a.{ending}" for ending in endings)
    assert all(isinstance(one, NamedImage) for one in Sources.of(["many"]))


def test_standard_input(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    piped(Path("in/b.png").read_bytes())
    sources = Sources.of(["-"])
    assert (sources.alone, sources.total, sources.root) == (True, 1, None)
    (read,) = sources
    assert isinstance(read, NamedImage)
    assert (read.name, read.shown, read.file, read.pixels.shape) == ("stdin", "standard input", None, (4, 5, 3))
    assert len(read.key) > len("standard input ")  # two of them are two images
    piped(Path("in/a.jpg").read_bytes())
    assert one_image("-").pixels.shape == one_image("in/a.jpg").pixels.shape == (4, 5, 3)
    piped(b"")
    with pytest.raises(ImageError, match="standard input is empty"):
        one_image("-")


def test_a_tilde_that_no_shell_has_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.absolute()))
    assert [Path(one).name for one in names_of("~/*.jpg")] == ["a.jpg"]


def test_videos_beside_images(root: Path) -> None:
    write_video(Path("clip.mp4"))
    write_video(Path("cut.mp4"))
    Path("cut.mp4").write_bytes(Path("cut.mp4").read_bytes()[:900])
    sources = Sources.of(["in/b.png", "clip.mp4", "cut.mp4"], every=3)
    read = list(sources)
    assert [one.shown for one in read] == ["in/b.png", *(f"clip.mp4 frame {n}" for n in (0, 3, 6)), "cut.mp4"]
    good = [one for one in read if isinstance(one, NamedImage)]
    assert [(one.name, one.file) for one in good[1:]] == [(f"clip_{n:06d}", None) for n in (0, 3, 6)]
    assert isinstance(read[-1], BadImage)
    assert sources.root is None  # frames lie in no file
    assert sources.total is None  # one of them does not state it
    assert Sources.of(["in/b.png", "clip.mp4"], every=3).total == 4
    assert not Sources.of(["clip.mp4"]).alone


def test_nothing_is_read_before_it_is_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[Path]()
    monkeypatch.setattr(
        "seglens.inference.image_sources.load_image", lambda path: read.append(path) or np.zeros((1, 1, 3), np.uint8)
    )
    first, second, *_ = Sources.of(["in"])
    assert isinstance(first, NamedImage)
    assert isinstance(second, NamedImage)
    assert read == []
    _ = second.pixels, first.pixels
    assert read == [Path("in/b.png"), Path("in/a.jpg")]
