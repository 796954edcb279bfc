"""SELF1E's checkpoints, under the names of its released code, become an InternVL that writes the same, and the same
masks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from command import Run
from convert.test_convert_mllmseg import answers, as_published, config_for, tiny_size
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.self1e import ASSUMED, convert_self1e
from seglens.inference.segmenter import Segmenter
from seglens.methods.preset import TILE
from tiny import internvl, internvl_processor, save_processor

D, GRID = 64, 4
NAMES = ("combine_decode_proj", "combine_decode_proj_all", "combine_decode_proj_ori")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny InternVL3 in transformers' own form: the base model, and the truth about what is converted."""
    folder = tmp_path_factory.mktemp("base") / "qwen-hf"
    torch.manual_seed(0)
    model = internvl()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    save_processor(internvl_processor(), folder)
    return folder


def checkpoint(base: Path, tokens: int = 2) -> dict[str, Tensor]:
    """All tensors by the names of InternVL3SELF1E's attributes: [SEG] and the stray [SEGT] are two more words."""
    dice, size = torch.Generator().manual_seed(1), tiny_size(base)
    tensors = as_published(load_file(base / "model.safetensors"), size)
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.randn(tokens, D, generator=dice)])
    for name in NAMES:
        out = D if name == "combine_decode_proj" else 4 * D
        for layer, rows in ((0, D), (2, out)):
            tensors[f"{name}.{layer}.weight"] = 0.2 * torch.randn(rows, D, generator=dice)
            tensors[f"{name}.{layer}.bias"] = 0.2 * torch.randn(rows, generator=dice)
    return tensors


def save(folder: Path, base: Path, tensors: dict[str, Tensor], **changes: Any) -> Path:
    """As `Trainer.save_model` leaves it: weights and config, no tokenizer."""
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config_for(tiny_size(base)), **changes}))
    (folder / "training_args.bin").write_bytes(b"a pickle that nobody opens")
    return folder


@pytest.fixture
def source(base: Path, tmp_path: Path) -> Path:
    return save(tmp_path / "ckpt_model", base, checkpoint(base))


def unshuffled(x: Tensor) -> Tensor:
    """(h w 4d) to (2h 2w d): the block of a pixel, in raster order."""
    h, w, d = x.shape[0], x.shape[1], x.shape[2] // 4
    out = torch.zeros(2 * h, 2 * w, d)
    for a in range(2):
        for b in range(2):
            out[a::2, b::2] = x[:, :, (2 * a + b) * d : (2 * a + b + 1) * d]
    return out


def drawn_by(state: dict[str, Tensor], image: Tensor, segment: Tensor, given: Tensor, fine: Tensor) -> Tensor:
    """The forward pass of the released code from its own names, for one tile."""

    def mlp(name: str, x: Tensor) -> Tensor:
        inner = F.gelu(F.linear(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"]))
        return F.linear(inner, state[f"{name}.2.weight"], state[f"{name}.2.bias"])

    combined, by_llm, by_tower = NAMES
    residual = unshuffled((mlp(by_llm, image) - mlp(by_tower, given)).reshape(GRID, GRID, -1))
    refilled = unshuffled(mlp(by_tower, fine).reshape(2 * GRID, 2 * GRID, -1))
    grown = F.interpolate(residual.permute(2, 0, 1)[None], refilled.shape[:2], mode="bilinear", align_corners=False)
    fused = mlp(combined, refilled + grown[0].permute(1, 2, 0))
    token = mlp(combined, mlp(by_llm, segment).reshape(4, D).mean(0))
    return fused @ token / D**0.5


def test_the_same_mllm(base: Path, source: Path, tmp_path: Path) -> None:
    converted = convert_self1e(source, tmp_path / "head", base)
    assert torch.equal(answers(tmp_path / "head" / "mllm"), answers(base))
    assert converted.mllm_tensors == len(load_file(base / "model.safetensors"))
    assert converted.mlp_parameters == 4 * (D * D + D) + 2 * (4 * D * D + 4 * D)
    state = load_file(tmp_path / "head" / "head.safetensors")
    for place, name in (("input", "model.embed_tokens"), ("output", "lm_head")):
        whole = checkpoint(base)[f"language_model.{name}.weight"]
        assert torch.equal(state[f"adapter.words.new_{place}"], whole[-2:-1])
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    assert (config["method"], config["backbone"]["name"], config["decoder"]) == ("self1e", "./mllm", None)
    assert config["canvas"] == asdict(TILE)  # squashed, as its authors have it


def test_the_head_draws_as_theirs(base: Path, source: Path, tmp_path: Path) -> None:
    """From a picture and words to mask logits: as SegLens loads and runs it, and by transformers with the authors'
    words, attention (image tokens see each other and [SEG]) and MLPs."""
    convert_self1e(source, tmp_path / "head", base)
    segmenter = Segmenter.from_pretrained(tmp_path / "head", dtype=torch.float32)
    method: Any = segmenter.method
    query = segmenter.head_prompt.apply("the red cup")
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    actual = method.decode(method.mllm.read(method.mllm.open(picture), [query]), None).mask_logits[0, 0]
    tensors, size = checkpoint(base), tiny_size(base)
    prompts, question_tokens = method.mllm.answer_tokens.prompts, method.mllm.answer_tokens.question(query)
    message = prompts.processor.tokenizer.decode(question_tokens.ids[:-1])
    assert " What is the red cup in this image? Please output segmentation mask.<|im_end|>" in message
    before = prompts.before()
    assert prompts.processor.tokenizer.decode(before).startswith("<|im_start|>system\nYou are an helpful assistant.")
    ids = torch.tensor([[*before, *[size.image_token] * GRID**2, *question_tokens.ids]])
    first, seg = len(before), int((ids[0] == size.words).nonzero())
    assert seg == ids.shape[1] - 1
    model = InternVLForConditionalGeneration.from_pretrained(base, attn_implementation="eager").eval()
    model.resize_token_embeddings(size.words + 2, mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(tensors["language_model.model.embed_tokens.weight"])
    sees = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
    sees[first : first + GRID**2, first : first + GRID**2] = True
    sees[first : first + GRID**2, seg] = True
    with torch.no_grad():
        patches = model.model.vision_tower(method.mllm.pixels(picture)[None]).last_hidden_state[0, 1:]
        tower = patches.reshape(2 * GRID, 2 * GRID, -1)
        blocks = [tower[a::2, b::2] for a in range(2) for b in range(2)]
        given = model.model.multi_modal_projector(torch.cat(blocks, -1).reshape(GRID**2, -1))
        fine = model.model.multi_modal_projector(tower.repeat(1, 1, 4).reshape(4 * GRID**2, -1))
        rows = model.get_input_embeddings()(ids)
        rows[0, first : first + GRID**2] = given
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]
        states = model.model.language_model(inputs_embeds=rows, attention_mask=mask).last_hidden_state[0]
        expected = drawn_by(tensors, states[first : first + GRID**2], states[seg - 1], given, fine)
    assert actual.shape == expected.shape == (4 * GRID, 4 * GRID)
    # of the largest; measured: 2.4e-7
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_one_new_token_will_do(base: Path, tmp_path: Path) -> None:
    """Training of one's own leaves [SEGT] out; a tokenizer beside the weights must number [SEG] as it is read."""
    source = save(tmp_path / "one", base, checkpoint(base, 1))
    convert_self1e(source, tmp_path / "head", base)
    words = tiny_size(base).words
    (source / "added_tokens.json").write_text(json.dumps({"[SEG]": words}))
    convert_self1e(source, tmp_path / "again", base)
    (source / "added_tokens.json").write_text(json.dumps({"[SEG]": words + 1}))
    with pytest.raises(CheckpointError, match=rf"numbers \[SEG\] {words + 1}, and .* must be {words}"):
        convert_self1e(source, tmp_path / "other", base)


def test_updates_that_were_not_merged_are_added(base: Path, tmp_path: Path) -> None:
    """Of the language model and of the tower, W + 2 B A, under peft's names."""
    tensors, dice = checkpoint(base), torch.Generator().manual_seed(2)
    wrapped, merged = dict(tensors), dict(tensors)
    for name in ("language_model.model.layers.0.self_attn.q_proj", "vision_model.encoder.layers.1.attn.qkv"):
        part, _, rest = name.partition(".")
        at, weight = f"{part}.base_model.model.{rest}", wrapped.pop(f"{name}.weight")
        a, b = (torch.randn(shape, generator=dice) for shape in ((4, weight.shape[1]), (weight.shape[0], 4)))
        wrapped |= {
            f"{at}.base_layer.weight": weight,
            f"{at}.lora_A.default.weight": a,
            f"{at}.lora_B.default.weight": 0.01 * b,
        }
        wrapped[f"{at}.base_layer.bias"] = wrapped.pop(f"{name}.bias")
        merged[f"{name}.weight"] = weight + 2 * (0.01 * b) @ a
    one = save(tmp_path / "merged", base, merged)
    other = save(tmp_path / "apart", base, wrapped, use_llm_lora=4, use_backbone_lora=4)
    convert_self1e(one, tmp_path / "a", base)
    assert convert_self1e(other, tmp_path / "b", base).updates_added == 2
    whole, parts = (load_file(tmp_path / name / "mllm" / "model.safetensors") for name in "ab")
    assert max((whole[name] - parts[name]).abs().max().item() for name in whole) < 1e-6


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("combine_decode_proj.0.weight", "combine_proj.0.weight", "does not fit: extra combine_proj.0.weight"),
        (
            "combine_decode_proj_all.2.bias",
            "combine_decode_proj_all.4.bias",
            "does not fit: missing amplifiers.image.mlp.2.bias; extra combine_decode_proj_all.4.bias",
        ),
        ("combine_decode_proj_ori.0.bias", None, "does not fit: missing amplifiers.given.mlp.0.bias"),
        ("mlp1.1.bias", "mlp2.1.bias", "missing multi_modal_projector.linear_1.bias; extra mlp2.1.bias"),
    ],
)
def test_other_names_are_refused_by_name(base: Path, tmp_path: Path, old: str, new: str | None, complaint: str) -> None:
    tensors = checkpoint(base)
    moved = tensors.pop(old)
    if new is not None:
        tensors[new] = moved
    with pytest.raises(CheckpointError) as caught:
        convert_self1e(save(tmp_path / "theirs", base, tensors), tmp_path / "head", base)
    assert complaint in str(caught.value)
    assert str(caught.value).endswith(ASSUMED)
    assert not (tmp_path / "head").exists()


def test_another_base_model_is_refused(base: Path, tmp_path: Path) -> None:
    longer = save(tmp_path / "longer", base, checkpoint(base, 5))
    words = tiny_size(base).words
    with pytest.raises(CheckpointError) as caught:
        convert_self1e(longer, tmp_path / "head", base)
    assert f"the base model's {words} are with [SEG] {words + 1} or with [SEG] and [SEGT] {words + 2}" in str(
        caught.value
    )


def test_the_command(base: Path, source: Path, tmp_path: Path, seglens: Run) -> None:
    code, printed, _ = seglens("convert", "self1e", source, tmp_path / "head", "--base", base, "--json")
    assert (code, json.loads(printed)["mlp_parameters"]) == (0, 49920)
