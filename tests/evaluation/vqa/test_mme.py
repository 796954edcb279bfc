"""MME: its real question files, both layouts, and sums that can be done by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seglens.evaluation.vqa import mme
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion
from shared import shared

QUESTIONS = 2374  # of the release


@pytest.fixture(scope="module")
def questions() -> list[BenchmarkQuestion]:
    return mme.read(str(shared("general/mme")))


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared("general/mme/mini"), tmp_path / "mini"))


def same_answer(questions: list[BenchmarkQuestion], answer: str) -> dict[str, str]:
    return {question.id: answer for question in questions}


def right(questions: list[BenchmarkQuestion]) -> dict[str, str]:
    return {question.id: str(question.answer) for question in questions}


def test_the_release_is_read_whole(questions: list[BenchmarkQuestion]) -> None:
    assert len(questions) == QUESTIONS
    assert {question.category for question in questions} == {*mme.PERCEPTION, *mme.COGNITION}
    assert len({question.group for question in questions}) == QUESTIONS / 2
    first = next(question for question in questions if question.category == "OCR")
    assert first.id == "OCR/0001.jpg/1"
    assert first.prompt == 'Is the word in the logo "angie\'s"? Please answer yes or no.'
    assert first.where.endswith("OCR.txt:1")


def test_scores_that_are_known(questions: list[BenchmarkQuestion]) -> None:
    """Every image has one yes and one no: a model that always answers yes has half of the questions and no image."""
    full = mme.score(questions, right(questions))
    assert (full["perception"], full["cognition"], full["total"], full["other"]) == (2000, 800, 2800, 0)
    for answer in ("yes", "No, never"):
        always = mme.score(questions, same_answer(questions, answer))
        assert (always["perception"], always["cognition"], always["total"]) == (500, 200, 700)
    silent = mme.score(questions, same_answer(questions, "perhaps"))
    assert (silent["total"], silent["other"]) == (0, QUESTIONS)


def test_the_two_questions_of_an_image_make_one_point(mini: Path) -> None:
    """Four colour images: two all right, one half right, one wrong: 5/8 of questions, 2/4 of images."""
    questions = mme.read(str(mini))
    answers = right(questions)
    images = sorted({question.group for question in questions if question.category == "color"})
    flip = {"yes": "no", "no": "yes"}
    for name in (f"{images[2]}/1", f"{images[3]}/1", f"{images[3]}/2"):
        answers[name] = flip[answers[name]]
    scores = mme.score(questions, answers)
    assert scores["by_category"]["color"] == {"score": 112.5, "accuracy": 62.5, "accuracy+": 50}
    assert scores["by_category"]["count"]["score"] == 200
    assert scores["perception"] is None  # seven of its ten subtasks are not there
    assert scores["total"] is None


def test_both_layouts_are_the_same_questions(mini: Path, questions: list[BenchmarkQuestion]) -> None:
    """The release's folders and the eval_tool's tables, here with their images beside them."""
    folders = mme.read(str(mini))
    assert len(folders) == 14
    by_id = {question.id: question for question in questions}
    for question in folders:
        other = by_id[question.id]
        assert (question.prompt, question.answer, question.group) == (other.prompt, other.answer, other.group)
        assert question.picture().shape[2] == 3
    shutil.copy(shared("general/mme/position.txt"), mini / "position.txt")
    for path in mini.glob("position/*.jpg"):
        (mini / "position" / "images").mkdir(exist_ok=True)
        path.rename(mini / "position" / "images" / path.name)
    tables = [question for question in mme.read(str(mini)) if question.group == "position/000000482585.jpg"]
    for question in tables:
        question.check()
        assert question.picture().shape[2] == 3


def test_questions_apart_from_their_images(mini: Path) -> None:
    """As the release has its posters, scenes, landmarks, artworks and celebrities."""
    before = mme.read(str(mini))
    for folder in ("images", "questions_answers_YN"):
        (mini / "color" / folder).mkdir()
    for path in [*(mini / "color").glob("*.jpg"), *(mini / "color").glob("*.txt")]:
        path.rename(path.parent / ("images" if path.suffix == ".jpg" else "questions_answers_YN") / path.name)
    after = mme.read(str(mini))
    assert [question.id for question in after] == [question.id for question in before]
    assert all(question.picture().size for question in after)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"a.jpg\tIs it?\tYes\n", r"'a.jpg' at its end has one question; need 2"),
        (b"a.jpg\tIs it?\tYes\nb.jpg\tIs it?\tNo\n", r"color.txt:2: got a question about 'b.jpg'; need the second one"),
        (b"a.jpg\tIs it?\n", r"color.txt:1: got 2 fields"),
        (b"a.jpg\tIs it?\tYes\na.jpg\tIs it not?\tMaybe\n", r"color.txt:2: the answer is 'Maybe'; need Yes or No"),
        (b"a.jpg\t \tYes\n", r"color.txt:1: the question is empty"),
        (b"a.jpg\tIs it?\tYes\na.jpg\tIs it caf\xe9?\tNo\n", r"color.txt:2: byte 16 of the line is not UTF-8"),
        (2 * b"a.jpg\tIs it?\tYes\na.jpg\tIs it not?\tNo\n", r"color.txt:4: the id 'color/a.jpg/2' is taken already"),
    ],
)
def test_a_bad_table_is_refused_by_line(tmp_path: Path, text: bytes, complaint: str) -> None:
    (tmp_path / "color.txt").write_bytes(text)
    with pytest.raises(BenchmarkError, match=complaint) as error:
        mme.read(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_bad_folder_is_refused(mini: Path, tmp_path: Path) -> None:
    path = mini / "count" / "000000427034.txt"
    path.write_text("Is there a dog in the picture?\tYes\n")
    with pytest.raises(BenchmarkError, match=r"000000427034.txt: got 1 questions; need 2"):
        mme.read(str(mini))
    path.write_text("Is there a dog?\tYes\nIs there a cat? No\n")
    with pytest.raises(BenchmarkError, match=r"000000427034.txt:2: no tab"):
        mme.read(str(mini))
    with pytest.raises(BenchmarkError, match=r"holds no subtask of MME; need existence.txt or existence/"):
        mme.read(str(tmp_path))


def test_a_missing_image_is_named_with_its_line(mini: Path) -> None:
    (mini / "count" / "000000427034.jpg").unlink()
    question = next(q for q in mme.read(str(mini)) if q.id == "count/000000427034.jpg/2")
    with pytest.raises(BenchmarkError, match=r"000000427034.txt:2: the image '.*000000427034.jpg' does not exist"):
        question.check()
