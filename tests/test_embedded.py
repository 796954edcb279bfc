"""What the package carries: a head of each method that draws, and an MLLM that talks as if none were there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from seglens import Segmenter
from seglens.checkpoints.origin import EMBEDDED_HEADS, EMBEDDED_PARTS, embedded_folder
from seglens.data.world import WorldData
from seglens.evaluation.evaluate import run
from seglens.evaluation.summary import summarise
from seglens.model_files.checksums import SUMS, SumsError, check_sums, read_sums

# gIoU on these scenes must exceed this; measured: .812, .700, .575, .727
LEAST = {"embedded": 0.77, "embedded/mllmseg": 0.65, "embedded/self1e": 0.52, "embedded/lisa": 0.68}
SCENES = WorldData(n=12, seed=4)
WEIGHTS = embedded_folder("embedded").parent


@pytest.mark.parametrize("name", EMBEDDED_HEADS)
def test_a_head_of_the_package_draws(name: str) -> None:
    report = summarise(run(Segmenter.from_pretrained(name), SCENES))
    print(name, report["with_target"]["gIoU"])
    assert report["with_target"]["gIoU"] > LEAST[name]


@pytest.mark.parametrize("name", [name for name in EMBEDDED_HEADS if name != "embedded"])
def test_a_tuned_head_leaves_the_chat_alone(name: str) -> None:
    """What it would say through its adapter is something else: the adapter is real, and it is put down."""
    segmenter, scene = Segmenter.from_pretrained(name), SCENES[0]
    bare = Segmenter.from_pretrained("embedded/lisa").backbone
    questions = ["what colour is the largest thing?", "how many things are there?", "is there a cat?"]
    before = [bare.generate(scene.image, question) for question in questions]
    segmenter.segment(scene.image, "the largest thing")
    assert [segmenter.ask(scene.image, question) for question in questions] == before
    assert [segmenter.reader.generate(scene.image, question) for question in questions] != before


def test_all_of_it_is_under_25_megabytes() -> None:
    folders = [embedded_folder(name) for name in (*EMBEDDED_HEADS, *EMBEDDED_PARTS)]
    weights = folders[0].parent
    assert {folder.name for folder in folders} == {folder.name for folder in Path(weights).iterdir()}
    assert sum(file.stat().st_size for file in weights.rglob("*") if file.is_file()) < 25e6


def test_a_changed_byte_of_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any file: a word of the vocabulary or a size in a config gives other masks without any other sign."""
    import seglens.checkpoints.origin

    monkeypatch.setattr(seglens.checkpoints.origin, "weights_folder", lambda: tmp_path)
    for name in ("lens", "mllm", "sam"):
        shutil.copytree(WEIGHTS / name, tmp_path / name)
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        data = file.read_bytes()
        file.write_bytes(bytes([*data[:40], data[40] ^ 4]) + data[41:])
        check_sums.cache_clear()
        named = file if file.name != SUMS else file.parent
        with pytest.raises(SumsError, match=f"{named}.*install seglens again"):
            Segmenter.from_pretrained()
        file.write_bytes(data)
    check_sums.cache_clear()


def test_every_file_of_the_package_has_its_checksum() -> None:
    """After a model was made again: python -m seglens.model_files.checksums"""
    folders = sorted(path for path in WEIGHTS.iterdir() if path.is_dir())
    assert folders
    for folder in folders:
        sums = read_sums(folder)
        assert sorted(sums) == sorted(path.name for path in folder.iterdir() if path.name != SUMS)
        for name, expected in sums.items():
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            assert digest == expected, f"{folder / name} was made again: python -m seglens.model_files.checksums"
