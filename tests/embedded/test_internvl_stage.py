"""The embedded InternVL with random weights: its start from the LLaVA, its images, and that it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, LlavaForConditionalGeneration

from seglens.backbones import Backbone, load_backbone
from seglens.checkpoints.origin import embedded_folder
from seglens.data.world import WorldData
from seglens.embedded import language_stages as stages
from seglens.embedded.build import BUDGETS
from seglens.embedded.internvl_stage import INTERNVL, make_internvl, make_internvl_processor, start_from_llava
from seglens.embedded.language_stages import Learner, Oracle, PatchLoss, train_alignment, train_joint
from seglens.embedded.models import LLAVA, PATCH, VisionSize, make_llava, make_processor, save_packed
from seglens.embedded.packing import pack
from seglens.embedded.symbols import symbols
from seglens.embedded.vision_stage import PatchReadout, patch_features, patch_terms, pixels
from seglens.evaluation.embedded_checks import vqa
from seglens.world.language import lesson, speaker
from seglens.world.world import Scene, World

WORLD = World("test", 4)
QUESTION = "what colour is the cat?"


def internvl() -> InternVLForConditionalGeneration:
    processor = make_internvl_processor()
    return make_internvl(len(processor.tokenizer), processor.image_token_id).eval()


def llava() -> LlavaForConditionalGeneration:
    tokenizer = make_processor().tokenizer
    return make_llava(len(tokenizer), tokenizer.convert_tokens_to_ids(LLAVA.image)).eval()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [WORLD.scene(i) for i in range(2)]


@pytest.fixture(scope="module")
def pair(scenes: list[Scene]) -> tuple[LlavaForConditionalGeneration, InternVLForConditionalGeneration]:
    """A LLaVA whose every number is random, norms and biases too, and an InternVL that started from it."""
    torch.manual_seed(0)
    old, new = llava(), internvl()
    with torch.no_grad():
        for parameter in old.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    start_from_llava(old, new, pixels(scenes, INTERNVL.side))
    return old, new


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "internvl"
    save_packed(internvl(), folder)
    make_internvl_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder, dtype=torch.float32)


# ---------------------------------------------------------------- its images


def test_a_folder_loads_as_any_internvl(backbone: Backbone) -> None:
    assert backbone.signature()["family"] == "internvl"
    assert (backbone.image_size, backbone.grid) == (256, (8, 8))
    assert backbone.can_chat
    image = WORLD.scene(0).image
    text = backbone.generate(image, QUESTION, max_new_tokens=3)
    assert len(text.split()) <= 3
    read = backbone.read(backbone.open(image), [QUESTION, "the cat"])
    assert read.image_tokens.shape == (64,)
    assert read.question.shape[:2] == (1, 2)


def test_the_processor_shows_the_canvas(backbone: Backbone) -> None:
    image = WORLD.scene(0).image
    processed = backbone.chat_inputs(image, QUESTION)["pixel_values"]
    assert processed.shape == (1, 3, 256, 256)
    own = backbone.pixels(image)
    trained = pixels([WORLD.scene(0)], INTERNVL.side)
    assert (processed[0] - own).abs().max() < 1e-6  # measured: 1.2e-7
    assert torch.equal(processed, trained)


@pytest.mark.parametrize("size", [(64, 512), (700, 300)])
def test_any_image_is_one_tile(backbone: Backbone, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    inputs = backbone.chat_inputs(image, QUESTION)
    assert inputs["pixel_values"].shape == (1, 3, 256, 256)
    assert (inputs["input_ids"] == backbone.module.config.image_token_id).sum() == 64
    whole = np.array(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR))
    here = ((inputs["pixel_values"][0] * 0.25 + 0.5) * 255).permute(1, 2, 0)
    assert (here - torch.tensor(whole).float()).abs().max() < 1e-4  # measured: 3.8e-6


def test_the_conversation(backbone: Backbone) -> None:
    text = backbone.prompts.text(QUESTION)
    assert text == f"USER: <IMG_CONTEXT>\n{QUESTION} ASSISTANT:"
    ids = backbone.chat_inputs(WORLD.scene(0).image, QUESTION)["input_ids"][0]
    words = backbone.processor.tokenizer.convert_ids_to_tokens(ids.tolist())
    question = ["what", "colour", "is", "the", "cat", "?", "assistant", ":"]
    assert words == ["<s>", "user", ":", "<img>", *["<IMG_CONTEXT>"] * 64, "</img>", *question]
    assert backbone.prompts.before() == ids[:4].tolist()
    assert backbone.prompts.after(QUESTION) == ids[68:].tolist()


def test_packed_questions_have_the_layout_of_the_processor(backbone: Backbone) -> None:
    """The training's packed sequence and a chat are the same, token for token."""
    world = World("train", 3)
    questions = lesson(speaker(world, 0), 3)
    packed = pack(backbone.processor.tokenizer, [questions], INTERNVL)
    first = packed.spans[0][0][1]
    chat = backbone.chat_inputs(world.scene(0).image, questions[0].text)["input_ids"]
    assert torch.equal(packed.ids[:, :first], chat)
    assert packed.first_image == 4
    prefix = packed.positions[0].tolist().index(4 + 64 + 1)
    last = packed.spans[0][1][1] - 1  # the last word of the second question sees the image with its frame
    assert (packed.mask[0, 0, last, :prefix] == 0).all()
    assert packed.positions[0, first].item() == first


@pytest.mark.parametrize("vision_size", [LLAVA, INTERNVL])
def test_image_tokens_are_the_models_own(
    vision_size: VisionSize,
    pair: tuple[LlavaForConditionalGeneration, InternVLForConditionalGeneration],
    scenes: list[Scene],
) -> None:
    """Patches folded by us and projected, as `get_image_features` gives them."""
    model = pair[vision_size == INTERNVL]
    learner = _learner(model, vision_size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        own = model.get_image_features(
            pixels(scenes, vision_size.side), vision_feature_layer=-1, vision_feature_select_strategy="default"
        ).pooler_output
    with torch.no_grad():
        here = learner.image_tokens(scenes)
    assert torch.equal(torch.cat([rows[None] for rows in own]).float(), here)
    assert here.shape == (2, vision_size.tokens**2, 256)


# ---------------------------------------------------------------- its start from the LLaVA


def test_a_layer_of_the_vit_computes_the_same(
    pair: tuple[LlavaForConditionalGeneration, InternVLForConditionalGeneration],
) -> None:
    old, new = (model.model.vision_tower.encoder for model in pair)
    rows = torch.randn(2, 17, 192)
    with torch.no_grad():
        for layer, its in zip(old.layers, new.layer, strict=True):
            expected, computed = layer(rows, None), its(rows)
            assert (expected - rows).std() > 0.1
            assert torch.equal(computed, expected)


def test_the_language_model_is_the_same_for_old_words(
    pair: tuple[LlavaForConditionalGeneration, InternVLForConditionalGeneration],
) -> None:
    old, new = pair
    ids = torch.tensor([[1, 40, 700, 12, 5]])
    with torch.no_grad():
        expected = old.lm_head(old.model.language_model(ids).last_hidden_state)
        logits = new.lm_head(new.model.language_model(ids).last_hidden_state)
    assert torch.equal(logits[..., : expected.shape[-1]], expected)
    words, more = (m.model.language_model.embed_tokens.weight for m in pair)
    assert len(more) == len(words) + 4
    assert torch.allclose(more[-4:], words.mean(0).expand(4, -1), atol=1e-6)
    own, its = (p.tokenizer.get_vocab() for p in (make_processor(), make_internvl_processor()))
    assert own.items() <= its.items()


def test_embeddings_keep_what_the_norm_made_of_them(
    pair: tuple[LlavaForConditionalGeneration, InternVLForConditionalGeneration], scenes: list[Scene]
) -> None:
    """The class token exactly; a patch in the direction that CLIP's norm would give it."""
    old, new = (model.model.vision_tower for model in pair)
    images = pixels(scenes, INTERNVL.side)
    with torch.no_grad():
        embeddings = new.embeddings(images)
        kernel = old.embeddings.patch_embedding.weight
        patches = rearrange(nn.functional.conv2d(images, kernel, stride=PATCH), "b c h w -> b (h w) c")
        grid = rearrange(old.embeddings.position_embedding.weight[1:], "(h w) c -> 1 c h w", h=12)
        grid = nn.functional.interpolate(grid, size=(16, 16), mode="bicubic")
        expected = old.pre_layrnorm(patches + rearrange(grid, "1 c h w -> 1 (h w) c"))
        first = old.pre_layrnorm(old.embeddings.class_embedding + old.embeddings.position_embedding.weight[0])
    assert torch.equal(embeddings[:, 0], first.expand(2, -1))
    cosine = nn.functional.cosine_similarity(
        embeddings[:, 1:] - old.pre_layrnorm.bias, expected - old.pre_layrnorm.bias, dim=-1
    )
    assert cosine.min() > 0.9999  # only the length of a patch differs


# ---------------------------------------------------------------- that it learns


def _learner(
    model: LlavaForConditionalGeneration | InternVLForConditionalGeneration, vision_size: VisionSize
) -> Learner:
    tokenizer = (make_internvl_processor() if vision_size == INTERNVL else make_processor()).tokenizer
    return Learner(model, tokenizer, Oracle(256, tokenizer), vision_size)


def _nothing() -> Mapping[str, float]:
    return {}


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> tuple[Learner, PatchLoss]:
    monkeypatch.setattr(stages.Learner, "evaluator", lambda *_: _nothing)
    torch.manual_seed(0)
    return _learner(internvl(), INTERNVL), PatchLoss(PatchReadout(192), 0.3)


def _short(name: str, steps: int) -> stages.Budget:
    return replace(BUDGETS[name], steps=steps, batch=2, warmup=1)


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.model.named_parameters()}


def test_the_oracle_and_the_patches_have_their_own_grids(
    learning: tuple[Learner, PatchLoss], scenes: list[Scene]
) -> None:
    learner, patch_loss = learning
    with torch.no_grad():
        patches = learner.patches(pixels(scenes, INTERNVL.side))
        assert learner.oracle_tokens(scenes).shape == learner.project(patches).shape == (2, 64, 256)
        terms = patch_loss.terms(patches, scenes)
        outputs = patch_loss.modules["readout"](patches)
    assert patches.shape == (2, 256, 192)
    assert outputs[0].shape[1] == symbols(scenes, 16).concept[0].numel()
    for name, term in patch_terms(outputs, scenes).items():
        assert terms[f"patch_{name}"].item() == pytest.approx(0.3 * term.item())


def test_alignment_trains_the_vision_side_alone(learning: tuple[Learner, PatchLoss], tmp_path: Path) -> None:
    learner, patch_loss = learning
    before = _copy(learner)
    train_alignment(learner, _short("internvl_alignment", 2), tmp_path, "internvl_alignment", patch_loss)
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    language = {name for name in before if "language_model" in name}
    assert moved == before.keys() - language
    assert (tmp_path / "internvl_alignment.ckpt").is_file()


@pytest.mark.slow
def test_joint_training_lowers_the_loss_and_resumes_exactly(
    learning: tuple[Learner, PatchLoss], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, patch_loss = learning
    start = _copy(learner)
    readout = {k: v.clone() for k, v in patch_loss.modules["readout"].state_dict().items()}
    world = World("train", BUDGETS["internvl"].seed)

    def loss() -> float:
        scenes, packed = learner.packed_scenes(world, range(2))
        with torch.no_grad():
            return learner.loss(learner.hidden_states(learner.image_tokens(scenes), packed), packed).item()

    untrained = loss()
    train_joint(learner, _short("internvl", 4), tmp_path / "whole", "internvl", patch_loss)
    assert loss() < untrained - 0.5  # measured: 6.68 at the start
    whole = _copy(learner)
    assert not any(torch.equal(whole[name], start[name]) for name in whole)

    def restart() -> None:
        with torch.no_grad():
            for name, parameter in learner.model.named_parameters():
                parameter.copy_(start[name])
        patch_loss.modules["readout"].load_state_dict(readout)

    class KilledError(Exception):
        pass

    packed_scenes = Learner.packed_scenes

    def killed(self: Learner, world: World, indices: range, most: int = 7) -> object:
        if indices.start == 4:
            raise KilledError
        return packed_scenes(self, world, indices, most)

    restart()
    with monkeypatch.context() as patch:
        patch.setattr("seglens.embedded.stage.SAVE_EVERY", -1.0)  # after every step
        patch.setattr(Learner, "packed_scenes", killed)
        with pytest.raises(KilledError):
            train_joint(learner, _short("internvl", 4), tmp_path / "killed", "internvl", patch_loss)
    restart()
    train_joint(learner, _short("internvl", 4), tmp_path / "killed", "internvl", patch_loss)
    assert all(torch.equal(p, whole[name]) for name, p in learner.model.named_parameters())


# ---------------------------------------------------------------- the weights in the package


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    folder = embedded_folder("embedded/internvl")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; `seglens embedded build` makes it in its stage 'internvl'")
    return load_backbone(folder, dtype=torch.float32)


def test_the_embedded_one_answers(embedded: Backbone) -> None:
    scores = vqa(embedded, WorldData(n=12, seed=1))
    assert scores["questions"] > 40
    assert scores["accuracy"] > 0.85  # measured: .957


def test_patches_of_the_embedded_one_hold_what_they_show(embedded: Backbone) -> None:
    """A line through single patches, fitted on some scenes, shows for others which of them show a thing."""
    world = World("test", 12)
    scenes = [world.scene(i) for i in range(60)]
    with torch.no_grad():
        rows = patch_features(embedded.module.model.vision_tower, pixels(scenes, INTERNVL.side)).float()
    thing = (symbols(scenes, 16).concept > 0).flatten(1).float()
    rows = torch.cat([rows, torch.ones(*rows.shape[:2], 1)], -1)
    fit = torch.linalg.lstsq(rows[:40].flatten(0, 1), thing[:40].flatten()[:, None]).solution
    right = ((rows[40:] @ fit)[..., 0] > 0.5) == (thing[40:] > 0)
    assert right.float().mean() > 0.97  # measured: .992, and .900 with random weights
