"""Nothing is overwritten, and the same command goes on where an earlier run stopped, however that ended."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from exports.predictions import blobs, prediction_of, two_cups
from forked import Started
from seglens.data.maskfile import load_mask
from seglens.exports import FORMATS, AnnotatedImage, Command, Export, Title, write_results
from seglens.exports.ledger import HIDDEN

CUPS = Command(["each of the cups", "blob"], {"model": "one"}, "/pictures")
ALL = list(FORMATS)


def page(name: str, seed: int = 0, stamp: str = "as it was") -> AnnotatedImage:
    return AnnotatedImage(
        name, [two_cups(), prediction_of("blob", blobs(seed, (40, 60)))], f"{name}.png", f"/pictures/{name}.png", stamp
    )


def files(folder: Path) -> dict[str, bytes]:
    """Everything in the folder but the ledger."""
    paths = (path for path in folder.rglob("*") if path.is_file() and HIDDEN not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def run(folder: Path, names: str, command: Command = CUPS, formats: list[str] = ALL, overwrite: bool = False) -> str:
    """The names of the pages that were not known."""
    computed = ""
    with Export(folder, formats, command, overwrite=overwrite) as export:
        for seed, name in enumerate(names):
            one = page(name, seed)
            if export.known(one.key, one.stamp) is None:
                export.add(one)
                computed += name
    return computed


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    """Only missing pages are computed; the result is that of one run."""
    assert run(tmp_path / "parts", "ab") == "ab"
    assert run(tmp_path / "parts", "abcd") == "cd"
    assert run(tmp_path / "parts", "abcd") == ""
    run(tmp_path / "whole", "abcd")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    names = [one["file_name"] for one in json.loads((tmp_path / "parts" / "coco.json").read_text())["images"]]
    assert names == ["a.png", "b.png", "c.png", "d.png"]


def test_a_known_page_has_its_answers(tmp_path: Path) -> None:
    with Export(tmp_path, ["mask", "coco"], CUPS) as export:
        written = export.add(page("a"))
    done = Export(tmp_path, ["mask", "coco"], CUPS).known(page("a").key, page("a").stamp)
    assert done is not None
    assert done.files == written
    assert done.answers == [one.answer() for one in page("a").predictions]


def test_changes_that_make_a_page_unknown(tmp_path: Path) -> None:
    """Other queries, settings or formats, another state of the picture, a file that is gone, a page that lacks one."""
    run(tmp_path, "a", formats=["mask"])
    one = page("a")

    def known(command: Command = CUPS, formats: tuple[str, ...] = ("mask",), stamp: str = one.stamp) -> bool:
        return Export(tmp_path, formats, command).known(one.key, stamp) is not None

    assert known()
    assert not known(Command(["blob"], CUPS.settings, CUPS.root))
    assert not known(Command(CUPS.queries, {"model": "two"}, CUPS.root))
    assert not known(formats=("mask", "overlay"))
    assert not known(stamp="now")
    assert Export(tmp_path, ["mask"], CUPS, overwrite=True).known(one.key, one.stamp) is None
    (tmp_path / "a_blob_mask.png").unlink()
    assert not known()
    assert run(tmp_path, "a", formats=["mask"]) == "a"
    with Export(tmp_path, ["mask"], CUPS) as export:
        export.add(AnnotatedImage("b", [two_cups()], None, "/pictures/b.png"), complete=False)
    assert Export(tmp_path, ["mask"], CUPS).known("/pictures/b.png", "") is None


@pytest.mark.parametrize("form", ["coco", "coco-polygons", "yolo", "labelstudio"])
def test_files_of_another_run_are_refused_at_once(form: str, tmp_path: Path) -> None:
    run(tmp_path, "a", formats=[form])
    before = files(tmp_path)
    others = {
        "queries: 'each of the cups', 'blob' there, 'dog' here": Command(["dog"], CUPS.settings, CUPS.root),
        "model: one there, two here": Command(CUPS.queries, {"model": "two"}, CUPS.root),
        "folder of the pictures: /pictures there, /more here": Command(CUPS.queries, CUPS.settings, "/more"),
    }
    for difference, command in others.items():
        with pytest.raises(FileExistsError, match=f"from another command .{difference}.; choose another place"):
            Export(tmp_path, [form], command)
    with pytest.raises(FileExistsError, match="is there already, and not from this command"):
        write_results([page("b")], tmp_path, [form])
    assert files(tmp_path) == before
    with Export(tmp_path, [form], Command(["dog"], {}), overwrite=True) as export:
        export.add(AnnotatedImage("c", [prediction_of("dog", blobs(1, (40, 60)))]))
    assert files(tmp_path) != before


def test_files_made_by_hand_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0 0 1 0 1 1")
    (tmp_path / "coco.json").write_text("{}")
    title = Title("a", tuple(CUPS.queries), "a.png")
    with pytest.raises(FileExistsError, match=r"coco.json' is there already, and not from this command"):
        Export(tmp_path, ["coco"], CUPS)
    with pytest.raises(FileExistsError, match=r"a.txt' is there already, and not from this command"):
        Export(tmp_path, ["yolo"], CUPS).plan([("/pictures/a.png", title)])
    with pytest.raises(FileExistsError, match=r"a.txt' is there already"), Export(tmp_path, ["yolo"], CUPS) as export:
        export.add(page("a"))
    assert files(tmp_path) == {"labels/a.txt": b"0 0 0 1 0 1 1", "coco.json": b"{}"}
    Export(tmp_path, ["yolo"], CUPS, overwrite=True).plan([("/pictures/a.png", title)])


def test_the_pictures_themselves_are_never_overwritten(tmp_path: Path) -> None:
    """Not even with `overwrite`, and not by another name of the same file."""
    picture = tmp_path / "out" / "images" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"a photograph")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "link"):
        export = Export(folder, ["yolo"], CUPS, sources=[picture], overwrite=True)
        with pytest.raises(
            FileExistsError, match=r"a.png' is a picture that is to be segmented; choose another folder"
        ):
            export.plan([("/pictures/a.png", Title("a", tuple(CUPS.queries)))])
        with pytest.raises(FileExistsError, match="is a picture that is to be segmented"):
            export.add(page("a"))
    assert files(tmp_path / "out") == {"images/a.png": b"a photograph"}


def test_a_file_that_was_changed_is_left_as_it_is(tmp_path: Path) -> None:
    """It is reported; and when the page must be written again because a file is gone, it is refused."""
    run(tmp_path, "ab", formats=["mask", "overlay"])
    mended = tmp_path / "a_blob_mask.png"
    mended.write_bytes(b"mended by hand")
    with Export(tmp_path, ["mask", "overlay"], CUPS) as export:
        assert export.known(page("a").key, page("a").stamp) is not None
    assert export.changed == [mended]
    (tmp_path / "a_blob_overlay.png").unlink()
    with pytest.raises(FileExistsError, match=r"a_blob_mask.png' was changed after this command wrote it"):
        run(tmp_path, "ab", formats=["mask", "overlay"])
    assert mended.read_bytes() == b"mended by hand"
    (tmp_path / "coco.json").write_text("{}")
    run(tmp_path / "coco", "a", formats=["coco"])
    (tmp_path / "coco" / "coco.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"coco.json' was changed after this command wrote it"):
        run(tmp_path / "coco", "a", formats=["coco"])


def test_another_state_of_the_picture_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "a", formats=["mask"])
    export = Export(tmp_path, ["mask"], CUPS)
    with pytest.raises(FileExistsError, match=r"is there already, made of /pictures/a.png as it was then"):
        export.add(page("a", 5, "another one"))


def test_one_query_of_several_again(tmp_path: Path) -> None:
    """Files about one query belong to every command with the same settings that asks it of the picture."""
    run(tmp_path, "a", formats=["mask"])
    with Export(tmp_path, ["mask"], Command(["blob"], CUPS.settings)) as export:
        (written,) = export.add(
            AnnotatedImage("a", [prediction_of("blob", blobs(7, (40, 60)))], None, *(page("a").key, page("a").stamp))
        )
    np.testing.assert_array_equal(load_mask(written["mask"]), blobs(7, (40, 60)))
    run(tmp_path, "a", formats=["png"])
    export = Export(tmp_path, ["png"], Command(["blob"], CUPS.settings))
    with pytest.raises(FileExistsError, match=r"a_indexed.png' is there already, from another command .queries"):
        export.add(
            AnnotatedImage("a", [prediction_of("blob", blobs(7, (40, 60)))], None, *(page("a").key, page("a").stamp))
        )


def test_names_belong_to_pictures(tmp_path: Path) -> None:
    """A name that another picture has is no reason to refuse, in this run or a later one."""
    for key in ("/one/x.png", "/two/x.png", "/one/x.png"):
        with Export(tmp_path, ["mask"], CUPS) as export:
            export.add(AnnotatedImage("x", [prediction_of("blob", blobs(len(key), (40, 60)))], None, key))
    masks = sorted(path.name for path in tmp_path.glob("*_mask.png"))
    assert masks == ["x_2_blob_mask.png", "x_blob_mask.png"]


def test_names_that_a_file_system_takes_for_one(tmp_path: Path) -> None:
    """Two forms of a letter, and a letter without a lower-case form."""
    write_results(
        [AnnotatedImage(name, [prediction_of("cup", np.eye(3, dtype=bool))]) for name in ("ſtop", "stop", "ﬁ", "fi")],
        tmp_path,
    )
    assert len(list(tmp_path.glob("*_mask.png"))) == 4
    assert len({path.name.casefold() for path in tmp_path.glob("*_mask.png")}) == 4


def test_instances_share_no_file_with_other_queries(tmp_path: Path) -> None:
    cups, first = two_cups(), prediction_of("each of the cups 1", blobs(1, (40, 60)))
    with Export(tmp_path, ["mask"]) as export:
        _, files = export.add(AnnotatedImage("a", [cups, first]))
    np.testing.assert_array_equal(load_mask(files["mask"]), first.mask)
    assert len(list(tmp_path.glob("*_mask.png"))) == 4


@pytest.mark.slow
def test_a_kill_between_the_ledger_and_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is written again over files that were already moved; nothing half-written stays."""
    run(tmp_path / "whole", "ab")
    moved, replace = [0], os.replace

    def killed(source: Path, target: Path) -> None:
        moved[0] += 1
        if moved[0] == stop:
            raise KeyboardInterrupt
        replace(source, target)

    for stop in range(1, 3 * len(files(tmp_path / "whole"))):
        moved[0] = 0
        folder = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", killed)
            try:
                run(folder, "ab")
            except KeyboardInterrupt:
                pass
            else:
                break
        run(folder, "ab")
        assert files(folder) == files(tmp_path / "whole")
    assert stop > len(files(tmp_path / "whole"))


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL again and again; in the end everything is as one run leaves it."""
    names, chance, kills = "abcdefghijklmnopqrst", random.Random(3), 0
    folder = tmp_path / "killed"
    run(tmp_path / "whole", names)
    for reached in range(0, 54, 3):  # of three files a page
        one = Started(run, folder, names)
        while one.running and len(list(folder.glob("*_mask.png"))) < reached:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        one.kill()
        kills += one.wait() == [-signal.SIGKILL]
    run(folder, names)
    assert kills >= 12
    assert files(folder) == files(tmp_path / "whole")
    assert not list((folder / HIDDEN / "aside").iterdir())


@pytest.mark.slow
def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    running = [Started(run, tmp_path, names) for names in ("abcdef", "ghijkl", "fmnopa")]
    assert [one.wait() for one in running] == [[0], [0], [0]]
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert sorted(one["file_name"] for one in images) == [f"{name}.png" for name in "abcdefghijklmnop"]
    assert [one["id"] for one in images] == list(range(1, 17))


def test_a_damaged_ledger_is_reported(tmp_path: Path) -> None:
    run(tmp_path, "a")
    journal = tmp_path / HIDDEN / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"stamp"', b'"st'))
    with pytest.raises(ValueError, match=r"journal.jsonl is damaged at byte .*; choose another folder, or delete"):
        Export(tmp_path, ["mask"], CUPS)


def test_without_a_command_there_is_no_ledger(tmp_path: Path) -> None:
    for _ in range(2):  # the same once more
        write_results([page("a")], tmp_path, ["mask", "geojson", "png"])
    assert not list(tmp_path.rglob(".*"))
    with pytest.raises(FileExistsError):
        write_results([page("a", 9)], tmp_path, ["geojson"])
