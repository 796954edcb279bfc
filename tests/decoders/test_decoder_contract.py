"""What every mask decoder of the table must do, on tiny models of the true architectures and on the
embedded model's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import SamModel

from decoders.tiny import TINY, Kind
from seglens.core.geometry import Frame
from seglens.core.types import Embedding, Prompt
from seglens.decoders import DECODERS, MaskDecoder, load_decoder
from seglens.embedded.models import make_sam

TOLERANCE = 1e-5  # of the largest logit; measured: 1e-6 against other batches, 0 against the model's own forward
KINDS = {**TINY, "embedded": Kind(lambda folder: make_sam().save_pretrained(folder), SamModel)}


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual.float() - expected.float()).abs().max() / expected.float().abs().max()).item()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def pixels_of(decoder: MaskDecoder, pixels: list[Tensor]) -> RemovableHandle:
    """Note what the image encoder is given, by place or by name."""
    return decoder.module.vision_encoder.register_forward_pre_hook(
        lambda _, args, named: pixels.append((*args, *named.values())[0]), with_kwargs=True
    )


def one(embedding: Embedding, b: int) -> Embedding:
    return Embedding(embedding.coarse[b : b + 1], tuple(x[b : b + 1] for x in embedding.fine))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind)
    torch.manual_seed(0)
    KINDS[kind].save(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(folder: Path) -> MaskDecoder:
    return load_decoder(folder)


@pytest.fixture(scope="module")
def model(folder: Path, kind: str) -> nn.Module:
    """The library's own model, loaded by the library alone."""
    return KINDS[kind].own.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def embedding(decoder: MaskDecoder) -> Embedding:
    """Of two images."""
    coarse, *fine = (noise(2, *shape, seed=k) for k, shape in enumerate(decoder.shapes, 1))
    return Embedding(coarse, tuple(fine))


def test_every_decoder_is_tried() -> None:
    assert set(TINY) == set(DECODERS)


# ------------------------------------------------------------------ image encoder


@pytest.mark.parametrize("size", [(40, 40), (7, 300), (300, 7), (1, 1), (1000, 3), (65, 64)])
def test_encode(decoder: MaskDecoder, size: tuple[int, int]) -> None:
    embedding = decoder.encode(picture(*size), Frame(*size))
    maps = (embedding.coarse, *embedding.fine)
    assert tuple(tuple(x.shape) for x in maps) == tuple((1, *shape) for shape in decoder.shapes)
    assert decoder.shapes[0] == (decoder.width, decoder.side, decoder.side)
    assert all(x.isfinite().all() and x.is_contiguous() and not x.requires_grad for x in maps)


def test_images_that_share_a_pass_are_encoded_as_alone(decoder: MaskDecoder) -> None:
    images = [picture(40, 64), picture(64, 20, seed=1)]
    frames = [Frame(*image.shape[:2]) for image in images]
    together = decoder.encode_many(images, frames)
    for k, (image, frame) in enumerate(zip(images, frames, strict=True)):
        alone, shared = decoder.encode(image, frame), together.image(k)
        for map, expected in zip((shared.coarse, *shared.fine), (alone.coarse, *alone.fine), strict=True):
            assert error(map, expected) < TOLERANCE


def test_padding_is_zero_after_normalisation(decoder: MaskDecoder) -> None:
    pixels: list[Tensor] = []
    hook = pixels_of(decoder, pixels)
    decoder.encode(np.full((32, 64, 3), 255, np.uint8), Frame(32, 64))
    hook.remove()
    expected, half = (255 - torch.tensor(decoder.mean)) / torch.tensor(decoder.std), decoder.image_size // 2
    assert pixels[0].shape == (1, 3, decoder.image_size, decoder.image_size)
    assert (pixels[0][0, :, half:] == 0).all()
    assert torch.allclose(pixels[0][0, :, :half], expected[:, None, None], atol=1e-5)


def test_embedding_is_the_models_own(decoder: MaskDecoder, model: nn.Module) -> None:
    """An image that fills the canvas needs no resize: the model's own path gives the same."""
    side = decoder.image_size
    image = picture(side, side)
    pixels = (torch.tensor(image).permute(2, 0, 1) / 255 - torch.tensor(decoder.mean)[:, None, None] / 255) / (
        torch.tensor(decoder.std)[:, None, None] / 255
    )
    with torch.no_grad():
        expected = model.get_image_embeddings(pixels[None])
    *fine, coarse = expected if isinstance(expected, list) else [expected]
    actual = decoder.encode(image, Frame(side, side))
    assert len(actual.fine) == len(fine)
    for ours, theirs in zip((actual.coarse, *actual.fine), (coarse, *fine), strict=True):
        assert error(ours, theirs) < TOLERANCE  # measured: 1e-6


def test_statistics_are_those_of_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    usual = pytest.approx((123.675, 116.28, 103.53)), pytest.approx((58.395, 57.12, 57.375))
    assert (load_decoder(folder).mean, load_decoder(folder).std) == usual
    other = shutil.copytree(folder, tmp_path / "other")
    settings = {"image_mean": [0.25, 0.5, 0.75], "image_std": [0.1, 0.2, 0.4]}
    expected = tuple(255 * v for v in settings["image_mean"]), tuple(255 * v for v in settings["image_std"])
    (other / "preprocessor_config.json").write_text(json.dumps(settings))
    assert (load_decoder(other).mean, load_decoder(other).std) == expected
    (other / "preprocessor_config.json").unlink()
    assert (load_decoder(other).mean, load_decoder(other).std) == usual
    (other / "processor_config.json").write_text(json.dumps({"image_processor": settings}))  # of transformers 5
    assert (load_decoder(other).mean, load_decoder(other).std) == expected


def test_signature_tells_what_decides_an_embedding(decoder: MaskDecoder, folder: Path) -> None:
    mine = decoder.signature()
    assert json.loads(json.dumps(mine)) == mine
    assert mine == load_decoder(folder).signature()
    assert (mine["name"], mine["dtype"], mine["image_size"]) == (str(folder), "float32", decoder.image_size)
    assert load_decoder(folder, dtype=torch.bfloat16).signature() == {**mine, "dtype": "bfloat16"}


# ------------------------------------------------------------------ mask decoder


def test_void_tokens_do_not_exist(decoder: MaskDecoder, embedding: Embedding) -> None:
    """Sets of different size in one batch equal each set by itself, whatever stands in the void places."""
    prompts = noise(2, 3, 6, decoder.width)
    keep = torch.tensor(
        [
            [[True] * 6, [True, False, False, False, False, False], [True, True, False, True, False, True]],
            [[False] * 6, [False, True, True, False, False, False], [True] * 5 + [False]],
        ]
    )
    together = decoder.decode(embedding, prompts, keep)
    for b in range(2):
        for q in range(3):
            alone = decoder.decode(one(embedding, b), prompts[b : b + 1, q : q + 1, keep[b, q]])
            assert error(together[b, q], alone[0, 0]) < TOLERANCE
    loud = torch.where(keep[..., None], prompts, 1e4 * noise(*prompts.shape, seed=2))
    assert error(decoder.decode(embedding, loud, keep), together) < TOLERANCE
    assert error(decoder.decode(embedding, loud), together) > 0.01  # the void tokens would matter


def test_images_and_questions_do_not_see_each_other(decoder: MaskDecoder, embedding: Embedding) -> None:
    prompts = noise(2, 4, 3, decoder.width)
    together = decoder.decode(embedding, prompts)
    assert together.shape == (2, 4, decoder.mask_side, decoder.mask_side)
    for b in range(2):
        for q in range(4):
            alone = decoder.decode(one(embedding, b), prompts[b : b + 1, q : q + 1])
            assert error(together[b, q], alone[0, 0]) < TOLERANCE
    for k in range(len(decoder.shapes)):  # every map of an image matters to its own masks and to no other's
        maps = [x.clone() for x in (embedding.coarse, *embedding.fine)]
        maps[k][0] += noise(*decoder.shapes[k], seed=9)
        moved = decoder.decode(Embedding(maps[0], tuple(maps[1:])), prompts)
        assert error(moved[1], together[1]) < TOLERANCE
        assert all(error(moved[0, q], together[0, q]) > 1e-4 for q in range(4))


def test_nothing_stays_hidden(decoder: MaskDecoder, embedding: Embedding) -> None:
    prompts, keep = noise(2, 1, 3, decoder.width), torch.tensor([[[True, False, True]]]).expand(2, 1, 3)
    before = decoder.decode(embedding, prompts)
    assert not torch.equal(decoder.decode(embedding, prompts, keep), before)
    own = decoder.trainable_decoder()
    own.output_hypernetworks_mlps = nn.ModuleList()  # breaks half-way
    with pytest.raises(IndexError):
        decoder.decode(embedding, prompts, keep, own)
    assert torch.equal(decoder.decode(embedding, prompts), before)


def test_another_decoders_embedding_is_refused(decoder: MaskDecoder, embedding: Embedding) -> None:
    prompts = noise(2, 1, 3, decoder.width)
    many = Embedding(embedding.coarse, (*embedding.fine, embedding.coarse))
    small = Embedding(embedding.coarse[:, :, 1:, 1:], embedding.fine)
    few = [Embedding(embedding.coarse)] if embedding.fine else []
    for wrong in (many, small, *few):
        for ask in (decoder.decode, lambda e, p: decoder.prompt(e, boxes=p[..., 0, :4])):
            with pytest.raises(ValueError, match=r"got an embedding of .*x.*, needs .*encode the image") as caught:
                ask(wrong, prompts)
            assert "\n" not in str(caught.value)


def test_positions_are_those_of_the_model(decoder: MaskDecoder) -> None:
    """The centre of a cell of the embedding has the position that the model gives that cell; a click has its own."""
    cells = torch.stack(torch.meshgrid(*[torch.arange(decoder.side)] * 2, indexing="xy"), -1)
    centres = Frame.cells_to_canvas(cells.float(), (decoder.side,) * 2)
    grid = decoder.module.get_image_wide_positional_embeddings()[0].permute(1, 2, 0)
    assert (decoder.positions(centres) - grid).abs().max() < 1e-4  # measured: 3e-5
    pixel = torch.tensor([[[[17.0, 40.0]]]])  # the model adds the half pixel to whole ones
    embedder = decoder.module.prompt_encoder
    labels = embedder.point_embed  # what "inside" adds: SAM has a module per label, SAM 2 one table
    inside = labels[1].weight if isinstance(labels, nn.ModuleList) else labels.weight[1]
    theirs = embedder._embed_points(pixel, torch.ones(1, 1, 1, dtype=torch.long), pad=False) - inside
    assert (theirs - decoder.positions((pixel + 0.5) / decoder.image_size)).abs().max() < 1e-4


def test_positions_keep_their_precision_in_half(folder: Path, decoder: MaskDecoder) -> None:
    half = load_decoder(folder, dtype=torch.bfloat16)
    near = half.positions(torch.tensor([[0.7001, 0.3], [0.7011, 0.3]]))  # a pixel of 1024 apart: one bfloat16
    assert near.dtype == torch.float32
    assert (near[0] - near[1]).abs().max() > 1e-3
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        trained = decoder.positions(points)
    assert torch.equal(trained, decoder.positions(points))


def test_clicks_and_boxes_are_those_of_the_model(decoder: MaskDecoder, model: nn.Module, embedding: Embedding) -> None:
    size = decoder.image_size
    generator = torch.Generator().manual_seed(0)
    points = torch.randint(0, size, (2, 3, 4, 2), generator=generator).float()
    labels = torch.randint(0, 2, (2, 3, 4), generator=generator)
    corner = torch.randint(0, size // 2, (2, 3, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + size // 3], -1)
    canvas = {"points": (points + 0.5) / size, "boxes": (boxes + 0.5) / size}
    maps = [*embedding.fine, embedding.coarse] if embedding.fine else embedding.coarse

    def theirs(**inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return model(image_embeddings=maps, multimask_output=False, **inputs).pred_masks[:, :, 0]

    clicks = theirs(input_points=points, input_labels=labels)
    assert error(decoder.prompt(embedding, canvas["points"], labels), clicks) < TOLERANCE
    framed = theirs(input_boxes=boxes)
    assert error(decoder.prompt(embedding, boxes=canvas["boxes"]), framed) < TOLERANCE
    both = theirs(input_points=points, input_labels=labels, input_boxes=boxes)
    assert error(decoder.prompt(embedding, canvas["points"], labels, canvas["boxes"]), both) < TOLERANCE


def test_prompts_of_any_mixture_in_one_pass(decoder: MaskDecoder, model: nn.Module, embedding: Embedding) -> None:
    """Clicks, boxes and mask prompts: each set as the model alone answers it, whatever stands beside it."""
    maps, side = one(embedding, 0), decoder.mask_side
    points, none = torch.tensor([[0.2, 0.3], [0.7, 0.6], [0.5, 0.1]]), torch.zeros(0, 2)
    labels, box = torch.tensor([1, 0, 1]), torch.tensor([0.1, 0.2, 0.8, 0.7])
    earlier = 5 * noise(side, side)
    prompts = [
        Prompt(points, labels),
        Prompt(points[:1], labels[:1], box),
        Prompt(none, labels[:0], box),
        Prompt(points[:2], labels[:2], mask=earlier),
        Prompt(none, labels[:0], box, earlier),
    ]
    together = decoder.answer(maps, prompts)
    for actual, p in zip(together, prompts, strict=True):
        inputs: dict[str, Tensor] = {}
        if len(p.points):
            inputs = {
                "input_points": p.points[None, None] * decoder.image_size - 0.5,
                "input_labels": p.labels[None, None],
            }
        if p.box is not None:
            inputs["input_boxes"] = p.box[None, None] * decoder.image_size - 0.5
        if p.mask is not None:
            inputs["input_masks"] = p.mask[None, None]
        embeddings = [*maps.fine, maps.coarse] if maps.fine else maps.coarse
        with torch.no_grad():
            theirs = model(image_embeddings=embeddings, multimask_output=False, **inputs).pred_masks[0, 0, 0]
        assert error(actual, theirs) < TOLERANCE
    assert error(together[3], decoder.answer(maps, [Prompt(points[:2], labels[:2])])[0]) > 1e-3  # a mask prompt matters


# ------------------------------------------------------------------ training a copy


def test_trainable_decoder(decoder: MaskDecoder, embedding: Embedding) -> None:
    prompts = noise(2, 2, 3, decoder.width)
    own = decoder.trainable_decoder()
    before = decoder.decode(embedding, prompts)
    for mode in (True, False):  # what is trained is what is used
        assert torch.equal(decoder.decode(embedding, prompts, decoder=own.train(mode)), before)
    decoder.decode(embedding, prompts, decoder=own).square().sum().backward()
    assert all(p.grad is None for p in decoder.module.parameters())
    theirs = {p.data_ptr() for p in decoder.module.parameters()}
    assert not theirs & {p.data_ptr() for p in own.parameters()}
    with torch.no_grad():
        for p in own.parameters():
            p += 0.1
    assert torch.equal(decoder.decode(embedding, prompts), before)
    assert not torch.equal(decoder.decode(embedding, prompts, decoder=own), before)
    assert not any(p.requires_grad for p in decoder.module.parameters())


def test_what_is_trained_is_what_the_mask_depends_on(decoder: MaskDecoder, embedding: Embedding) -> None:
    """Frozen parts can be anything and the masks stay; every trained tensor gets a gradient that is not zero."""
    prompts = noise(2, 2, 3, decoder.width)
    own = decoder.trainable_decoder()
    before = decoder.decode(embedding, prompts, decoder=own)
    before.square().sum().backward()
    trained = {name: p for name, p in own.named_parameters() if p.requires_grad}
    biases = {name for name in trained if name.endswith("k_proj.bias")}  # soft-max does not feel what shifts every key
    assert biases
    for name, p in trained.items():
        assert name in biases or p.grad.abs().max() > 0, name
    frozen = {name: p for name, p in own.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {*decoder.idle, "output_hypernetworks_mlps"}
    with torch.no_grad():
        for p in frozen.values():
            assert p.grad is None
            p += 1
    assert torch.equal(decoder.decode(embedding, prompts, decoder=own), before)


def test_half_precision(folder: Path, decoder: MaskDecoder) -> None:
    """A model in bfloat16 with a decoder trained in float32: embeddings and prompts come to the decoder's precision."""
    half = load_decoder(folder, dtype=torch.bfloat16)
    embedding, prompts = half.encode(picture(40, 64), Frame(40, 64)), noise(1, 2, 3, decoder.width)
    assert {x.dtype for x in (embedding.coarse, *embedding.fine)} == {torch.bfloat16}
    keep = torch.tensor([[[True, True, False], [True, True, True]]])
    expected = decoder.decode(decoder.encode(picture(40, 64), Frame(40, 64)), prompts, keep)
    own = half.trainable_decoder()
    assert {p.dtype for p in own.parameters()} == {torch.float32}
    for actual in (half.decode(embedding, prompts, keep), half.decode(embedding, prompts, keep, own)):
        assert actual.dtype == torch.float32
        assert error(actual, expected) < 0.1  # measured: .02


def test_a_moved_model_decodes_as_one(folder: Path, embedding: Embedding) -> None:
    decoder, prompts = load_decoder(folder), noise(2, 2, 3, 128)
    prompts = prompts[..., : decoder.width]
    before = decoder.decode(embedding, prompts)
    decoder.module.to(torch.float64)
    assert error(decoder.decode(embedding, prompts), before) < TOLERANCE
    decoder.module.to("meta")  # tensors are replaced, as on the way to a GPU, not changed in place
    assert {p.device.type for p in decoder._single.parameters()} == {"meta"}


# ------------------------------------------------------------------ loading


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "model")


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


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_refused(damaged: Path, share: float) -> None:
    file = damaged / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
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
