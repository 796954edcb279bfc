"""`seglens chat`: through a pipe, with JSON lines, and at a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import select
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import numpy as np
import pytest
from PIL import Image

from command import Run
from seglens.cli.chat import numbers
from seglens.core.types import Sample
from seglens.inference.segmenter import Segmenter

SEGLENS = Path(sys.executable).with_name("seglens")


@pytest.fixture
def image(scene: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene.image).save("scene.png")
    return Path("scene.png")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter, seglens: Run) -> Run:
    """`seglens chat` with these lines on standard input, and the model that is loaded already."""

    def run(*words: object) -> tuple[int, str, str]:
        *options, lines = words
        monkeypatch.setattr(sys.modules["seglens.cli.chat"], "load_segmenter", lambda *_, **__: segmenter)
        monkeypatch.setattr(sys, "stdin", io.StringIO(str(lines)))
        return seglens("chat", *options)

    return run


def test_answers_go_to_standard_output_and_all_else_to_standard_error(image: Path, typed: Run) -> None:
    lines = "how many things are there?\n\nmark the red cup.\nwhat colour is it?\n/quit\nnobody reads this\n"
    code, out, err = typed(image, "--out", "masks", lines)
    assert code == 0
    assert out.splitlines() == [
        "[dialogue: dialogue 1.00, segmentation 0.00, followup 0.00]",
        "4",
        "[segmentation: dialogue 0.00, segmentation 1.00, followup 0.00]",
        "Sure, the segmentation result is generated.",
        "  mask: masks/scene_1_mask.png",
        "  overlay: masks/scene_1_overlay.png",
        "[followup: dialogue 0.00, segmentation 0.00, followup 1.00]",
        "red",
    ]
    assert err == "looking at scene.png; /help lists the commands\n"
    assert np.asarray(Image.open("masks/scene_1_mask.png")).any()
    code, out, _ = typed(image, "--out", "masks", "mark the red cup.\n")  # another conversation overwrites nothing
    assert "  mask: masks/scene_2_mask.png" in out.splitlines()


def test_a_byte_order_mark_before_the_first_line_is_ignored(image: Path, typed: Run) -> None:
    plain, marked = (typed(image, "--json", f"{mark}how many things are there?") for mark in ("", "\ufeff"))
    assert marked == plain
    assert json.loads(plain[1])["text"] == "4"


def test_bad_lines_are_reported_and_the_conversation_goes_on(image: Path, typed: Run) -> None:
    bad = {
        "/refine 3,4": "no mask to refine yet",
        "/refine": "needs a point or a box",
        "/refine 5,5,7": "need X,Y or X,Y,0",
        "/refine 9999,5": "no mask to refine yet",
        "/imge x.png": "no command '/imge'; choose from /image, /refine, /route, /help, /quit; did you mean '/image'?",
        "/image": "needs the path of an image",
        "/image nowhere.png": "'nowhere.png' does not exist",
        "/route segment": "no route 'segment'",
        "<image>": "stands for the image",
    }
    code, out, err = typed(image, "\n".join([*bad, "how many things are there?"]))
    assert code == 0
    messages = err.splitlines()[1:]
    assert len(messages) == len(bad)
    for line, expected in zip(messages, bad.values(), strict=True):
        assert expected in line
    assert out.splitlines()[-1] == "4"


def test_a_line_of_json_for_each(image: Path, typed: Run, scene: Sample) -> None:
    lines = [
        "/route segmentation",
        "the red cup",
        "/refine 5,5,0 9,9",
        "/refine 9999,5",
        "/route auto",
        "how many things are there?",
        "/image scene.png",
        "/help",
    ]
    code, out, err = typed(image, "--json", "\n".join(lines))
    assert (code, err) == (0, "")
    route, cup, refined, outside, auto, words, picture, messages = map(json.loads, out.splitlines())
    assert (route, auto, picture) == (
        {"note": "route: segmentation"},
        {"note": "route: auto"},
        {"note": f"looking at {image}"},
    )
    assert cup["route"] == {"intent": "segmentation", "scores": {}, "given": True}
    assert cup["answers"][0]["query"] == "the red cup"
    assert cup["answers"][0]["found"]
    assert refined["files"] == {"mask": "out/scene_2_mask.png", "overlay": "out/scene_2_overlay.png"}
    mask = np.asarray(Image.open(refined["files"]["mask"])) > 0
    assert (mask[9, 9], mask[5, 5]) == (True, False)
    assert "9999" in outside["error"]
    assert (words["text"], words["answers"], words["files"]) == ("4", [], {})
    assert "/refine" in messages["note"]


def test_a_wrong_image_is_reported_before_the_model_is_loaded(tmp_path: Path, seglens: Run) -> None:
    code, out, err = seglens("chat", tmp_path / "nowhere.png")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_points_and_boxes_are_parsed() -> None:
    assert [numbers(word) for word in ("1,2", "1.5,2,0", "1,2,3,4")] == [[1, 2], [1.5, 2, 0], [1, 2, 3, 4]]
    for word in ("", "1", "1,2,", "a,b", "1,2,3,4,5", "1,2,-1"):
        with pytest.raises(ValueError, match="need X,Y"):
            numbers(word)


class Terminal:
    """The installed command at the other end of a pseudo-terminal."""

    def __init__(self, *words: object):
        self.end, theirs = pty.openpty()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100"}
        command = [SEGLENS, *map(str, words)]
        self.process = Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )
        os.close(theirs)
        self.screen, self.waited = "", 0  # up to where it was waited for

    def wait_for(self, text: str, seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while text not in self.screen[self.waited :]:
            assert time.monotonic() < until, self.screen
            if select.select([self.end], [], [], 0.5)[0]:
                self.screen += os.read(self.end, 4096).decode()
        self.waited = self.screen.index(text, self.waited) + len(text)

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def interrupt(self, presses: int = 4, seconds: float = 10) -> int:
        """Its exit code after Ctrl-C. CPython's readline misses one that comes between its prompt and its waiting,
        sooner than a person could press it."""
        for _ in range(presses):
            time.sleep(0.5)
            self.type("\x03")
            with contextlib.suppress(TimeoutExpired):
                return self.process.wait(seconds)
        raise AssertionError(f"still running after {presses} times Ctrl-C: {self.screen}")


@pytest.fixture
def terminal(image: Path) -> Iterator[Terminal]:
    terminal = Terminal("chat", image)
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()
    os.close(terminal.end)


@pytest.mark.slow
def test_chat_works_at_a_terminal(terminal: Terminal) -> None:
    """Prompted, answered, and ended by Ctrl-C without a trace."""
    terminal.wait_for("> ")
    terminal.type("how many things are thare\x7f\x7f\x7fere?\n")  # corrected while typing
    terminal.wait_for("dialogue")
    terminal.wait_for("> ")
    assert "4" in terminal.screen.splitlines()[-2]
    assert terminal.interrupt() == 0
    assert "Traceback" not in terminal.screen
