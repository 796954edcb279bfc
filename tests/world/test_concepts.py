"""The table of concepts, and their drawings."""

from __future__ import annotations

import numpy as np
import pytest

from seglens.world.concepts import (
    CONCEPTS,
    GROUP_OF,
    GROUPS,
    HELD_OUT_COLOURS,
    animals,
    clothing,
    foods,
    home,
    nature,
    tools,
    vehicles,
)
from seglens.world.concepts.base import Concept
from seglens.world.draw import BODY, PALETTE, Pen, Sprite, rasterise
from seglens.world.phrases import UNMASKED_PARTS

FUNCTION_WORDS = {*"a an the of for and in on at to with by from is you your his it its".split()}  # noqa: SIM905

each_concept = pytest.mark.parametrize("concept", CONCEPTS, ids=lambda c: c.name)


def _words(*texts: str) -> set[str]:
    return set(" ".join(texts).split())


def _drawn(concept: Concept, colour: str, size: float, seed: int) -> Sprite:
    pen = Pen(PALETTE[colour], np.random.default_rng(seed), tuple(concept.parts))
    concept.draw(pen)
    tilt = concept.tilt if seed % 2 else -concept.tilt
    return rasterise(pen, size, tilt, flip=bool(seed % 2), stretch=0.92)


def test_the_catalogue_is_rich() -> None:
    assert len(CONCEPTS) >= 40
    assert len(GROUPS) >= 6
    assert len({c.name for c in CONCEPTS}) == len(CONCEPTS) == len(GROUP_OF)
    assert sum(bool(c.parts) for c in CONCEPTS) > 0.9 * len(CONCEPTS)


def test_every_drawing_has_its_record_in_the_table() -> None:
    names = {name for module in (animals, clothing, foods, home, nature, tools, vehicles) for name in module.DRAWINGS}
    assert names == set(GROUP_OF)


@each_concept
def test_a_concept_is_complete(concept: Concept) -> None:
    assert len(set(concept.colours)) == len(concept.colours) >= 4
    assert set(concept.colours) <= set(PALETTE)
    assert len(set(concept.clues)) == 3
    assert all(len(set(clues)) == 3 for clues in concept.parts.values())
    assert isinstance(concept.tilt, float)
    assert (concept.name + concept.plural).isalpha()  # one word each: one token each


@each_concept
def test_the_held_out_phrasing_is_new_in_old_words(concept: Concept) -> None:
    assert concept.held_out not in concept.clues
    assert _words(concept.held_out) <= _words(*concept.clues) | FUNCTION_WORDS


def test_a_clue_means_one_concept() -> None:
    clues = [clue for c in CONCEPTS for clue in (*c.clues, c.held_out)]
    assert len(set(clues)) == len(clues)


def test_half_of_the_concepts_hold_out_a_colour() -> None:
    assert len(HELD_OUT_COLOURS) == len(CONCEPTS) / 2
    left = [set(c.colours) - {colour for name, colour in HELD_OUT_COLOURS if name == c.name} for c in CONCEPTS]
    assert min(map(len, left)) >= 3


def test_unmasked_parts_name_what_exists() -> None:
    by_name = {c.name: c for c in CONCEPTS}
    for part, owners in UNMASKED_PARTS.items():
        assert any(part in c.parts for c in CONCEPTS)
        assert not any(part in by_name[owner].parts for owner in owners)


@each_concept
def test_every_colour_can_be_drawn_and_every_part_seen(concept: Concept) -> None:
    for seed, colour in enumerate(concept.colours):
        for size in (32.0, 64.0, 110.0):
            sprite = _drawn(concept, colour, size, seed)
            assert sprite.rgb.shape == (*sprite.alpha.shape, 3)
            assert np.array_equal(sprite.parts > 0, sprite.alpha > 127)
            rows, columns = np.nonzero(sprite.alpha)
            assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - size) <= 4  # outlines stand out a little
            pixels = np.bincount(sprite.parts.ravel(), minlength=BODY + 1 + len(concept.parts))
            assert len(pixels) == BODY + 1 + len(concept.parts)
            assert (pixels[BODY + 1 :] > 0).all()


@each_concept
def test_the_colour_is_seen(concept: Concept) -> None:
    """The colour in the object's name is nearer to many of its pixels than any other colour of its palette."""
    for seed, colour in enumerate(concept.colours):
        sprite = _drawn(concept, colour, 96.0, seed)
        pixels = sprite.rgb[sprite.parts > 0].astype(float)
        palette = np.array([PALETTE[c] for c in concept.colours], dtype=float)
        near = np.linalg.norm(pixels[:, None] - palette, axis=-1).argmin(1)
        assert (near == concept.colours.index(colour)).mean() > 0.1


def test_a_drawing_is_a_function_of_its_seed() -> None:
    one, same, other = (_drawn(CONCEPTS[0], "brown", 80.0, seed) for seed in (1, 1, 3))
    assert np.array_equal(one.rgb, same.rgb)
    assert np.array_equal(one.parts, same.parts)
    assert not np.array_equal(one.rgb, other.rgb) if one.rgb.shape == other.rgb.shape else True
