"""The stream of draws: its rates, and that nothing but seed and number decides it."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lisa_files import stripes, write_ade20k

from seglens.data.faults import DataError
from seglens.data.mixing import GROUPS, RATES, parse_rates
from seglens.data.records import Records
from seglens.data.rng import below, pick, words
from seglens.data.sampling import Epochs, Mixed, Mixture, SampledImage, SamplingSource
from seglens.data.semantic import ade20k

DRAWS = 8_000
SOURCES = tuple(
    SamplingSource(group, images, count)
    for group, images, count in [
        ("sem_seg", 20_000, lambda image: 1 + image % 30),
        ("sem_seg", 7, lambda image: 2),
        ("sem_seg", 45_000, lambda image: 40),
        ("refer_seg", 17_000, lambda image: image % 5),  # every fifth has no question
        ("refer_seg", 100, lambda image: 6),
        ("vqa", 50, lambda image: 1),
        ("reason_seg", 239, lambda image: 4),
    ]
)


def within(count: int, share: float, draws: int = DRAWS, deviations: float = 4.5) -> bool:
    """Closer to its share than 4.5 standard deviations of a binomial: wrong once in 150,000 counts by chance."""
    return abs(count - draws * share) < deviations * np.sqrt(draws * share * (1 - share)) + 1e-9


# ---------------------------------------------------------------- chance


def test_words_are_uniform_and_depend_on_the_key_alone() -> None:
    assert words(3, "a", 1) == words(5, "a", 1)[:3]
    assert len({tuple(words(2, *key)) for key in (("a", 1), ("a", 2), ("b", 1), ("a1",), (1, "a"), ("a", 1, 0))}) == 6
    drawn = Counter(below(word, 7) for word in words(DRAWS, "seven"))
    assert sorted(drawn) == list(range(7))
    assert all(within(count, 1 / 7) for count in drawn.values())
    assert below(0, 7) == 0
    assert below(2**64 - 1, 7) == 6


def test_words_are_the_same_on_every_machine() -> None:
    assert words(2, "place", 0, 0, 0) == [7097324053433788751, 1762421209967998646]


def test_pick_gives_every_ordered_choice_equally_often() -> None:
    drawn = Counter(pick(words(3, "pick", number), 5) for number in range(DRAWS))
    assert len(drawn) == 5 * 4 * 3
    assert all(len(set(one)) == 3 for one in drawn)
    assert all(within(count, 1 / 60) for count in drawn.values())
    assert sorted(pick(words(5, "all"), 5)) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- the mixture


@pytest.mark.parametrize("rates", RATES)
def test_rates(rates: str) -> None:
    share = np.array(RATES[rates]) / sum(RATES[rates])
    mixture = Mixture(SOURCES, parse_rates(rates), seed=1)
    drawn = Counter(mixture.place(number)[0] for number in range(DRAWS))
    for group, part in zip(GROUPS, share, strict=True):
        members = [index for index, source in enumerate(SOURCES) if source.group == group]
        assert within(sum(drawn[index] for index in members), part)
        assert all(within(drawn[index], part / len(members)) for index in members)  # however large each is


def test_images_and_questions_are_uniform() -> None:
    one = Mixture((SamplingSource("sem_seg", 10, lambda image: 5),), {"sem_seg": 2.5}, queries=2)
    drawn = [one.draw(number) for number in range(DRAWS)]
    images = Counter(draw.image for draw in drawn)
    assert all(within(images[image], 1 / 10) for image in range(10))
    chosen = Counter(question for draw in drawn for question in draw.questions)
    assert all(within(chosen[question], 2 / 5) for question in range(5))
    assert all(len(set(draw.questions)) == 2 for draw in drawn)


def test_all_questions_in_order_when_there_are_no_more_than_asked_for() -> None:
    for count in (1, 2, 3):
        few = Mixture((SamplingSource("vqa", 4, lambda image, n=count: n),), {"vqa": 1})
        assert few.draw(9).questions == tuple(range(count))


def test_weights_share_out_a_group() -> None:
    weights = {"refer_seg": (5, 1), "vqa": (2,)}
    sources = tuple(SamplingSource(group, 10, lambda image: 1, w) for group, ws in weights.items() for w in ws)
    mixture = Mixture(sources, {"refer_seg": 6, "vqa": 2})
    drawn = Counter(mixture.place(number)[0] for number in range(DRAWS))
    assert all(within(drawn[source], weight / 8) for source, weight in enumerate((5, 1, 2)))
    with pytest.raises(ValueError, match="got weight=0; it must be at least 1"):
        Mixture((SamplingSource("vqa", 1, lambda image: 1, 0),), {"vqa": 1})


def test_equal_weights_are_the_stream_of_before_there_were_weights() -> None:
    mixture = Mixture(SOURCES, parse_rates("lisa"), seed=5)
    assert [mixture.place(number) for number in range(4)] == [(3, 10194), (3, 14092), (1, 4), (2, 14310)]


def test_an_image_without_questions_is_drawn_again() -> None:
    mixture = Mixture(SOURCES, parse_rates("0-1-0-0"))
    drawn = [mixture.draw(number) for number in range(2000)]
    assert all(draw.questions for draw in drawn)
    assert not any(draw.source == 3 and draw.image % 5 == 0 for draw in drawn)
    again = [number for number in range(2000) if mixture.place(number) != (drawn[number].source, drawn[number].image)]
    assert within(len(again), 0.1, 2000)  # a fifth of a half
    with pytest.raises(ValueError, match="draw 3 met 100 images with nothing to ask"):
        Mixture((SamplingSource("vqa", 5, lambda image: 0),), {"vqa": 1}).draw(3)


def test_a_resumed_run_and_any_split_over_processes_see_the_same_stream() -> None:
    mixture = Mixture(SOURCES, parse_rates("lisa"), seed=5)
    whole = [mixture.batch(step, 12) for step in range(20)]
    resumed = Mixture(SOURCES, parse_rates("lisa"), seed=5)
    assert [resumed.batch(step, 12) for step in range(13, 20)] == whole[13:]
    flat = [draw for batch in whole for draw in batch]
    assert [draw for step in range(40) for draw in mixture.batch(step, 6)] == flat  # half the batch, twice the steps
    for processes in (1, 2, 3, 4):
        shares = [[mixture.draw(number) for number in range(rank, 240, processes)] for rank in range(processes)]
        assert [shares[number % processes][number // processes] for number in range(240)] == flat
    others = Mixture(SOURCES, parse_rates("lisa"), seed=6)
    assert sum(one == other for one, other in zip(flat, map(others.draw, range(240)), strict=True)) < 5


def test_a_draw_is_quick() -> None:
    mixture = Mixture(SOURCES, parse_rates("paper"))
    best = min(_seconds(mixture, 200) for _ in range(5)) / 200
    assert best < 1e-3  # measured: 7 us, and up to 200 us with the type checks of the tests on a busy machine


def _seconds(mixture: Mixture, draws: int) -> float:
    start = time.perf_counter()
    mixture.batch(0, draws)
    return time.perf_counter() - start


def test_a_mixture_that_makes_no_sense() -> None:
    for sources, rates, message in [
        (SOURCES[:3], {"sem_seg": 9, "vqa": 3}, "no dataset of vqa; give one, or the rate 0"),
        (SOURCES[:3], {"sem_seg": 9, "vqa": -1}, "need numbers from 0 up"),
        (SOURCES[:3], {"sem_seg": float("nan")}, "need numbers from 0 up"),
        (SOURCES[:3], {"sem_seg": 0}, "one above 0"),
        (SOURCES, {"sem_seg": 1, "refer_seg": 1}, "no group 'vqa'"),
        ((SamplingSource("vqa", 0, len),), {"vqa": 1}, "has no images"),
    ]:
        with pytest.raises(ValueError, match=message):
            Mixture(sources, rates)
    with pytest.raises(ValueError, match="queries=0"):
        Mixture(SOURCES[5:6], {"vqa": 1}, queries=0)


# ---------------------------------------------------------------- epochs


def test_every_image_once_per_epoch() -> None:
    epochs = Epochs(37, lambda image: 2 + image % 3, seed=2)
    drawn = [epochs.draw(number) for number in range(3 * 37)]
    for epoch in range(3):
        images = [draw.image for draw in drawn[epoch * 37 : (epoch + 1) * 37]]
        assert sorted(images) == list(range(37))
        assert images != list(range(37))
    assert [draw.image for draw in drawn[:37]] != [draw.image for draw in drawn[37:74]]
    assert all(draw == SampledImage(0, draw.image, tuple(range(2 + draw.image % 3))) for draw in drawn)
    assert [draw for step in range(3, 11) for draw in epochs.batch(step, 10)] == drawn[30:110]


def test_the_order_of_runs_before_there_were_mixtures() -> None:
    epochs = Epochs(24, lambda image: 1, seed=3)
    for step in range(9):
        shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(3 * 100_003 + step // 3)).tolist()
        assert [draw.image for draw in epochs.batch(step, 8)] == shuffled[step % 3 * 8 :][:8]


def test_some_questions_of_every_image_others_in_each_epoch() -> None:
    epochs = Epochs(5, lambda image: 9, queries=2)
    draws = {(draw.image, draw.questions) for draw in map(epochs.draw, range(50))}
    assert all(len(set(questions)) == 2 for _, questions in draws)
    assert len(draws) > 25
    for changes in ({"images": 0}, {"queries": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            Epochs(**{"images": 5, "count": len, **changes})


def test_a_bad_image_is_refused_or_drawn_again(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1, 200), b=stripes(1))

    def mixed(bad: str) -> Mixed:
        data = Records("d", ade20k(tmp_path).entries, trainable=True, bad=bad)  # type: ignore[arg-type]
        return Mixed([data], Mixture((SamplingSource("sem_seg", 2, data.count),), {"sem_seg": 1}))

    for bad in ("skip", "few"):
        data = mixed(bad)
        assert {data.sample(number).id for number in range(12)} == {"b"}
        assert ["holds the label 200" in fault.message for fault in data.datasets[0].faults] == [True]
    assert {mixed("skip").mixture.draw(number).image for number in range(20)} == {1}
    with pytest.raises(DataError, match="holds the label 200"):
        [mixed("refuse").sample(number) for number in range(20)]
    with pytest.raises(DataError, match="holds the label 200"):
        [mixed("refuse").mixture.draw(number) for number in range(20)]
    many = mixed("few")
    with pytest.raises(DataError, match=r"has 21 bad records among \d+ \(\d\d%\), too many"):
        [many.sample(number) for number in range(200)]


def test_data_kept_for_tests_is_not_mixed(tmp_path: Path) -> None:
    data = ade20k(write_ade20k(tmp_path, split="validation", a=stripes(1)), split="val")
    mixture = Mixture((SamplingSource("sem_seg", 1, data.count),), {"sem_seg": 1})
    with pytest.raises(ValueError, match="ade20k val is kept for tests"):
        Mixed([data], mixture)
    with pytest.raises(ValueError, match="set up for other datasets"):
        Mixed([], mixture)
