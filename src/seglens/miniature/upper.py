"""Stage 5, manners: the upper layers of the LLaVA learn how people talk, and words for it.

LENS reads a lower layer and keeps its own copies of the two behind it, so that its masks stay what they are while the
layers above these learn. What the model could say before is rehearsed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seglens.miniature.language import VQA_KINDS, Speaker, lesson, speaker
from seglens.miniature.lessons import Pupil, report
from seglens.miniature.manners import SHARES, Manners, new_words
from seglens.miniature.models import make_tokenizer
from seglens.miniature.packing import Packed, pack
from seglens.miniature.pairs import Pair, letterboxed
from seglens.miniature.phrases import Question
from seglens.miniature.recipe import Budget, Stage, batches
from seglens.miniature.world import World

PAIRED = 8  # every so manieth scene is shown beside itself with something marked
INSTRUCTIONS, REHEARSED = 24, 6  # per scene


def learn_words(pupil: Pupil) -> None:
    """Words of the grammar get a row each behind the others. They start as the unknown word: a nod, no more."""
    words, unknown = new_words(), pupil.words[pupil.tokenizer.unk_token_id].detach()
    pupil.tokenizer = make_tokenizer(words=words)
    pupil.more = nn.Embedding(len(words), len(unknown))
    with torch.no_grad():
        pupil.more.weight.copy_(unknown + 0.1 * unknown.std() * torch.randn(len(words), len(unknown)))


def _said(one: Speaker) -> list[Question]:
    manners = Manners(one)
    return [*lesson(one, REHEARSED), *(manners.intent() for _ in range(INSTRUCTIONS))]


def teach(pupil: Pupil, world: World, indices: Iterable[int]) -> tuple[Float[Tensor, "b 3 s s"], Packed]:
    """What is shown of these scenes, and the packed lessons about it."""
    images, said = list[np.ndarray](), list[list[Question]]()
    for index in indices:
        scene = world.scene(index)
        one = speaker(world, index, scene)
        if index % PAIRED:
            images.append(scene.image)
            said.append(_said(one))
        else:
            pair = Pair(one, scene)
            images.append(pair.image)
            said.append(pair.questions(INSTRUCTIONS + REHEARSED))
    return letterboxed(images, pupil.sight.side), pack(pupil.tokenizer, said, pupil.sight)


def examiner(pupil: Pupil, count: int = 64) -> Callable[[], Mapping[str, float]]:
    """Exact match of whole answers by kind, and of intents, on scenes of a test seed."""
    world = World("test", 8)
    exam = [teach(pupil, world, range(a, a + 32)) for a in range(0, count, 32)]

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        seen = ((pupil.project(pupil.look(shown)), packed) for shown, packed in exam)
        marks = [mark for image, packed in seen for mark in pupil.marks(image, packed)]
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
        shown, packed = teach(pupil, world, batches(step, budget.batch))
        with torch.no_grad():
            image = pupil.project(pupil.look(shown))
        return {"answer": pupil.loss(pupil.listen(image, packed), packed)}

    stage.run(terms_of, examiner(pupil), evaluate_every=200)
