"""Plain pickles give what Python gives; anything that could run code is refused by name."""

from __future__ import annotations

import os
import pickle
import re
import struct
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglens.data import unpickle
from seglens.data.faults import DataError
from seglens.data.unpickle import load
from shared import shared

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
plain = st.recursive(
    scalars | st.sets(st.integers() | st.text()) | st.frozensets(st.integers()),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.lists(inner, max_size=5).map(tuple)
    ),
    max_leaves=20,
)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(4, pickle.HIGHEST_PROTOCOL + 1))
@settings(deadline=None, database=None, max_examples=25)
@given(value=plain)
def test_plain_data_survives(tmp_path_factory: pytest.TempPathFactory, protocol: int, value: Any) -> None:
    path = write(tmp_path_factory.getbasetemp(), pickle.dumps(value, protocol=protocol))
    assert load(path) == value


@pytest.mark.parametrize("protocol", range(4))
@settings(deadline=None, database=None, max_examples=25)
@given(
    value=st.recursive(  # these protocols write sets and bytes as calls
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner, max_size=5).map(tuple),
        max_leaves=20,
    )
)
def test_plain_data_survives_the_old_protocols(
    tmp_path_factory: pytest.TempPathFactory, protocol: int, value: Any
) -> None:
    path = write(tmp_path_factory.getbasetemp(), pickle.dumps(value, protocol=protocol))
    assert repr(load(path)) == repr(value)  # repr, because 1 == True


def test_the_strings_of_python_2(tmp_path: Path) -> None:
    data = b"(lp0\nS'caf\\xe9'\np1\naS\"it's\"\naT\x02\x00\x00\x00\xe9\xe8aU\x01\xe7aL12L\naI01\naI00\na."
    path = write(tmp_path, data)
    assert load(path) == ["café", "it's", "éè", "ç", 12, True, False] == pickle.loads(data, encoding="latin1")
    with pytest.raises(DataError, match="damaged"):
        load(path, encoding="utf-8")


def test_shared_and_circular_lists(tmp_path: Path) -> None:
    inner: list[Any] = [1]
    value = [inner, inner]
    inner.append(inner)
    read = load(write(tmp_path, pickle.dumps(value)))
    assert read[0] is read[1] is read[0][1]


@pytest.mark.parametrize("file", ["refcoco/refcoco/refs(unc).p", "refcoco/refcocog/refs(umd).p"])
def test_the_published_files(file: str) -> None:
    path = shared(file)
    assert load(path) == pickle.loads(path.read_bytes(), encoding="latin1")


class Calls:
    """An object whose pickle runs code."""

    def __init__(self, *reduced: Any):
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


MARKER = "touched"
HOSTILE = {
    "GLOBAL": pickle.dumps(Calls(os.system, (f"touch {MARKER}",)), protocol=0),
    "GLOBAL os.system": b"cos\nsystem\n(Vtouch touched\ntR.",
    "GLOBAL c": pickle.dumps(Calls(subprocess.check_output, ([f"touch {MARKER}"],)), protocol=2),
    "STACK_GLOBAL builtins.eval": pickle.dumps(Calls(eval, (f"open('{MARKER}', 'w')",)), protocol=4),
    "GLOBAL builtins.getattr": pickle.dumps(Calls(getattr, ("x", "upper")), protocol=3).replace(
        b"__builtin__", b"builtins"
    ),
    "INST os.system": b"(Vtouch touched\nios\nsystem\n.",
    "GLOBAL posix.system": b"(cposix\nsystem\nVtouch touched\no.",
    "OBJ": b"((lVtouch touched\no.",
    "REDUCE": b"](Vx\ntR.",
    "BUILD": b"}}b.",
    "NEWOBJ": b"])\x81.",
    "NEWOBJ_EX": b"])}\x92.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x00.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "PERSID 17": b"P17\n.",
    "BINPERSID secret": b"Vsecret\nQ.",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "GLOBAL collections.OrderedDict": pickle.dumps(OrderedDict(a=1), protocol=2),
    "DUP": b"]2.",
}


@pytest.mark.parametrize("tries", HOSTILE)
def test_a_pickle_that_tries_to_run_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(tries.removesuffix(" c"))) as caught:
        load(write(tmp_path, HOSTILE[tries]))
    assert "byte" in str(caught.value)
    assert "refs(unc).p" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        b"\x80\x04",
        b"\x80\x04.",
        b"(lp0\nVleft",
        b"(lp0\nVleft\n",
        b"a.",
        b"]a.",
        b"NNa.",
        b"e.",
        b"}Va\ns.",
        b"}]Ns.",  # a list as a key
        b"}))\x85Ns.",  # and a tuple
        b"\x8f(]\x90.",
        b"](Nu.",
        b"(Va\nd.",
        b"h\x00.",
        b"g7\n.",
        b"gx\n.",
        b"q\x00.",
        b"\x85.",
        b"S'open\n.",
        b"S'\\x'\n.",
        b"V\\u12\n.",
        b"X\xff\xff\xff\xff.",
        b"X\x02\x00\x00\x00\xff\xff.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x8b\xff\xff\xff\x7f.",
        b"T\xff\xff\xff\xff.",
        b"G\x00.",
        b"Fx\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\xff.",
    ],
)
def test_a_damaged_pickle_is_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="byte") as caught:
        load(write(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_pickle_is_refused(tmp_path: Path) -> None:
    for protocol in (0, 2, 4):
        whole = pickle.dumps([{"sent": "left", "tokens": ["left"], "n": (1, 2.5, None)}], protocol=protocol)
        for end in range(len(whole)):
            with pytest.raises(DataError, match="byte"):
                load(write(tmp_path, whole[:end]))


@settings(deadline=None, database=None, max_examples=150)
@given(data=st.binary(max_size=40))
def test_any_bytes_are_data_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), data)
    try:
        value = load(path)
    except DataError:
        return
    assert type(value) in (type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset)


def test_bombs_end_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="more than 1000 instructions"):
        load(write(tmp_path, b"(" + b"}" * 5000 + b"l."), max_steps=1000)
    # A slot of the memo with a large number: a table of that length is what some machines would make.
    assert load(write(tmp_path, b"]r\xff\xff\xff\xffp99999999999\n.")) == []
    deep = load(write(tmp_path, b"]" * 100_000 + b"a" * 99_999 + b"."))
    assert len(deep) == 1
    monkeypatch.setattr(unpickle, "MAX_BYTES", 3)
    with pytest.raises(DataError, match="4 bytes"):
        load(write(tmp_path, b"]]a."))
