"""Stage 5, manners: the upper layers of the LLaVA learn how people talk, and words for it.

LENS reads a lower layer and keeps its own copies of the two behind it, so that its masks stay what they are while the
layers above these learn. What the model could say before is rehearsed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from seglens.embedded.language_stages import Pupil, report
from seglens.embedded.models import make_tokenizer
from seglens.embedded.packing import PackedScenes, pack
from seglens.embedded.recipe import Budget, Stage, batches
from seglens.world.chat_phrases import SHARES, ChatPhrases, new_words
from seglens.world.language import VQA_KINDS, Speaker, lesson, speaker
from seglens.world.phrases import Question
from seglens.world.world import Scene, World

INSTRUCTIONS, REHEARSED = 24, 6  # per scene


def learn_words(pupil: Pupil) -> None:
    """Words of the grammar get a row each behind the others. They start as the unknown word: a nod, no more."""
    words, unknown = new_words(), pupil.words[pupil.tokenizer.unk_token_id].detach()
    pupil.tokenizer = make_tokenizer(words=words)
    pupil.more = nn.Embedding(len(words), len(unknown))
    with torch.no_grad():
        pupil.more.weight.copy_(unknown + 0.1 * unknown.std() * torch.randn(len(words), len(unknown)))


def _said(one: Speaker) -> list[Question]:
    phrases = ChatPhrases(one)
    return [*lesson(one, REHEARSED), *(phrases.intent() for _ in range(INSTRUCTIONS))]


def teach(pupil: Pupil, world: World, indices: Iterable[int]) -> tuple[list[Scene], PackedScenes]:
    """The scenes, and the packed lessons about them."""
    scenes = [world.scene(index) for index in indices]
    said = [_said(speaker(world, index, scene)) for index, scene in zip(indices, scenes, strict=True)]
    return scenes, pack(pupil.tokenizer, said, pupil.sight)


def examiner(pupil: Pupil, count: int = 64) -> Callable[[], Mapping[str, float]]:
    """Exact match of whole answers by kind, and of intents, on scenes of a test seed."""
    world = World("test", 8)
    exam = [teach(pupil, world, range(a, a + 32)) for a in range(0, count, 32)]

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        marks = [mark for scenes, packed in exam for mark in pupil.marks(pupil.see(scenes), packed)]
        return report(marks, vqa=VQA_KINDS, routed=SHARES)

    return evaluate


def train_manners(pupil: Pupil, budget: Budget, out: Path, first: int) -> None:
    """The layers from `first` on and the new words; everything else stands still."""
    pupil.model.requires_grad_(False)
    pupil.model.set_attn_implementation("sdpa")  # many questions: twice as fast as eager attention
    learn_words(pupil)
    assert pupil.more is not None
    upper = pupil.language.layers[first:].requires_grad_(True)
    stage = Stage("manners", {"upper": upper, "embed": pupil.more}, budget, out)
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes, packed = teach(pupil, world, batches(step, budget.batch))
        with torch.no_grad():
            image = pupil.see(scenes)
        return {"answer": pupil.loss(pupil.listen(image, packed), packed)}

    stage.run(terms_of, examiner(pupil), evaluate_every=200)
