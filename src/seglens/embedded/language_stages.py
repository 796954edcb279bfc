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
from seglens.embedded.recipe import Budget, Stage, batches, half_precision
from seglens.embedded.symbols import Symbols, symbols
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

    def forward(self, shown: Symbols, words: Float[Tensor, "v d"]) -> Float[Tensor, "b n d"]:
        grid = shown.concept.shape[-1]
        centres = (torch.arange(grid) + 0.5) / grid
        here = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).expand(*shown.concept.shape, 2)
        is_thing = (shown.concept > 0).float()[..., None]
        where = torch.cat([here, (here + shown.geometry[..., :2]) * is_thing, shown.geometry[..., 2:]], -1)
        waves = where[..., None] * torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi
        waves = torch.cat([waves.sin(), waves.cos()], -1).flatten(-2)
        unit = F.normalize(words, dim=-1)
        what = unit[self.concepts[shown.concept]] * is_thing + self.background * (1 - is_thing)
        what = what + self.gain[0] * unit[self.colours[shown.colour]] * (shown.colour > 0)[..., None]
        what = what + self.gain[1] * unit[self.parts[shown.part]] * (shown.part > 0)[..., None]
        return (what + 0.5 * self.place(waves)).flatten(1, 2)


class Pupil:
    """The MLLM with its oracle: everything that the language stages share."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration | InternVLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        oracle: Oracle,
        sight: VisionSize,
    ):
        self.model, self.tokenizer, self.oracle, self.sight = model, tokenizer, oracle, sight
        self.language = model.model.language_model
        self.more: nn.Embedding | None = None  # words that are learnt later; their ids follow the others

    @property
    def words(self) -> Float[Tensor, "v d"]:
        """Of every token: what it is read as, and what is spoken is compared with."""
        known = self.language.embed_tokens.weight
        return known if self.more is None else torch.cat([known, self.more.weight])

    def teach(self, world: World, indices: Iterable[int], most: int = 7) -> tuple[list[Scene], PackedScenes]:
        """The scenes and their packed lessons."""
        scenes, said = [], []
        for index in indices:
            scenes.append(scene := world.scene(index, most))
            said.append(lesson(speaker(world, index, scene), QUESTIONS))
        return scenes, pack(self.tokenizer, said, self.sight)

    def see(self, scenes: list[Scene]) -> Float[Tensor, "b n d"]:
        """Image tokens through the ViT and the projector."""
        return self.project(self.look(pixels(scenes, self.sight.side)))

    def look(self, shown: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b p c"]:
        """Patches through the ViT."""
        return patch_features(self.model.model.vision_tower, shown)

    def project(self, patches: Float[Tensor, "b p c"]) -> Float[Tensor, "b n d"]:
        """Image tokens of the patches."""
        fold, tokens = self.sight.fold, self.sight.tokens
        folded = rearrange(patches, "b (h y w x) c -> b (h w) (y x c)", h=tokens, w=tokens, y=fold, x=fold)
        with half_precision():
            return self.model.model.multi_modal_projector(folded).float()

    def symbols(self, scenes: list[Scene]) -> Symbols:
        """What every image token shows."""
        return symbols(scenes, self.sight.tokens)

    def imagine(self, scenes: list[Scene]) -> Float[Tensor, "b n d"]:
        """Image tokens as the oracle gives them."""
        return self.oracle(self.symbols(scenes), self.words)

    def listen(self, image: Tensor, packed: PackedScenes) -> Float[Tensor, "b t d"]:
        """Final hidden states of the packed sequences."""
        embedded = F.embedding(packed.ids, self.words)
        first, n = packed.first_image, image.shape[1]
        embedded = torch.cat([embedded[:, :first], image, embedded[:, first + n :]], 1)
        with half_precision():
            out = self.language(
                inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
            )
        return out.last_hidden_state

    def speak(self, hidden: Tensor) -> Tensor:
        with half_precision():
            return F.linear(hidden, self.words).float()  # tied, as every embedded MLLM's

    def loss(self, hidden: Tensor, packed: PackedScenes) -> Tensor:
        """Next-token cross-entropy over the answers, each answer weighted by its length."""
        answer = packed.labels[:, 1:] != IGNORED
        weight = packed.weights[:, 1:][answer]
        loss = F.cross_entropy(self.speak(hidden[:, :-1][answer]), packed.labels[:, 1:][answer], reduction="none")
        return (loss * weight).sum() / weight.sum()

    def naming(self, image: Tensor, shown: Symbols) -> Tensor:
        """Projected patches should be closest to the word for what they show."""
        thing = shown.concept.flatten(1) > 0
        names = F.normalize(self.words[self.oracle.concepts[1:]], dim=-1)
        near = 12 * F.normalize(image[thing], dim=-1) @ names.T
        return F.cross_entropy(near, shown.concept.flatten(1)[thing] - 1)

    @torch.no_grad()
    def marks(self, image: Float[Tensor, "b n d"], packed: PackedScenes) -> Iterator[tuple[str, float]]:
        """The kind of every question, and whether its whole answer is right."""
        said = self.speak(self.listen(image, packed)).argmax(-1)
        for b, spans in enumerate(packed.spans):
            for kind, start, length in spans:
                same = said[b, start - 1 : start - 1 + length] == packed.labels[b, start : start + length]
                yield kind, float(same.all())

    def examiner(self, image_of: Callable[[list[Scene]], Tensor], count: int = 90) -> Callable[[], Mapping[str, float]]:
        """Exact match of whole answers, by kind, on scenes of a test seed."""
        world = World("test", 8)
        exam = [self.teach(world, range(a, a + 30)) for a in range(0, count, 30)]

        @torch.no_grad()
        def evaluate() -> Mapping[str, float]:
            marks = [mark for scenes, packed in exam for mark in self.marks(image_of(scenes), packed)]
            return report(marks, vqa=VQA_KINDS)

        return evaluate


def report(marks: Sequence[tuple[str, float]], **groups: Collection[str]) -> dict[str, float]:
    """Shares of right answers: of each group of kinds, and of each kind."""
    kinds = sorted({kind for kind, _ in marks})
    groups = groups | {kind: (kind,) for kind in kinds}
    found = {name: [right for kind, right in marks if kind in group] for name, group in groups.items()}
    return {name: sum(right) / len(right) for name, right in found.items() if right}


class Dense:
    """Keeps single patches telling what they show, where an image token folds several. Without a readout: nothing."""

    def __init__(self, readout: PatchReadout | None = None, weight: float = 0.0):
        self._readout, self._weight = readout, weight

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {} if self._readout is None else {"readout": self._readout}

    def terms(self, patches: Float[Tensor, "b p c"], scenes: list[Scene]) -> dict[str, Tensor]:
        if self._readout is None:
            return {}
        said = patch_terms(self._readout(patches), scenes)
        return {f"patch_{name}": self._weight * term for name, term in said.items()}


def train_language(pupil: Pupil, budget: Budget, out: Path) -> None:
    """The LLM alone, on symbols. Equal query and key weights let look-up circuits form early."""
    with torch.no_grad():
        for layer in pupil.language.layers[:4]:
            layer.self_attn.q_proj.weight.normal_(0, 0.05)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    stage = Stage("language", {"language": pupil.language, "oracle": pupil.oracle}, budget, out)
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        most = min(7, 3 + 10 * step // budget.steps)
        scenes, packed = pupil.teach(world, batches(step, budget.batch), most)
        return {"answer": pupil.loss(pupil.listen(pupil.imagine(scenes), packed), packed)}

    stage.run(terms_of, pupil.examiner(pupil.imagine), evaluate_every=250)


def train_alignment(
    pupil: Pupil, budget: Budget, out: Path, name: str = "alignment", dense: Dense | None = None
) -> None:
    """ViT and projector learn to give the oracle's tokens; the language side stands still."""
    dense = dense or Dense()
    seeing = {"vit": pupil.model.model.vision_tower, "projector": pupil.model.model.multi_modal_projector}
    stage = Stage(name, {**seeing, **dense.modules}, budget, out, gains={"vit": 0.5})
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes = [world.scene(i) for i in batches(step, budget.batch)]
        shown = pupil.symbols(scenes)
        with torch.no_grad():
            wanted = pupil.oracle(shown, pupil.words)
        patches = pupil.look(pixels(scenes, pupil.sight.side))
        image = pupil.project(patches)
        error = ((image - wanted) ** 2).sum(-1)
        thing = shown.concept.flatten(1) > 0
        naming = pupil.naming(image, shown)
        return {
            "thing": error[thing].mean(),
            "rest": 0.3 * error[~thing].mean(),
            "naming": 0.5 * naming,
            **dense.terms(patches, scenes),
        }

    stage.run(terms_of, pupil.examiner(pupil.see), evaluate_every=400)


def train_joint(pupil: Pupil, budget: Budget, out: Path, name: str = "joint", dense: Dense | None = None) -> None:
    """Everything end to end on pictures; vision at a third of the rate."""
    dense = dense or Dense()
    trained = {"model": pupil.model, **dense.modules}
    stage = Stage(name, trained, budget, out, gains={"model.model.vision_tower": 0.3})
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes, packed = pupil.teach(world, batches(step, budget.batch))
        patches = pupil.look(pixels(scenes, pupil.sight.side))
        image = pupil.project(patches)
        return {
            "answer": pupil.loss(pupil.listen(image, packed), packed),
            "naming": 0.2 * pupil.naming(image, pupil.symbols(scenes)),
            **dense.terms(patches, scenes),
        }

    stage.run(terms_of, pupil.examiner(pupil.see), evaluate_every=250)
