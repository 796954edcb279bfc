"""What a config states of a model: the sizes that are known of public ones, and that a real model has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from command import Run
from seglens.backbones import draw_blueprint, load_backbone
from seglens.decoders import MaskDecoder
from seglens.evaluation.costs import COLUMNS, Costs, table, work_out
from seglens.methods import build_lens
from seglens.methods.lens import LensConfig
from tiny import KINDS, by_speed

CONFIGS = Path(__file__).parents[1] / "backbones" / "configs"
# parameters as the hub counts them; grids and layers of LENS's authors for the three models they ran; else ours
# Looked up: Idefics3-8B-Llama3 in its own config.json; SmolVLM-Instruct and GLM-4.1V-9B-Thinking in repositories that
# copy theirs (Pinatpong/SmolVLM-Instruct, minglanga/GeoSolver); SmolVLM2-500M in that of the first 500M
# (vidore/ColSmolVLM-Instruct-500M-base). The size of GLM-4.1V is that of the four bfloat16 files of its base model.
# Molmo2-4B and its size in a repository that copies its files (albud1978/CV).
# gemma-3-4b-it in repositories that quote its config.json, size and chat template; the model itself is gated.
# LFM2-VL-450M in a repository that copies its files (varun00391/local-finetuned-model), with the names that
# transformers reads today as a fine-tuned LFM2-VL-1.6B has them (Ba2han/tr_ocr6); its bfloat16 file has 902 MB.
KNOWN: dict[str, tuple[float, int, tuple[int, int], int]] = {
    "llava-1.5-7b-hf": (7_063_427_072, 14, (24, 24), 336),
    "llava-1.5-13b-hf": (13.35e9, 18, (24, 24), 336),
    "llava-onevision-qwen2-7b-ov-hf": (8_030_348_832, 14, (27, 27), 384),
    "InternVL3-2B-hf": (2_088_957_440, 14, (16, 16), 448),
    "InternVL3-8B-hf": (7_944_373_760, 14, (16, 16), 448),
    "SmolVLM2-500M-Video-Instruct": (507_482_304, 16, (8, 8), 512),
    "SmolVLM-Instruct": (2_246_272_880, 12, (9, 9), 384),
    "Idefics3-8B-Llama3": (8.46e9, 16, (13, 13), 364),
    "Qwen2-VL-2B-Instruct": (2_208_985_600, 20, (24, 24), 672),
    "Qwen2.5-VL-7B-Instruct": (8_292_166_656, 14, (24, 24), 672),
    "GLM-4.1V-9B-Thinking": (10.29e9, 20, (24, 24), 672),
    "Molmo2-4B": (4_850_869_200, 18, (23, 23), 644),
    "gemma-3-4b-it": (4.30e9, 17, (16, 16), 896),
    "LFM2-VL-450M": (451e6, 8, (16, 16), 512),
    "Qwen3-VL-4B-Instruct": (4_437_815_808, 18, (24, 24), 768),
}


def test_a_config_for_every_model_that_is_known() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == KNOWN.keys()


@pytest.fixture(scope="module")
def public() -> dict[str, Costs]:
    return {name: work_out(CONFIGS / f"{name}.json") for name in KNOWN}


@pytest.mark.parametrize("name", KNOWN)
def test_public_models(public: dict[str, Costs], name: str) -> None:
    costs = public[name]
    parameters, layer, grid, size = KNOWN[name]
    assert abs(costs.parameters / parameters - 1) < 0.01
    assert (costs.name, costs.layer, costs.grid, costs.image_size) == (name, layer, grid, size)
    assert costs.chat_bf16 == 2 * costs.parameters
    assert 1 / 4 < costs.chat_4bit / costs.chat_bf16 < 1 / 2  # words and norms stay as they are
    assert costs.segment_bf16 < costs.chat_bf16


def test_llava_7b_in_full(public: dict[str, Costs]) -> None:
    """The figures of LENS's own set-up, worked out by hand."""
    costs = public["llava-1.5-7b-hf"]
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert costs.chat_bf16 - costs.segment_bf16 == 2 * (32 - 16) * layer
    assert costs.image_cache_int8 == 24 * 24 * 4096 + 256 * 64 * 64
    assert costs.image_cache_bf16 == 2 * costs.image_cache_int8
    assert costs.question_bf16 == 40 * 4096 * 2
    assert abs(costs.head_parameters / (663.9e6 + 4e6) - 1) < 0.01  # two layers and descriptor, and SAM's decoder


@pytest.mark.parametrize("kind", by_speed(KINDS))
def test_a_drawing_is_the_model(kind: str, tmp_path: Path, decoder: MaskDecoder) -> None:
    """What is counted on paper is what is loaded: parameters, layers left out, canvas, and the head's own."""
    KINDS[kind].save(tmp_path)
    config = shutil.copy(tmp_path / "config.json", tmp_path / "alone.json")
    options = KINDS[kind].options
    blueprint = draw_blueprint(config, **options)
    for short in (False, True):
        loaded = load_backbone(tmp_path, segmentation_only=short, **options)
        assert blueprint.parameters(short) == sum(p.numel() for p in loaded.module.parameters())
    assert (blueprint.depth.layer, blueprint.depth.whole) == (loaded.layer, loaded.depth)
    assert (blueprint.layout.image_size, blueprint.layout.grid) == (loaded.image_size, loaded.grid)
    ours = build_lens(LensConfig(train_mask_decoder=False), loaded, decoder)
    sam = work_out(config, **options).head_parameters - sum(p.numel() for p in ours.parameters())
    # the tiny SAM's prompts are narrower than SAM's: the projection's last layer and [CLS] are all that differs
    assert sam - (256 - decoder.width) * (loaded.width + 2) == 3_506_304


def test_a_folder_with_just_a_config(tmp_path: Path, seglens: Run) -> None:
    folder = tmp_path / "some-model"
    folder.mkdir()
    shutil.copy(CONFIGS / "Qwen2.5-VL-7B-Instruct.json", folder / "config.json")
    code, out, err = seglens("doctor", "--mllm", folder, "--image-size", 448, "--layer", 9, "--json")
    printed = json.loads(out)
    assert (code, err) == (0, "")
    assert (printed["name"], printed["grid"], printed["layer"]) == ("some-model", [16, 16], 9)
    assert printed == json.loads(json.dumps(work_out(folder, image_size=448, layer=9).to_dict()))


def test_the_table(public: dict[str, Costs], seglens: Run) -> None:
    """The command of the README, on two of its rows."""
    names = ("llava-1.5-7b-hf", "Qwen3-VL-4B-Instruct")
    code, out, err = seglens("doctor", *(part for name in names for part in ("--mllm", CONFIGS / f"{name}.json")))
    assert (code, err) == (0, "")
    assert out.splitlines() == table([public[name] for name in names]).splitlines()
    assert "7.06 B | 14.1 / " in out
    lines = table(list(public.values())).splitlines()
    assert len(lines) == 2 + len(KNOWN)
    assert all(line.count("|") == len(COLUMNS) + 1 for line in lines)


def test_what_cannot_be_drawn(tmp_path: Path, seglens: Run) -> None:
    def refused(message: str, *arguments: object) -> None:
        code, out, err = seglens("doctor", "--mllm", *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert message in err

    qwen = CONFIGS / "Qwen3-VL-4B-Instruct.json"
    refused("no whole number of cells of 32 pixels; try 320", qwen, "--image-size", 336)
    refused("choose 3 to 34", qwen, "--layer", 2)
    refused("'llava' model sees its images at 336", CONFIGS / "llava-1.5-7b-hf.json", "--image-size", 448)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    refused("supported families: llava, ", tmp_path)


def test_nothing_is_allocated() -> None:
    blueprint = draw_blueprint(CONFIGS / "llava-1.5-13b-hf.json")
    assert {p.device for p in blueprint.module.parameters()} == {torch.device("meta")}


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere' does not exist; give a folder"):
        work_out(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no config\.json of a model"):
        work_out(tmp_path)
