"""Which words are sources and which are queries, and what is refused because it could be either."""

from __future__ import annotations

from pathlib import Path

import pytest

from seglens.cli.arguments import is_source, one_text, split_arguments


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose names end in anything, folders named as things are, a name with a blank."""
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "b.jfif", "scan", "my photo.png", "photos/a.jpg", "cat/1.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("words", "sources"),
    [
        (["x.png", "the cup"], 1),
        (["x.png", "cat"], None),  # a folder of this name is there
        (["x.png", "dog", "bird"], 1),
        (["x.png", "b.jfif", "scan", "photos", "photos/*", "the cup", "dog"], 5),
        (["photos/", "gone.png", "clip.mp4", "*.jp2", "the cup"], 4),
        (["photos", "cat", "the cup"], 2),
        (["-", "the cup"], 1),
        (["x.png", "-", "the cup"], 2),
        (["gone", "the cup"], 1),
        (["x.png", "what is this?", "the left/right shoe", "no. 7", "the cup. the red one"], 1),
        (["x.png", "猫", "雪"], 1),
        (["x.png", "orange", "apple"], 1),
    ],
)
def test_sources_then_queries(words: list[str], sources: int | None) -> None:
    if sources is None:
        with pytest.raises(ValueError, match=r"no query; 'cat' is a folder here: .* give --query cat"):
            split_arguments(words)
        assert split_arguments(["x.png"], ["cat"]) == (["x.png"], ["cat"])
    else:
        assert split_arguments(words) == (words[:sources], words[sources:])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["x.png", "the", "duck"],
            "look like one without its quotes; for one query write 'the duck'; for 2 write --query the --query duck",
        ),
        (["x.png", "red", "cup"], "for one query write 'red cup'"),
        (["x.png", "cup", "on", "the", "left"], "got 4 queries, 'cup', 'on', 'the', 'left'"),
        (["x.png", "the red cup", "and", "the dog"], "for one query write 'the red cup and the dog'"),
        (["x.png", "the cup", "photos"], "'photos' comes after the query 'the cup' and looks like a source"),
        (["x.png", "the cup", "y.png"], "name it before the queries; .* as in --query y.png"),
        (["x.png", "photos/b.xyz", "cup"], "'photos/b.xyz' looks like a file and does not exist; .*check the path"),
        (["x.png", "b.heic", "cup"], "'b.heic' looks like a file"),
        (["x.png", "~/more", "cup"], "'~/more' looks like a file"),
        (["my", "photo.png", "the cup"], "'my' does not exist, but 'my photo.png' does; put it in quotes"),
        (["x.png"], "and no query; say what to segment"),
        (["x.png", "photos"], "and no query; 'photos' is a folder here"),
        (["x.png", " "], "got an empty query"),
    ],
)
def test_ambiguous_arguments_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        split_arguments(words)


def test_queries_given_as_options() -> None:
    """All other words are then sources; nothing is guessed."""
    queries = ["the", "duck", "photos", "y.png"]
    assert split_arguments(["x.png", "photos"], queries) == (["x.png", "photos"], queries)
    with pytest.raises(ValueError, match="got an empty query"):
        split_arguments(["x.png"], [""])


def test_a_command_of_one_text() -> None:
    assert one_text(["the cup"], "query") == "the cup"
    with pytest.raises(ValueError, match=r"got 2 words for one query; put it in quotes: 'the cup'$"):
        one_text(["the", "cup"], "query")
    with pytest.raises(ValueError, match="'scan' is a file, and only one image can be given"):
        one_text(["scan", "the cup"], "query")


@pytest.mark.parametrize("word", ["a.jpg", "deep/B.PNG", "pictures/", "clip.mp4", "in/*.webp", "x.JFIF", "phot*", "-"])
def test_arguments_that_are_sources(word: str) -> None:
    assert is_source(word)


@pytest.mark.parametrize("word", ["dog", "the left/right shoe", "the cup. the red one", "no. 7", "zzz*", "", "x" * 999])
def test_arguments_that_are_queries(word: str) -> None:
    assert not is_source(word)
