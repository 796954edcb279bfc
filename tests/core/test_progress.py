"""How far long work has come: the one way in which every command shows it."""

from __future__ import annotations

import pytest

from seglens.core import progress as module
from seglens.core.progress import progress, tracked


def test_a_log_file_gets_the_last_step_and_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no terminal there is no bar: the last step is always printed, others after an interval."""
    with progress("training", 3) as advance:
        for _ in range(3):
            advance(1, {"dice": 0.5})
    assert capsys.readouterr().err == "training: 3 of 3 dice 0.500\n"
    monkeypatch.setattr(module, "INTERVAL", -1.0)
    with progress("training", 7, done=4) as advance:
        advance(2)
    assert capsys.readouterr().err == "training: 6 of 7\n"
    with progress("reading", None) as advance:
        advance()
    assert capsys.readouterr().err == "reading: 1\n"


def test_hidden_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", 1, hidden=True) as advance:
        advance()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_tracked_items_are_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(["a", "b"], "asking")) == ["a", "b"]
    assert capsys.readouterr().err == "asking: 2 of 2\n"


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal
    with progress("training", 2) as advance:
        advance(2, {"dice": 0.5})
    err = capsys.readouterr().err
    assert "training" in err
    assert "2/2" in err
    assert "dice 0.500" in err
