"""The embedded models without a head: the MLLM by its generated answers, SAM from points and boxes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seglens.backbones import Backbone
from seglens.core.geometry import Frame
from seglens.core.metrics import overlap
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder
from seglens.world.language import VQA_KINDS, speaker
from seglens.world.world import World


def same_answer(reply: str, right: str) -> bool:
    """Exact match up to spaces and case: the tokenizer writes "there is no cat" and "top left" with single spaces."""
    return reply.lower().split() == right.lower().split()


def vqa(backbone: Backbone, data: WorldData, questions: int = 4) -> dict[str, Any]:
    """Exact match of generated answers, over all questions and by kind; kinds are drawn evenly.

    `intents` is the share of instructions, one per scene, for which the model chooses the right route (Algorithm S1 of
    LENS); it is not part of `accuracy`."""
    world = World(data.split, data.seed)
    right: defaultdict[str, list[float]] = defaultdict(list)
    intents: defaultdict[str, list[float]] = defaultdict(list)
    for index in range(data.n):
        scene = world.scene(index)
        author = speaker(world, index, scene)
        intent = author.intent()
        reply = backbone.generate(scene.image, intent.text, max_new_tokens=3)
        intents[intent.answer].append(float(same_answer(reply, intent.answer)))
        kinds = [VQA_KINDS[(index * questions + k) % len(VQA_KINDS)] for k in range(questions)]
        for question in filter(None, (author.question(kind) for kind in kinds)):
            reply = backbone.generate(scene.image, question.text, max_new_tokens=12)
            right[question.kind].append(float(same_answer(reply, question.answer)))
    every = [x for values in right.values() for x in values]
    return {
        "questions": len(every),
        "accuracy": _mean(every),
        "by_kind": {kind: _mean(values) for kind, values in sorted(right.items())},
        "intents": {label: _mean(values) for label, values in sorted(intents.items())},
    }


def prompts(decoder: MaskDecoder, data: WorldData) -> dict[str, Any]:
    """Mean IoU of SAM alone on every object, from one random point inside it and from its box."""
    world, rng = World(data.split, data.seed), random.Random(data.seed)
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for index in range(data.n):
        scene = world.scene(index)
        frame = Frame(*scene.image.shape[:2])
        embedding = decoder.encode(scene.image, frame)
        masks = np.stack([scene.mask(t) for t in scene.things])
        inside = [np.argwhere(m) for m in masks]
        clicks = torch.tensor(
            np.stack([spots[rng.randrange(len(spots))][::-1] + 0.5 for spots in inside]), dtype=torch.float
        )
        boxes = torch.tensor([[t.box] for t in scene.things], dtype=torch.float)[:, 0]
        points = frame.to_canvas(clicks)[None, :, None]
        corners = frame.to_canvas(boxes.reshape(-1, 2, 2)).reshape(1, -1, 4)
        answers = {
            "one point": decoder.prompt(embedding, points, torch.ones(points.shape[:3], dtype=torch.int64)),
            "box": decoder.prompt(embedding, boxes=corners),
        }
        for kind, logits in answers.items():
            counts = overlap(frame.to_image_logits(logits[0]) > 0, torch.from_numpy(masks))
            scores[kind] += (counts.intersection / counts.union.clamp(min=1)).tolist()
    return {"objects": len(scores["box"]), **{kind: _mean(values) for kind, values in scores.items()}}


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
