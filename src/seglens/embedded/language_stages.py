"""Stages 2 to 4, language: the LLM on symbolic scenes, then vision aligned to those symbols, then both end to end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from seglens.embedded.models import VisionSize
from seglens.embedded.packing import IGNORED, PackedScenes, pack
from seglens.embedded.stage import Budget, Stage, half_precision, scene_numbers
from seglens.embedded.symbols import Symbols
from seglens.embedded.symbols import symbols as symbols_of
from seglens.embedded.vision_stage import PatchReadout, patch_features, patch_terms, pixels
from seglens.world.concepts import CONCEPTS, PART_NAMES
from seglens.world.draw import PALETTE
from seglens.world.language import VQA_KINDS, lesson, speaker
from seglens.world.world import Scene, World

QUESTIONS = 12  # per scene


class Oracle(nn.Module):
    """Image tokens as perfect vision would give them: words for concept, colour and part, plus Fourier positions."""

    def __init__(self, width: int, tokenizer: PreTrainedTokenizerFast):
        super().__init__()
        look_up = lambda words: torch.tensor([0, *tokenizer.convert_tokens_to_ids(list(words))])  # noqa: E731
        self.register_buffer("concepts", look_up(c.name for c in CONCEPTS), persistent=False)
        self.register_buffer("colours", look_up(PALETTE), persistent=False)
        self.register_buffer("parts", look_up(PART_NAMES), persistent=False)
        self.concepts: Tensor
        self.colours: Tensor
        self.parts: Tensor
        self.background = nn.Parameter(torch.randn(width) * 0.02)
        self.gain = nn.Parameter(torch.tensor([0.7, 0.6]))
        self.place = nn.Linear(6 * 8, width)

    def forward(self, symbols: Symbols, words: Float[Tensor, "v d"]) -> Float[Tensor, "b n d"]:
        grid = symbols.concept.shape[-1]
        centres = (torch.arange(grid) + 0.5) / grid
        cells = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).expand(*symbols.concept.shape, 2)
        is_thing = (symbols.concept > 0).float()[..., None]
        where = torch.cat([cells, (cells + symbols.geometry[..., :2]) * is_thing, symbols.geometry[..., 2:]], -1)
        waves = where[..., None] * torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi
        waves = torch.cat([waves.sin(), waves.cos()], -1).flatten(-2)
        unit = F.normalize(words, dim=-1)
        what = unit[self.concepts[symbols.concept]] * is_thing + self.background * (1 - is_thing)
        what = what + self.gain[0] * unit[self.colours[symbols.colour]] * (symbols.colour > 0)[..., None]
        what = what + self.gain[1] * unit[self.parts[symbols.part]] * (symbols.part > 0)[..., None]
        return (what + 0.5 * self.place(waves)).flatten(1, 2)


class Learner:
    """The MLLM that learns, with its oracle: everything that the language stages share."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration | InternVLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        oracle: Oracle,
        vision_size: VisionSize,
    ):
        self.model, self.tokenizer, self.oracle, self.vision_size = model, tokenizer, oracle, vision_size
        self.language = model.model.language_model
        self.more: nn.Embedding | None = None  # of words that are added later; their ids follow the others

    @property
    def words(self) -> Float[Tensor, "v d"]:
        """The embedding of every token, as input and, tied, as output."""
        known = self.language.embed_tokens.weight
        return known if self.more is None else torch.cat([known, self.more.weight])

    def packed_scenes(self, world: World, indices: Iterable[int], most: int = 7) -> tuple[list[Scene], PackedScenes]:
        """The scenes, and the packed questions about them with their answers."""
        scenes, questions = [], []
        for index in indices:
            scenes.append(scene := world.scene(index, most))
            questions.append(lesson(speaker(world, index, scene), QUESTIONS))
        return scenes, pack(self.tokenizer, questions, self.vision_size)

    def image_tokens(self, scenes: list[Scene]) -> Float[Tensor, "b n d"]:
        """Image tokens through the ViT and the projector."""
        return self.project(self.patches(pixels(scenes, self.vision_size.side)))

    def patches(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b p c"]:
        """Patches of the ViT."""
        return patch_features(self.model.model.vision_tower, images)

    def project(self, patches: Float[Tensor, "b p c"]) -> Float[Tensor, "b n d"]:
        """Image tokens of the patches."""
        fold, tokens = self.vision_size.fold, self.vision_size.tokens
        folded = rearrange(patches, "b (h y w x) c -> b (h w) (y x c)", h=tokens, w=tokens, y=fold, x=fold)
        with half_precision():
            return self.model.model.multi_modal_projector(folded).float()

    def symbols(self, scenes: list[Scene]) -> Symbols:
        """What every image token shows."""
        return symbols_of(scenes, self.vision_size.tokens)

    def oracle_tokens(self, scenes: list[Scene]) -> Float[Tensor, "b n d"]:
        """The oracle's image tokens."""
        return self.oracle(self.symbols(scenes), self.words)

    def hidden_states(self, image: Tensor, packed: PackedScenes) -> Float[Tensor, "b t d"]:
        """Final hidden states of the packed sequences."""
        embedded = F.embedding(packed.ids, self.words)
        first, n = packed.first_image, image.shape[1]
        embedded = torch.cat([embedded[:, :first], image, embedded[:, first + n :]], 1)
        with half_precision():
            out = self.language(
                inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
            )
        return out.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        with half_precision():
            return F.linear(hidden, self.words).float()  # tied, as every embedded MLLM's

    def loss(self, hidden: Tensor, packed: PackedScenes) -> Tensor:
        """Next-token cross-entropy over the answers, each answer weighted by its length."""
        answer = packed.labels[:, 1:] != IGNORED
        weight = packed.weights[:, 1:][answer]
        loss = F.cross_entropy(self.logits(hidden[:, :-1][answer]), packed.labels[:, 1:][answer], reduction="none")
        return (loss * weight).sum() / weight.sum()

    def naming_loss(self, image: Tensor, symbols: Symbols) -> Tensor:
        """Projected patches should be closest to the word for what they show."""
        thing = symbols.concept.flatten(1) > 0
        names = F.normalize(self.words[self.oracle.concepts[1:]], dim=-1)
        near = 12 * F.normalize(image[thing], dim=-1) @ names.T
        return F.cross_entropy(near, symbols.concept.flatten(1)[thing] - 1)

    @torch.no_grad()
    def correct(self, image: Float[Tensor, "b n d"], packed: PackedScenes) -> Iterator[tuple[str, float]]:
        """The kind of every question, and whether its whole answer is right."""
        answers = self.logits(self.hidden_states(image, packed)).argmax(-1)
        for b, spans in enumerate(packed.spans):
            for kind, start, length in spans:
                same = answers[b, start - 1 : start - 1 + length] == packed.labels[b, start : start + length]
                yield kind, float(same.all())

    def evaluator(
        self, image_of: Callable[[list[Scene]], Tensor], count: int = 90
    ) -> Callable[[], Mapping[str, float]]:
        """Exact match of whole answers, by kind, on scenes of a test seed."""
        world = World("test", 8)
        batches = [self.packed_scenes(world, range(a, a + 30)) for a in range(0, count, 30)]

        @torch.no_grad()
        def evaluate() -> Mapping[str, float]:
            correct = [one for scenes, packed in batches for one in self.correct(image_of(scenes), packed)]
            return accuracies(correct, vqa=VQA_KINDS)

        return evaluate


def accuracies(correct: Sequence[tuple[str, float]], **groups: Collection[str]) -> dict[str, float]:
    """Shares of right answers: of each group of kinds, and of each kind."""
    kinds = sorted({kind for kind, _ in correct})
    groups = groups | {kind: (kind,) for kind in kinds}
    by_name = {name: [right for kind, right in correct if kind in group] for name, group in groups.items()}
    return {name: sum(right) / len(right) for name, right in by_name.items() if right}


class PatchLoss:
    """A loss that keeps in every single patch what it shows, where an image token folds several. Without a readout:
    nothing."""

    def __init__(self, readout: PatchReadout | None = None, weight: float = 0.0):
        self._readout, self._weight = readout, weight

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {} if self._readout is None else {"readout": self._readout}

    def terms(self, patches: Float[Tensor, "b p c"], scenes: list[Scene]) -> dict[str, Tensor]:
        if self._readout is None:
            return {}
        terms = patch_terms(self._readout(patches), scenes)
        return {f"patch_{name}": self._weight * term for name, term in terms.items()}


def train_language(learner: Learner, budget: Budget, out: Path) -> None:
    """The LLM alone, on symbols. Equal query and key weights let look-up circuits form early."""
    with torch.no_grad():
        for layer in learner.language.layers[:4]:
            layer.self_attn.q_proj.weight.normal_(0, 0.05)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    stage = Stage("language", {"language": learner.language, "oracle": learner.oracle}, budget, out)
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        most = min(7, 3 + 10 * step // budget.steps)
        scenes, packed = learner.packed_scenes(world, scene_numbers(step, budget.batch), most)
        return {"answer": learner.loss(learner.hidden_states(learner.oracle_tokens(scenes), packed), packed)}

    stage.run(terms_of, learner.evaluator(learner.oracle_tokens), evaluate_every=250)


def train_alignment(
    learner: Learner, budget: Budget, out: Path, name: str = "alignment", patch_loss: PatchLoss | None = None
) -> None:
    """ViT and projector learn to give the oracle's tokens; the language model is frozen."""
    patch_loss = patch_loss or PatchLoss()
    trained = {"vit": learner.model.model.vision_tower, "projector": learner.model.model.multi_modal_projector}
    stage = Stage(name, {**trained, **patch_loss.modules}, budget, out, gains={"vit": 0.5})
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes = [world.scene(i) for i in scene_numbers(step, budget.batch)]
        symbols = learner.symbols(scenes)
        with torch.no_grad():
            target = learner.oracle(symbols, learner.words)
        patches = learner.patches(pixels(scenes, learner.vision_size.side))
        image = learner.project(patches)
        error = ((image - target) ** 2).sum(-1)
        thing = symbols.concept.flatten(1) > 0
        return {
            "thing": error[thing].mean(),
            "rest": 0.3 * error[~thing].mean(),
            "naming": 0.5 * learner.naming_loss(image, symbols),
            **patch_loss.terms(patches, scenes),
        }

    stage.run(terms_of, learner.evaluator(learner.image_tokens), evaluate_every=400)


def train_joint(
    learner: Learner, budget: Budget, out: Path, name: str = "joint", patch_loss: PatchLoss | None = None
) -> None:
    """Everything end to end on pictures; vision at a third of the rate."""
    patch_loss = patch_loss or PatchLoss()
    trained = {"model": learner.model, **patch_loss.modules}
    stage = Stage(name, trained, budget, out, gains={"model.model.vision_tower": 0.3})
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes, packed = learner.packed_scenes(world, scene_numbers(step, budget.batch))
        patches = learner.patches(pixels(scenes, learner.vision_size.side))
        image = learner.project(patches)
        return {
            "answer": learner.loss(learner.hidden_states(image, packed), packed),
            "naming": 0.2 * learner.naming_loss(image, learner.symbols(scenes)),
            **patch_loss.terms(patches, scenes),
        }

    stage.run(terms_of, learner.evaluator(learner.image_tokens), evaluate_every=250)
