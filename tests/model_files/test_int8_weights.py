"""Packed weights come back to half a scale, fit as plain ones must, and load as what they unpack to, bit by bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, SamModel

from command import Run
from seglens.backbones import load_backbone
from seglens.checkpoints.origin import embedded_folder
from seglens.core.types import Sample
from seglens.decoders import load_decoder
from seglens.inference.segmenter import Segmenter
from seglens.model_files.checksums import SUMS
from seglens.model_files.int8_weights import (
    PACKED,
    PLAIN,
    PackedError,
    load_packed,
    pack,
    pack_folder,
    save_packed,
    unpack,
    unpack_folder,
)
from tiny import KINDS

MLLM, SAM = embedded_folder("embedded/mllm"), embedded_folder("embedded/sam")
KEY = "layers.1.mlp.up_proj.weight"  # the end of its name


@pytest.fixture
def packed(llava: Path, tmp_path: Path) -> Path:
    """A tiny LLaVA, packed."""
    folder = shutil.copytree(llava, tmp_path / "model")
    pack_folder(folder)
    return folder


def refused(folder: Path, message: str, load: Callable = load_backbone, **how: object) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, **how)
    assert "\n" not in str(caught.value)


def same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in actual)


# ------------------------------------------------------------------ tensors


@pytest.mark.parametrize("shape", [(16, 16), (300, 257), (64, 3, 16, 16), (16, 1, 4, 4)])
@pytest.mark.parametrize("size", [1e-12, 1.0, 6e4])
def test_no_value_moves_by_more_than_half_a_scale(shape: tuple[int, ...], size: float) -> None:
    torch.manual_seed(0)
    tensor = torch.rand(shape) * 2 - 1
    tensor *= size * torch.logspace(-6, 0, len(tensor)).view(-1, *[1] * (len(shape) - 1))  # rows of many sizes
    tensor[3] = 0
    stored = pack({"x": tensor})
    assert (stored["x"].dtype, stored["x.scale"].dtype) == (torch.int8, torch.bfloat16)
    moved = (unpack(stored)["x"] - tensor).flatten(1).abs().amax(1)
    scale = stored["x.scale"].float()
    assert (moved <= scale * (0.5 + 2**-16)).all()  # fp32 itself rounds what lies between two steps
    peak = tensor.flatten(1).abs().amax(1)
    assert (scale <= peak / 127 * (1 + 2**-8)).all()
    assert (stored["x"].flatten(1).abs().amax(1)[peak > 0] == 127).all()


def test_the_error_of_weights_like_ours() -> None:
    """Normal rows of 256: measured 0.0069 of their length; the package's own were changed by 0.0058 to 0.0067."""
    torch.manual_seed(0)
    tensor = torch.randn(256, 256) * 0.06
    moved = unpack(pack({"x": tensor}))["x"] - tensor
    assert moved.norm() / tensor.norm() < 0.008


def test_all_else_is_fp16_to_the_last_bit() -> None:
    torch.manual_seed(0)
    state = {
        "norm.weight": torch.randn(512),
        "fourier": torch.randn(2, 64),
        "thin": torch.randn(256, 15),
        "table": torch.randn(1, 16, 16, 20),
        "number": torch.tensor(2.5),
        "half": torch.randn(9).half(),
        "nothing": torch.zeros(0, 16),
        "counts": torch.arange(5),
        "told": torch.tensor([True, False]),
    }
    stored = pack(state)
    assert stored.keys() == state.keys()
    for name, tensor in unpack(stored).items():
        original = state[name]
        expected = original.half().float() if original.is_floating_point() else original
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        assert torch.equal(tensor, expected), name
        assert stored[name].dtype is (torch.float16 if original.is_floating_point() else original.dtype)


@pytest.mark.parametrize("file", [MLLM / PACKED, SAM / PACKED, embedded_folder("embedded") / "head.safetensors"])
def test_packing_again_changes_nothing(file: Path) -> None:
    """Bit by bit: what was rounded once lies on the steps."""
    stored = load_file(file)
    again = pack(unpack(stored))
    assert same(again, stored)
    assert {name: t.dtype for name, t in again.items()} == {name: t.dtype for name, t in stored.items()}
    whole = {t.dtype: 0 for t in stored.values()}
    for tensor in stored.values():
        whole[tensor.dtype] += tensor.nbytes
    assert whole[torch.int8] > 0.9 * sum(whole.values())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x": torch.zeros(3, dtype=torch.int8)}, "x cannot be packed"),
        ({"x": torch.zeros(16, 16), "x.scale": torch.zeros(16)}, "x.scale cannot be packed"),
        ({"x": torch.full((16, 16), torch.nan)}, "x holds a value that is not finite"),
        ({"x": torch.tensor([7e4])}, "x holds a value that is not finite in fp16"),
    ],
)
def test_what_cannot_be_packed(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(PackedError, match=message):
        pack(state)


@pytest.mark.parametrize("scale", [None, torch.ones(15), torch.ones(16, 1), torch.tensor(1.0)])
def test_scales_that_do_not_fit(scale: Tensor | None) -> None:
    stored = {"x": torch.ones(16, 20, dtype=torch.int8), **({} if scale is None else {"x.scale": scale})}
    with pytest.raises(PackedError, match=r"x is packed, and x\.scale does not hold a number for each of its rows"):
        unpack(stored)


# ------------------------------------------------------------------ folders


def test_every_family_loads_as_what_it_unpacks_to(family: Path, tmp_path: Path) -> None:
    folder, options = shutil.copytree(family, tmp_path / family.name), KINDS[family.name].options
    pack_folder(folder)
    actual = load_backbone(folder, **options)
    state = load_packed(folder / PACKED)
    (folder / PACKED).unlink()
    save_file(state, folder / PLAIN, metadata={"format": "pt"})
    expected = load_backbone(folder, **options)
    assert same(actual.module.state_dict(), expected.module.state_dict())
    assert actual.signature() == expected.signature()
    assert actual.module.generation_config.to_dict() == expected.module.generation_config.to_dict()
    assert actual.module.name_or_path == expected.module.name_or_path
    tied = [
        m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (actual.module, expected.module)
    ]
    assert tied[0] == tied[1]


def test_a_mask_decoder_loads_as_what_it_unpacks_to(sam: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sam, tmp_path / "sam")
    pack_folder(folder)
    state = load_packed(folder / PACKED)
    actual = load_decoder(folder, dtype=torch.float32)
    loaded = actual.module.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert len({t.data_ptr() for t in loaded.values()}) == len(state)  # the rest is tied


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loading_options_reach_packed_weights(packed: Path, dtype: torch.dtype) -> None:
    loaded = load_backbone(packed, dtype=dtype, attn_implementation="eager", device_map="cpu", segmentation_only=True)
    assert {p.dtype for p in loaded.module.parameters()} == {dtype}
    assert loaded.module.config.get_text_config()._attn_implementation == "eager"
    assert not loaded.can_chat


def test_a_plain_model_beside_a_packed_one(packed: Path, llava: Path) -> None:
    shutil.copy(llava / PLAIN, packed / PLAIN)
    refused(packed, f"holds both {PACKED} and {PLAIN}; remove")


def test_bare_transformers_does_not_take_packed_weights(packed: Path) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForImageTextToText.from_pretrained(packed)


# ------------------------------------------------------------------ damage


def rewrite(folder: Path, change: str) -> str:
    """Damage the weights and pack them again, and return what the error must name."""
    state = load_packed(folder / PACKED)
    key = next(name for name in state if name.endswith(KEY))
    if change == "missing":
        del state[key]
    elif change == "extra":
        key = key.replace("layers.1.", "layers.1.bogus.")
        state[key] = torch.zeros(16, 16)
    elif change == "beyond":  # a layer that the config does not have
        key = key.replace("layers.1.", "layers.8.")
        state[key] = torch.zeros(16, 16)
    else:
        state[key] = state[key].T
    save_packed(folder / PACKED, state)
    return key[key.index("layers.") :]


@pytest.mark.parametrize("segmentation_only", [False, True])
@pytest.mark.parametrize("change", ["missing", "extra", "beyond", "reshaped"])
def test_weights_that_do_not_fit_are_refused(packed: Path, change: str, segmentation_only: bool) -> None:
    named = rewrite(packed, change)
    refused(packed, f"do not fit their config.*{named}", segmentation_only=segmentation_only)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.99999])
def test_a_flipped_bit_is_found(packed: Path, at: float) -> None:
    """Also one that would only make another number."""
    file = packed / PACKED
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 1
    file.write_bytes(data)
    refused(packed, "cannot be read .*SHA-256.*damaged: download or save it again")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_refused(packed: Path, share: float) -> None:
    data = (packed / PACKED).read_bytes()
    (packed / PACKED).write_bytes(data[: int(share * len(data))])
    refused(packed, "cut short or damaged")
    with pytest.raises(PackedError, match="cut short or damaged"):
        unpack_folder(packed, packed / "out")
    assert not (packed / "out").exists()


def test_scales_that_are_lost_are_told(packed: Path) -> None:
    tensors = load((packed / PACKED).read_bytes())
    del tensors[next(name for name in tensors if name.endswith(f"{KEY}.scale"))]
    whole = save(tensors)
    (packed / PACKED).write_bytes(whole)
    refused(packed, "not in the format seglens-int8 of version 1")
    (packed / PACKED).unlink()
    (packed / PACKED).write_bytes(noted(tensors))
    refused(packed, rf"{KEY} is packed, and .*\.scale does not hold")


def noted(tensors: dict[str, Tensor]) -> bytes:
    """A file that its own checksum fits."""
    from seglens.model_files import int8_weights as packed

    note = {"format": packed.FORMAT, "version": packed.VERSION, "sha256": packed._digest(save(tensors))}
    return save(tensors, metadata=note)


def test_a_mask_decoder_that_does_not_fit_is_refused(sam: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sam, tmp_path / "sam")
    state = load_file(folder / PLAIN)
    del state["mask_decoder.upscale_conv1.weight"]
    (folder / PLAIN).unlink()
    save_packed(folder / PACKED, state)
    refused(folder, r"do not fit their config \(missing: mask_decoder\.upscale_conv1\.weight\)", load_decoder)


# ------------------------------------------------------------------ what the package carries


def test_the_package_carries_packed_weights_only(segmenter: Segmenter) -> None:
    """Under 14 MB, so that a second MLLM and more heads find room in 25."""
    files = [path for path in MLLM.parent.rglob("*") if path.is_file()]
    assert (
        sum(path.stat().st_size for folder in ("mllm", "sam", "lens") for path in (MLLM.parent / folder).iterdir())
        < 14e6
    )
    assert not [path for path in files if path.name == PLAIN]
    head = load_file(embedded_folder("embedded") / "head.safetensors")
    assert same(segmenter.method.state_dict(), unpack(head))
    state = segmenter.decoder.module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in load_packed(SAM / PACKED).items())


def test_unpacked_for_bare_transformers(seglens: Run, segmenter: Segmenter, scene: Sample, tmp_path: Path) -> None:
    """Logits and SAM's embedding to the last bit."""
    code, out, err = seglens("embedded", "unpack", tmp_path)
    assert (code, err) == (0, "")
    assert {str(tmp_path / "mllm"), str(tmp_path / "sam")} <= set(out.split())
    assert {p.name for p in (tmp_path / "mllm").iterdir()} == {p.name for p in MLLM.iterdir()} - {PACKED, SUMS} | {
        PLAIN
    }
    bare = AutoModelForImageTextToText.from_pretrained(tmp_path / "mllm").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "mllm", backend="pil")
    question = segmenter.backbone.prompts.text("how many things are there?")
    inputs = processor(images=scene.image, text=question, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(bare(**inputs).logits, segmenter.backbone.module(**inputs).logits)
        pixels = torch.randn(1, 3, 256, 256)
        alone = SamModel.from_pretrained(tmp_path / "sam").eval().get_image_embeddings(pixels)
        assert torch.equal(alone, segmenter.decoder.module.get_image_embeddings(pixels))
