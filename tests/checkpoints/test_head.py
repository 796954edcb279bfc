"""A head folder rebuilds itself, or refuses in one line that names what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file, save_file

from seglens.backbones import Backbone
from seglens.checkpoints import config as checkpoint
from seglens.checkpoints.config import HeadConfig, read_config
from seglens.checkpoints.head import load_state, save_head
from seglens.checkpoints.hub import resolve_folder
from seglens.checkpoints.origin import CheckpointError, Origin
from seglens.core.geometry import Canvas
from seglens.data.head_prompt import HeadPrompt
from seglens.decoders import MaskDecoder
from seglens.inference.segmenter import Segmenter
from seglens.methods import Lens, LensConfig, build_lens
from seglens.model_files.int8_weights import pack, unpack

SETTINGS = {"descriptor_width": 16, "encoder_width": 16}


def fresh(backbone: Backbone, decoder: MaskDecoder) -> Lens:
    return build_lens(replace(LensConfig(), **SETTINGS), backbone, decoder)


@pytest.fixture(scope="module")
def head(backbone: Backbone, decoder: MaskDecoder) -> Lens:
    torch.manual_seed(3)
    return fresh(backbone, decoder)


@pytest.fixture(scope="module")
def config(llava: Path, sam: Path, backbone: Backbone) -> HeadConfig:
    return HeadConfig(
        "lens", SETTINGS, Origin.of(str(llava)), backbone.layer, Origin.of(str(sam)), trained={"steps": 0}
    )


@pytest.fixture
def folder(head: Lens, config: HeadConfig, tmp_path: Path) -> Path:
    save_head(tmp_path / "head", config, head.state_dict())
    return tmp_path / "head"


def refusal(folder: Path) -> str:
    """The one line with which the folder is refused."""
    with pytest.raises(CheckpointError) as caught:
        Segmenter.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip(
    head: Lens, config: HeadConfig, backbone: Backbone, decoder: MaskDecoder, tmp_path: Path, dtype: torch.dtype
) -> None:
    save_head(tmp_path, config, head.state_dict(), dtype)
    assert read_config(tmp_path) == config
    again = fresh(backbone, decoder)
    load_state(tmp_path, again)
    for (name, saved), loaded in zip(head.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(saved.to(dtype).float(), loaded), name
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.float32}


def test_a_packed_head(
    head: Lens, config: HeadConfig, backbone: Backbone, decoder: MaskDecoder, tmp_path: Path
) -> None:
    """Half as large as in fp16; strict and sealed as any other."""
    file, again = tmp_path / "head.safetensors", fresh(backbone, decoder)
    save_head(tmp_path, config, head.state_dict(), torch.float16)
    half = file.stat().st_size
    save_head(tmp_path, config, head.state_dict(), torch.int8)
    assert file.stat().st_size < 0.65 * half  # small matrices, names and scales are a part of so small a head
    load_state(tmp_path, again)
    expected = unpack(pack(head.state_dict()))
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "head.safetensors was changed or damaged" in refusal(tmp_path)
    state = load_file(file)
    name = next(name for name in state if name.endswith(".scale"))
    save_file({k: v for k, v in state.items() if k != name}, file)
    assert f"{name.removesuffix('.scale')} is packed, and {name} does not hold" in refusal(tmp_path)
    save_file({k: v for k, v in state.items() if not k.startswith(name.removesuffix(".scale"))}, file)
    assert f"missing {name.removesuffix('.scale')}" in refusal(tmp_path)


def reseal(folder: Path) -> None:
    """As if the folder had been saved as it is now."""
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    weights = hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    path.write_text(json.dumps(entries | {"seal": checkpoint.seal(entries, weights)}))


def test_every_flipped_bit_of_the_weights_is_found(folder: Path, backbone: Backbone, decoder: MaskDecoder) -> None:
    """Also one that still makes a file of the format, and only other masks."""
    path, again = folder / "head.safetensors", fresh(backbone, decoder)
    whole = path.read_bytes()
    for at in (len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"head\.safetensors was changed or damaged .*; copy or save it again"
        ):
            load_state(folder, again)
    assert "head.safetensors was changed or damaged" in refusal(folder)
    path.write_bytes(whole)
    load_state(folder, again)


@pytest.mark.parametrize(
    "change",
    [
        {"layer": 1},
        {"image_size": 64},
        {"canvas": {"lay": "squash"}},
        {"settings": SETTINGS | {"threshold": 0.9}},
        {"seal": {"weights": "0" * 64}},
    ],
)
def test_what_the_weights_were_trained_for_cannot_be_edited(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    assert entries["layer"] != 1
    seal = entries["seal"] | change.pop("seal", {})
    path.write_text(json.dumps(entries | change | {"seal": seal}))
    assert "config.json was changed after it was saved" in refusal(folder)


def test_presence_that_was_not_trained(head: Lens, config: HeadConfig, folder: Path, tmp_path: Path) -> None:
    """It is told by the head, is sealed with it, and an older head without it loads as before."""
    assert read_config(folder).presence == "trained"
    save_head(tmp_path / "untrained", replace(config, presence="untrained"), head.state_dict())
    assert read_config(tmp_path / "untrained").presence == "untrained"
    path = tmp_path / "untrained" / "config.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps(entries | {"presence": "trained"}))
    assert "config.json was changed after it was saved" in refusal(tmp_path / "untrained")
    path.write_text(json.dumps(entries | {"presence": "some"}))
    assert 'has presence="some", needs trained or untrained' in refusal(tmp_path / "untrained")
    del entries["presence"], entries["canvas"], entries["prompt"]
    values = [entries["seal"]["weights"], *(entries[key] for key in checkpoint.SETTLED)]  # as heads were sealed before
    entries["seal"]["config"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(entries))
    assert read_config(tmp_path / "untrained").presence == "trained"
    assert read_config(tmp_path / "untrained").prompt is None


def test_how_a_head_is_asked_is_kept(head: Lens, config: HeadConfig, tmp_path: Path) -> None:
    """It is sealed with the head, and what asks nothing is refused."""
    prompt = HeadPrompt("What is {query} in this image?", " {query}", lower=True, system="A chat.")
    save_head(tmp_path, replace(config, prompt=prompt), head.state_dict())
    assert read_config(tmp_path).prompt == prompt
    path = tmp_path / "config.json"
    entries = json.loads(path.read_text())
    for change, text in {
        "short": ({"short": "the {query}"}, "config.json was changed after it was saved"),
        "no place": ({"short": "the cup"}, "has a prompt that asks nothing (got short='the cup'; it needs one {query}"),
        "type": ({"lower": "yes"}, "needs short, long, lower, undotted, system"),
        "unknown": ({"kind": "x"}, "needs short, long, lower, undotted, system"),
    }.values():
        path.write_text(json.dumps(entries | {"prompt": entries["prompt"] | change}))
        assert text in refusal(tmp_path)


def test_the_presence_threshold_can_be_edited(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"presence_threshold": 0.25}))
    assert Segmenter.from_pretrained(folder).presence_threshold == 0.25


def test_a_head_without_a_seal_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    del entries["seal"]
    path.write_text(json.dumps(entries))
    assert "has seal=null" in refusal(folder)


def _missing(state: dict) -> str:
    del state["cls"]
    return "missing cls"


def _extra(state: dict) -> str:
    state["surprise"] = torch.zeros(2)
    return "extra surprise"


def _misshapen(state: dict) -> str:
    state["cls"] = torch.zeros(7)
    return "cls has shape (7,), needs (32,)"


def _everything(state: dict) -> str:
    state.clear()
    state["x"] = torch.zeros(1)
    return "more"


@pytest.mark.parametrize("spoil", [_missing, _extra, _misshapen, _everything])
def test_tensors_that_do_not_fit_are_named(folder: Path, spoil: Callable[[dict], str]) -> None:
    state = load_file(folder / "head.safetensors")
    expected = spoil(state)
    save_file(state, folder / "head.safetensors")
    assert expected in refusal(folder)


@pytest.mark.parametrize("length", [0, 4, 8, 1000, 0.5, -1])
def test_weights_cut_short(folder: Path, length: float) -> None:
    path = folder / "head.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length * len(whole)) if isinstance(length, float) else length])
    assert "head.safetensors is damaged or cut short" in refusal(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "head.safetensors"), folder / "head.bin")
    (folder / "head.safetensors").unlink()
    text = refusal(folder)
    assert "head.bin" in text
    assert "pickled weights are refused" in text


def test_no_weights_no_config_no_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "head.safetensors").unlink()
    assert "it is missing" in refusal(folder)
    (folder / "config.json").unlink()
    assert "holds no config.json" in refusal(folder)
    assert "hub id" in refusal(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="need 'embedded'"):
        resolve_folder("nosuch")


@pytest.mark.parametrize(
    ("bytes_", "expected"),
    [
        (b'{"format": "segl', "not JSON"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a seglens-head config"),
        (b"17", "not a seglens-head config"),
        (b"{}", "not a seglens-head config"),
    ],
)
def test_a_config_that_is_none(folder: Path, bytes_: bytes, expected: str) -> None:
    (folder / "config.json").write_bytes(bytes_)
    assert expected in refusal(folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, "of version 1"),
        ({"format": "other"}, "not a seglens-head config"),
        ({"colour": "red"}, "unknown entries: colour"),
        ({"layer": "two"}, 'has layer="two"'),
        ({"layer": True}, "has layer=true"),
        ({"settings": []}, "has settings=[]"),
        ({"settings": {"keypoint": 3}}, "no setting keypoint"),
        ({"method": "lense"}, "no method 'lense'"),
        ({"method": None}, "has method=null"),
        ({"backbone": "x"}, 'has backbone="x"'),
        ({"decoder": {"name": 3}}, "needs a name"),
        ({"backbone": {"name": "../nowhere"}}, "the frozen part '../nowhere' is needed"),
        ({"backbone": {"name": "/no/where"}}, "there is no folder /no/where"),
        ({"presence_threshold": 7}, "from 0 to 1"),
        ({"seal": {}}, "needs the checksums"),
        ({"seal": {"weights": 3, "config": ""}}, "needs the checksums"),
    ],
)
def test_a_config_with_a_wrong_entry(folder: Path, change: dict[str, Any], expected: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if "seal" not in change:
        reseal(folder)
    assert expected in refusal(folder)


def test_the_canvas_is_kept_and_rebuilt(head: Lens, config: HeadConfig, tmp_path: Path) -> None:
    """Beside the weights that were trained on it, and no more a person's to edit than they are."""
    squashed = replace(config, canvas=Canvas(lay="squash", resample="processor"))
    save_head(tmp_path, squashed, head.state_dict())
    assert read_config(tmp_path) == squashed
    segmenter = Segmenter.from_pretrained(tmp_path)
    assert segmenter.backbone.canvas == segmenter.config.canvas == squashed.canvas
    segmenter.save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again").canvas == squashed.canvas
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"squash"', '"letterbox"'))
    assert "was changed after it was saved" in refusal(tmp_path)


def test_a_head_from_before_there_was_a_choice_of_canvas(folder: Path) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    del raw["canvas"]
    path.write_text(json.dumps(raw))
    reseal(folder)
    assert read_config(folder).canvas == Canvas()


@pytest.mark.parametrize("canvas", [{"lay": "crop"}, {"lie": "squash"}, [], 3])
def test_a_canvas_that_there_is_not(folder: Path, canvas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"canvas": canvas}))
    reseal(folder)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert "has canvas=" in refusal(folder)


def test_a_layer_that_the_backbone_does_not_have(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer": 99}))
    reseal(folder)
    with pytest.raises(ValueError, match="layer 99 cannot be read"):
        Segmenter.from_pretrained(folder)


def test_a_config_without_an_entry(folder: Path) -> None:
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    del entries["backbone"]
    path.write_text(json.dumps(entries))
    assert "has backbone=null" in refusal(folder)


@pytest.mark.parametrize("survives", [0, 1])
def test_nothing_is_half_written(
    head: Lens, config: HeadConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    """The disk fails at the first file, or at the second: what is there is whole, and no checkpoint yet."""
    replaced, real = [], os.replace

    def failing(source: Path, target: Path) -> None:
        if len(replaced) == survives:
            raise OSError(28, "No space left on device", str(target))
        replaced.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        save_head(tmp_path, config, head.state_dict())
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"][:survives]
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        read_config(tmp_path)
    save_head(tmp_path, config, head.state_dict())
    assert read_config(tmp_path) == config


def test_relative_parts_travel_with_the_folder(
    head: Lens, config: HeadConfig, llava: Path, sam: Path, tmp_path: Path
) -> None:
    shutil.copytree(llava, tmp_path / "a" / "mllm")
    shutil.copytree(sam, tmp_path / "a" / "sam")
    save_head(
        tmp_path / "a" / "head",
        replace(config, backbone=Origin("../mllm"), decoder=Origin("../sam")),
        head.state_dict(),
    )
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Segmenter.from_pretrained(tmp_path / "b" / "head")
    moved.save_pretrained(tmp_path / "elsewhere")
    assert read_config(tmp_path / "elsewhere").backbone.name == str((tmp_path / "b" / "mllm").resolve())
    Segmenter.from_pretrained(tmp_path / "elsewhere")


def test_the_package_s_own_parts_have_names_of_their_own(segmenter: Segmenter, tmp_path: Path) -> None:
    """A head on the embedded MLLM loads on another machine, where the package lies elsewhere."""
    segmenter.save_pretrained(tmp_path / "head")
    config = read_config(tmp_path / "head")
    assert (config.backbone.name, config.decoder.name) == ("embedded/mllm", "embedded/sam")
    again = Segmenter.from_pretrained(tmp_path / "head")
    assert again.backbone.name == segmenter.backbone.name
    assert Origin.of("embedded/sam").resolve() == segmenter.decoder.name
