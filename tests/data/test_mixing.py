"""The published mixtures: which datasets, where they are, in which shares, and with which queries."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lisa_files import (
    VQA,
    stripes,
    write_ade20k,
    write_cocostuff,
    write_llava,
    write_mapillary,
    write_paco,
    write_pascal_part,
    write_vqa,
)
from make_refer import COCO, ref, save, save_image, save_reason, sentence

from seglens.data.faults import DataError
from seglens.data.lisa_tree import LISA_TREE, TREE
from seglens.data.mixing import MIXTURES, MLLMSEG, SELF1E, SELF1E_REPEATS, load_mixture, parse_rates, self1e_weights
from seglens.data.sampling import Mixed
from seglens.data.split_leakage import image_key

ONLY_SEM_SEG = "9-0-0-0"


def sem_seg(root: Path) -> Path:
    for write in (write_ade20k, write_cocostuff):
        write(root, a=stripes(0, 1, 2, 3, 4, 5), b=stripes(6, 7), c=stripes(255))
    write_mapillary(root, ["Bird", "Curb"], a=stripes(0, 1))
    write_paco(root)
    return write_pascal_part(root)


def refer_seg(root: Path) -> Path:
    """RefCOCO has a phrase for 101, which RefCOCOg tests on, and for 102; each of the others one for 102, but gRefCOCO
    one that nothing fits. RefCLEF has six."""
    place = root / "refer_seg"
    for name in ("refcoco", "refcoco+", "refcocog", "refclef", "grefcoco"):
        form = {"refcocog": "refs(umd).p", "grefcoco": "grefs(unc).json"}.get(name, "refs(unc).p")
        records = [ref(2, 102, 3, "train", sentence(20, "a block"))]
        if name == "refcoco":
            records.append(ref(1, 101, 1, "train", sentence(10, "a box")))
        if name == "refcocog":
            records.append(ref(1, 101, 1, "test", sentence(10, "a box")))
        if name == "refclef":
            records[0]["sentences"] = [sentence(number, f"block {number}") for number in range(6)]
        if name == "grefcoco":
            records = [
                ref(1, 102, [-1], "train", sentence(10, "the third")),
                ref(2, 102, [3, 4], "train", sentence(20, "all")),
            ]
        folder = "images/saiapr_tc-12" if name == "refclef" else COCO
        save(place, name, form, records, images=())
        for number in (101, 102):
            save_image(place / folder / f"COCO_train2014_{number:012d}.jpg")
    return root


def everything(root: Path) -> Path:
    refer_seg(sem_seg(root))
    write_llava(root, "000000000101", "000000000009")
    for number, name in enumerate(VQA):
        write_vqa(root, name, *(f"What is {n}?" for n in range(number + 1)))
    for name in ("one", "two"):
        save_reason(root / "reason_seg", "train", name)
    return root


def shares(mixed: Mixed) -> dict[str, float]:
    """How likely each dataset is to be drawn."""
    mixture = mixed.mixture
    rates, weights = mixture.rates, Counter[str]()
    for source in mixture.sources:
        weights[source.group] += source.weight
    return {
        data.name: rates[source.group] / sum(rates.values()) * source.weight / weights[source.group]
        for data, source in zip(mixed.datasets, mixture.sources, strict=True)
    }


def queries(mixed: Mixed, draws: int = 200) -> list[Any]:
    return [target for number in range(draws) for target in mixed.sample(number).targets]


def test_rates_in_words_and_numbers() -> None:
    assert parse_rates("paper") == {"sem_seg": 9, "refer_seg": 3, "vqa": 0, "reason_seg": 1}
    assert parse_rates("lisa") == {"sem_seg": 9, "refer_seg": 3, "vqa": 3, "reason_seg": 1}
    assert parse_rates("9-3-0-1") == parse_rates("paper")
    assert parse_rates("0.5-0-0-1")["sem_seg"] == 0.5
    with pytest.raises(ValueError, match="got 3 rates"):
        parse_rates("9-3-1")
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        parse_rates("papers")


# ---------------------------------------------------------------- the folders


def test_places() -> None:
    for name, place in TREE.items():
        assert all(needed.startswith(place.root) for needed in place.needs), name
        assert place.spec(name, Path("/data"), "skip").endswith(",split=train,bad=skip")
    assert TREE["refcoco+"].spec("refcoco+", Path("/d"), "refuse") == (
        "refcoco+:root=/d/refer_seg,split=train,bad=refuse"
    )
    assert TREE["ade20k"].spec("ade20k", Path("/d"), "refuse") == "ade20k:root=/d,split=train,bad=refuse"
    assert TREE["llava_150k"].spec("llava_150k", Path("/d"), "refuse") == (
        "conversations:file=/d/llava_dataset/llava_instruct_150k.json,images=/d/coco/train2017,split=train,bad=refuse"
    )
    assert TREE["vizwiz"].spec("vizwiz", Path("/d"), "refuse") == (
        "conversations:file=/d/data/vizwiz/vizwiz_train.jsonl,images=/d/,asked=brief-or-none,most=100000,split=train,"
        "bad=refuse"
    )
    assert {*SELF1E, *MLLMSEG["res"], *MLLMSEG["gres"], *LISA_TREE} == set(TREE)


def test_what_is_missing_is_named_all_at_once(tmp_path: Path) -> None:
    sem_seg(tmp_path)
    (tmp_path / "mapillary/config_v2.0.json").unlink()
    (tmp_path / "refer_seg/refcoco").mkdir(parents=True)
    (tmp_path / "refer_seg/refcoco/instances.json").touch()
    with pytest.raises(DataError) as caught:
        MIXTURES["lisa"](tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "mapillary: mapillary/config_v2.0.json;" in message
    assert "refcoco: refer_seg/refcoco/refs(unc).p, refer_seg/images/mscoco/images/train2014;" in message
    assert "refcocog: refer_seg/refcocog/refs(umd).p" in message
    assert (
        "refclef: refer_seg/refclef/refs(unc).p, refer_seg/refclef/instances.json, refer_seg/images/saiapr_tc-12;"
        in message
    )
    assert "reasonseg: reason_seg/ReasonSeg/train" in message
    assert "ade20k" not in message
    assert "llava" not in message
    datasets = MIXTURES["lisa"](tmp_path, ONLY_SEM_SEG, bad="skip").datasets
    assert [data.name.split()[0] for data in datasets] == ["ade20k", "cocostuff", "pascal_part", "paco"]
    with pytest.raises(DataError, match="no dataset of reason_seg, refer_seg; fetch one, or do without them"):
        MIXTURES["lisa"](tmp_path, bad="skip")
    with pytest.raises(DataError, match="no dataset of vqa"):
        MIXTURES["lisa"](tmp_path, "9-0-3-0", bad="skip")


# ---------------------------------------------------------------- LISA and LENS


def test_lisa(tmp_path: Path) -> None:
    everything(tmp_path)
    paper = load_mixture(f"lisa:root={tmp_path}")
    assert not paper.spoken
    assert len(shares(paper)) == 10
    assert shares(paper)["ade20k train"] == pytest.approx(9 / 13 / 5)
    lisa = load_mixture(f"lisa:root={tmp_path},rates=lisa,prompt=lisa")
    assert lisa.spoken
    name = f"conversations {tmp_path}/llava_dataset/llava_instruct_150k.json"
    assert shares(lisa)[name] == pytest.approx(3 / 16)
    targets = queries(lisa)
    assert {target.query for target in targets if target.spoken} == {"What is it?", "Is it grey?"}  # in no template
    assert all("segment" in target.query for target in targets if not target.spoken)
    assert not any(target.spoken for target in queries(paper))


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


# ---------------------------------------------------------------- MLLMSeg


def test_mllmseg(tmp_path: Path) -> None:
    mixed = load_mixture(f"mllmseg:root={refer_seg(tmp_path)}")
    assert shares(mixed) == {f"{name} train": 1 / 4 for name in ("refclef", "refcoco", "refcoco+", "refcocog")}
    assert mixed.mixture.draw(0) == mixed.mixture.draw(0)
    counts = Counter(len(mixed.sample(number).targets) for number in range(40))
    assert set(counts) == {1, 5}  # RefCLEF's image has six phrases
    assert {target.query for target in queries(mixed)} == {"a box", "a block"} | {
        f"block {n}" for n in range(6)
    }  # bare
    (gres,) = load_mixture(f"mllmseg:root={tmp_path},stage=gres").datasets
    assert gres.name == "grefcoco train"
    assert [target.present for target in gres[0].targets] == [False, True]
    with pytest.raises(ValueError, match="stage=rec; choose from res, gres"):
        load_mixture(f"mllmseg:root={tmp_path},stage=rec")


# ---------------------------------------------------------------- SELF1E


def test_self1e_in_proportion_to_sizes(tmp_path: Path) -> None:
    everything(tmp_path)
    for name, repeats in SELF1E_REPEATS.items():
        mixed = load_mixture(f"{name}:root={tmp_path}")
        assert mixed.spoken
        sizes = [len(data) for data in mixed.datasets]
        assert sizes == [3, 3, 1, 2, 2, 1, 1, 2, 2, 1, 2, 3, 4, 5]
        weights = [size * repeats[TREE[one].group] for one, size in zip(SELF1E, sizes, strict=True)]
        assert [source.weight for source in mixed.mixture.sources] == weights
        assert list(shares(mixed).values()) == pytest.approx([weight / sum(weights) for weight in weights])
        kinds = Counter(target.kind for target in queries(mixed, 60))
        assert set(kinds) <= {"class", "part", "phrase", "long", "short", "vqa"}
        assert kinds["vqa"] > 0
    assert repeats == {"sem_seg": 6, "refer_seg": 20, "vqa": 1, "reason_seg": 6}
    spoken = [target for target in queries(mixed) if target.spoken]
    assert any(target.query.endswith("Answer the question using a single word or phrase.") for target in spoken)
    assert "refclef train" in shares(load_mixture(f"self1e:root={tmp_path},refclef=yes"))
    assert not load_mixture(f"self1e:root={tmp_path},vqa=no").spoken


def test_self1e_of_the_published_sizes() -> None:
    """Table 8 adds up to 561k images; its 2.4M for SELF1E-SEG are what it lists and RefCLEF's 18k twenty times."""
    thousands = (20, 118, 4, 46, 17, 17, 22, 0.239, 157, 100, 9, 35, 20, 100, 18)
    sizes = dict(zip((*SELF1E, "refclef"), (round(1000 * size) for size in thousands), strict=True))
    listed = {name: sizes[name] for name in SELF1E}
    assert round(sum(self1e_weights("self1e", listed).values()), -3) == 561_000
    assert round(sum(self1e_weights("self1e-seg", listed).values()), -3) == 2_046_000
    assert round(sum(self1e_weights("self1e-seg", sizes).values()), -3) == 2_406_000


# ---------------------------------------------------------------- what is kept for tests


def test_photographs_of_the_tests_are_held_out(tmp_path: Path) -> None:
    """RefCOCOg tests on 101: RefCOCO may not train on it, nor LLaVA talk about it."""
    everything(tmp_path)
    for name, lost in {"mllmseg": 1, "self1e": 2}.items():
        whole, held = (load_mixture(f"{name}:root={tmp_path}{more}") for more in ("", ",held_out=yes"))
        images = [[image_key(entry.image) for data in one.datasets for entry in data.entries] for one in (whole, held)]
        assert images[0].count("coco/101") == lost
        assert images[1] == [key for key in images[0] if key != "coco/101"]
        assert [source.images for source in held.mixture.sources] == [len(data) for data in held.datasets]
        assert not any("a box" in target.query for target in queries(held, 30))


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    save(tmp_path / "refer_seg", "grefcoco", "grefs(unc).json", [ref(2, 102, [3], "train", sentence(20, "a block"))])
    with pytest.raises(ValueError, match="has no val or test set of refcoco"):
        load_mixture(f"mllmseg:root={tmp_path},stage=gres,held_out=yes")
    testing = [ref(1, 102, 3, "val", sentence(10, "a block"))]
    save(tmp_path / "refer_seg", "refcoco", "refs(unc).p", testing, images=())
    with pytest.raises(ValueError, match="grefcoco train has no image that is not to be left out"):
        load_mixture(f"mllmseg:root={tmp_path},stage=gres,held_out=yes")


# ---------------------------------------------------------------- by name


def test_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no mixture 'lissa'; choose from lisa, .*; did you mean 'lisa'"):
        load_mixture("lissa:root=/", rates="paper")
    with pytest.raises(ValueError, match="mllmseg needs root="):
        load_mixture("mllmseg", rates="paper")
    root = refer_seg(tmp_path)
    assert load_mixture(f"mllmseg:root={root},queries=2", rates="paper", seed=7, queries=9).mixture.seed == 7
    assert load_mixture(f"mllmseg:root={root},queries=2", rates="paper", seed=7, queries=9).mixture.queries == 2
    sem_seg(tmp_path)
    usual = load_mixture(f"lisa:root={root}", rates=ONLY_SEM_SEG).mixture.rates
    assert [rate for rate in usual.values() if not math.isclose(rate, 0)] == [9]
