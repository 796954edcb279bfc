"""Templates: the authors' words, chosen by a key alone, and nothing else of a sample changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lisa_files import stripes, write_ade20k

from seglens.core.types import Sample, Target
from seglens.data import Dataset, load_data
from seglens.data.dataset import classes_of
from seglens.data.query_templates import PROMPTS, Prompted, apply, prompted
from seglens.data.rng import words
from seglens.data.subset import Limited
from seglens.data.world import WorldData

MASK = np.ones((2, 3), bool)
KEYS = words(4000, "keys of a test")


def templates(preset: str, query: str, kind: str, why: bool = False) -> Counter[str]:
    return Counter(apply(preset, query, kind, key, why) for key in KEYS)


def test_lisa() -> None:
    assert set(templates("lisa", "Red Cup", "phrase")) == {
        "Can you segment the red cup in this image?",
        "Please segment the red cup in this image.",
        "What is red cup in this image? Please respond with segmentation mask.",
        "What is red cup in this image? Please output segmentation mask.",
    }
    assert set(templates("lisa", "Where would John sit?", "sentence")) == {
        "Where would John sit? Please respond with segmentation mask.",
        "Where would John sit? Please output segmentation mask.",
    }
    assert set(templates("lisa", "Who is it?", "sentence", why=True)) == {
        "Who is it? Please output segmentation mask and explain why.",
        "Who is it? Please output segmentation mask and explain the reason.",
        "Who is it? Please output segmentation mask and give some explanation.",
    }


def test_lens_names_no_mask_and_uses_what_is_twice_as_often() -> None:
    counts = templates("lens", "dog", "class")
    what = counts.pop("What is dog in this image?")
    assert set(counts) == {"Can you segment the dog in this image?", "Please segment the dog in this image."}
    assert abs(what - 2000) < 4 * np.sqrt(1000)  # four standard deviations of a fair coin
    assert set(templates("lens", "Who is it?", "long", why=True)) == {"Who is it?"}
    assert not any("mask" in text for forms in (PROMPTS["lens"].short, PROMPTS["lens-eval"].short) for text in forms)


@pytest.mark.parametrize(
    ("preset", "kind", "expected"),
    [
        ("lisa-eval", "phrase", " What is Red Cup in this image? Please output segmentation mask."),
        ("lisa-eval", "sentence", " Red Cup Please output segmentation mask."),
        ("lens-eval", "phrase", "What is Red Cup in this image?"),
        ("lens-eval", "sentence", " Red Cup"),
        ("none", "phrase", "Red Cup"),
        ("none", "sentence", "Red Cup"),
    ],
)
def test_evaluation_has_one_form(preset: str, kind: str, expected: str) -> None:
    assert set(templates(preset, "Red Cup", kind)) == {expected}


def test_templates_are_drawn_evenly() -> None:
    counts = templates("lisa", "dog", "class")
    deviation = np.sqrt(len(KEYS) * 1 / 4 * 3 / 4)
    assert max(abs(count - len(KEYS) / 4) for count in counts.values()) < 4 * deviation


def test_any_query_but_an_empty_one_gets_a_template() -> None:
    assert apply("lens-eval", " a {query} {0} %s ", "phrase", 0) == "What is a {query} {0} %s in this image?"
    with pytest.raises(ValueError, match="empty query"):
        apply("lens", " ", "phrase", 0)
    with pytest.raises(ValueError, match=r"no prompt 'lense'; choose from none, lisa, .*; did you mean 'lens"):
        apply("lense", "x", "phrase", 0)


def sample(name: str = "s", count: int = 40) -> Sample:
    targets = tuple(Target(f"Thing {n}", MASK, "phrase", ~MASK, "since" if n % 2 else None) for n in range(count))
    return Sample(name, np.zeros((2, 3, 3), np.uint8), targets)


def test_only_the_words_change() -> None:
    before = sample()
    after = prompted(before, "lisa", seed=3)
    assert after.image is before.image
    for one, other in zip(before.targets, after.targets, strict=True):
        assert one.query.lower() in other.query
        assert (one.mask, one.kind, one.ignore, one.answer) == (other.mask, other.kind, other.ignore, other.answer) or (
            one.mask is other.mask and one.ignore is other.ignore
        )


def test_the_template_depends_on_id_number_and_seed_alone() -> None:
    def forms(result: Sample) -> list[str]:
        return [target.query.replace(f"thing {n}", "X") for n, target in enumerate(result.targets)]

    first = forms(prompted(sample(), "lens"))
    assert forms(prompted(sample(), "lens")) == first
    assert forms(prompted(sample(count=5), "lens")) == first[:5]
    assert forms(prompted(sample("t"), "lens")) != first
    assert forms(prompted(sample(), "lens", seed=1)) != first
    assert len(set(first)) == 3


def test_half_of_the_explained_targets_ask_for_the_explanation() -> None:
    result = prompted(sample(count=4000), "lisa")
    explained = [("expla" in target.query) for target in result.targets if target.answer]
    assert abs(sum(explained) - 1000) < 4 * np.sqrt(500)
    assert not any("expla" in target.query for target in result.targets if not target.answer)
    assert [target.explained for target in result.targets] == [("expla" in target.query) for target in result.targets]
    assert not any(target.explained for target in prompted(sample(count=40), "lens").targets)  # it has no such form


def test_an_empty_query_is_named() -> None:
    bad = Sample("s7", np.zeros((2, 3, 3), np.uint8), (Target("a", MASK), Target(" ", MASK)))
    with pytest.raises(ValueError, match="target 1 of image s7: got an empty query"):
        prompted(bad, "lens")


def test_as_options_of_every_dataset(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1), b=stripes(4), c=stripes(5))
    data = load_data(f"ade20k:root={tmp_path},prompt=lens-eval,limit=2")
    assert isinstance(data, Dataset)
    assert [[target.query for target in one.targets] for one in data] == [
        ["What is wall in this image?"],
        ["What is floor in this image?"],
    ]
    assert (len(data), data[1].id, data.trainable) == (2, "b", True)
    assert len(classes_of(data)) == 150
    assert classes_of(WorldData(n=1)) == ()
    plain = load_data("world:n=4")
    assert [t.query for one in load_data("world:n=4,limit=9,prompt=none") for t in one.targets] == [
        t.query for one in plain for t in one.targets
    ]
    for text, message in {
        "world:prompt=lenz": "no prompt 'lenz'.* did you mean 'lens'",
        "world:promt=lens": "did you mean 'prompt'",
        "world:limit=0": "limit=0; it must be at least 1",
        "world:limit=x": "limit=x; it must be a whole number",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_data(text)
    with pytest.raises(ValueError, match="no prompt 'x'"):
        Prompted(plain, "x")


def test_a_limit_skips_what_iterating_leaves_out(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(0), b=stripes(4), c=stripes(5))
    assert [one.id for one in load_data(f"ade20k:root={tmp_path},limit=2")] == ["b", "c"]
    with pytest.raises(IndexError, match="no image 2; the limit leaves 2"):
        Limited(WorldData(n=5), 2)[2]
