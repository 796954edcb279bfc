"""Published checkpoints that are damaged, incomplete or something else: each is refused in one line that names the
fault, and nothing is kept. On a hub on loopback, through the hub's own client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from convert.test_convert_internvl import their_config, write_tokenizer
from convert.test_convert_mllmseg import TINY
from convert.test_convert_self1e import checkpoint as self1e_checkpoint
from convert.test_convert_self1e import save as save_self1e
from convert.test_published import ONE, model, publish
from hub_server import Hub, serving
from seglens.checkpoints.config import read_config
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.kept import CACHE
from seglens.convert.mllmseg import convert_mllmseg
from seglens.convert.published import PUBLISHED, Published, head_folder
from seglens.convert.self1e import convert_self1e

Change = Callable[[Path], None]
FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
INDEX = "model.safetensors.index.json"
NORM, LAYER = "language_model.model.norm.weight", "language_model.model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and a checkpoint by their names on the hub."""
    root = tmp_path_factory.mktemp("published")
    own = model(tmp_path_factory.mktemp("qwen") / "form", qwen=True)
    base = root / "OpenGVLab/InternVL2_5-1B"
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(their_config(own)))
    write_tokenizer(base, qwen=True)
    publish(root / ONE, own)
    return root


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    shutil.copytree(published, tmp_path / "root")
    one = Published(partial(convert_mllmseg, settings=TINY), {64: "OpenGVLab/InternVL2_5-1B"})
    monkeypatch.setitem(PUBLISHED, ONE, one)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    with serving(tmp_path / "root") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def head(hub: Hub, tmp_path: Path) -> Callable[..., Path]:
    return partial(head_folder, cache_dir=str(tmp_path / "hf"))


def kept(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache").glob("heads/*/*")]


def tensors(**changes: Tensor | None) -> Change:
    """Other tensors in the first file: none for a name that is left out."""

    def change(folder: Path) -> None:
        held: dict[str, Any] = load_file(folder / FIRST) | changes
        save_file({name: tensor for name, tensor in held.items() if tensor is not None}, folder / FIRST)

    return change


def edited(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def cut_short(folder: Path) -> None:
    data = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(data[: len(data) // 2])


def garbled_header(folder: Path) -> None:
    data = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(data[:8] + b"x" + data[9:])


def garbled_values(folder: Path) -> None:
    data = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(data[:-4096] + b"\xff" * 4096)


def index(*names: str) -> Change:
    content = {"weight_map": {f"tensor {n}": name for n, name in enumerate(names)}}
    return text(INDEX, json.dumps(content))


def twice(folder: Path) -> None:
    shutil.copy(folder / FIRST, folder / "model-00003-of-00002.safetensors")


FAULTS: dict[str, tuple[Change, str]] = {
    "cut short": (cut_short, rf"{FIRST} is damaged or cut short .*; copy it again"),
    "another header": (garbled_header, rf"{FIRST} is damaged or cut short .*; copy it again"),
    "values that are none": (garbled_values, rf"{FIRST} is damaged or cut short \(.* holds values that are no numbers"),
    "a tensor less": (tensors(**{NORM: None}), rf"does not fit: missing {NORM}; copy all of its files"),
    "a tensor more": (tensors(strange=torch.ones(2)), "does not fit: extra strange; copy all of its files"),
    "another shape": (tensors(**{NORM: torch.ones(3)}), rf"{NORM} makes {NORM} \(3,\), needs \(64,\)"),
    "whole numbers": (tensors(**{NORM: torch.ones(64).long()}), rf"holds {NORM} as I64, and only F64, .* are read"),
    "packed": (tensors(**{NORM: torch.ones(64).to(torch.float8_e4m3fn)}), rf"holds {NORM} as F8_E4M3, and only F64"),
    "a file twice": (twice, "in more than one file; remove the files of another model"),
    "an index of more files": (index(FIRST, "model-9.safetensors"), f"{INDEX} names model-9.safetensors, which .* not"),
    "an index to the outside": (index(f"../{FIRST}"), rf"{INDEX} names '../{FIRST}', which is not a file beside it"),
    "an index of the system": (index("/etc/passwd"), rf"{INDEX} names '/etc/passwd', which is not a file beside it"),
    "an index that is none": (text(INDEX, "{"), rf"{INDEX} is not JSON in UTF-8 .*; copy it again"),
    "an index without names": (text(INDEX, '{"weight_map": [1]}'), r"weight_map=\[1\], and an object is needed"),
    "a config that is a list": (text("config.json", "[]"), "config.json holds list, and an object is needed"),
    "an empty config": (text("config.json", ""), "config.json is not JSON in UTF-8"),
    "a config without entries": (text("config.json", "{}"), "has a language model of width None, and those known have"),
    "a text model": (text("config.json", '{"model_type": "gpt2", "n_embd": 64}'), "a language model of width None"),
    "parts that are lists": (edited(llm_config=[1]), r"llm_config=\[1\], and an object is needed"),
    "a width in words": (edited(llm_config={"hidden_size": [64]}), r"a language model of width \[64\]"),
    "no vision tower": (edited(vision_config=None), "has vision_config.num_attention_heads=None, and the base model"),
    "tokens that are none": (text("added_tokens.json", '{"[SEG]": []}'), r"describe no model \(TypeError"),
    "tokens of another": (text("added_tokens.json", '{"[SEG]": 3}'), r"numbers \[SEG\] 3, and with this base model"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_checkpoint_is_refused_in_a_line(
    hub: Hub, head: Callable[..., Path], tmp_path: Path, fault: str
) -> None:
    change, reason = FAULTS[fault]
    change(hub.root / ONE)
    with pytest.raises(CheckpointError, match=reason) as caught:
        head(ONE)
    assert "\n" not in str(caught.value)
    assert kept(tmp_path) == []


@pytest.mark.slow
def test_a_download_that_breaks_goes_on_with_the_missing_file(
    hub: Hub, head: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut.add(FIRST)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the client, before it tries again
    with pytest.raises(CheckpointError, match=rf"{ONE} is no folder here, and could not be fetched from the hub"):
        head(ONE)
    assert kept(tmp_path) == []
    hub.cut.clear()
    hub.calls.clear()
    assert read_config(head(ONE)).method == "mllmseg"
    assert [call for call in hub.calls if call.endswith(FIRST)]
    assert not [call for call in hub.calls if call.endswith(SECOND)]


@pytest.mark.slow
def test_other_bytes_than_those_of_the_hub_are_refused(hub: Hub, head: Callable[..., Path], tmp_path: Path) -> None:
    hub.garbled.add(SECOND)
    with pytest.raises(
        CheckpointError, match=r"is not what the hub holds .*; delete it, and it is downloaded"
    ) as caught:
        head(ONE)
    assert kept(tmp_path) == []
    hub.garbled.clear()
    Path(str(caught.value).partition(" is not what")[0]).unlink()
    assert read_config(head(ONE)).method == "mllmseg"


def test_gated_and_unknown_names_are_explained(hub: Hub, head: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"nosuch/model is no folder here, .* the hub has no model of that name"):
        head("nosuch/model")
    with pytest.raises(CheckpointError, match="the hub has no revision 'nosuch' of it"):
        head(ONE, "nosuch")
    hub.gated.add(ONE)
    with pytest.raises(
        CheckpointError, match=rf"its terms must be accepted first; do so on {hub.address}/{ONE}, .*hf auth login"
    ):
        head(ONE)


def test_a_folder_outside_the_repository_is_no_checkpoint(head: Callable[..., Path]) -> None:
    for inside in ("..", "../other", "/etc", "a/../b", "."):
        with pytest.raises(CheckpointError, match="need a hub id and the folder of a checkpoint in it"):
            head(f"{ONE}/{inside}")


def test_another_model_is_named_as_what_it_is(hub: Hub, head: Callable[..., Path]) -> None:
    folder = hub.root / "org/text"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match=r"is the config of a 'gpt2' model, and a head is needed; .*--backbone"):
        read_config(head("org/text"))


@pytest.mark.slow
def test_self1e_in_the_folders_that_its_code_saves(
    hub: Hub, head: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`EXPERIMENT/ckpt_model` with files and an index as `Trainer.save_model` writes them, no tokenizer; beside it a
    state of the training, of which nothing is fetched."""
    name, base = "UltraDoughnut/SELF1E", model(hub.root / "OpenGVLab/InternVL3-2B-hf", qwen=True)
    monkeypatch.setitem(PUBLISHED, name, Published(convert_self1e, {64: "OpenGVLab/InternVL3-2B-hf"}))
    saved, experiment = self1e_checkpoint(base), hub.root / name / "ivl3-2b"
    experiment.mkdir(parents=True)
    folder = save_self1e(experiment / "ckpt_model", base, {})
    names = sorted(saved)
    where = {name: (FIRST, SECOND)[n % 2] for n, name in enumerate(names)}
    for file in (FIRST, SECOND):
        save_file({name: saved[name].contiguous() for name in names if where[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"llm_config": config["llm_config"] | {"hidden_size": 64}}))
    shutil.copytree(folder, experiment / "checkpoint-100")
    with pytest.raises(CheckpointError, match=f"name one of its checkpoints: .*{name}/ivl3-2b/ckpt_model"):
        head(name)
    assert read_config(head(f"{name}/ivl3-2b/ckpt_model")).method == "self1e"
    assert not [call for call in hub.calls if "checkpoint-100" in call and call.endswith(".safetensors")]
