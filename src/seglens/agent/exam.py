"""How well an MLLM routes: a set of instructions with their routes, and the scores on it.

The package's set was written by hand about scenes of the drawn world, in four tiers (plain chat, explicit, implicit
reasoning, mixed) and follow-ups. Prompts may be chosen on its part "dev"; "test" is only measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from seglens.agent.router import INTENTS, Intent, Route, Router
from seglens.core.names import check_name
from seglens.evaluation.vqa.answers import mean
from seglens.evaluation.vqa.files import json_lines
from seglens.evaluation.vqa.questions import BenchmarkError, FileImage, QuestionImage
from seglens.evaluation.vqa.world import SceneImage

SEED = 7  # of the scenes that the package's set is about
PARTS = ("dev", "test")


@dataclass(frozen=True)
class Instruction:
    """A person's text about an image, and its right route."""

    text: str
    tier: str
    route: Intent
    image: QuestionImage
    part: str = "test"


@dataclass(frozen=True)
class Routed:
    """An instruction and the route that the MLLM chose."""

    instruction: Instruction
    route: Route

    @property
    def right(self) -> bool:
        return self.route.intent == self.instruction.route


def read_instructions(path: Path | None = None) -> list[Instruction]:
    """The instructions of a file of JSON lines, by default the package's own set: `text`, `tier`, `route`, `part`, and
    the number of a `scene` or the path of an `image` beside the file. Raises BenchmarkError with file and line."""
    path = Path(str(files("seglens"))) / "agent" / "routing.jsonl" if path is None else path
    instructions = [_instruction(row, path, f"{path}:{number}") for number, row in json_lines(path)]
    if not instructions:
        raise BenchmarkError(f"{path} holds no instruction; write one JSON object per line")
    return instructions


def _instruction(row: Mapping[str, Any], path: Path, where: str) -> Instruction:
    missing = [key for key in ("text", "tier", "route") if not isinstance(row.get(key), str) or not row[key].strip()]
    if missing:
        raise BenchmarkError(f"{where}: {', '.join(missing)} missing, empty or no text; need text, tier and route")
    part = row.get("part", "test")
    try:
        check_name(row["route"], INTENTS, "route")
        check_name(str(part), PARTS, "part")
    except ValueError as error:
        raise BenchmarkError(f"{where}: {error}") from None
    return Instruction(row["text"], row["tier"], cast(Intent, row["route"]), _image(row, path, where), part)


def _image(row: Mapping[str, Any], path: Path, where: str) -> QuestionImage:
    scene, image = row.get("scene"), row.get("image")
    if isinstance(scene, int) and scene >= 0 and image is None:
        return SceneImage("test", SEED, scene)
    if isinstance(image, str) and scene is None:
        return FileImage(path.parent / image)
    raise BenchmarkError(f"{where}: got scene={scene!r} and image={image!r}; need one: a number from 0, or a path")


def route_all(router: Router, instructions: Sequence[Instruction], failed: list[str] | None = None) -> Iterator[Routed]:
    """Each instruction with its route, of all three intents, as in the middle of a conversation. Each image is encoded
    once.

    Raises ValueError when an image or an instruction cannot be used. With `failed`, the error is added to it."""
    for image in dict.fromkeys(one.image for one in instructions):
        about = [one for one in instructions if one.image == image]
        try:
            prefix = router.prefix(image.load())
        except ValueError as error:
            _fail(failed, [f"{one.text!r}: {error}" for one in about], error)
            continue
        for one in about:
            try:
                route = router.route(prefix, one.text)
            except ValueError as error:
                _fail(failed, [f"{one.text!r}: {error}"], error)
            else:
                yield Routed(one, route)


def _fail(failed: list[str] | None, messages: list[str], error: ValueError) -> None:
    if failed is None:
        raise error
    failed += messages


def report(routed: Sequence[Routed]) -> dict[str, Any]:
    """Shares from 0 to 1. `false_triggers`: of the instructions for words, those that are segmented; `missed_triggers`:
    of the instructions for a mask, those that are not."""
    tiers = dict.fromkeys(one.instruction.tier for one in routed)
    dialogue = [one for one in routed if one.instruction.route == "dialogue"]
    masks = [one for one in routed if one.instruction.route == "segmentation"]
    return {
        "instructions": len(routed),
        "accuracy": mean([one.right for one in routed]),
        "false_triggers": mean([one.route.intent == "segmentation" for one in dialogue]),
        "missed_triggers": mean([not one.right for one in masks]),
        "tiers": {tier: _tier([one for one in routed if one.instruction.tier == tier]) for tier in tiers},
    }


def _tier(routed: Sequence[Routed]) -> dict[str, Any]:
    routes = Counter(one.route.intent for one in routed)
    shares = {"instructions": len(routed), "accuracy": mean([one.right for one in routed])}
    return {**shares, "went": {intent: routes[intent] for intent in INTENTS}}
