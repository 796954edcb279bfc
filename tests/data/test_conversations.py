"""Questions with answers in words, in the forms of LLaVA and of InternVL's VQA, and every way in which they can be
wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command import Run
from seglens.core.types import Sample, Target
from seglens.data import load_data
from seglens.data.conversations import conversations_data
from seglens.data.faults import DataError
from seglens.data.query_templates import prompted
from seglens.data.records import Bad, Records
from shared import shared

QA = {"image": "a.png", "question": "What is it?", "question_id": 7, "answer": "net"}


def turns(*texts: str, first: int = 0) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[(first + n) % 2], "value": value} for n, value in enumerate(texts)]


def talk(*texts: str, image: Any = "a.png", **more: Any) -> dict[str, Any]:
    return {"id": "12", "image": image, "conversations": turns(*texts), **more}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20), "teal").save(tmp_path / name)
    return tmp_path


def saved(root: Path, *records: Any, as_list: bool = False) -> Callable[..., Records]:
    lines = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    (root / "talk.json").write_text(json.dumps(records) if as_list else lines)

    def build(bad: Bad = "refuse", **options: Any) -> Records:
        return conversations_data(file=root / "talk.json", bad=bad, **options)

    return build


def texts(data: Records) -> list[tuple[str, str | None]]:
    return [(target.query, target.answer) for sample in data for target in sample.targets]


@pytest.mark.parametrize("as_list", [False, True])
def test_both_forms(as_list: bool, root: Path) -> None:
    records = talk("<image>\nWhat is it?", "A net.", " Why?", " So. "), QA, QA | {"image": "b.png"}
    data = saved(root, *records, as_list=as_list)()
    assert texts(data) == [("What is it?", "A net."), ("Why?", "So.")] + [("What is it?", "net")] * 2
    assert len(data) == 3  # a sample per record, though two are about one image
    one = "item" if as_list else "line"
    assert [target.id for target in data[0].targets] == [f"{one} 1 (id 12) turn 1", f"{one} 1 (id 12) turn 2"]
    assert [target.id for target in data[1].targets] == [f"{one} 2 (id 7)"]
    for sample in data:
        assert sample.image.shape == (20, 30, 3)
        assert sample.drawn().targets == ()
        for target in sample.targets:
            assert (target.kind, target.spoken, target.present) == ("vqa", True, False)
            assert target.mask.shape == (20, 30)


@pytest.mark.parametrize("place", ["<image>\n{}", "{}\n<image>", "<image>{}", "{}"])
def test_the_placeholder_is_no_word(place: str, root: Path) -> None:
    assert texts(saved(root, talk(place.format("What is it?"), "A net."))()) == [("What is it?", "A net.")]


def test_turns_before_the_first_question_are_left_out(root: Path) -> None:
    begun = talk() | {
        "conversations": [{"from": "system", "value": "Be kind."}, *turns("Hi!", "What?", "So.", first=1)]
    }
    assert texts(saved(root, begun)()) == [("What?", "So.")]


def test_the_words_of_asked_follow_each_question(root: Path) -> None:
    build = saved(root, QA)
    brief = "What is it? Answer the question using a single word or phrase."
    assert texts(build(asked="brief")) == [(brief, "net")]
    ((query, _),) = texts(build(asked="brief-or-none"))
    assert query.startswith("What is it? When the provided information is insufficient, respond with 'Unanswerable'. ")
    with pytest.raises(ValueError, match="asked=long; choose from plain, brief, brief-or-none"):
        load_data(f"conversations:file={root / 'talk.json'},asked=long")


def test_some_of_many(root: Path) -> None:
    build = saved(root, *(QA | {"question_id": number} for number in range(200)))
    chosen = [target.id for sample in build(most=20) for target in sample.targets]
    assert len(set(chosen)) == 20
    assert chosen == [target.id for sample in build(most=20) for target in sample.targets]
    assert chosen != [f"line {n + 1} (id {n})" for n in range(20)]
    numbers = [int(str(one).split()[1]) for one in chosen]
    assert numbers == sorted(numbers)
    assert len(build(most=200)) == len(build(most=900)) == 200
    with pytest.raises(DataError, match="most=0; it must be at least 1"):
        build(most=0)


def test_lines_are_read_quickly(root: Path) -> None:
    build = saved(root, *(QA | {"question_id": number} for number in range(5_000)))
    start = time.perf_counter()
    assert len(build()) == 5_000
    assert time.perf_counter() - start < 5  # measured: 1 s with the type checks of the tests on a busy machine


BAD: dict[str, tuple[Any, str]] = {
    "no image": ({"conversations": turns("What?", "So.")}, "has image 'None'; it needs the path of one image"),
    "two images": (talk("What?", "So.", image=["a.png", "b.png"]), "it needs the path of one image"),
    "two placeholders": (
        talk("<image><image> What?", "So."),
        "has <image> more than once; only conversations about one",
    ),
    "a placeholder in a later turn": (
        talk("<image> What?", "So.", "And <image>?", "So."),
        "has <image> more than once",
    ),
    "lost image": (talk("What?", "So.", image="c.png"), "there is no file"),
    "no answer": (talk("What?"), "has 1 turns; it needs a question of human and an answer of gpt"),
    "a question too many": (talk("What?", "So.", "And?"), "has 3 turns"),
    "no turns": (talk(), "has 0 turns"),
    "two questions": (
        talk() | {"conversations": turns("What?") * 2},
        "has a turn from 'human'; human and gpt must alternate",
    ),
    "other speakers": (
        talk() | {"conversations": [{"from": "user", "value": "What?"}, {"from": "assistant", "value": "So."}]},
        "has a turn from 'user'; human and gpt must alternate",
    ),
    "an empty question": (talk("<image>\n", "So."), "it needs words"),
    "an empty answer": (talk("What?", " "), "has value ' '; it needs words"),
    "an answer that is a number": (QA | {"answer": 3}, "has answer '3'; it needs words"),
    "no words": (talk() | {"conversations": [{"from": "human"}, {"from": "gpt"}]}, "has value 'None'; it needs words"),
    "conversations that are text": (talk() | {"conversations": "What?"}, "no list of objects with from and value"),
    "a test question": ({"image": "a.png", "question": "What?", "question_id": 1}, "has no answer; it needs image and"),
    "masks": ({"image": "a.png", "text": "the cat", "polygons": []}, "has no conversations; it needs image and conv"),
    "no object": ("[1, 2", "is not JSON"),
    "a list": ('"a.png"', "is str; it needs an object with image and conversations, or"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named(name: str, root: Path) -> None:
    record, message = BAD[name]
    build = saved(root, QA, record)
    with pytest.raises(DataError) as caught:
        build()
    assert message in str(caught.value)
    assert "talk.json: line 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    left = build(bad="skip")
    assert texts(left) == [("What is it?", "net")]
    assert len(left.faults) == 1
    assert left.faults[0].kind == ("image" if name == "lost image" else "annotation")


def test_a_file_of_something_else(root: Path) -> None:
    with pytest.raises(DataError, match="none of its 2 lines is an object with image and conversations, or image"):
        saved(root, "a b", "c d")()
    with pytest.raises(DataError, match=r"there is no file .*none\.json"):
        conversations_data(file=root / "none.json")


def test_data_check_and_show(root: Path, seglens: Run) -> None:
    saved(root, talk("What is it?", "A net.", "Why?", "So."), QA, QA | {"question_id": 8}, talk("What?"))
    spec = f"conversations:file={root / 'talk.json'}"
    code, out, _ = seglens("data", "check", spec, "--duplicates")  # three records of one photograph are no copies
    assert code == 1
    assert out.splitlines() == [
        f"fault: {root / 'talk.json'}: line 4 (id 12): has 1 turns; it needs a question of human and an answer of gpt, "
        "in turn",
        "3 usable images, 4 queries (0 of them absent, 4 answered in words)",
        "1 faults (annotation 1), 0 notes",
    ]
    assert json.loads(seglens("data", "check", spec, "--json")[1])["spoken"] == 4
    code, out, _ = seglens("data", "show", spec, "--n", 1, "--out", root / "out")
    assert code == 0
    assert out.strip().endswith("What is it? -> A net.; Why? -> So.")
    (picture,) = (root / "out").iterdir()
    assert np.asarray(Image.open(picture)).std() > 0


def test_real_photographs_of_coco(root: Path) -> None:
    """COCO's captions in the form of LLaVA."""
    folder = shared("coco/train2017")
    captions = json.loads(shared("coco/annotations/captions_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in captions["images"]}
    request = "<image>\nProvide a brief description of the given image."
    records = [
        talk(request, one["caption"], image=names[one["image_id"]], id=one["id"]) for one in captions["annotations"]
    ]
    data = saved(root, *records, as_list=True)(images=folder)
    assert len(data) == len(captions["annotations"]) == 195
    heights = {image["file_name"]: image["height"] for image in captions["images"]}
    for index in range(0, 195, 40):
        (target,) = data[index].targets
        assert target.answer == captions["annotations"][index]["caption"].strip()
        assert data[index].image.shape[0] == heights[data.entries[index].image.name]


# ---------------------------------------------------------------- targets


def test_a_target_is_spoken_or_drawn() -> None:
    nothing, something = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    drawn = Target("a cat", something, answer="since it is soft")  # ReasonSeg explains, and has a mask
    absent = Target("a dog", nothing, answer="there is none")  # FP-RefCOCO names what is there instead
    spoken = Target("what is it?", nothing, "vqa", answer="a cat", spoken=True)
    assert [target.spoken for target in (drawn, absent, spoken)] == [False, False, True]
    image = np.zeros((2, 3, 3), np.uint8)
    sample = Sample("s", image, (drawn, spoken, absent))
    assert sample.drawn().targets == (drawn, absent)
    assert sample.drawn().image is image
    assert sample.drawn().drawn() == sample.drawn()
    assert Sample("s", image, (spoken,)).drawn().targets == ()
    for answer, mask in ((None, nothing), ("", nothing), ("a cat", something)):
        with pytest.raises(
            ValueError, match="is answered in words alone; it needs an answer, and a mask without pixels"
        ):
            Target("what is it?", mask, answer=answer, spoken=True)


def test_a_question_answered_in_words_gets_no_template() -> None:
    spoken = Target("What is it?", np.zeros((2, 3), bool), "vqa", answer="a cat", spoken=True)
    sample = Sample("s", np.zeros((2, 3, 3), np.uint8), (spoken,) * 8)
    assert all(prompted(sample, "lisa", seed).targets == sample.targets for seed in range(4))
