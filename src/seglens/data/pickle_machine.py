"""A machine for pickles of plain data: a stack, a memo, and the instructions that build lists, dicts, strings, numbers.

Our own and not a subclass of Python's `pickle.Unpickler`, because it has no instruction that imports or calls anything,
and a limit on the number of steps.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable
from typing import Any


class RefusedError(Exception):
    """An instruction that is not allowed, and what it tried."""


class Machine:
    """A stack, a memo, and where the open lists on the stack begin. `step` is the place of the current instruction."""

    def __init__(self, data: bytes, encoding: str):
        self.data, self.encoding, self.at, self.step = data, encoding, 0, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, max_steps: int) -> Any:
        data, known = self.data, _INSTRUCTIONS
        for _ in range(max_steps):
            self.step = at = self.at
            code = data[at]
            self.at = at + 1
            if code in known:
                known[code](self)
            elif code == _STOP:
                return self.stack.pop()
            else:
                raise RefusedError(_refusal(self, code))
        raise RefusedError(f"the pickle has more than {max_steps} instructions; split it, or export it as json")

    def take(self, n: int) -> bytes:
        start, end = self.at, self.at + n
        if n < 0 or end > len(self.data):
            raise ValueError(f"needs {n} bytes, {len(self.data) - start} are left")
        self.at = end
        return self.data[start:end]

    def line(self) -> bytes:
        start, end = self.at, self.data.index(b"\n", self.at)
        self.at = end + 1
        return self.data[start:end]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def opened(self) -> list[Any]:
        """The values since the last mark, popped off the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, n: int) -> tuple[Any, ...]:
        if len(self.stack) < n:
            raise IndexError("the stack is empty")
        items = tuple(self.stack[-n:])
        del self.stack[-n:]
        return items

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
        return value


def _refusal(machine: Machine, code: int) -> str:
    """What an unknown instruction tried to do."""
    known = next((one for one in pickletools.opcodes if ord(one.code) == code), None)
    if known is None:
        return f"{code:#04x} is no instruction of a pickle; the file is damaged, or is no pickle"
    names = {"GLOBAL": 2, "INST": 2, "PERSID": 1}
    on_stack = {"STACK_GLOBAL": 2, "BINPERSID": 1}.get(known.name, 0)
    operands = [machine.line() for _ in range(names.get(known.name, 0))] or list(
        machine.stack[len(machine.stack) - on_stack :]
    )
    what = " ".join([known.name, ".".join(map(_printable, operands))]).strip()
    return (
        f"the pickle tries {what}, which may run code; need plain lists, dicts, strings and numbers: "
        "do not trust the file, or ask for it as json"
    )


def _printable(name: Any) -> str:
    text = name.decode("latin1") if isinstance(name, bytes) else name if isinstance(name, str) else type(name).__name__
    return ascii(text[:60])[1:-1]


def _key(value: Any) -> Any:
    # Not tuples: hashing one that is nested a million deep would overflow the stack of C.
    if value is not None and type(value) not in (str, int, bytes, float, bool):
        raise TypeError(f"a key that is a {type(value).__name__}")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def _append(m: Machine) -> None:
    value = m.stack.pop()
    m.top(list).append(value)


def _appends(m: Machine) -> None:
    items = m.opened()
    m.top(list).extend(items)


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.top(dict)[_key(key)] = value


def _set_items(m: Machine) -> None:
    items = m.opened()
    m.top(dict).update(_pairs(items))


def _add_items(m: Machine) -> None:
    items = m.opened()
    m.top(set).update(map(_key, items))


def _put_1(m: Machine) -> None:
    m.memo[m.data[m.at]] = m.stack[-1]
    m.at += 1


def _put_line(m: Machine) -> None:
    m.memo[int(m.line())] = m.stack[-1]


def _put_4(m: Machine) -> None:
    m.memo[m.number(4)] = m.stack[-1]


def _put_next(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _get_line(m: Machine) -> None:
    m.stack.append(m.memo[int(m.line())])


def _get_1(m: Machine) -> None:
    m.stack.append(m.memo[m.data[m.at]])
    m.at += 1


def _get_4(m: Machine) -> None:
    m.stack.append(m.memo[m.number(4)])


def _mark(m: Machine) -> None:
    m.marks.append(len(m.stack))


def _text_1(m: Machine) -> None:
    m.stack.append(str(m.take(m.number(1)), "utf-8", "surrogatepass"))


def _text_4(m: Machine) -> None:
    m.stack.append(str(m.take(m.number(4)), "utf-8", "surrogatepass"))


def _text_line(m: Machine) -> None:
    m.stack.append(str(m.line(), "raw-unicode-escape"))


def _int_line(m: Machine) -> None:
    line = m.line()
    m.stack.append(line == b"01" if line in (b"00", b"01") else int(line))  # how Python 2 wrote False and True


def _quoted(m: Machine) -> str:
    """A byte string of Python 2, written as a literal."""
    line = m.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without its quotes")
    raw: bytes = codecs.escape_decode(line[1:-1])[0]  # as the standard library does
    return raw.decode(m.encoding)


# Instructions that push one value, which their bytes contain.
_VALUES: dict[int | str, Callable[[Machine], Any]] = {
    "]": lambda m: [],
    "}": lambda m: {},
    ")": lambda m: (),
    0x8F: lambda m: set(),
    "l": lambda m: m.opened(),
    "d": lambda m: _pairs(m.opened()),
    "t": lambda m: tuple(m.opened()),
    0x91: lambda m: frozenset(map(_key, m.opened())),
    0x85: lambda m: m.last(1),
    0x86: lambda m: m.last(2),
    0x87: lambda m: m.last(3),
    "N": lambda m: None,
    0x88: lambda m: True,
    0x89: lambda m: False,
    "J": lambda m: m.number(4, signed=True),
    "K": lambda m: m.number(1),
    "M": lambda m: m.number(2),
    "L": lambda m: int(m.line().removesuffix(b"L")),
    0x8A: lambda m: m.number(m.number(1), signed=True),
    0x8B: lambda m: m.number(m.number(4), signed=True),
    "F": lambda m: float(m.line()),
    "G": lambda m: struct.unpack(">d", m.take(8))[0],
    "S": _quoted,
    "T": lambda m: m.take(m.number(4)).decode(m.encoding),
    "U": lambda m: m.take(m.number(1)).decode(m.encoding),
    0x8D: lambda m: str(m.take(m.number(8)), "utf-8", "surrogatepass"),
    "B": lambda m: m.take(m.number(4)),
    "C": lambda m: m.take(m.number(1)),
    0x8E: lambda m: m.take(m.number(8)),
}


def _pushing(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value(m))


_OTHERS: dict[int | str, Callable[[Machine], Any]] = {
    0x80: lambda m: m.take(1),  # the protocol's number
    0x95: lambda m: m.take(8),  # the length of a frame
    "(": _mark,
    "a": _append,
    "e": _appends,
    "s": _set_item,
    "u": _set_items,
    0x90: _add_items,
    "p": _put_line,
    "q": _put_1,
    "r": _put_4,
    0x94: _put_next,
    "g": _get_line,
    "h": _get_1,
    "j": _get_4,
    "V": _text_line,
    "X": _text_4,
    0x8C: _text_1,
    "I": _int_line,
}
_STOP = ord(".")
_INSTRUCTIONS = {
    code if isinstance(code, int) else ord(code): step
    for code, step in (_OTHERS | {code: _pushing(value) for code, value in _VALUES.items()}).items()
}
