"""Stage 5, chat: the upper layers of the LLaVA learn how people ask, and words for it.

LENS reads a lower layer and has copies of the two layers after it, so that its masks do not change while the layers
above these learn. Questions of the earlier stages are repeated, so that the model does not forget their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from seglens.embedded.language_stages import Learner, accuracies
from seglens.embedded.models import make_tokenizer
from seglens.embedded.packing import PackedScenes, pack
from seglens.embedded.stage import Budget, Stage, scene_numbers
from seglens.world.chat_phrases import SHARES, ChatPhrases, new_words
from seglens.world.language import VQA_KINDS, Speaker, lesson, speaker
from seglens.world.phrases import Question
from seglens.world.world import Scene, World

INSTRUCTIONS, REPEATED = 24, 6  # per scene


def learn_words(learner: Learner) -> None:
    """Words of the grammar get a row each after the others. They start as the unknown word, with a little noise."""
    words, unknown = new_words(), learner.words[learner.tokenizer.unk_token_id].detach()
    learner.tokenizer = make_tokenizer(words=words)
    learner.more = nn.Embedding(len(words), len(unknown))
    with torch.no_grad():
        learner.more.weight.copy_(unknown + 0.1 * unknown.std() * torch.randn(len(words), len(unknown)))


def _questions(one: Speaker) -> list[Question]:
    phrases = ChatPhrases(one)
    return [*lesson(one, REPEATED), *(phrases.intent() for _ in range(INSTRUCTIONS))]


def packed_scenes(learner: Learner, world: World, indices: Iterable[int]) -> tuple[list[Scene], PackedScenes]:
    """The scenes, and the packed questions about them with their answers."""
    scenes = [world.scene(index) for index in indices]
    questions = [_questions(speaker(world, index, scene)) for index, scene in zip(indices, scenes, strict=True)]
    return scenes, pack(learner.tokenizer, questions, learner.vision_size)


def evaluator(learner: Learner, count: int = 64) -> Callable[[], Mapping[str, float]]:
    """Exact match of whole answers by kind, and of intents, on scenes of a test seed."""
    world = World("test", 8)
    batches = [packed_scenes(learner, world, range(a, a + 32)) for a in range(0, count, 32)]

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        correct = [one for scenes, packed in batches for one in learner.correct(learner.image_tokens(scenes), packed)]
        return accuracies(correct, vqa=VQA_KINDS, routed=SHARES)

    return evaluate


def train_chat(learner: Learner, budget: Budget, out: Path, first: int) -> None:
    """The layers from `first` on and the new words; everything else is frozen."""
    learner.model.requires_grad_(False)
    learner.model.set_attn_implementation("sdpa")  # many questions: twice as fast as eager attention
    learn_words(learner)
    assert learner.more is not None
    upper = learner.language.layers[first:].requires_grad_(True)
    stage = Stage("chat", {"upper": upper, "embed": learner.more}, budget, out)
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes, packed = packed_scenes(learner, world, scene_numbers(step, budget.batch))
        with torch.no_grad():
            image = learner.image_tokens(scenes)
        return {"answer": learner.loss(learner.hidden_states(image, packed), packed)}

    stage.run(terms_of, evaluator(learner), evaluate_every=200)
