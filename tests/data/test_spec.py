"""A dataset in one line: what is written is read back, whatever a path holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from own_data import write_coco, write_jsonl
from seglens.core.types import Sample, Target
from seglens.data import load_data
from seglens.data.lisa_tree import LISA_TREE, TREE
from seglens.data.spec import parse, typed_value, write

READ = {
    "world": ("world", {}),
    "world:n=500,seed=1": ("world", {"n": "500", "seed": "1"}),
    "coco: images = a b , annotations=C:\\x.json,": ("coco", {"images": "a b", "annotations": "C:\\x.json"}),
    'coco:images="a, b",annotations=x': ("coco", {"images": "a, b", "annotations": "x"}),
    'folder:images=\'it\'\'s, here\' ,texts="a ""big"" crack|b=c"': (
        "folder",
        {"images": "it's, here", "texts": 'a "big" crack|b=c'},
    ),
    "folder:images=,texts=a=b": ("folder", {"images": "", "texts": "a=b"}),
    'folder:texts=12" pipe': ("folder", {"texts": '12" pipe'}),
}


@pytest.mark.parametrize("text", READ)
def test_reading(text: str) -> None:
    assert parse(text) == READ[text]


@given(
    st.dictionaries(st.sampled_from(["images", "masks", "texts"]), st.text(st.characters(exclude_categories=["Cs"])))
)
def test_what_is_written_is_read_back(options: dict[str, str]) -> None:
    assert parse(write("folder", options)) == ("folder", options)


BAD = {
    "coco:images=a,b,annotations=x": "got 'b' in .* with a comma in quotes: images=\"a, b\"",
    'coco:images="a, b,annotations=x': "whose quotes do not end where it ends",
    'coco:images="a"b,annotations=x': "whose quotes do not end where it ends",
    "world:n=2,n=3": "got n twice",
}


@pytest.mark.parametrize("text", BAD)
def test_mistakes_show_how(text: str) -> None:
    with pytest.raises(ValueError, match=BAD[text]):
        load_data(text)


VALUES: list[tuple[Any, str, object]] = [
    (str, "a, b", "a, b"),
    (int, "12", 12),
    (float, "1e-4", 1e-4),
    (bool, "False", False),
    (Literal["no", "yes"], "yes", "yes"),
    (int | None, "none", None),
    (int | None, "3", 3),
    (str | None, "None", None),
    (tuple[float, float], "0.8+0.9", (0.8, 0.9)),
    (tuple[str, ...], "q_proj+v_proj", ("q_proj", "v_proj")),
    (tuple[Literal["a", "b"], ...], "b", ("b",)),
    (Path, "x/y", Path("x/y")),
    (Path | None, "none", Path("none")),  # a folder may have that name
]


@pytest.mark.parametrize(("kind", "text", "value"), VALUES)
def test_a_value_is_read_by_its_type(kind: Any, text: str, value: object) -> None:
    read = typed_value(kind, "key", text)
    assert (read, type(read)) == (value, type(value))


WRONG: list[tuple[Any, str, str]] = [
    (int, "many", "got key=many; it must be a whole number"),
    (int | None, "1.5", "got key=1.5; it must be a whole number"),
    (float, "", "got key=; it must be a number"),
    (tuple[float, ...], "1,2", "got key=1,2; it must be a number"),
    (bool, "maybe", "got key=maybe; choose from true, false"),
    (Literal["guarded", "paper"], "papers", "got key=papers; choose from guarded, paper; did you mean 'paper'?"),
    (Path, "", "key= is empty; write a path after it, or leave it out"),
]


@pytest.mark.parametrize(("kind", "text", "message"), WRONG)
def test_a_value_of_another_type_is_refused_with_the_name_of_its_option(kind: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        typed_value(kind, "key", text)


@pytest.fixture
def samples() -> list[Sample]:
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:12] = True
    return [Sample("0", np.zeros((20, 30, 3), np.uint8), (Target("cat", mask),))]


def test_a_comma_in_a_path(samples: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / 'photos, "old"'
    folder.mkdir()
    write_coco(folder, samples)
    text = write("coco", {"images": folder / "images", "annotations": folder / "instances.json"})
    for more in ("", ",limit=1", ",prompt=lens,bad=skip"):
        assert len(load_data(text + more)) == 1


def test_a_tilde_is_the_users_home_folder(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_jsonl(tmp_path, samples)
    assert len(load_data("jsonl:file=~/data.jsonl")) == len(load_data('jsonl:file="~/data.jsonl",images=~')) == 1
    with pytest.raises(ValueError, match="the home folder of an unknown user"):
        load_data("jsonl:file=~nobody-of-this-name/data.jsonl")


def test_a_comma_in_the_root_of_a_tree() -> None:
    for name in (*LISA_TREE, *TREE):
        place, root = TREE[name], Path("/data, old")
        kind, options = parse(place.spec(name, root, "skip"))
        assert options["bad"] == "skip"
        assert any(str(value).startswith(str(root)) for value in options.values()), (kind, options)
