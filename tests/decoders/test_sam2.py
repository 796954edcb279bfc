"""What only SAM 2 has: a tracker around it, a switch between its masks, finer maps that a head is trained on."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam2Model

from decoders.tiny import save_sam2, save_sam2_video
from seglens.backbones import Backbone
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin
from seglens.core.geometry import Frame
from seglens.core.types import Embedding, Readout, Truth
from seglens.decoders import MaskDecoder, load_decoder
from seglens.inference.segmenter import Segmenter
from seglens.methods import Lens, LensConfig, build_lens

QUESTIONS = ["the red cup", "what keeps you dry when it rains ?", "dog"]
SMALL = replace(LensConfig(), keypoints=5, descriptor_width=32, encoder_width=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam2")
    torch.manual_seed(0)
    save_sam2(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(folder: Path) -> MaskDecoder:
    return load_decoder(folder)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ checkpoints of trackers


def test_a_tracker_gives_its_image_model(
    folder: Path, decoder: MaskDecoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the image model's weights inside, a tracker's checkpoint segments the same, without a warning."""
    save_sam2_video(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    mine = load_file(folder / "model.safetensors")
    tracking = state.keys() - mine.keys()
    assert mine.keys() <= state.keys()
    assert {name.split(".")[0] for name in tracking} >= {"memory_attention", "memory_encoder", "object_pointer_proj"}
    save_file(state | mine, tmp_path / "model.safetensors", metadata={"format": "pt"})
    logging.getLogger("transformers").addHandler(caplog.handler)
    tracker = load_decoder(tmp_path)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records
    image, prompts = np.full((40, 64, 3), 90, np.uint8), noise(1, 2, 3, decoder.width)
    for ours, theirs in zip(*(_answers(one, image, prompts) for one in (tracker, decoder)), strict=True):
        assert torch.equal(ours, theirs)


def _answers(decoder: MaskDecoder, image: np.ndarray, prompts: Tensor) -> tuple[Tensor, ...]:
    embedding, boxes = decoder.encode(image, Frame(*image.shape[:2])), prompts[:, :, 0, :4].abs()
    return embedding.coarse, *embedding.fine, decoder.decode(embedding, prompts), decoder.prompt(embedding, boxes=boxes)


@pytest.mark.parametrize(
    "key", ["no_memory_embedding", "mask_decoder.conv_s0.weight", "mask_decoder.obj_score_token.weight"]
)
def test_a_tracker_without_a_tensor_of_the_image_model_is_refused(tmp_path: Path, key: str) -> None:
    save_sam2_video(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[key]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"missing: {key}"):
        load_decoder(tmp_path)


# ------------------------------------------------------------------ one mask or another


@pytest.fixture(scope="module")
def wavering(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No mask is ever stable enough: every answer to a click is switched."""
    other = shutil.copytree(folder, tmp_path_factory.mktemp("wavering") / "sam2")
    config = (other / "config.json").read_text()
    assert '"dynamic_multimask_stability_thresh": 0.98' in config
    (other / "config.json").write_text(config.replace('_thresh": 0.98', '_thresh": 1.5'))
    return other


@torch.no_grad()
def test_clicks_may_switch_masks_and_learned_prompts_may_not(folder: Path, wavering: Path) -> None:
    library, decoder = Sam2Model.from_pretrained(wavering).eval(), load_decoder(wavering)
    coarse, *fine = (noise(2, *shape, seed=k) for k, shape in enumerate(decoder.shapes, 1))
    embedding, boxes = Embedding(coarse, tuple(fine)), torch.tensor([[[0.1, 0.1, 0.6, 0.7]]]).expand(2, 3, 4)
    inputs = {"image_embeddings": [*fine, coarse], "input_boxes": boxes * decoder.image_size - 0.5}
    switched = library(**inputs, multimask_output=False).pred_masks[:, :, 0]
    every = library.train()(**inputs, multimask_output=False).pred_masks[:, :, 0]  # in training SAM 2 never switches
    assert not torch.isclose(switched, every, rtol=1e-3).all()
    assert torch.allclose(decoder.prompt(embedding, boxes=boxes), switched, atol=1e-6)
    prompts, _ = decoder.module.prompt_encoder(None, None, inputs["input_boxes"], None)  # the same, as if learned
    own = decoder.trainable_decoder()
    for actual in (
        decoder.decode(embedding, prompts),
        decoder.decode(embedding, prompts, decoder=own.eval()),
        decoder.decode(embedding, prompts, decoder=own.train()),
    ):
        assert torch.allclose(actual, every, atol=1e-6)
    assert torch.allclose(decoder.prompt(embedding, boxes=boxes), switched, atol=1e-6)  # and the switch is still on


# ------------------------------------------------------------------ LENS through SAM 2


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, Tensor]:
    """Three boxes of one colour each, and their masks."""
    image, truth = np.full((48, 64, 3), 90, np.uint8), np.zeros((3, 48, 64), bool)
    truth[0, 6:22, 4:24] = truth[1, 10:40, 34:60] = truth[2, 28:44, 6:26] = True
    for mask, colour in zip(truth, [(220, 30, 30), (30, 200, 60), (40, 60, 230)], strict=True):
        image[mask] = colour
    return image, torch.from_numpy(truth)


@pytest.fixture
def lens(backbone: Backbone, decoder: MaskDecoder) -> Lens:
    torch.manual_seed(0)
    return build_lens(SMALL, backbone, decoder)


@pytest.fixture(scope="module")
def inputs(backbone: Backbone, decoder: MaskDecoder, scene: tuple[np.ndarray, Tensor]) -> tuple[Readout, Embedding]:
    return backbone.read(backbone.open(scene[0]), QUESTIONS), decoder.encode(scene[0], Frame(48, 64))


def loss(lens: Lens, inputs: tuple[Readout, Embedding], truth: Tensor) -> tuple[Tensor, Tensor]:
    output, frame = lens(*inputs), Frame(48, 64)
    masks = frame.to_canvas_mask(truth, output.mask_logits.shape[-1])[None]
    cells = frame.to_canvas_mask(truth, inputs[0].grid[0])[None]
    valid = torch.ones(1, len(truth), dtype=torch.bool)
    terms = lens.losses(output, Truth(masks, cells, valid, valid, ~valid))
    return sum(terms.values(), torch.zeros(())), output.mask_logits


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_what_is_trained(
    lens: Lens,
    inputs: tuple[Readout, Embedding],
    scene: tuple[np.ndarray, Tensor],
    decoder: MaskDecoder,
    autocast: bool,
) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss(lens.train(), inputs, scene[1])[0].backward()
    reached = {name for name, p in lens.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in lens.named_parameters() if p.requires_grad}
    assert all(p.grad.isfinite().all() for p in lens.parameters() if p.grad is not None)
    assert any(name.startswith("mask_decoder.upscale_conv1") for name in reached)
    assert not any(part in name for name in reached for part in decoder.idle)
    assert not any(p.requires_grad or p.grad is not None for p in decoder.module.parameters())


@pytest.mark.slow
def test_overfits_one_scene_and_segments_it(
    lens: Lens,
    inputs: tuple[Readout, Embedding],
    scene: tuple[np.ndarray, Tensor],
    backbone: Backbone,
    decoder: MaskDecoder,
    tmp_path: Path,
) -> None:
    """From random weights to the three boxes, then through a saved head to masks at the image's own size."""
    image, truth = scene
    optimiser = torch.optim.AdamW([p for p in lens.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for _ in range(150):
        total, _ = loss(lens.train(), inputs, truth)
        total.backward()
        torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]  # measured: 12.0 to 4.6
    head_config = HeadConfig("lens", vars(SMALL), Origin(backbone.name), backbone.layer, Origin(decoder.name))
    segmenter = Segmenter(backbone, decoder, lens, head_config)
    segmenter.save_pretrained(tmp_path / "head")
    again = Segmenter.from_pretrained(tmp_path / "head", attn_implementation="eager")
    assert type(again.decoder) is type(decoder)
    both = (one.segment(image, QUESTIONS) for one in (segmenter, again))
    for mine, loaded, mask in zip(*both, truth.numpy(), strict=True):
        assert np.array_equal(mine.mask_logits, loaded.mask_logits)
        actual = mine.mask_logits > 0
        assert (actual & mask).sum() / (actual | mask).sum() > 0.5  # measured: .97, .73, .95
