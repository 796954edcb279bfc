"""The mask decoder against transformers' own SAM."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import SamModel

from seglens.decoders import MaskDecoder, load_decoder
from seglens.decoders.sam import SamDecoder
from seglens.geometry import Frame
from seglens.miniature.models import make_sam
from seglens.types import Embedding

TOLERANCE = 1e-5  # of the largest logit; measured: 1e-6 against other batches, 0 against SamModel's own forward


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found.float() - expected.float()).abs().max() / expected.float().abs().max()).item()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one(embedding: Embedding, b: int) -> Embedding:
    return Embedding(embedding.coarse[b : b + 1])


@pytest.fixture(scope="module", params=["sam", "miniature"])
def any_decoder(request: pytest.FixtureRequest, decoder: MaskDecoder) -> MaskDecoder:
    if request.param == "sam":
        return decoder
    torch.manual_seed(0)
    return SamDecoder(make_sam())


@pytest.fixture(scope="module")
def embedding(any_decoder: MaskDecoder) -> Embedding:
    return Embedding(noise(2, any_decoder.width, any_decoder.side, any_decoder.side, seed=1))


@pytest.mark.parametrize("size", [(40, 40), (7, 300), (300, 7), (1, 1), (1000, 3), (65, 64)])
def test_encode(decoder: MaskDecoder, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    embedding = decoder.encode(image, Frame(*size)).coarse
    assert embedding.shape == (1, decoder.width, decoder.side, decoder.side)
    assert embedding.isfinite().all()
    assert not embedding.requires_grad


def test_padding_is_zero_after_normalisation(decoder: MaskDecoder) -> None:
    seen: list[Tensor] = []
    hook = decoder.module.vision_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder.encode(np.full((32, 64, 3), 255, np.uint8), Frame(32, 64))
    hook.remove()
    expected = (255 - torch.tensor(decoder.mean)) / torch.tensor(decoder.std)
    assert (seen[0][0, :, 32:] == 0).all()
    assert torch.allclose(seen[0][0, :, :32], expected[:, None, None], atol=1e-5)


def test_statistics_are_those_of_the_checkpoint(sam: Path, tmp_path: Path) -> None:
    expected = load_decoder(sam)
    assert expected.mean == pytest.approx((123.675, 116.28, 103.53))
    assert expected.std == pytest.approx((58.395, 57.12, 57.375))
    bare = shutil.copytree(sam, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert load_decoder(bare).mean == pytest.approx(expected.mean)
    other = (sam / "preprocessor_config.json").read_text().replace("0.485", "0.25")
    (bare / "preprocessor_config.json").write_text(other)
    assert load_decoder(bare).mean[0] == 0.25 * 255


def test_void_tokens_do_not_exist(any_decoder: MaskDecoder, embedding: Embedding) -> None:
    """Sets of different size in one batch equal each set by itself, whatever stands in the void places."""
    prompts = noise(2, 3, 6, any_decoder.width)
    keep = torch.tensor([
        [[True] * 6, [True, False, False, False, False, False], [True, True, False, True, False, True]],
        [[False] * 6, [False, True, True, False, False, False], [True] * 5 + [False]],
    ])  # fmt: skip
    together = any_decoder.decode(embedding, prompts, keep)
    for b in range(2):
        for q in range(3):
            alone = any_decoder.decode(one(embedding, b), prompts[b : b + 1, q : q + 1, keep[b, q]])
            assert error(together[b, q], alone[0, 0]) < TOLERANCE
    loud = torch.where(keep[..., None], prompts, 1e4 * noise(*prompts.shape, seed=2))
    assert error(any_decoder.decode(embedding, loud, keep), together) < TOLERANCE
    assert error(any_decoder.decode(embedding, loud), together) > 0.01  # the void tokens would matter


def test_questions_do_not_see_each_other(any_decoder: MaskDecoder, embedding: Embedding) -> None:
    prompts = noise(2, 4, 3, any_decoder.width)
    together = any_decoder.decode(embedding, prompts)
    assert together.shape == (2, 4, 4 * any_decoder.side, 4 * any_decoder.side)
    for b in range(2):
        for q in range(4):
            alone = any_decoder.decode(one(embedding, b), prompts[b : b + 1, q : q + 1])
            assert error(together[b, q], alone[0, 0]) < TOLERANCE


def test_nothing_stays_hidden(decoder: MaskDecoder) -> None:
    embedding, prompts = Embedding(noise(1, decoder.width, decoder.side, decoder.side)), noise(1, 1, 3, decoder.width)
    keep = torch.tensor([[[True, False, True]]])
    before = decoder.decode(embedding, prompts)
    assert not torch.equal(decoder.decode(embedding, prompts, keep), before)
    own = decoder.trainable_decoder()
    own.output_hypernetworks_mlps = nn.ModuleList()  # breaks half-way
    with pytest.raises(IndexError):
        decoder.decode(embedding, prompts, keep, own)
    assert torch.equal(decoder.decode(embedding, prompts), before)


def test_positions_are_those_of_sam(any_decoder: MaskDecoder) -> None:
    """The centre of a cell of the embedding has the position that SAM gives that cell; a click has its own."""
    cells = torch.stack(torch.meshgrid(*[torch.arange(any_decoder.side)] * 2, indexing="xy"), -1)
    centres = Frame.cells_to_canvas(cells.float(), (any_decoder.side,) * 2)
    grid = any_decoder.module.get_image_wide_positional_embeddings()[0].permute(1, 2, 0)
    assert (any_decoder.positions(centres) - grid).abs().max() < 1e-4  # measured: 3e-5
    pixel = torch.tensor([[[[17.0, 40.0]]]])  # SAM adds the half pixel to whole ones
    embedder = any_decoder.module.prompt_encoder
    theirs = embedder._embed_points(pixel, torch.ones(1, 1, 1), pad=False) - embedder.point_embed[1].weight
    ours = any_decoder.positions((pixel + 0.5) / any_decoder.image_size)
    assert (theirs - ours).abs().max() < 1e-4


def test_positions_keep_their_precision_in_half(sam: Path, decoder: MaskDecoder) -> None:
    half = load_decoder(sam, dtype=torch.bfloat16)
    near = half.positions(torch.tensor([[0.7001, 0.3], [0.7011, 0.3]]))  # a pixel of 1024 apart: one bfloat16
    assert near.dtype == torch.float32
    assert (near[0] - near[1]).abs().max() > 1e-3
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        trained = decoder.positions(points)
    assert torch.equal(trained, decoder.positions(points))


def test_clicks_and_boxes_are_those_of_sam(any_decoder: MaskDecoder, embedding: Embedding) -> None:
    size = any_decoder.image_size
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(0, size, (2, 3, 4, 2), generator=generator).float()
    labels = torch.randint(0, 2, (2, 3, 4), generator=generator)
    corner = torch.randint(0, size // 2, (2, 3, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + size // 3], -1)
    canvas = {"points": (points + 0.5) / size, "boxes": (boxes + 0.5) / size}

    def theirs(**given: Tensor) -> Tensor:
        with torch.no_grad():
            given |= {"image_embeddings": embedding.coarse}
            return any_decoder.module(multimask_output=False, **given).pred_masks[:, :, 0]

    clicks = theirs(input_points=points, input_labels=labels)
    assert error(any_decoder.prompt(embedding, canvas["points"], labels), clicks) < TOLERANCE
    framed = theirs(input_boxes=boxes)
    assert error(any_decoder.prompt(embedding, boxes=canvas["boxes"]), framed) < TOLERANCE
    both = theirs(input_points=points, input_labels=labels, input_boxes=boxes)
    assert error(any_decoder.prompt(embedding, canvas["points"], labels, canvas["boxes"]), both) < TOLERANCE
    assert error(clicks, framed) > 0.01


def test_embedding_is_sams_own(decoder: MaskDecoder, sam: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = (torch.tensor(image).permute(2, 0, 1) - torch.tensor(decoder.mean)[:, None, None]) / torch.tensor(
        decoder.std
    )[:, None, None]
    with torch.no_grad():
        expected = SamModel.from_pretrained(sam).eval().get_image_embeddings(pixels[None])
    assert error(decoder.encode(image, Frame(64, 64)).coarse, expected) < TOLERANCE


def test_trainable_decoder(decoder: MaskDecoder) -> None:
    embedding, prompts = Embedding(noise(1, decoder.width, decoder.side, decoder.side)), noise(1, 2, 3, decoder.width)
    own = decoder.trainable_decoder()
    before = decoder.decode(embedding, prompts)
    assert torch.equal(decoder.decode(embedding, prompts, decoder=own), before)
    frozen = {n for n, p in own.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in own.named_parameters() if n.startswith("iou_prediction_head.")} != set()
    decoder.decode(embedding, prompts, decoder=own).square().mean().backward()
    assert all(p.grad is None for p in decoder.module.parameters())
    with torch.no_grad():
        for p in own.parameters():
            p += 0.1
    assert torch.equal(decoder.decode(embedding, prompts), before)
    assert not torch.equal(decoder.decode(embedding, prompts, decoder=own), before)
    assert not any(p.requires_grad for p in decoder.module.parameters())


def test_half_precision(sam: Path, decoder: MaskDecoder) -> None:
    """A SAM in bfloat16 with a decoder trained in float32: embeddings and prompts come to the decoder's precision."""
    half = load_decoder(sam, dtype=torch.bfloat16)
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    embedding, prompts = half.encode(image, Frame(40, 64)), noise(1, 2, 3, decoder.width)
    keep = torch.tensor([[[True, True, False], [True, True, True]]])
    expected = decoder.decode(decoder.encode(image, Frame(40, 64)), prompts, keep)
    own = half.trainable_decoder()
    assert {p.dtype for p in own.parameters()} == {torch.float32}
    for found in (half.decode(embedding, prompts, keep), half.decode(embedding, prompts, keep, own)):
        assert found.dtype == torch.float32
        assert error(found, expected) < 0.1  # measured: .02


@pytest.fixture
def damaged(sam: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sam, tmp_path / "model")


@pytest.mark.parametrize("change", ["missing", "extra", "reshaped"])
def test_weights_that_do_not_fit_are_refused(damaged: Path, change: str) -> None:
    file, key = damaged / "model.safetensors", "mask_decoder.upscale_conv1.weight"
    state = load_file(file)
    if change == "missing":
        del state[key]
    elif change == "extra":
        key = "mask_decoder.bogus"
        state[key] = torch.zeros(3)
    else:
        state[key] = state[key].transpose(0, 1).contiguous()
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"do not fit their config.*{key}") as caught:
        load_decoder(damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_refused(damaged: Path, kept: float) -> None:
    file = damaged / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match="cut short or damaged") as caught:
        load_decoder(damaged)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused(damaged: Path) -> None:
    state = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").unlink()
    torch.save(state, damaged / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        load_decoder(damaged)
    assert "\n" not in str(caught.value)
