"""Algorithm S1 on the embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread

import numpy as np
import pytest

from seglens.agent import Agent, Conversation
from seglens.agent.conversation import GENERATED, REFINED, pair
from seglens.backbones import QuestionError
from seglens.core.schema import Box, Click
from seglens.core.types import Sample
from seglens.data.world import WorldData
from seglens.inference.segmenter import Segmenter

CUP, HOUSE = "mark the red cup.", "segment the house."  # one is in the scene, the other is not
ABOUT = "what colour is it?"


@pytest.fixture(scope="module")
def agent(segmenter: Segmenter) -> Agent:
    return Agent(segmenter)


@pytest.fixture
def talk(agent: Agent, scene: Sample) -> Conversation:
    return agent.start(scene.image)


def test_a_conversation_has_dialogue_segmentation_and_follow_up(
    agent: Agent, talk: Conversation, scene: Sample
) -> None:
    words = talk.say("how many things are there?")
    assert (words.route.intent, words.predictions, words.overlay) == ("dialogue", (), None)
    assert words.text == agent.segmenter.ask(scene.image, "how many things are there?")
    mask = talk.say(CUP)
    assert (mask.route.intent, mask.text, talk.predictions) == ("segmentation", GENERATED, mask.predictions)
    assert np.array_equal(mask.predictions[0].mask, agent.segmenter.segment(scene.image, CUP).mask)
    assert mask.overlay is not None
    assert mask.overlay.size == scene.image.shape[1::-1]
    about = talk.say(ABOUT)
    assert (about.route.intent, about.predictions) == ("followup", ())
    assert [(turn.instruction, turn.reply) for turn in talk.turns] == [
        ("how many things are there?", words),
        (CUP, mask),
        (ABOUT, about),
    ]


def test_scores_are_of_the_three_labels_and_sum_to_one(talk: Conversation) -> None:
    route = talk.say(CUP).route
    assert list(route.scores) == ["dialogue", "segmentation", "followup"]
    assert sum(route.scores.values()) == pytest.approx(1)
    assert route.scores["segmentation"] == max(route.scores.values()) > 0.9
    assert not route.given


def test_a_follow_up_is_answered_on_original_and_overlay(
    agent: Agent, talk: Conversation, scene: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_given = list[np.ndarray]()
    speak = agent.segmenter.backbone.generate_text

    def watched(images: Sequence[np.ndarray], *how: object) -> object:
        images_given.extend(images)
        return speak(images, *how)

    monkeypatch.setattr(agent.segmenter.backbone, "generate_text", watched)
    prediction = talk.say(CUP).predictions[0]
    talk.say(ABOUT)
    original, overlay = np.split(images_given[0], 2, axis=1)
    assert np.array_equal(original, scene.image)
    changed = (overlay != scene.image).any(-1)
    assert np.array_equal(changed, prediction.mask)  # the mask, without the heat map and keypoints of the other overlay


@pytest.mark.parametrize("route", [None, "followup"])
def test_a_follow_up_without_a_mask_takes_another_route(agent: Agent, talk: Conversation, route: str | None) -> None:
    """Lines 10 and 11: at the start, and after a target that is not there."""
    expected = agent.router.route(talk.image, ABOUT)
    assert expected.intent == "followup"
    first = talk.say(ABOUT, route).route
    assert first.intent == max(("dialogue", "segmentation"), key=lambda intent: expected.scores[intent])
    assert first.scores == pytest.approx(expected.scores, abs=1e-6)
    assert not first.given
    talk.say(HOUSE)
    assert talk.say(ABOUT, route).route.intent == first.intent


def test_an_absent_target_is_reported(talk: Conversation) -> None:
    reply = talk.say(HOUSE)
    assert (reply.route.intent, reply.text) == ("segmentation", reply.predictions[0].reason)
    assert f"Nothing in the image fits {HOUSE!r}" in reply.text
    assert not reply.predictions[0].found


def test_the_caller_may_choose_the_route(talk: Conversation) -> None:
    chosen = talk.say(CUP, route="dialogue")
    assert (chosen.route.intent, chosen.route.given, chosen.route.scores) == ("dialogue", True, {})
    assert not talk.predictions
    assert talk.say("how many cups are there?", route="segmentation").predictions
    assert talk.say(CUP, route="followup").route.given
    with pytest.raises(ValueError, match="no route 'segment'; choose from dialogue, segmentation, followup; did you"):
        talk.say(CUP, route="segment")


def test_clicks_refine_the_last_mask(talk: Conversation) -> None:
    with pytest.raises(ValueError, match="no mask to refine yet; segment something first"):
        talk.refine([Click(x=1, y=1)])
    first = talk.say(CUP).predictions[0]
    assert first.box is not None
    x0, y0, x1, y1 = first.box
    point = Click(x=x0 // 2, y=y0 // 2)  # outside of the mask
    reply = talk.refine([point])
    assert (reply.text, reply.route.given, talk.predictions) == (REFINED, True, reply.predictions)
    assert talk.predictions[0].mask[int(point.y), int(point.x)]
    assert not first.mask[int(point.y), int(point.x)]
    again = talk.refine(box=Box(x0=x0, y0=y0, x1=x1, y1=y1)).predictions[0]
    assert again.query == CUP
    assert not np.array_equal(again.mask, reply.predictions[0].mask)


def test_a_conversation_goes_on_with_another_image(agent: Agent, talk: Conversation, scene: Sample) -> None:
    """Follow-ups speak of the last mask, in its own image, until something is segmented in the new one."""
    old = talk.say(CUP).predictions
    other = WorldData(n=2, seed=5)[1]
    talk.show(other.image)
    assert np.array_equal(talk.image, other.image)
    assert talk.say(ABOUT).text == agent.segmenter.ask(pair(old[0]), ABOUT)
    with pytest.raises(ValueError, match="the last mask belongs to the image before"):
        talk.refine([Click(x=1, y=1)])
    new = talk.say(other.targets[0].query, route="segmentation")
    assert np.array_equal(new.predictions[0].image, other.image)
    with pytest.raises(ValueError, match="not an image"):
        talk.show(b"")
    assert np.array_equal(talk.image, other.image)  # a bad image changes nothing


def test_a_conversation_can_go_back_to_an_earlier_mask(agent: Agent, talk: Conversation) -> None:
    first = talk.say(CUP).predictions
    talk.say("segment the largest thing.")
    talk.point_at(first)
    (again,) = talk.predictions  # made again from the stored masks
    assert (again.query, again.score) == (first[0].query, first[0].score)
    assert np.array_equal(again.mask, first[0].mask)
    x, y = first[0].keypoints[0]
    assert talk.refine([Click(x=x, y=y)]).predictions[0].query == CUP
    talk.point_at(())
    with pytest.raises(ValueError, match="segment something first"):
        talk.refine([Click(x=x, y=y)])
    other = agent.segmenter.segment(first[0].image[:, ::-1], CUP)
    with pytest.raises(ValueError, match="of another image"):
        talk.point_at([other])


def test_a_bad_instruction_changes_nothing(talk: Conversation) -> None:
    for text, message in (("  ", "empty"), ("\ud800", "Unicode"), ("<image>", "stands for the image")):
        with pytest.raises(QuestionError, match=message):
            talk.say(text)
    assert not talk.turns
    assert talk.say("{}", route=None).text  # braces are text like any other


def test_two_conversations_never_mix(agent: Agent) -> None:
    """Two threads on one agent: each gets the answers that it would get alone."""
    scenes = [WorldData(n=4, seed=5)[k] for k in (1, 3)]
    script = [("which colour has the thing?", None), ("the largest thing", "segmentation"), (ABOUT, "followup")]

    def hold(image: np.ndarray) -> Conversation:
        talk = agent.start(image)
        for _ in range(2):
            for text, route in script:
                talk.say(text, route)
        return talk

    alone = [hold(sample.image) for sample in scenes]
    beside = dict[int, Conversation]()
    threads = [Thread(target=lambda k=k: beside.update({k: hold(scenes[k].image)})) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, talk in enumerate(alone):
        assert [t.reply.text for t in beside[k].turns] == [t.reply.text for t in talk.turns]
        assert np.array_equal(beside[k].predictions[0].mask, talk.predictions[0].mask)
        assert np.array_equal(beside[k].predictions[0].image, scenes[k].image)


def test_an_image_is_opened_once(agent: Agent, scene: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[object]()
    backbone = agent.segmenter.backbone
    see, hear = backbone.open_many, backbone.chat_prefix
    monkeypatch.setattr(backbone, "open_many", lambda *a: (opened.append("open"), see(*a))[1])
    monkeypatch.setattr(backbone, "chat_prefix", lambda *a: (opened.append("hear"), hear(*a))[1])
    talk = agent.start(scene.image)
    for text in (CUP, HOUSE, ABOUT):
        talk.say(text)
    assert opened == ["open", "hear"]


def test_a_segmenter_that_cannot_generate_is_refused() -> None:
    with pytest.raises(ValueError, match="segmentation_only=True"):
        Agent(Segmenter.from_pretrained(segmentation_only=True))


def test_several_images_are_answered_together(agent: Agent, scene: Sample) -> None:
    """A query is segmented in each, a follow-up is about all masks, dialogue about all images."""
    grey = np.full_like(scene.image, 128)
    talk = agent.start(grey, scene.image)
    reply = talk.say(CUP, "segmentation")
    assert all((one.image == image).all() for one, image in zip(reply.predictions, (grey, scene.image), strict=True))
    assert [one.found for one in reply.predictions] == [False, True]
    assert reply.text.splitlines() == [f"Image 1: {reply.predictions[0].reason}", f"Image 2: {GENERATED}"]
    follow = talk.say(ABOUT, "followup")
    assert follow.route.intent == "followup"
    assert follow.text == agent.segmenter.ask(pair(reply.predictions[1]), ABOUT)  # of the mask that is there
    ways = [agent.router.route(image, ABOUT).scores for image in (grey, scene.image)]
    assert talk.say(ABOUT).route.scores == pytest.approx(
        {way: sum(s[way] for s in ways) / 2 for way in ways[0]}, abs=1e-6
    )


def test_a_conversation_without_an_image_is_dialogue(agent: Agent) -> None:
    reply = agent.start().say(ABOUT)
    assert (reply.route.intent, reply.route.given, reply.predictions) == ("dialogue", False, ())
    assert reply.spoken is not None
    for route in ("segmentation", "followup"):
        with pytest.raises(QuestionError, match="no image; send one"):
            agent.start().say(CUP, route)
