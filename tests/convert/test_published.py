"""A published checkpoint is used by its hub id: fetched from a hub on loopback, converted once, and kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from convert import their_files
from convert.test_convert_internvl import their_config, write_tokenizer
from convert.test_convert_mllmseg import TINY, checkpoint, internlm
from hub_server import Hub, serving
from seglens.checkpoints.origin import CheckpointError
from seglens.convert import published
from seglens.convert.kept import RECORD
from seglens.convert.mllmseg import convert_mllmseg
from seglens.convert.plain import in_own_form
from seglens.convert.published import PUBLISHED, Checkpoint, head_folder
from seglens.inference.segmenter import Segmenter
from tiny import internvl, internvl_processor, save_processor

ONE, FOUR, TWO = (f"jcwang0602/MLLMSeg_InternVL2_5_{size}B_RES" for size in (1, 4, 2))
FOLDERS = "UltraDoughnut/SELF1E"

SEGMENT = """
import sys
from dataclasses import replace
from functools import partial
from seglens.cli import main
from seglens.convert.mllmseg import convert_mllmseg
from seglens.convert.published import PUBLISHED, Published
from seglens.methods.mllmseg import AUTHORS
tiny = replace(AUTHORS, width=32, heads=4, feed_forward=48, groups=2, subpixels=4)
for name, one in PUBLISHED.items():
    convert = partial(convert_mllmseg, settings=tiny) if one.convert is convert_mllmseg else one.convert
    PUBLISHED[name] = Published(convert, {64: next(iter(one.bases.values()))})
sys.argv = ["seglens", *sys.argv[1:]]
main()
"""


def model(folder: Path, qwen: bool) -> Path:
    """A tiny InternVL in transformers' own form."""
    torch.manual_seed(0)
    internvl_model = internvl() if qwen else internlm()
    for parameter in internvl_model.parameters():
        parameter.data.normal_(std=0.1)
    internvl_model.save_pretrained(folder)
    save_processor(internvl_processor(), folder)
    return folder


def publish(folder: Path, form: Path) -> None:
    """A checkpoint of MLLMSeg from that InternVL, as its authors' code saves one: its own names, in two files."""
    tensors, size = checkpoint(form)
    config = their_config(form)
    config["llm_config"]["vocab_size"] = size.words + 2
    their_files.save(folder, tensors, config, size)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Checkpoints and base models by their published names: one base as OpenGVLab publishes it, one in the -hf form;
    one checkpoint pickled, one repository with folders."""
    root = tmp_path_factory.mktemp("hub")
    own = model(tmp_path_factory.mktemp("qwen") / "form", qwen=True)
    plain = root / "OpenGVLab/InternVL2_5-1B"
    plain.mkdir(parents=True)
    (plain / "config.json").write_text(json.dumps(their_config(own)))
    write_tokenizer(plain, qwen=True)
    publish(root / ONE, own)
    hf = model(root / "OpenGVLab/InternVL2_5-2B-MPO-hf", qwen=False)
    publish(root / TWO, hf)
    shutil.copytree(plain, root / "OpenGVLab/InternVL2_5-4B")
    shutil.copytree(own, root / "OpenGVLab/InternVL3-2B-hf")
    shutil.copytree(root / ONE, root / FOUR)
    for path in (root / FOUR).glob("*.safetensors"):
        path.rename(root / FOUR / f"pytorch_{path.stem}.bin")
    (root / FOUR / "training_args.bin").write_bytes(b"pickle")
    shutil.copytree(root / ONE, root / FOLDERS / "first")
    shutil.copytree(root / ONE, root / FOLDERS / "second")
    with serving(root) as hub:
        yield hub


def command(hub: Hub, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"SEGLENS_CACHE": str(home / "seglens"), **variables}
    return subprocess.run([sys.executable, "-c", SEGMENT, *arguments], env=environment, capture_output=True, text=True)


def converted(home: Path, name: str) -> list[Path]:
    return sorted((home / "seglens/heads").glob(f"{name.replace('/', '--')}/*"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.effect_noise((80, 60), 60).convert("RGB").save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "base"), [(ONE, "InternVL2_5-1B"), (TWO, "InternVL2_5-2B-MPO-hf")])
def test_one_command_fetches_converts_and_segments(hub: Hub, photo: Path, tmp_path: Path, name: str, base: str) -> None:
    arguments = ("segment", str(photo), "the dog", "--model", name, "--trust", "--json")
    done = command(hub, tmp_path, *arguments, "--out", str(tmp_path / "first"))
    assert done.returncode == 0, done.stderr
    (folder,) = converted(tmp_path, name)
    assert folder.name.startswith(hub.commit(name))
    record = json.loads((folder / RECORD).read_text())
    assert (record["name"], record["base"], record["commit"]) == (name, f"OpenGVLab/{base}", hub.commit(name))
    assert {"head/config.json", "head/head.safetensors", "head/mllm/model.safetensors"} <= record["files"].keys()
    assert record["digests"].keys() == record["files"].keys()
    # the same as a conversion by hand
    with in_own_form(hub.root / "OpenGVLab" / base) as form:
        convert_mllmseg(hub.root / name, tmp_path / "by hand", form, settings=TINY)
    ours, theirs = (
        Segmenter.from_pretrained(head, device="cpu").segment(photo, "the dog", trust=True).mask_logits
        for head in (folder / "head", tmp_path / "by hand")
    )
    assert (ours == theirs).all()
    # what is kept needs no network, and nothing is fetched or converted once more
    before, calls = (folder / RECORD).stat().st_mtime_ns, len(hub.calls)
    again = command(hub, tmp_path, *arguments, "--out", str(tmp_path / "second"), HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert ((folder / RECORD).stat().st_mtime_ns, len(hub.calls)) == (before, calls)
    masks = [[line["segmentation"] for line in map(json.loads, run.stdout.splitlines())] for run in (done, again)]
    assert masks[0] == masks[1]
    # a changed file is noticed
    (folder / "head/mllm/config.json").write_text("{}")
    changed = command(hub, tmp_path, *arguments, "--out", str(tmp_path / "third"), HF_HUB_OFFLINE="1")
    assert changed.returncode != 0
    assert f"delete {folder}, and it is converted once more" in changed.stderr.replace("\n", " ")


@pytest.mark.slow
def test_pickled_weights_are_refused_before_they_are_fetched(hub: Hub, photo: Path, tmp_path: Path) -> None:
    done = command(hub, tmp_path, "segment", str(photo), "the dog", "--model", FOUR, "--out", str(tmp_path / "out"))
    assert done.returncode != 0
    text = " ".join(done.stderr.split())
    assert "holds only pytorch_model-00001-of-00002.bin, and pickled weights are not read here" in text
    assert f"hf download {FOUR} --local-dir FOLDER" in text
    assert "glob.glob('pytorch_model*.bin')" in text
    assert not [call for call in hub.calls if FOUR in call and call.endswith(".bin")]
    assert not converted(tmp_path, FOUR)


@pytest.mark.slow
def test_a_repository_of_several_checkpoints_names_them(hub: Hub, photo: Path, tmp_path: Path) -> None:
    arguments = ("segment", str(photo), "the dog", "--out", str(tmp_path / "out"), "--model")
    done = command(hub, tmp_path, *arguments, FOLDERS)
    assert done.returncode != 0
    assert f"name one of its checkpoints: {FOLDERS}/first, {FOLDERS}/second" in " ".join(done.stderr.split())
    inside = command(hub, tmp_path, *arguments, f"{FOLDERS}/first")  # an MLLMSeg lies there, which is no SELF1E
    assert inside.returncode != 0
    assert "does not fit" in " ".join(inside.stderr.split())
    assert not any(path.is_dir() for path in converted(tmp_path, f"{FOLDERS}/first"))


@pytest.mark.slow
def test_a_hub_that_does_not_answer(hub: Hub, photo: Path, tmp_path: Path) -> None:
    arguments = ("segment", str(photo), "the dog", "--out", str(tmp_path / "out"), "--model", ONE)
    done = command(hub, tmp_path, *arguments, HF_HUB_OFFLINE="1")
    assert done.returncode != 0
    assert "could not be fetched from the hub: it did not answer" in " ".join(done.stderr.split())


def test_room_is_needed_for_the_download_and_for_what_it_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both on one disk here; what was fetched before counts once."""
    commit, file = "a" * 40, "model.safetensors"
    checkpoint = Checkpoint(ONE, tmp_path / commit, "")
    where = {"cache_dir": str(tmp_path / "hub")}
    monkeypatch.setattr(published.shutil, "disk_usage", lambda path: SimpleNamespace(free=15 * 10**9))
    check = partial(published._check_room, checkpoint, {file: 8 * 10**9}, tmp_path / "heads" / "one", where)
    with pytest.raises(CheckpointError, match=r"needs 16\.0 GB .* has 15\.0 GB left; make room, .* SEGLENS_CACHE$"):
        check()
    there = tmp_path / "hub" / f"models--{ONE.replace('/', '--')}" / "snapshots" / commit
    there.mkdir(parents=True)
    (there / file).write_bytes(b"")
    check()


def test_an_error_of_our_own_is_not_taken_for_a_missing_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, any error let a checkpoint of pickles pass unseen."""
    checkpoint = Checkpoint(ONE, tmp_path, "")

    def answer(error: Exception) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        return fail

    for error in (ConnectionError("no route"), OfflineModeIsEnabled("offline")):
        monkeypatch.setattr(HfApi, "model_info", answer(error))
        assert published._weights(checkpoint, {}) is None
    monkeypatch.setattr(HfApi, "model_info", answer(AttributeError("ours")))
    with pytest.raises(AttributeError, match="ours"):
        published._weights(checkpoint, {})
    assert published._weights(checkpoint, {"local_files_only": True}) is None


def test_every_published_head_names_a_base_for_its_width() -> None:
    for name, one in PUBLISHED.items():
        assert name.count("/") == 1
        assert all(base.startswith(("OpenGVLab/InternVL", "llava-hf/llava-1.5-")) for base in one.bases.values())


def test_other_names_are_found_as_before(tmp_path: Path) -> None:
    assert head_folder("embedded/mllmseg").name == "mllmseg"
    assert head_folder(tmp_path) == tmp_path
    with pytest.raises(CheckpointError, match="hub id such as org/name"):
        head_folder("nosuch")


def test_a_folder_of_the_same_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ONE).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert head_folder(ONE) == Path(ONE)
