"""What the protocols make of queries, by tables small enough to check by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from seglens.evaluation.protocols import PROTOCOLS, QueryOutcome, find_protocol


def outcome(
    intersection: int, predicted: int, actual: int, *, refused: bool = False, image: str = "i", kind: str = "query"
) -> QueryOutcome:
    union = predicted + actual - intersection
    return QueryOutcome(f"{image}/{kind}", image, kind, not refused, intersection, union, predicted, actual)


HIT, MISS = outcome(9, 10, 9), outcome(0, 5, 5, image="j")
REFUSED = outcome(0, 0, 10, refused=True, image="k")  # a target that the method denies
RIGHTLY = outcome(0, 0, 0, refused=True, image="l")  # no target, and the method finds none
WRONGLY = outcome(0, 8, 0, image="m")  # no target, and a mask
ALL = [HIT, MISS, REFUSED, RIGHTLY, WRONGLY]


def test_lisa() -> None:
    report = PROTOCOLS["lisa"](ALL)
    assert report["gIoU"] == pytest.approx((0.9 + 1) / 5, abs=1e-5)
    assert report["cIoU"] == pytest.approx(9 / (10 + 10 + 10 + 8))
    assert report["P@0.9"] == 2 / 5
    assert (report["queries"], report["images"], report["targeted"], report["no_target"]) == (5, 5, 3, 2)
    assert "by_kind" not in report


def test_gres() -> None:
    report = PROTOCOLS["gres"](ALL)
    assert report["gIoU"] == pytest.approx((0.9 + 1) / 5)
    assert report["cIoU"] == pytest.approx(9 / 38)
    assert (report["P@0.5"], report["P@0.9"]) == (1 / 3, 1 / 3)  # of the three with a target
    assert (report["N_acc"], report["T_acc"]) == (1 / 2, 2 / 3)


def test_a_refusal_overrules_the_mask() -> None:
    drew = outcome(9, 10, 9, refused=True)
    assert PROTOCOLS["gres"]([drew])["gIoU"] == 0
    assert PROTOCOLS["gres"]([drew, HIT])["cIoU"] == pytest.approx(9 / 20)
    assert PROTOCOLS["gres"]([drew])["P@0.5"] == 0
    assert PROTOCOLS["lisa"]([drew])["gIoU"] == pytest.approx(0.9, abs=1e-5)  # LISA counts masks alone
    assert PROTOCOLS["lisa"]([drew])["T_acc"] == 0
    silent = outcome(0, 0, 0, refused=False)  # finds a target, and draws nothing
    assert PROTOCOLS["gres"]([silent])["gIoU"] == 0
    assert PROTOCOLS["lisa"]([silent])["gIoU"] == 1


def test_fp_refcoco() -> None:
    report = PROTOCOLS["fp-refcoco"](ALL)
    assert report["See"] == 3 / 5
    assert report["See_true_premise"] == 2 / 3
    assert report["See_false_premise"] == 1 / 2
    assert report["cIoU"] == pytest.approx(9 / 38)
    assert "gIoU" not in report


def test_rec_counts_boxes_above_one_half() -> None:
    """Two of three targets: exactly one half is a miss, as in MLLMSeg's test script; no target is none to find."""
    outcomes = [replace(HIT, boxes=boxes, image=name) for boxes, name in ((0.81, "i"), (0.5, "j"), (0.51, "k"))]
    report = PROTOCOLS["rec"]([*outcomes, RIGHTLY])
    assert report["box_P@0.5"] == 2 / 3
    assert report["box_P@0.5_95"][0] < 2 / 3 < report["box_P@0.5_95"][1]
    assert report["cIoU"] == pytest.approx(0.9)
    assert PROTOCOLS["rec"]([RIGHTLY])["box_P@0.5"] is None
    assert PROTOCOLS["rec"]([])["box_P@0.5"] is None


def test_reasonseg_reports_short_and_long_apart() -> None:
    short, long = outcome(5, 10, 5, kind="short"), outcome(10, 10, 10, kind="long", image="j")
    report = PROTOCOLS["lisa"]([short, long])
    assert report["gIoU"] == pytest.approx(0.75, abs=1e-5)
    assert report["by_kind"]["short"]["gIoU"] == pytest.approx(0.5, abs=1e-5)
    assert report["by_kind"]["long"]["cIoU"] == pytest.approx(1)
    assert report["by_kind"]["long"]["queries"] == 1


def test_intervals_are_drawn_over_images() -> None:
    apart = [outcome(k, 10, 10, image=str(k)) for k in range(10)]
    together = [outcome(k, 10, 10, image="same") for k in range(10)]
    for name in ("gIoU", "cIoU"):
        low, high = PROTOCOLS["lisa"](apart)[f"{name}_95"]
        assert low < PROTOCOLS["lisa"](apart)[name] < high
        low, high = PROTOCOLS["lisa"](together)[f"{name}_95"]
        assert low == high == pytest.approx(PROTOCOLS["lisa"](together)[name])


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("outcomes", [[], [HIT], [RIGHTLY], ALL], ids=["none", "hit", "no target", "all"])
def test_any_report_is_json(name: str, outcomes: list[QueryOutcome]) -> None:
    report: dict[str, Any] = json.loads(json.dumps(PROTOCOLS[name](outcomes), allow_nan=False))
    assert report["queries"] == len(outcomes)
    if not outcomes:
        assert report["cIoU"] is None
        assert report["cIoU_95"] is None


def test_nothing_to_average_is_null() -> None:
    report = PROTOCOLS["gres"]([RIGHTLY])
    assert (report["gIoU"], report["cIoU"], report["N_acc"]) == (1, None, 1)
    assert (report["T_acc"], report["P@0.5"], report["cIoU_95"]) == (None, None, None)
    assert PROTOCOLS["gres"]([HIT])["N_acc"] is None


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="no protocol 'lissa'; choose from lisa, gres, rec, fp-refcoco"):
        find_protocol("lissa")
