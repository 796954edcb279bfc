"""What the words of a query tell about its mask (English): whether they name several things, or a part of a thing.

In another language neither is seen, and a query is drawn as one that names one whole thing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from seglens.core.types import HeadMaps
from seglens.methods.base import HeadAttention

SEVERAL = re.compile(  # a number, a word for several, or a plural at the end: "the cups", not "the bus", "the glass"
    r"\b(all|every|each|both|several|many|two|three|four|five|six|seven|eight|nine|ten|[2-9]|[1-9]\d+)\b"
    r"|\w{2}[^\Wsui]s\W*$",
    re.IGNORECASE,
)
# General English names of parts; not those that whole things have, too ("cap", "cup", "basket")
PARTS = """
antenna antler ankle arm armrest backrest bark beak belly blade branch brim bristle bumper button cheek chest chimney
chin claw cockpit collar crust cuff dial door ear elbow eye face feather fender fin finger forehead fur grip handle
handlebar hand head headboard headlight heel hem hilt hinge hoof horn hull keyhole knee knob label lace leg lid lip
mane mast mouth muzzle neck nose nozzle paddle paw pedal peel petal pocket propeller prong rim rind roof root rudder
saddle sail shell shoulder sleeve snout sole spine spoke spout stalk stem strap tail tip tire toe tongue trunk tusk
twig tyre wheel whisker windscreen windshield window wing wrist zipper
branches feet foot hooves leaf leaves lens lenses teeth tooth
"""
DETERMINER = r"(?:the|an?|this|that|these|those|my|your|his|her|its|our|their|\w+'s)"
# "the handle of the cup" names a part; "left of the cup", "the largest of the cups", "a picture of the cup" do not
NO_PART = r"""left|right|front|side|middle|cent(?:er|re)|outside|inside|north|south|east|west|one|ones|all|both|each
|any|some|none|most|many|\w+est|kind|sort|type|pair|group|set|row|pile|stack|bunch|pictures?|photos?|images?"""
CLAUSE = r"that|which|who|whose|what|with|without|in|on|under|near|by|beside|behind|below|above|of"
PART = re.compile(
    rf"\b(?:parts?|organs?)\b"
    rf"|\b{DETERMINER}\ (?:\w+\ )?(?!(?:{NO_PART})\b)\w+\ of\ {DETERMINER}\b"
    # the query ends in the name of a part, and that does not describe a thing: not "the cat with a long tail"
    rf"|^(?!.*\b(?:{CLAUSE})\b).*\b(?:{'|'.join(PARTS.split())})s?\W*$",
    re.IGNORECASE | re.VERBOSE,
)


class WordReader:
    """A reader of attention heads that also reports which questions name several things, and which a part of one."""

    def __init__(self, heads: HeadAttention):
        self._heads = heads

    @property
    def heads(self) -> int:
        return self._heads.heads

    @property
    def count(self) -> int:
        return self._heads.count

    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        return self._heads.open(image)

    def read(self, image: Any, questions: Sequence[str]) -> HeadMaps:
        several, part = (
            torch.tensor([[bool(pattern.search(question)) for question in questions]]) for pattern in (SEVERAL, PART)
        )
        return replace(self._heads.read(image, questions), several=several, part=part)
