"""Every request means exactly what its mask shows, and a request of the absent means nothing."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from listener import NAMES, Listener

from seglens.embedded.models import make_tokenizer
from seglens.world.concepts import CONCEPTS
from seglens.world.language import QUERY_KINDS, Query, lesson, speaker
from seglens.world.phrases import Facts
from seglens.world.requests import LEAST_PART, REQUESTS
from seglens.world.world import Scene, World

WorldScenes = list[tuple[World, int, Scene]]
QUERIES = 12


@pytest.fixture(scope="module")
def queries(world_scenes: WorldScenes) -> list[tuple[World, Scene, Query]]:
    per_scene = [(world, scene, speaker(world, index, scene).queries(QUERIES)) for world, index, scene in world_scenes]
    return [(world, scene, query) for world, scene, queries in per_scene for query in queries]


def _phrase(text: str) -> str:
    """The target, without the words of the request."""
    frames = sorted((re.escape(frame).replace(r"\{\}", "(.+)") for frame in REQUESTS), key=len, reverse=True)
    if text.startswith("what "):
        return text.removesuffix("?")
    return next(match[1] for frame in frames if (match := re.fullmatch(frame, text)))


def test_every_request_has_exactly_one_reading_and_it_is_the_target(queries: list) -> None:
    for _, scene, query in queries:
        meant = frozenset((t.index, part) for t, part in query.targets)
        readings = Listener(scene).readings(_phrase(query.text))
        assert readings == ({meant} if meant else set()), (query.text, [t.name for t in scene.things])


def test_targets_can_be_seen(queries: list) -> None:
    for _, scene, query in queries:
        assert bool(query.targets) == (query.kind != "absent")
        for thing, part in query.targets:
            area = scene.mask(thing, part).sum()
            assert area >= (1 if part is None else LEAST_PART)


def test_all_kinds_occur_often(queries: list) -> None:
    kinds = Counter(query.kind for _, _, query in queries)
    assert set(kinds) == set(QUERY_KINDS)
    assert min(kinds.values()) > 0.02 * len(queries)


def test_replies_are_true(queries: list) -> None:
    for _, _, query in queries:
        if not query.targets:
            name = query.reply.removeprefix("there is no ")
            assert name == "such thing" or f"the {name}" in query.text
        elif len(query.targets) == 1:
            ((thing, part),) = query.targets
            assert query.reply.startswith(f"{part} of the {thing.colour}" if part else f"{thing.colour} {thing.name},")
        else:
            assert query.reply.split()[0] == str(len(query.targets))


def _held_out_forms() -> list[str]:
    phrases = []
    for concept in CONCEPTS:
        words = concept.held_out
        phrases.append(words.removeprefix("is ") if words.startswith("is ") else words)
        if words.startswith("you "):
            phrases.append(f"i could {words[4:]}")
    return phrases


def test_held_out_phrasings_are_used_in_test_only(world_scenes: WorldScenes) -> None:
    forms = re.compile(rf"\b({'|'.join(map(re.escape, _held_out_forms()))})\b")
    counts = {"train": 0, "test": 0}
    for world, index, scene in world_scenes:
        one = speaker(world, index, scene)
        for sentence in (*one.queries(QUERIES), *one.questions(QUERIES), *lesson(one, QUERIES)):
            held_out = bool(forms.search(sentence.text))
            counts[world.split] += held_out
            if sentence.kind not in ("reply", "intent"):
                assert sentence.held_out == held_out, sentence
    assert counts["train"] == 0
    assert counts["test"] > 100


@pytest.mark.slow
def test_every_word_is_in_the_vocabulary() -> None:
    tokenizer = make_tokenizer()
    texts = []
    for world in (World("train", 7), World("test", 7)):
        for index in range(250):
            one = speaker(world, index, world.scene(index, most=4 + index % 4))
            for sentence in (*one.queries(6), *one.questions(6), *lesson(one, 6), one.caption(), one.intent()):
                texts += [sentence.text, sentence.reply if isinstance(sentence, Query) else sentence.answer]
    unknown = [t for t in set(texts) if tokenizer.unk_token_id in tokenizer(t).input_ids]
    assert not unknown


def test_words_are_reproducible(world_scenes: WorldScenes) -> None:
    world, index, scene = world_scenes[5]
    one, other = speaker(world, index, scene), speaker(world, index)
    assert [q.text for q in one.queries(20)] == [q.text for q in other.queries(20)]
    assert lesson(one, 20) == lesson(other, 20)


def _scene_with(*names: str) -> Scene:
    """A test scene in which exactly these are among the things."""
    world = World("test", 0)
    scenes = (world.scene(index) for index in range(4000))
    return next(s for s in scenes if set(names) <= {t.name for t in s.things})


def test_a_hat_is_not_called_so_beside_a_snowman() -> None:
    """A snowman wears a hat: "the hat" would have two readings, and with the snowman alone it is not absent."""
    scene = _scene_with("snowman")
    facts = Facts(scene, random.Random(0), train=True)
    assert "hat" not in {c.name for c in facts.absent}
    assert "hat" not in facts.by_name
    assert {c.name for c in facts.absent} | set(facts.by_name) == NAMES - {"hat"}
