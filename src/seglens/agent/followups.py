"""How often answers to follow-ups are right: in scenes of the drawn world, where the right answer is known."""

from __future__ import annotations

import random
from typing import Any

from seglens.agent.agent import Agent
from seglens.agent.conversation import pair
from seglens.agent.exam import SEED
from seglens.evaluation.embedded_checks import same_answer
from seglens.evaluation.vqa.answers import mean
from seglens.world.phrases import Facts
from seglens.world.world import World

QUESTION, NAMED = "what colour is it?", "what colour is the {}?"


def colours(agent: Agent, scenes: int) -> dict[str, Any]:
    """Shares of right answers about the colour of a thing that was segmented just before, one per scene.

    `followup` is the question as a user asks it. Beside it the same question by the thing's name, on the pair of
    original and overlay, and on the original only: the loss by the pair, and by the MLLM. `chance`: a random thing of
    the scene has that colour."""
    world, rows = World("test", SEED), list[dict[str, float]]()
    for index in range(scenes):
        scene, rng = world.scene(index), random.Random(index)
        single = Facts(scene, rng, train=False).unique
        if not single:
            continue
        thing = rng.choice(single)
        conversation = agent.start(scene.image)
        prediction = conversation.say(f"segment the {thing.name}.", route="segmentation").predictions[0]
        if not prediction.found:
            continue
        named = NAMED.format(thing.name)
        answers = {
            "followup": conversation.say(QUESTION, route="followup").text,
            "named_on_pair": agent.segmenter.ask(pair(prediction, agent.segmenter.backbone.pads), named),
            "named_on_original": agent.segmenter.ask(scene.image, named),
        }
        chance = mean([other.colour == thing.colour for other in scene.things])
        rows.append({**{how: same_answer(text, thing.colour) for how, text in answers.items()}, "chance": chance})
    return {"things": len(rows), **{how: mean([row[how] for row in rows]) for how in (rows[0] if rows else ())}}
