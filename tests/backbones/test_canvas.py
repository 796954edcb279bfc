"""How pictures come to the MLLM's canvas: what each choice makes of them, beside the authors' own steps restated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil

from seglens.backbones import Backbone, load_backbone
from seglens.core.geometry import LETTERBOX, Canvas, Frame, floor_targets
from seglens.data.world import WorldData
from seglens.methods.preset import TILE
from seglens.training.presets import RECIPES, adjusted, recipe
from tiny import KINDS

LENS_AUTHORS = Canvas(resample="sam-processor", padding="black")
CLIP = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(canvas: Tensor, processor: Any) -> Tensor:
    mean, std = (255 * torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    return (canvas - mean) / std


# ------------------------------------------------------------------ pixels


@pytest.mark.parametrize("size", [(427, 640), (640, 427), (60, 90), (200, 1400), (1, 90)])
def test_lens_is_shown_a_picture_as_its_authors_show_it(size: tuple[int, int]) -> None:
    """Scaled to SAM's 1024 pixels, padded with zeros, and only then given to CLIP's own processor."""
    picture, scale = Image.fromarray(noise(*size)), 1024 / max(size)
    height, width = (int(side * scale + 0.5) for side in size)
    square = np.zeros((1024, 1024, 3), np.uint8)
    square[:height, :width] = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    expected = torch.as_tensor(np.asarray(CLIP(Image.fromarray(square), return_tensors="np")["pixel_values"][0]))
    canvas = LENS_AUTHORS.render(np.asarray(picture), 336, (1.0, 2.0, 3.0), CLIP.resample)
    assert torch.allclose(normalised(canvas, CLIP), expected, atol=2e-6)


def test_the_processors_own_filter_is_bicubic_for_clip_and_rounds_to_whole_numbers() -> None:
    canvas = Canvas(resample="processor").render(noise(90, 60), 48, (7.5, 8.5, 9.5), CLIP.resample)
    own = np.asarray(Image.fromarray(noise(90, 60)).resize((32, 48), Image.Resampling.BICUBIC))
    assert CLIP.resample == Image.Resampling.BICUBIC
    assert torch.equal(canvas[:, :, :32], torch.tensor(own).permute(2, 0, 1).float())
    assert torch.equal(canvas[:, :, 32:].flatten(1).unique(dim=1), torch.tensor([[7.5], [8.5], [9.5]]))


def test_padding_is_the_mean_colour_or_black() -> None:
    for padding, fill in {"mean": [9.0, 8.0, 7.0], "black": [0.0, 0.0, 0.0]}.items():
        for resample in ("bilinear", "processor", "sam-processor"):
            canvas_choice = Canvas(resample=resample, padding=padding)  # type: ignore[arg-type]
            canvas = canvas_choice.render(noise(20, 40), 16, (9.0, 8.0, 7.0), Image.Resampling.BICUBIC)
            assert canvas[:, -4:].flatten(1).unique(dim=1).flatten().tolist() == fill


@pytest.mark.parametrize("kind", ["internvl"])
@pytest.mark.parametrize("size", [(48, 64), (300, 100), (5, 90)])
def test_a_tile_is_what_internvls_own_processor_makes(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    """The authors of MLLMSeg and SELF1E resize to the square of one tile: so does the processor that shows one."""
    KINDS[kind].save(tmp_path / kind)
    backbone = load_backbone(tmp_path / kind, canvas=TILE, **KINDS[kind].options)
    assert backbone.canvas == TILE
    processor = backbone.processor.image_processor
    own = processor(Image.fromarray(noise(*size)), crop_to_patches=False, return_tensors="pt")["pixel_values"]
    assert torch.allclose(backbone.pixels(noise(*size)).float(), own[0].float(), atol=2e-5)


def test_a_processor_that_names_no_filter() -> None:
    image, mean = noise(20, 30), (1.0, 2.0, 3.0)
    assert torch.equal(LETTERBOX.render(image, 16, mean, None), LETTERBOX.render(image, 16, mean, 3))
    with pytest.raises(ValueError, match=r"resample=processor needs .* take resample=bilinear"):
        TILE.render(image, 16, mean, None)


def test_unless_asked_for_nothing_changes() -> None:
    image = noise(30, 50)
    canvas = LETTERBOX.render(image, 24, (1.0, 2.0, 3.0), Image.Resampling.BICUBIC)
    assert torch.equal(canvas, Frame(30, 50).render(torch.tensor(image), 24, (1.0, 2.0, 3.0)))
    assert LETTERBOX.name == "pad-mean"  # caches that are there stay good
    assert len({Canvas(**canvas_choice).name for canvas_choice in CHOICES}) == len(CHOICES)


CHOICES = [
    {},
    {"lay": "squash"},
    {"resample": "processor"},
    {"resample": "sam-processor"},
    {"padding": "black"},
    {"lay": "squash", "resample": "processor"},
]


@pytest.mark.parametrize("wrong", [{"lay": "squsah"}, {"resample": "cubic"}, {"padding": "grey"}])
def test_a_choice_that_there_is_not(wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"no value of {name} '{value}'; choose from"):
        Canvas(**wrong)
    with pytest.raises(ValueError, match="way to lay a picture"):
        Frame(2, 3, "crop")  # type: ignore[arg-type]


# ------------------------------------------------------------------ the way back


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (31, 200), (7, 5)])
def test_a_squashed_mask_comes_back_as_its_authors_bring_it_back(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    expected = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(Frame(*size, "squash").to_image_logits(logits), expected, atol=1e-9)


def ceiling(lay: Any) -> tuple[float, float]:
    """Mean IoU of the best masks of 64 x 64 cells on pictures of 640 x 480, of all drawn targets and of small ones."""
    scores, areas = [], []
    frame = Frame(480, 640, lay)
    for sample in WorldData(n=12, seed=1, queries=4):
        for target in filter(lambda target: target.present, sample.targets):
            wide = np.asarray(Image.fromarray(target.mask).resize((640, 480), Image.Resampling.NEAREST))
            mask = torch.tensor(wide)
            back = frame.to_image_logits(frame.to_canvas_mask(mask[None], 64) - 0.5)[0] > 0
            scores.append(float((back & mask).sum() / (back | mask).sum()))
            areas.append(float(mask.float().mean()))
    small = np.array(areas) < 0.02
    return float(np.mean(scores)), float(np.array(scores)[small].mean())


def test_a_squashed_canvas_has_a_higher_ceiling() -> None:
    """All of its cells show the picture: of a letterbox of 4 to 3, a quarter does not."""
    boxed, boxed_small = ceiling("letterbox")
    whole, whole_small = ceiling("squash")
    assert (boxed, whole) == pytest.approx(CEILINGS, abs=2e-3)
    assert (boxed_small, whole_small) == pytest.approx(CEILINGS_SMALL, abs=2e-3)


CEILINGS, CEILINGS_SMALL = (0.9216, 0.9332), (0.8414, 0.8659)  # of a letterbox, squashed


# ------------------------------------------------------------------ what LENS's authors compare their map with


def theirs(mask: np.ndarray, size: int) -> Tensor:
    """The mask as 0 and 255, resized as the picture is, whole steps of 255 alone, padded, and the nearest pixels."""
    scale = 1024 / max(mask.shape)
    height, width = (int(side * scale + 0.5) for side in mask.shape)
    laid = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR))
    padded = F.pad(torch.tensor(laid // 255).float(), (0, 1024 - width, 0, 1024 - height))
    return F.interpolate(padded[None, None], (size, size), mode="nearest")[0, 0]


@pytest.mark.parametrize("shape", [(48, 64), (427, 640), (1500, 900)])
@pytest.mark.parametrize("size", [128, 24, 100])
def test_floored_targets_are_the_authors(shape: tuple[int, int], size: int) -> None:
    y, x = np.ogrid[: shape[0], : shape[1]]
    middle = np.hypot(y - shape[0] * 0.4, x - shape[1] * 0.6) < 0.3 * min(shape)
    speckled = np.random.default_rng(0).random(shape) < 0.5
    floors = floor_targets(np.stack([middle, speckled]), Frame(*shape), size)
    assert floors.dtype == torch.uint8
    assert torch.equal(floors / 255, torch.stack([theirs(middle, size), theirs(speckled, size)]))


def test_floored_targets_by_hand() -> None:
    """The left half of 8 pixels at 1024: pixel x is at (x + 1/2) / 128 - 1/2 of them, wholly mask up to 3, so that x is
    at most 447. A cell of 128 takes the first of its 8 pixels: 56 cells of the 64."""
    left = np.zeros((1, 8, 8), bool)
    left[:, :, :4] = True
    floors = floor_targets(left, Frame(8, 8), 128)[0]
    assert (floors == 255).sum(1).tolist() == [56] * 128
    assert (floor_targets(np.ones((1, 4, 8), bool), Frame(4, 8), 128) == 255).sum() == 64 * 128  # padding is none


# ------------------------------------------------------------------ presets


def test_presets_that_squash() -> None:
    squashed = {(method, name) for method in RECIPES for name in RECIPES[method] if recipe(name, method).canvas == TILE}
    tiled = ("mllmseg", "self1e", "ufo")
    assert squashed == {(method, name) for method in tiled for name in RECIPES[method] if name.startswith("authors")}
    assert {method for method, _ in squashed} == set(tiled)
    assert recipe("authors").canvas == LENS_AUTHORS
    assert recipe("authors", "lisa").canvas == Canvas(resample="processor")
    for method in RECIPES:
        assert recipe("default", method).canvas == LETTERBOX
    assert (recipe("authors").floors, recipe("default").floors, recipe("authors", "ufo").floors) == (128, None, None)


def test_settings_change_the_canvas() -> None:
    assert adjusted(recipe("default"), ["tiles=12"]).canvas == Canvas(tiles=12)
    preset = adjusted(recipe("default", "self1e"), ["lay=squash", "resample=processor", "lr=1e-5"])
    assert preset.canvas == TILE
    assert replace(preset, canvas=LETTERBOX, training=recipe("default", "self1e").training) == recipe(
        "default", "self1e"
    )
    with pytest.raises(ValueError, match="got padding=grey; choose from mean, black"):
        adjusted(recipe("default"), ["padding=grey"])


# ------------------------------------------------------------------ where it counts


@pytest.fixture(scope="module")
def laid(llava: Path) -> Callable[..., Backbone]:
    return lambda **how: load_backbone(llava, attn_implementation="eager", canvas=Canvas(**how))


def test_what_changes_the_features_changes_their_key(laid: Callable[..., Backbone]) -> None:
    signatures = [laid(**how).signature() for how in CHOICES]
    assert len({signature["frame"] for signature in signatures}) == len(CHOICES)
    assert signatures[0]["frame"] == "pad-mean"


def test_every_reader_lays_a_picture_alike(laid: Callable[..., Backbone]) -> None:
    backbone, image = laid(lay="squash"), noise(20, 60)
    assert backbone.open(image).frame == Frame(20, 60, "squash")
    assert backbone.pixels(image).shape == (3, backbone.image_size, backbone.image_size)
    assert not torch.equal(backbone.pixels(image), laid().pixels(image))
