"""A backbone's signature: the same wherever it is computed, another for whatever changes a reading."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seglens.backbones import Backbone, load_backbone

ELSEWHERE = """
import json, sys
from seglens.backbones import load_backbone
print(json.dumps(load_backbone(sys.argv[1]).signature()))
"""


@pytest.mark.slow
def test_it_is_the_same_in_another_process_and_another_folder(llava: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(llava, tmp_path / "copy")
    ours = load_backbone(llava).signature()
    assert all(isinstance(value, str | int) for value in ours.values())
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(copy)], capture_output=True, text=True, check=True, env=environment
    )
    assert json.loads(other.stdout) == ours


def changed(backbone: Backbone, **how: object) -> set[str]:
    ours, other = backbone.signature(), load_backbone(backbone.name, **how).signature()
    assert ours.keys() == other.keys()
    return {key for key in ours if ours[key] != other[key]}


def test_options_that_change_a_reading_change_it(backbone: Backbone) -> None:
    assert changed(backbone) == set()
    assert changed(backbone, attn_implementation="sdpa", segmentation_only=True) == set()
    assert changed(backbone, layer=backbone.layer + 1) == {"layer"}
    assert changed(backbone, dtype=torch.bfloat16) == {"dtype"}


@pytest.mark.parametrize(
    ("file", "old", "new", "parts"),
    [
        ("chat_template.jinja", "USER: ", "Q: ", {"template"}),
        ("preprocessor_config.json", "0.48145466", "0.5", {"processor"}),
        ("tokenizer.json", '"yellow"', '"ochre"', {"processor"}),
    ],
)
def test_files_that_change_a_reading_change_it(
    llava: Path, tmp_path: Path, file: str, old: str, new: str, parts: set[str]
) -> None:
    copy = shutil.copytree(llava, tmp_path / "copy")
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    one, other = load_backbone(llava).signature(), load_backbone(copy).signature()
    assert {key for key in one if one[key] != other[key]} == parts
