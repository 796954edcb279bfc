"""Options that commands share: which model, where, in which numbers, and how sure it must be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command import Run
from seglens.backbones import quantised as few_bits
from seglens.cli.options import AUTO, EMBEDDED, ModelOptions, Thresholds
from seglens.core.devices import precision, usable_device
from seglens.core.types import Sample
from seglens.data.maskfile import load_mask
from seglens.inference.segmenter import Segmenter
from seglens.inference.thresholds import threshold_logit

LOADED = ("segment", "refine", "ask", "chat", "page", "mcp", "eval", "bench", "route")
DRAWING = ("segment", "refine", "chat", "page", "mcp", "eval")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that the machine has these GPUs; a tensor can be made on any of them."""

    def has(*kinds: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
        monkeypatch.setattr(torch, "empty", lambda *_, **__: None)

    return has


def test_auto_is_cuda_then_mps_then_the_cpu(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for kinds, expected in ((("cuda", "mps"), "cuda"), (("mps",), "mps"), ((), "cpu")):
        machine(*kinds)
        assert usable_device(AUTO) == torch.device(expected)
    machine("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert usable_device(AUTO) == torch.device("cuda:3")
    assert usable_device("cpu") == torch.device("cpu")


def test_names_of_precisions() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert precision(None, cpu) is torch.float32
    assert precision(None, gpu) == "auto"
    assert precision("bf16", gpu) is precision("bfloat16", cpu) is precision(torch.bfloat16, cpu) is torch.bfloat16
    assert precision("fp16", cpu) is torch.float16
    assert precision("fp32", gpu) is torch.float32
    with pytest.raises(ValueError, match="no precision 'fp8'; choose from auto, fp32, bf16, fp16"):
        precision("fp8", cpu)


@pytest.mark.parametrize("command", LOADED)
def test_every_command_that_loads_a_model_takes_them(
    command: str, seglens: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = seglens(command, "--help")
    assert code == 0
    assert out.count("[default: auto]") == 1
    assert all(option in out for option in ("--model", "--device", "--dtype", "--load-in"))
    for option in ("--presence-threshold", "--mask-threshold"):
        assert (option in out) == (command in DRAWING)


def test_the_library_and_the_commands_agree_on_defaults() -> None:
    from seglens.checkpoints import origin as checkpoint
    from seglens.core import devices

    assert (AUTO, EMBEDDED) == (devices.AUTO, checkpoint.EMBEDDED)
    assert ModelOptions().placement == {"device": AUTO, "dtype": None, "load_in": None}
    assert Thresholds().arguments() == {"presence_threshold": None}
    assert Thresholds(0.2, 0.6).arguments() == {"presence_threshold": 0.2, "mask_threshold": threshold_logit(0.6)}


def test_thresholds_decide(
    seglens: Run, scene: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_query: str
) -> None:
    Image.fromarray(scene.image).save(tmp_path / "a.png")

    def mask(*options: object) -> np.ndarray:
        out = tmp_path / "_".join(["out", *map(str, options)])
        code, _, err = seglens("segment", tmp_path / "a.png", plain_query, "--out", out, *options)
        assert (code, err) == (0, "")
        return load_mask(next(out.glob("a_*mask.png")))

    usual, strict = mask(), mask("--mask-threshold", 0.95)
    assert strict.sum() < usual.sum()
    assert not (strict & ~usual).any()
    assert not mask("--presence-threshold", 1).any()


@pytest.fixture
def plain_query(scene: Sample) -> str:
    return next(target.query for target in scene.targets if target.present)


def test_no_presence_is_refused_at_a_threshold_of_zero(segmenter: Segmenter) -> None:
    parts = (segmenter.backbone, segmenter.decoder, segmenter.method, segmenter.config)
    assert Segmenter(*parts).presence_threshold == segmenter.config.presence_threshold
    assert Segmenter(*parts, presence_threshold=0.0).presence_threshold == 0.0
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"presence threshold.*a probability from 0 to 1"):
            Segmenter(*parts, presence_threshold=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--presence-threshold", 1.5), "presence threshold of 1.5"),
        (("--mask-threshold", 1), "mask threshold of 1.0"),
        (("--dtype", "fp8"), "no precision 'fp8'"),
        (("--load-in", "2bit"), "no way of loading '2bit'"),
        (("--device", "gpu7"), "'gpu7' cannot be used here"),
    ],
)
def test_an_impossible_option_is_one_line(
    options: tuple[object, ...], message: str, seglens: Run, scene: Sample, tmp_path: Path
) -> None:
    Image.fromarray(scene.image).save(tmp_path / "a.png")
    code, out, err = seglens("segment", tmp_path / "a.png", "cat", "--out", tmp_path / "o", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("kind", few_bits.KINDS)
def test_in_few_bits(kind: str, scene: Sample) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'seglens[quant]'")
    packed = Segmenter.from_pretrained(device="cpu", load_in=kind, segmentation_only=True)
    layer = packed.backbone.module.get_decoder().layers[0]
    assert type(layer.mlp.up_proj.weight).__name__ == {"8bit": "Int8Params", "4bit": "Params4bit"}[kind]
    target = next(t for t in scene.targets if t.present)
    mask = packed.segment(scene.image, target.query).mask
    whole = Segmenter.from_pretrained(device="cpu").segment(scene.image, target.query).mask
    assert (mask & whole).sum() / (mask | whole).sum() > 0.9


def test_few_bits_where_they_are_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'seglens[quant]'")
    monkeypatch.setattr(bnb, "supported_torch_devices", {"cuda"})
    with pytest.raises(ValueError, match=r"no 4bit layers for 'cpu', only for cuda; give another --device"):
        Segmenter.from_pretrained(device="cpu", load_in="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"needs bitsandbytes and accelerate .*pip install 'seglens\[quant\]'"):
        Segmenter.from_pretrained(device="cpu", load_in="8bit")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str, tmp_path: Path) -> None:
    script = [Path(sys.executable).with_name("seglens"), "--show-completion", shell]
    completion = subprocess.run(script, capture_output=True, text=True, env={**os.environ, **TESTED})
    assert completion.returncode == 0
    assert "_SEGLENS_COMPLETE" in completion.stdout
    for typed, expected in (("seglens seg", "segment"), ("seglens segment --presence", "--presence-threshold")):
        words = {
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
            "_TYPER_COMPLETE_ARGS": typed,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "_SEGLENS_COMPLETE": f"complete_{shell}",
        }
        done = subprocess.run(script[:1], capture_output=True, text=True, env={**os.environ, **words})
        assert expected in done.stdout


TESTED = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is named, as typer's own tests name it
