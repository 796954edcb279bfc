"""The world as a dataset, and datasets by name."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from seglens.data import load_data
from seglens.data.world import WorldData, kind_of, union
from seglens.embedded.models import make_tokenizer
from seglens.world.chat_phrases import new_words
from seglens.world.language import speaker
from seglens.world.world import World


def test_the_same_scene_on_every_call() -> None:
    data = WorldData(n=3, seed=4, queries=5)
    for one, again in zip(data, WorldData(n=9, seed=4, queries=5), strict=False):
        assert one.id == again.id
        np.testing.assert_array_equal(one.image, again.image)
        for a, b in zip(one.targets, again.targets, strict=True):
            assert (a.query, a.kind) == (b.query, b.kind)
            np.testing.assert_array_equal(a.mask, b.mask)
    assert len(data) == len(list(data)) == 3
    assert len({sample.id for sample in data}) == 3


def test_splits_and_seeds_differ() -> None:
    first = WorldData(n=1, seed=4)[0]
    for other in (WorldData(n=1, seed=5)[0], WorldData(n=1, seed=4, split="train")[0]):
        assert other.id != first.id
        assert not np.array_equal(other.image, first.image)


def test_targets_are_those_of_the_scene() -> None:
    data = WorldData(n=8, seed=6, queries=6)
    kinds: Counter[str] = Counter()
    for index, sample in enumerate(data):
        scene = World("test", 6).scene(index)
        for target, query in zip(sample.targets, speaker(World("test", 6), index, scene).queries(6), strict=True):
            assert target.query == query.text
            assert target.kind == kind_of(query)
            np.testing.assert_array_equal(target.mask, union(scene, query))
            assert target.present == bool(query.targets)
            assert target.mask.shape == sample.image.shape[:2]
            kinds[target.kind] += 1
    assert len(kinds) >= 5
    assert kinds["absent"] > 0


def test_training_never_uses_the_held_out_phrasings() -> None:
    assert not any("held out" in t.kind for sample in WorldData(n=20, seed=1, split="train") for t in sample.targets)


def test_questions_beside_the_requests() -> None:
    plain, with_questions = (WorldData(n=4, seed=6, split="train", vqa=vqa) for vqa in (0, 3))
    for index, (one, other) in enumerate(zip(plain, with_questions, strict=True)):
        requests, questions = other.targets[:-3], other.targets[-3:]
        assert one.id == other.id
        np.testing.assert_array_equal(one.image, other.image)
        assert not any(target.spoken for target in requests)
        for a, b in zip(one.targets, requests, strict=True):
            assert (a.query, a.kind, a.answer, a.id) == (b.query, b.kind, b.answer, b.id)
            np.testing.assert_array_equal(a.mask, b.mask)
        assert other.drawn().targets == requests
        scene_speaker = speaker(World("train", 6), index)
        scene_speaker.queries(6)
        assert [(t.query, t.answer) for t in questions] == [(q.text, q.answer) for q in scene_speaker.questions(3)]
        assert all(t.spoken and t.kind == "vqa" and t.mask.shape == one.image.shape[:2] for t in questions)


def test_requests_as_people_put_them() -> None:
    """Other words around the same targets; each still names its target."""
    plain, half, every = (WorldData(n=6, seed=6, split="train", people=people) for people in (0.0, 0.5, 1.0))
    tokenizer = make_tokenizer(words=new_words())
    changed = list[bool]()
    for index, samples in enumerate(zip(plain, half, every, strict=True)):
        phrases = [query.phrase for query in speaker(World("train", 6), index).queries(6)]
        for one, some, other, phrase in zip(*(sample.targets for sample in samples), phrases, strict=True):
            assert one.kind == some.kind == other.kind
            np.testing.assert_array_equal(one.mask, other.mask)
            assert all(phrase in target.query for target in (one, some, other))
            assert tokenizer.unk_token_id not in tokenizer(other.query).input_ids
            changed.append(one.query != some.query)
    assert 0.2 < np.mean(changed) < 0.8


def test_the_world_of_before_there_were_questions() -> None:
    """Queries, masks and pixels of two scenes as they were then, by their hash."""
    digest = hashlib.sha256()
    for sample in WorldData(n=2, seed=4, queries=5):
        digest.update(sample.id.encode() + sample.image.tobytes())
        for target in sample.targets:
            digest.update(f"{target.query}|{target.kind}".encode() + np.packbits(target.mask).tobytes())
    assert digest.hexdigest()[:16] == "def4047a4d9e6c54"


def test_an_index_outside_is_refused() -> None:
    for index in (3, -1):
        with pytest.raises(IndexError, match="this world has 3"):
            WorldData(n=3)[index]


def test_by_name() -> None:
    assert load_data("world") == WorldData()
    assert not load_data("world").trainable
    assert load_data("world:split=train").trainable
    assert load_data("world:n=7, seed=2 ,split=train,queries=3") == WorldData(7, 2, "train", 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wurld", "did you mean 'world'"),
        ("", "choose from world"),
        ("world:sed=1", "did you mean 'seed'"),
        ("world:n", "key=value"),
        ("world:n=many", "n=many; it must be a whole number"),
        ("world:n=0", "at least 1"),
        ("world:queries=-1", "at least 1"),
        ("world:seed=-1", "0 or more"),
        ("world:vqa=-1", "vqa=-1; it must be 0 or more"),
        ("world:people=1.5", "people=1.5; it must be a share from 0 to 1"),
        ("world:split=dev", "choose from train, test"),
    ],
)
def test_a_wrong_name_is_one_line_that_helps(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        load_data(text)
    assert "\n" not in str(caught.value)
