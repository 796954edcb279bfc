"""Bad records are named, counted, and left out only with bad=skip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from own_data import judged
from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_decoding import ImageError
from seglens.data.image_record import DecodedMask, ImageRecord, MaskSource, QueryRecord
from seglens.data.images import load_image, load_stored, orientation
from seglens.data.masks import Nothing, Polygons, RunLengthDict, Union, encode_rle
from seglens.data.records import Bad, Records

SIZE = (6, 8)


@dataclass(frozen=True)
class Given:
    """A mask in memory."""

    mask: np.ndarray
    ignore: np.ndarray | None = None
    absent: bool = False

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        return DecodedMask(self.mask, self.ignore, self.absent)


def half(size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[: size[0] // 2] = True
    return mask


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", SIZE[::-1], "teal").save(path)
    return path


def entry(picture: Path, *masks: MaskSource, id: str = "one", size: tuple[int, int] | None = None) -> ImageRecord:
    queries = tuple(QueryRecord(f"thing {number}", mask, f"record {number}") for number, mask in enumerate(masks))
    return ImageRecord(id, picture, "file.json", queries, size)


def records(*entries: ImageRecord | RecordFault | Note) -> Callable[..., Records]:
    def build(bad: Bad) -> Records:
        return Records("own", entries, trainable=True, bad=bad)

    return build


def test_good_records_are_samples(picture: Path) -> None:
    data = records(entry(picture, Given(half()), Nothing(), size=SIZE))(bad="refuse")
    assert (len(data), data.trainable, data.faults, data.notes) == (1, True, [], [])
    (sample,) = data
    assert sample.id == data[0].id == "one"
    np.testing.assert_array_equal(sample.image, load_image(picture))
    present, absent = sample.targets
    np.testing.assert_array_equal(present.mask, half())
    assert (absent.present, absent.mask.shape) == (False, SIZE)


NOTHING = np.zeros(SIZE, bool)
BAD_MASKS: dict[str, tuple[MaskSource, str, str]] = {
    "no pixel": (Given(NOTHING), "empty mask", "'thing 0' is empty"),
    "thinner than a pixel": (Polygons([[1, 1, 5, 1, 3, 1.001]]), "empty mask", "thinner than one"),
    "absent, with pixels": (Given(half(), absent=True), "empty mask", "declared absent, and its mask has pixels"),
    "all ignored": (Given(half(), ignore=half()), "empty mask", "every pixel of the mask of 'thing 0' is ignored"),
    "another shape": (Given(half((8, 6))), "mask", r"has 8 x 6 pixels \(height x width\), and its image 6 x 8"),
    "two points": (Polygons([[1, 1, 5, 5]]), "mask", "polygon of 4 numbers"),
    "an odd number": (Polygons([[1, 1, 5, 5, 3, 3, 2]]), "mask", "polygon of 7 numbers"),
    "NaN": (Polygons([[1, 1, 5, float("nan"), 3, 3]]), "mask", "no pixel"),
    "words": (Polygons([["a", "b", "c", "d", "e", "f"]]), "mask", "not a list of numbers"),
    "no polygon": (Polygons([]), "mask", "got no polygon"),
    "run lengths of another size": (RunLengthDict(encode_rle(half((8, 6)))), "mask", "belongs to another image"),
    "broken run lengths": (RunLengthDict({"size": [6, 8], "counts": [1, 2]}), "mask", "do not fill 6 x 8"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks_are_named_and_the_rest_is_kept(name: str, picture: Path) -> None:
    mask, kind, message = BAD_MASKS[name]
    samples, (fault,) = judged(records(entry(picture, mask, Given(half()))))
    assert (fault.file, fault.record, fault.kind) == ("file.json", "record 0", kind)
    with pytest.raises(DataError, match=message):
        list(records(entry(picture, mask))(bad="refuse"))
    assert [[target.query for target in sample.targets] for sample in samples] == [["thing 1"]]


def test_polygons_held_compactly_are_the_same() -> None:
    for parts in ([[1, 1, 5, 1, 5, 5.5]], [[1, 1, 5, 1, 5, 5], [2, 2, 7, 2, 7, 4]]):
        np.testing.assert_array_equal(Polygons.of(parts).draw(SIZE).mask, Polygons(parts).draw(SIZE).mask)
    for parts in ([[1, 1, 5, 5]], [["a", 1, 5, 5, 3, 3]], [[[1, 1]]], [3], [], [[1, 2, 3, 10**400, 5, 6]]):
        messages = []
        for polygons in (Polygons.of(parts), Polygons(parts)):
            with pytest.raises(ValueError, match="got") as caught:
                polygons.draw(SIZE)
            messages.append(str(caught.value).replace(".0", ""))
        assert messages[0] == messages[1]


def test_polygons_may_leave_the_image_a_little() -> None:
    size = (300, 1000)
    for inside in ([-10, 0, 9, 0, 9, 9], [0, -3, 9, 0, 9, 9], [0, 0, 1010, 0, 9, 9], [0, 0, 9, 303, 9, 9]):
        assert Polygons([inside]).draw(size).mask.any()
    for outside in ([-11, 0, 9, 0, 9, 9], [0, -4, 9, 0, 9, 9], [0, 0, 1011, 0, 9, 9], [0, 0, 9, 304, 9, 9]):
        with pytest.raises(ValueError, match=r"with the point .* for an image of 300 x 1000 pixels"):
            Polygons([[0, 0, 9, 0, 9, 9], outside]).draw(size)
    assert Polygons([[0, 0, 10, 0, 10, 8]]).draw(SIZE).mask.any()  # two pixels beyond a small image


def test_faults_of_left_out_targets_are_counted_once(picture: Path) -> None:
    build = records(entry(picture, Given(NOTHING), Given(half())), entry(picture, Given(NOTHING), id="bad"))
    ways: dict[str, Callable[[Records], object]] = {
        "index": lambda data: data[0],
        "usable": lambda data: data.usable(0),
        "some queries": lambda data: data.usable(0, range),
    }
    for ask in ways.values():
        data = build(bad="skip")
        for _ in range(2):
            ask(data)
            assert [fault.record for fault in data.faults] == ["record 0"]
        with pytest.raises(DataError, match=r"nothing usable of bad: .*; iterate to leave it out") as caught:
            data[1]
        assert "bad=skip" not in str(caught.value)


def test_a_sample_with_nothing_left_is_left_out(picture: Path) -> None:
    build = records(entry(picture, Given(NOTHING), id="bad"), entry(picture, Given(half()), id="good"))
    samples, faults = judged(build)
    assert [sample.id for sample in samples] == ["good"]
    assert len(faults) == 1
    with pytest.raises(DataError, match=r"file\.json: record 0: the mask of 'thing 0' is empty"):
        build(bad="skip")[0]
    assert build(bad="skip")[1].id == "good"


@pytest.mark.parametrize("damage", ["missing", "cut short", "no image", "empty"])
def test_bad_images_are_named(damage: str, picture: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    content = {"cut short": picture.read_bytes()[:45], "no image": b"GIF? no", "empty": b""}
    if damage in content:
        bad.write_bytes(content[damage])
    samples, (fault,) = judged(records(entry(bad, Given(half()), id="bad"), entry(picture, Given(half()))))
    assert (fault.file, fault.record, fault.kind) == ("file.json", "bad", "image")
    assert "bad.png" in fault.message
    assert [sample.id for sample in samples] == ["one"]


def test_queries_that_only_decoding_knows(picture: Path) -> None:
    def broken() -> tuple[QueryRecord, ...]:
        raise ValueError("the label map is damaged")

    lazy = ImageRecord("lazy", picture, "file.json", lambda: (QueryRecord("thing", Given(half()), "record"),))
    samples, (fault,) = judged(records(lazy, ImageRecord("broken", picture, "file.json", broken)))
    assert [sample.id for sample in samples] == ["lazy"]
    assert str(fault) == "file.json: broken: the label map is damaged"


def test_faults_of_the_index(picture: Path) -> None:
    bad = [RecordFault("file.json", f"line {number}", "is not JSON") for number in range(5)]
    samples, faults = judged(records(*bad, entry(picture, Given(half()))))
    assert (len(samples), faults) == (1, bad)
    with pytest.raises(DataError, match=r"own has 5 bad records: .*line 2: is not JSON; and 2 more; mend them"):
        records(*bad, entry(picture, Given(half())))(bad="refuse")
    with pytest.raises(DataError, match=r"holds no usable image \(5 bad records: file\.json: line 0") as caught:
        records(*bad)(bad="skip")
    assert caught.value.faults == tuple(bad)
    with pytest.raises(DataError, match="holds no usable image; check the folder"):
        records()(bad="refuse")


def test_notes_refuse_nothing(picture: Path) -> None:
    note = Note("file.json", "image 3", "has no annotation")
    data = records(note, entry(picture, Given(half())))(bad="refuse")
    assert (data.notes, data.faults, list(data.check())) == ([note], [], [])
    assert str(note) == "file.json: image 3: has no annotation"


def test_an_id_is_given_once(picture: Path) -> None:
    samples, (fault,) = judged(records(entry(picture, Given(half())), entry(picture, Given(~half()))))
    assert (fault.record, fault.kind) == ("one", "duplicate id")
    np.testing.assert_array_equal(samples[0].targets[0].mask, half())


def test_absence_survives_a_union(picture: Path) -> None:
    assert Union([Nothing(), Nothing()]).draw(SIZE).absent
    assert not Union([Nothing(), Given(half())]).draw(SIZE).absent
    assert len(list(records(entry(picture, Union([Nothing()])))(bad="refuse"))) == 1


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A photograph of 6 x 8 pixels as stored, 8 x 6 as it is seen."""
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE[::-1], "teal").save(path, exif=exif)
    return path


def test_a_fault_in_json_keeps_its_fields() -> None:
    """Reports and journals of earlier versions hold them."""
    fields = {"file": "a.json", "record": "line 3", "says": "is not JSON", "kind": "annotation"}
    assert RecordFault.from_json(fields) == RecordFault("a.json", "line 3", "is not JSON")
    assert RecordFault.from_json(fields).to_json() == fields
    assert Note("a.json", "line 3", "has no mask").to_json() == {
        "file": "a.json",
        "record": "line 3",
        "says": "has no mask",
    }


def test_turned_photographs(turned: Path, picture: Path) -> None:
    upright = SIZE[::-1]
    (sample,) = records(entry(turned, Given(half(upright)), size=upright))(bad="refuse")
    assert sample.image.shape[:2] == upright
    _, (fault,) = judged(
        records(entry(turned, Given(half()), id="stored", size=SIZE), entry(picture, Given(half()), size=SIZE))
    )
    assert (fault.record, fault.kind) == ("stored", "image size")
    assert "turned upright by its EXIF orientation" in fault.message
    _, (fault,) = judged(records(entry(picture, Given(half()), id="x", size=upright), entry(picture, Given(half()))))
    assert "EXIF" not in fault.message
    assert "gives 8 x 6 (height x width)" in fault.message


def test_orientation_and_stored_values(turned: Path, picture: Path, tmp_path: Path) -> None:
    assert (orientation(turned), orientation(picture)) == (6, 1)
    assert load_stored(turned).size == SIZE
    Image.fromarray(np.array([[0, 513]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(load_stored(tmp_path / "deep.png")).tolist() == [[0, 513]]
    for read in (orientation, load_stored):
        with pytest.raises(ImageError, match="does not exist"):
            read(tmp_path / "none.png")


def test_few_bad_records_are_left_out_and_many_are_refused(picture: Path) -> None:
    """Of a hundred index records five may be bad; what decoding finds is judged when it is more than a handful."""
    good = [entry(picture, Given(half()), id=f"good {n}") for n in range(95)]
    faults = [RecordFault("f.json", f"record {n}", "is bad") for n in range(6)]
    data = records(*good, *faults[:5])(bad="few")
    assert len(data) == 95
    assert data.faults == faults[:5]
    with pytest.raises(
        DataError, match=r"has 6 bad records among 101 \(6%\), too many .* leave them all out with bad=skip"
    ):
        records(*good, *faults)(bad="few")
    half_bad = [entry(picture, Given(NOTHING), id=f"bad {n}") for n in range(95)]
    data = records(*good, *half_bad)(bad="few")
    with pytest.raises(DataError, match=r"has 21 bad records among 116 \(18%\), too many"):
        list(data)
    assert len(records(*good, *half_bad[:3])(bad="few").faults) == 0
    assert len(list(records(*good, *half_bad[:3])(bad="few"))) == 95
