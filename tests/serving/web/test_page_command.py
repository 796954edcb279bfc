"""`seglens page` where something is missing. That it starts, serves and stops, the browser's tests show."""

from __future__ import annotations

import socket
import sys

import pytest

from command import Run


def test_without_gradio_the_error_names_the_command_that_installs_it(
    seglens: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("seglens.serving.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, out, err = seglens("page", "--no-open")
    assert (code, out) == (2, "")
    assert err == "seglens: the page needs gradio; run: pip install 'seglens[page]'\n"


def test_a_port_in_use_is_one_line(seglens: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        code, _, err = seglens("page", "--no-open", "--port", listener.getsockname()[1])
    assert code == 2
    assert "cannot listen on port" in err
    assert len(err.splitlines()) == 1, "no model was loaded for it"
