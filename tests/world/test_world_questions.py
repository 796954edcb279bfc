"""Every answer is right, judged from masks, names and clues."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from listener import CLUES, COLOURS, FIELDS, KINDS, NAMES, Listener, Seen

from seglens.world.language import VQA_KINDS, Question, lesson, speaker
from seglens.world.phrases import MARGIN
from seglens.world.world import Scene, World

WorldScenes = list[tuple[World, int, Scene]]
QUESTIONS = 15


@pytest.fixture(scope="module")
def questions(world_scenes: WorldScenes) -> list[tuple[Scene, Question]]:
    per_scene = [(scene, speaker(world, index, scene).questions(QUESTIONS)) for world, index, scene in world_scenes]
    return [(scene, question) for scene, questions in per_scene for question in questions]


def _only(seen_things: list[Seen]) -> Seen:
    assert len(seen_things) == 1, seen_things
    return seen_things[0]


def _yes(true: object) -> str:
    return "yes" if true else "no"


def _existence(one: Listener, text: str) -> str:
    what = re.fullmatch(r"(?:is there|do you see|does the picture show) (.+?)(?: in the picture)?\?", text)[1]  # type: ignore[index]
    if match := re.fullmatch(r"(?:something|a thing) that (.+)", what):
        return _yes(one.named(CLUES[match[1]]))
    what = re.sub("^an? ", "", what)
    if what in KINDS:
        return _yes([s for s in one.things if s.group == KINDS[what]])
    *colour, name = what.split()
    assert {name, *colour} <= NAMES | COLOURS
    return _yes([s for s in one.named(name) if colour in ([], [s.colour])])


def _count(one: Listener, text: str) -> str:
    match = re.fullmatch(r"(?:how many (.+) are there\?|how many (.+) do you see\?|count the (.+)\.)", text)
    assert match is not None
    return str(len(one.many(next(filter(None, match.groups())))))


def _colour(one: Listener, text: str) -> str:
    name = text.removesuffix("?").split()[-1]
    return _only(one.named(name)).colour


def _category(one: Listener, text: str) -> str:
    if match := re.fullmatch(r"which (.+) is in the picture\?", text):
        return _only([s for s in one.things if s.group == KINDS[match[1]]]).name
    name = re.fullmatch(r"what kind of thing is the (\w+)\?", text)[1]  # type: ignore[index]
    return one.named(name)[0].group


def _where(one: Listener, text: str) -> str:
    thing = _only(one.named(text.removesuffix("?").split()[-1]))
    ((row, column),) = one.places(thing)
    words = list(FIELDS)
    return f"{words[3 + row]} {words[column]}"


def _side(one: Listener, text: str) -> str:
    if match := re.fullmatch(r"what is (.+) the (\w+)\?", text):
        anchor = _only(one.named(match[2]))
        return _only([s for s in one.things if s is not anchor and one.is_on_side(match[1], s, anchor) != "no"]).name
    match = re.fullmatch(
        r"is the (\w+) (left|above)(?: of)?(?: or (right of|below))? the (\w+)\?", text
    ) or re.fullmatch(r"is the (\w+) (right|below)(?: of)?() the (\w+)\?", text)
    assert match is not None, text
    first, other = _only(one.named(match[1])), _only(one.named(match[4]))
    axis = int(match[2] in ("above", "below"))
    offset = first.at(axis) - other.at(axis)
    assert abs(offset) > MARGIN
    true = (offset < 0) == (match[2] in ("left", "above"))
    if match[3]:
        return match[2] if true else match[3].removesuffix(" of")
    return _yes(true)


def _reasoning(one: Listener, text: str) -> str:
    if match := re.fullmatch(r"which thing has (?:an? )?(\w+)\?", text):
        return _only([s for s in one.showing(match[1]) if s.name != match[1]]).name
    words = re.fullmatch(r"(?:what|which thing|which object) (.+)\?", text)[1]  # type: ignore[index]
    return _only(one.named(CLUES[words])).name


def _absent(one: Listener, text: str) -> str:
    name = text.removesuffix("?").split()[-1]
    assert not one.readings(f"the {name}")
    return f"there is no {name}"


JUDGES = {
    "existence": _existence,
    "count": _count,
    "colour": _colour,
    "category": _category,
    "where": _where,
    "side": _side,
    "reasoning": _reasoning,
    "reasoning existence": _existence,
    "absent": _absent,
}


def test_every_answer_is_right(questions: list) -> None:
    for scene, question in questions:
        assert question.answer == JUDGES[question.kind](Listener(scene), question.text), question


def test_all_kinds_occur_often_and_no_answer_always_wins(questions: list) -> None:
    kinds = Counter(question.kind for _, question in questions)
    assert set(kinds) == set(VQA_KINDS) == set(JUDGES)
    assert min(kinds.values()) > 0.03 * len(questions)
    for kind in ("existence", "reasoning existence"):
        answers = Counter(question.answer for _, question in questions if question.kind == kind)
        assert 0.35 < answers["yes"] / kinds[kind] < 0.65


def test_one_question_has_one_answer_in_a_scene(questions: list) -> None:
    answers: dict[tuple[int, str], str] = {}
    for scene, question in questions:
        assert answers.setdefault((id(scene), question.text), question.answer) == question.answer


def test_captions_list_everything_from_left_to_right(world_scenes: WorldScenes) -> None:
    for world, index, scene in world_scenes[::10]:
        caption = speaker(world, index, scene).caption().answer
        order = sorted(Listener(scene).things, key=lambda s: s.x)
        assert [re.sub("^an? ", "", one) for one in caption.split(", ")] == [f"{s.colour} {s.name}" for s in order]


def test_intents_and_lessons(world_scenes: WorldScenes) -> None:
    kinds, routes = Counter(), Counter()
    for world, index, scene in world_scenes:
        for question in lesson(speaker(world, index, scene), 12):
            kinds[question.kind] += 1
            if question.kind == "intent":
                routes[question.answer] += 1
                text = question.text.partition(": ")[2]
                assert question.answer != "segmentation" or not text.startswith(("what ", "where "))
    assert set(kinds) == {*VQA_KINDS, "caption", "intent", "reply"}
    assert set(routes) == {"dialogue", "segmentation", "followup"}
