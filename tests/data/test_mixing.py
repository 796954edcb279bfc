"""The stream of draws: its rates, and that nothing but seed and number decides it."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lisa_files import stripes, write_ade20k, write_cocostuff, write_mapillary, write_paco, write_pascal_part

from seglens.data.chance import below, pick, words
from seglens.data.layout import LISA_TREE
from seglens.data.mixing import (
    GROUPS,
    RATES,
    Draw,
    Epochs,
    Mixed,
    Mixture,
    Source,
    lisa_mixture,
    load_mixture,
    parse_rates,
)
from seglens.data.records import DataError, Records
from seglens.data.semantic import ade20k

DRAWS = 8_000
SOURCES = tuple(
    Source(group, images, count)
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


def within(found: int, share: float, draws: int = DRAWS, deviations: float = 4.5) -> bool:
    """Closer to its share than 4.5 standard deviations of a binomial: wrong once in 150,000 counts by chance."""
    return abs(found - draws * share) < deviations * np.sqrt(draws * share * (1 - share)) + 1e-9


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
    one = Mixture((Source("sem_seg", 10, lambda image: 5),), {"sem_seg": 2.5}, queries=2)
    drawn = [one.draw(number) for number in range(DRAWS)]
    images = Counter(draw.image for draw in drawn)
    assert all(within(images[image], 1 / 10) for image in range(10))
    chosen = Counter(question for draw in drawn for question in draw.questions)
    assert all(within(chosen[question], 2 / 5) for question in range(5))
    assert all(len(set(draw.questions)) == 2 for draw in drawn)


def test_all_questions_in_order_when_there_are_no_more_than_asked_for() -> None:
    for count in (1, 2, 3):
        few = Mixture((Source("vqa", 4, lambda image, n=count: n),), {"vqa": 1})
        assert few.draw(9).questions == tuple(range(count))


def test_an_image_without_questions_is_drawn_again() -> None:
    mixture = Mixture(SOURCES, parse_rates("0-1-0-0"))
    drawn = [mixture.draw(number) for number in range(2000)]
    assert all(draw.questions for draw in drawn)
    assert not any(draw.source == 3 and draw.image % 5 == 0 for draw in drawn)
    again = [number for number in range(2000) if mixture.place(number) != (drawn[number].source, drawn[number].image)]
    assert within(len(again), 0.1, 2000)  # a fifth of a half
    with pytest.raises(ValueError, match="draw 3 met 100 images with nothing to ask"):
        Mixture((Source("vqa", 5, lambda image: 0),), {"vqa": 1}).draw(3)


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
    for sources, rates, says in [
        (SOURCES[:3], {"sem_seg": 9, "vqa": 3}, "no dataset of vqa; give one, or the rate 0"),
        (SOURCES[:3], {"sem_seg": 9, "vqa": -1}, "need numbers from 0 up"),
        (SOURCES[:3], {"sem_seg": float("nan")}, "need numbers from 0 up"),
        (SOURCES[:3], {"sem_seg": 0}, "one above 0"),
        (SOURCES, {"sem_seg": 1, "refer_seg": 1}, "no group 'vqa'"),
        ((Source("vqa", 0, len),), {"vqa": 1}, "has no images"),
    ]:
        with pytest.raises(ValueError, match=says):
            Mixture(sources, rates)
    with pytest.raises(ValueError, match="queries=0"):
        Mixture(SOURCES[5:6], {"vqa": 1}, queries=0)


def test_rates_in_words_and_numbers() -> None:
    assert parse_rates("paper") == {"sem_seg": 9, "refer_seg": 3, "vqa": 0, "reason_seg": 1}
    assert parse_rates("9-3-0-1") == parse_rates("paper")
    assert parse_rates("0.5-0-0-1")["sem_seg"] == 0.5
    with pytest.raises(ValueError, match="got 3 rates"):
        parse_rates("9-3-1")
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        parse_rates("papers")


# ---------------------------------------------------------------- epochs


def test_every_image_once_per_epoch() -> None:
    epochs = Epochs(37, lambda image: 2 + image % 3, seed=2)
    drawn = [epochs.draw(number) for number in range(3 * 37)]
    for epoch in range(3):
        images = [draw.image for draw in drawn[epoch * 37 : (epoch + 1) * 37]]
        assert sorted(images) == list(range(37))
        assert images != list(range(37))
    assert [draw.image for draw in drawn[:37]] != [draw.image for draw in drawn[37:74]]
    assert all(draw == Draw(0, draw.image, tuple(range(2 + draw.image % 3))) for draw in drawn)
    assert [draw for step in range(3, 11) for draw in epochs.batch(step, 10)] == drawn[30:110]


def test_the_order_of_runs_before_there_were_mixtures() -> None:
    epochs = Epochs(24, lambda image: 1, seed=3)
    for step in range(9):
        shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(3 * 100_003 + step // 3)).tolist()
        assert [draw.image for draw in epochs.batch(step, 8)] == shuffled[step % 3 * 8 :][:8]


def test_some_questions_of_every_image_others_in_each_epoch() -> None:
    epochs = Epochs(5, lambda image: 9, queries=2)
    asked = {(draw.image, draw.questions) for draw in map(epochs.draw, range(50))}
    assert all(len(set(questions)) == 2 for _, questions in asked)
    assert len(asked) > 25
    for changes in ({"images": 0}, {"queries": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            Epochs(**{"images": 5, "count": len, **changes})


# ---------------------------------------------------------------- LISA's folders


def sem_seg(root: Path) -> Path:
    for write in (write_ade20k, write_cocostuff):
        write(root, a=stripes(0, 1, 2, 3, 4, 5), b=stripes(6, 7), c=stripes(255))
    write_mapillary(root, ["Bird", "Curb"], a=stripes(0, 1))
    write_paco(root)
    return write_pascal_part(root)


ONLY_SEM_SEG = "9-0-0-0"


def test_lisa_in_its_folders(tmp_path: Path) -> None:
    assert lisa_mixture(sem_seg(tmp_path), ONLY_SEM_SEG) == [
        ("sem_seg", f"{name}:root={tmp_path},split=train,bad=refuse")
        for name in ("ade20k", "cocostuff", "pascal_part", "paco", "mapillary")
    ]


def test_lisa_with_references_and_reasoning(tmp_path: Path) -> None:
    for name, place in LISA_TREE.items():
        for needed in place.needs:
            (tmp_path / needed).mkdir(parents=True, exist_ok=True)
        assert all(needed.startswith(place.root) for needed in place.needs), name
    specs = lisa_mixture(tmp_path)
    assert [group for group, _ in specs] == ["sem_seg"] * 5 + ["refer_seg"] * 4 + ["reason_seg"]
    assert specs[7][1] == f"refcoco+:root={tmp_path}/refer_seg,split=train,bad=refuse"
    assert specs[9][1] == f"reasonseg:root={tmp_path}/reason_seg,split=train,bad=refuse"


def test_what_is_missing_is_named_all_at_once(tmp_path: Path) -> None:
    sem_seg(tmp_path)
    (tmp_path / "mapillary/config_v2.0.json").unlink()
    (tmp_path / "refer_seg/refcoco").mkdir(parents=True)
    (tmp_path / "refer_seg/refcoco/instances.json").touch()
    with pytest.raises(DataError) as caught:
        lisa_mixture(tmp_path)
    told = str(caught.value)
    assert "\n" not in told
    assert "mapillary: mapillary/config_v2.0.json;" in told
    assert "refcoco: refer_seg/refcoco/refs(unc).p, refer_seg/images/mscoco/images/train2014;" in told
    assert "refcocog: refer_seg/refcocog/refs(umd).p" in told
    assert (
        "refclef: refer_seg/refclef/refs(unc).p, refer_seg/refclef/instances.json, refer_seg/images/saiapr_tc-12;"
        in told
    )
    assert "reasonseg: reason_seg/ReasonSeg/train" in told
    assert "ade20k" not in told
    kept = [spec.split(":")[0] for _, spec in lisa_mixture(tmp_path, ONLY_SEM_SEG, bad="skip")]
    assert kept == ["ade20k", "cocostuff", "pascal_part", "paco"]
    with pytest.raises(DataError, match="no dataset of reason_seg, refer_seg; fetch one, or give rates without"):
        lisa_mixture(tmp_path, bad="skip")


def test_questions_and_answers_have_no_masks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rates=lisa asks for vqa, which has no masks"):
        lisa_mixture(tmp_path, "lisa")
    with pytest.raises(ValueError, match="cannot have a comma"):
        lisa_mixture(tmp_path / "a,b")


def test_samples_of_a_mixture(tmp_path: Path) -> None:
    mixed = load_mixture(f"lisa:root={sem_seg(tmp_path)},rates={ONLY_SEM_SEG},queries=2,seed=4")
    samples = [mixed.sample(number) for number in range(40)]
    assert all(1 <= len(sample.targets) <= 2 for sample in samples)
    assert all(target.query.endswith(("image?", "image.")) for sample in samples for target in sample.targets)
    for number, sample in enumerate(samples):  # the indices say the same
        draw = mixed.mixture.draw(number)
        data = mixed.datasets[draw.source]
        whole = data[draw.image]
        assert whole.id == sample.id
        chosen = [whole.targets[question] for question in draw.questions]
        assert all(one.query in two.query for one, two in zip(chosen, sample.targets, strict=True))
        assert all((one.mask == two.mask).all() for one, two in zip(chosen, sample.targets, strict=True))
    again = load_mixture(f"lisa:root={tmp_path},rates={ONLY_SEM_SEG},queries=2,seed=4")
    assert [target.query for target in again.sample(17).targets] == [target.query for target in samples[17].targets]


def test_a_bad_image_is_refused_or_drawn_again(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1, 200), b=stripes(1))

    def mixed(bad: str) -> Mixed:
        data = Records("d", ade20k(tmp_path).entries, trainable=True, bad=bad)  # type: ignore[arg-type]
        return Mixed([data], Mixture((Source("sem_seg", 2, data.count),), {"sem_seg": 1}))

    assert {mixed("skip").sample(number).id for number in range(20)} == {"b"}
    assert {mixed("skip").mixture.draw(number).image for number in range(20)} == {1}
    with pytest.raises(DataError, match="holds the label 200"):
        [mixed("refuse").sample(number) for number in range(20)]
    with pytest.raises(DataError, match="holds the label 200"):
        [mixed("refuse").mixture.draw(number) for number in range(20)]


def test_data_kept_for_tests_is_not_mixed(tmp_path: Path) -> None:
    data = ade20k(write_ade20k(tmp_path, split="validation", a=stripes(1)), split="val")
    mixture = Mixture((Source("sem_seg", 1, data.count),), {"sem_seg": 1})
    with pytest.raises(ValueError, match="ade20k val is kept for tests"):
        Mixed([data], mixture)
    with pytest.raises(ValueError, match="made for other datasets"):
        Mixed([], mixture)
    with pytest.raises(ValueError, match="no mixture 'lissa'; choose from lisa; did you mean 'lisa'"):
        load_mixture("lissa:root=/")
