"""Features are the outputs of the frozen parts, whatever else is in their batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from seglens.backbones import Backbone
from seglens.checkpoints.origin import Origin
from seglens.core.types import Sample, Target
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder
from seglens.features.examples import Batch, ExampleSource, collate
from seglens.features.frozen import Features, extract
from seglens.inference.frozen_models import Parts

RATIOS = {"rtol": 0.0, "atol": 0.5 / 255 + 1e-6}  # areas are stored in 255 steps


@pytest.fixture(scope="module")
def both(training_scenes: WorldData, backbone: Backbone, decoder: MaskDecoder) -> list[Features]:
    return [extract(training_scenes[4], backbone, decoder), extract(training_scenes[1], backbone, decoder, [2, 0])]


def test_features_are_the_readout_of_the_backbone(
    both: list[Features], training_scenes: WorldData, backbone: Backbone, decoder: MaskDecoder
) -> None:
    batch = collate(both)
    for row, (index, chosen) in enumerate(((4, (0, 1, 2, 3)), (1, (2, 0)))):
        sample = training_scenes[index]
        targets = [sample.targets[q] for q in chosen]
        image = backbone.open(sample.image)
        readout, n, longest = backbone.read(image, [t.query for t in targets]), len(targets), 0
        longest = readout.question.shape[2]
        assert torch.equal(batch.inputs.prefix[row], readout.prefix[0])
        assert torch.equal(batch.inputs.prefix_positions[row], readout.prefix_positions[0])
        mask = readout.question_mask[0]
        assert torch.equal(batch.inputs.question_mask[row, :n, :longest], mask)
        for name in ("question", "question_positions"):
            mine, theirs = getattr(batch.inputs, name)[row, :n, :longest], getattr(readout, name)[0]
            assert torch.equal(mine[mask], theirs[mask])
        assert torch.equal(batch.embedding.coarse[row], decoder.encode(sample.image, image.frame).coarse[0])
        truth = torch.from_numpy(np.stack([t.mask for t in targets]))
        masks = image.frame.to_canvas_mask(truth, decoder.mask_side)
        torch.testing.assert_close(batch.truth.masks[row, :n], masks, **RATIOS)
        torch.testing.assert_close(
            batch.truth.cells[row, :n], image.frame.to_canvas_mask(truth, readout.grid[0]), **RATIOS
        )
        assert batch.truth.present[row, :n].tolist() == [t.present for t in targets]
    assert batch.inputs.grid == backbone.grid
    assert torch.equal(batch.inputs.image_tokens, readout.image_tokens)


def test_void_questions_are_marked(both: list[Features]) -> None:
    truth = collate(both).truth
    assert truth.valid.tolist() == [[True] * 4, [True, True, False, False]]
    assert not truth.present[~truth.valid].any()
    assert not truth.masks[~truth.valid].any()
    assert truth.totals().valid == 6
    assert truth.totals().present == sum(a.present for f in both for a in f.questions)


def test_half_precision_becomes_fp32_in_a_batch(both: list[Features]) -> None:
    def halved(f: Features) -> Features:
        questions = tuple(type(a)(a.rows.bfloat16(), a.positions, a.mask, a.cells, a.present) for a in f.questions)
        return Features(f.prefix.bfloat16(), f.prefix_positions, f.image_tokens, f.grid, f.embedding, questions)

    batch, half = collate(both), collate([halved(f) for f in both])
    assert half.inputs.question.dtype == half.inputs.prefix.dtype == torch.float32
    torch.testing.assert_close(half.inputs.prefix, batch.inputs.prefix, rtol=2**-8, atol=0)


def test_images_of_two_layouts_do_not_mix(both: list[Features]) -> None:
    other = Features(
        both[0].prefix[1:],
        both[0].prefix_positions[1:],
        both[0].image_tokens - 1,
        both[0].grid,
        both[0].embedding,
        both[0].questions,
    )
    with pytest.raises(ValueError, match="images of one layout"):
        collate([both[0], other])


class Counted:
    """A dataset that notes which samples were read."""

    trainable = True

    def __init__(self, inner: WorldData):
        self.inner, self.indices = inner, list[int]()

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        self.indices.append(index)
        return self.inner[index]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.inner)


def test_live_decodes_an_image_once(training_scenes: WorldData, backbone: Backbone, decoder: MaskDecoder) -> None:
    data = Counted(training_scenes)
    live = Parts(backbone, decoder).live(data, "world")
    assert isinstance(live, ExampleSource)
    assert len(live) == 6
    assert live.questions(2) == 4
    example = live.example(2, (1, 3))
    assert data.indices == [2]
    expected = extract(training_scenes[2], backbone, decoder, (1, 3))
    assert torch.equal(example.prefix, expected.prefix)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(example.questions, expected.questions, strict=True))


def test_sources_of_other_data_have_another_fingerprint(
    training_scenes: WorldData, backbone: Backbone, decoder: MaskDecoder
) -> None:
    parts = Parts(backbone, decoder)
    mine = parts.live(training_scenes, "world:n=6").fingerprint()
    assert Parts(backbone, decoder).live(training_scenes, "world:n=6").fingerprint() == mine
    assert parts.live(training_scenes, "world:n=6,seed=2").fingerprint() != mine


def test_any_image_size_fits_one_batch(backbone: Backbone, decoder: MaskDecoder) -> None:
    def sample(h: int, w: int) -> Sample:
        return Sample(f"{h}x{w}", np.zeros((h, w, 3), np.uint8), (Target("cat", np.ones((h, w), bool)),))

    batch = collate([extract(sample(*size), backbone, decoder) for size in ((8, 60), (60, 8), (31, 31))])
    assert isinstance(batch, Batch)
    covered = batch.truth.masks.mean((-2, -1))[:, 0]
    torch.testing.assert_close(covered, torch.tensor([8 / 60, 8 / 60, 1.0]), rtol=0, atol=2 / 255)


def test_sources_of_other_weights_have_another_fingerprint(
    training_scenes: WorldData, llava: Path, sam: Path, tmp_path: Path
) -> None:
    """Of the same name and shape: a live training that goes on with them would not be the same training."""
    folder = shutil.copytree(llava, tmp_path / "mllm")

    def fingerprint() -> str:
        return Parts.load(Origin.of(str(folder)), Origin.of(str(sam))).live(training_scenes, "world").fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    file = folder / "model.safetensors"
    save_file({k: v + 0.01 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert fingerprint() != before
