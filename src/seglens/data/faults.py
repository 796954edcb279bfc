"""What is wrong with annotated data: a fault for each bad record, notes, and the errors that list them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seglens.core.text import shortened

FAULTS_SHOWN = 3


@dataclass(frozen=True)
class RecordFault:
    """One bad record: the annotation (or image) file, the record's id in it, and what is wrong. Reports count it under
    `kind`."""

    file: str
    record: str
    message: str
    kind: str = "annotation"

    def __str__(self) -> str:
        return f"{self.file}: {self.record}: {self.message}"

    def to_json(self) -> dict[str, str]:
        """As reports and journals hold it, where `message` is named "says"."""
        return {"file": self.file, "record": self.record, "says": self.message, "kind": self.kind}

    @classmethod
    def from_json(cls, fields: Mapping[str, str]) -> RecordFault:
        return cls(fields["file"], fields["record"], fields["says"], fields["kind"])


@dataclass(frozen=True)
class Note:
    """A record that is correct and still worth a look, such as an image without annotation."""

    file: str
    record: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.record}: {self.message}"

    def to_json(self) -> dict[str, str]:
        """As `RecordFault.to_json`."""
        return {"file": self.file, "record": self.record, "says": self.message}


class DataError(ValueError):
    """Data that cannot be used: the file, the record and what is wrong with it. `faults` holds every bad record,
    `notes` what else is known where nothing can be used."""

    def __init__(self, message: str, faults: Sequence[RecordFault] = (), notes: Sequence[Note] = ()):
        super().__init__(message)
        self.faults, self.notes = tuple(faults), tuple(notes)


class SeveralMistakesError(ValueError):
    """Several mistakes of one mask; each becomes a fault."""

    def __init__(self, messages: Sequence[str]):
        super().__init__("; ".join(messages))
        self.messages = tuple(messages)


def messages_of(error: ValueError) -> tuple[str, ...]:
    """The mistakes in an error, one or several."""
    return error.messages if isinstance(error, SeveralMistakesError) else (str(error),)


def refusal(name: str, faults: Sequence[RecordFault]) -> str:
    """One line for a person: the first faults, how many there are, and what to do."""
    return f"{name} has {len(faults)} bad records: {first_of(faults)}; mend them, or leave them out with bad=skip"


def too_many(name: str, bad: int, records: int, faults: Sequence[RecordFault]) -> str:
    """Why so many bad records are not left out."""
    return (
        f"{name} has {bad} bad records among {records} ({bad / records:.0%}), too many to leave out unasked: "
        f"{first_of(faults)}; complete or mend it, or leave them all out with bad=skip"
    )


def nothing_usable(name: str, faults: Sequence[RecordFault], notes: Sequence[Note]) -> str:
    """Why nothing of a dataset can be used."""
    reasons = [f"{len(faults)} bad records: {first_of(faults)}"] if faults else []
    reasons += [f"{len(notes)} notes: {first_of(notes)}"] if notes else []
    why = f" ({'; '.join(reasons)})" if reasons else ""
    more = "; `seglens data check` names them all" if max(len(faults), len(notes)) > FAULTS_SHOWN else ""
    return f"{name} holds no usable image{why}; check the folder and the split{more}"


def first_of(faults: Sequence[RecordFault | Note]) -> str:
    """The first few, and how many more there are."""
    return shortened(faults, FAULTS_SHOWN)
