"""The output of `seglens segment`: answers on standard output, one by one, and the rest at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seglens.cli.output import not_found_text, print_json_line, print_stderr, printable, report_faults

if TYPE_CHECKING:
    from seglens.core.schema import Answer
    from seglens.exports.batch import BatchRun, ImageOutcome
    from seglens.inference.image_sources import BadImage, Sources


class ResultPrinter:
    """One line per image and query; at the end what went wrong, was left out, or was done before."""

    def __init__(self, sources: Sources, as_json: bool):
        self.alone, self.left_out, self.as_json = sources.alone, sources.left_out, as_json
        self.images, self.known = 0, 0
        self.faults: list[BadImage] = []

    def outcome(self, one: ImageOutcome) -> None:
        """Raises ValueError when the only image has no answer at all."""
        self.images += 1
        self.known += one.known
        for answer, files in zip(one.answers, one.files, strict=True):
            self._answer(one.shown, answer, files)
        for fault in one.faults:
            self._fault(fault)
        if self.alone and one.faults and not one.answers:
            raise ValueError(one.faults[0].says)
        self.faults += one.faults

    def end(self, batch: BatchRun) -> None:
        """Raises typer.Exit when something went wrong."""
        from seglens.inference.image_files import left_out_text

        if self.known:
            print_stderr(
                f"seglens: {self.known} of {self.images} images were done before; --overwrite computes them again"
            )
        for path in batch.export.changed:
            print_stderr(f"seglens: {str(path)!r} was changed after it was written; it is left as it is")
        if self.left_out:
            print_stderr(f"seglens: left out: {left_out_text(self.left_out)}")
        bad = {fault.shown for fault in self.faults}
        report_faults(
            [fault.says for fault in self.faults], f"of {self.images} images could not be segmented", len(bad)
        )

    def _answer(self, shown: str, answer: Answer, files: Mapping[str, Path]) -> None:
        from seglens.core.schema import AnswerLine

        paths = {kind: printable(str(path)) for kind, path in files.items()}
        if self.as_json:
            print_json_line(AnswerLine(**dict(answer), image=printable(shown), files=paths))
        else:
            line = answer_line(answer, list(dict.fromkeys(paths.values())))
            print(line if self.alone else f"{shown}: {line}", flush=True)

    def _fault(self, fault: BadImage) -> None:
        from seglens.core.schema import FaultLine

        if self.as_json:
            print_json_line(FaultLine(image=printable(fault.shown), query=fault.query, error=printable(fault.says)))


def answer_line(answer: Answer, paths: Sequence[str]) -> str:
    """An answer as one line for people."""
    shown = ", ".join(paths)
    if not answer.found:
        return f"{answer.query}: {not_found_text(answer)} {shown}"
    presence = "" if answer.presence is None else f" (presence {answer.presence:.2f})"
    several = f", {len(answer.instances)} instances" if answer.instances else ""
    return f"{answer.query}: found, score {answer.score:.2f}{presence}{several}; {shown}"
