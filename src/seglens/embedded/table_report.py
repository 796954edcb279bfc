"""The tables of the finished units: means over seeds with their intervals, as Markdown and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seglens.embedded import paper_scores as published
from seglens.embedded.row_means import Finished

NONE = "–"
PAIRED = "gIoU above the first row, paired by seed"

QUALITY = {
    "gIoU": "gIoU",
    "cIoU": "cIoU",
    "absent refused": "absent refused",
    "present kept": "present kept",
    "VQA off": "VQA, adapter off",
    "VQA on": "VQA, adapter on",
}
COSTS = {
    "trainable": "trainable",
    "training s": "training s",
    "processor s": "of all cores, s",
    "peak MB": "peak memory MB",
    "first ms": "1st question ms",
    "tenth ms": "10th question ms",
}
ABLATED = {
    "gIoU": "gIoU",
    "cIoU": "cIoU",
    "gIoU small": "small targets",
    "absent refused": "absent refused",
    "present kept": "present kept",
    "training s": "training s",
    "tenth ms": "10th question ms",
}
# Parts that a method trains in its authors' code and not with the embedded models: see seglens.embedded.heads
LACKS = {
    "mllmseg": "vocabulary and last norm",
    "self1e": "vision tower's adapter, projector and vocabulary",
    "SELF1E": "vision tower's adapter, projector and vocabulary",
    "lisa": "vocabulary",
    "ufo": "vocabulary and last norm",
}
UNTRAINED = "0 steps: nothing is trained"
DIGITS = {"trainable": 0, "training s": 0, "processor s": 0, "peak MB": 0, "first ms": 1, "tenth ms": 1}


@dataclass(frozen=True)
class Standings:
    """All that is finished. `bare` is what the MLLM answers before any training, `reading` what it took to read the
    features that a method on frozen parts learns from; None where they are not done."""

    tables: Mapping[str, Sequence[str]]
    seeds: int
    plan: Mapping[str, int]
    finished: Mapping[str, Finished]
    bare: Mapping[str, Any] | None
    reading: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: `rows` by name with the mean of each number, and the reports themselves."""
        rows = {
            name: {
                "method": row.method,
                "seeds": len(row.reports),
                "means": {number: asdict(mean) for number, mean in row.means().items()},
                "reports": list(row.reports.values()),
            }
            for name, row in self.finished.items()
        }
        paper = {part: getattr(published, part) for part in ("SELF1E", "REFERRING", "REASONING", "GENERALISED")}
        return {
            "plan": dict(self.plan),
            "seeds": self.seeds,
            "interval": "95 %, Student's t over seeds",
            "tables": {name: list(rows) for name, rows in self.tables.items()},
            "rows": rows,
            "bare": self.bare,
            "reading": self.reading,
            "as_before": self.as_before(),
            "published": paper,
        }

    def as_before(self) -> tuple[int, int] | None:
        """In how many trainings of how many the MLLM gave afterwards, with the adapter off, the answers that it gave
        before, word for word. None where that is not known yet."""
        reports = [report for row in self.finished.values() for report in row.reports.values() if report["training"]]
        answers = [report["off"]["said"] for report in reports if report.get("off")]
        return (
            None if self.bare is None or not answers else (sum(a == self.bare["said"] for a in answers), len(answers))
        )

    # ---------------------------------------------------------------- in words

    def markdown(self) -> str:
        """The tables that were asked for, and below those of methods the numbers of their papers."""
        parts = [self._note()]
        for name in self.tables:
            parts.append({"methods": self._methods, "mllmseg": self._mllmseg, "self1e": self._self1e}[name]())
        return "\n\n".join(parts)

    def _note(self) -> str:
        plan = self.plan
        images = plan["steps"] * plan["images"]
        return (
            f"Every row that is trained: {plan['steps']} steps of {plan['images']} images, {images} drawn scenes in "
            f"all, each seen once, with {plan['queries']} queries for masks and {plan['talk']} to be answered in "
            f"words. Every row: examined on {plan['scenes']} other scenes. Means over up to {self.seeds} seeds (of "
            "weights and order) with the 95 % "
            "interval of Student's t over them; it says nothing of other scenes. gIoU and cIoU are those of queries "
            "with a target. A target that is not there is taught to LENS as absent, to MLLMSeg as the answer [REJ], to "
            "the others as an empty mask; an empty mask is a refusal."
        )

    def _methods(self) -> str:
        names = [name for name in self.tables["methods"] if name in self.finished]
        kinds = {f"gIoU {kind}": kind for kind in self._kinds(names)}
        bare = NONE if self.bare is None else f"{self.bare['accuracy']:.3f}"
        same, reading = self.as_before(), self.reading
        notes = [
            f"The bare MLLM, before any training, answers {bare} of the questions right."
            + (
                ""
                if same is None
                else f" With the adapter off it gave the same answers, word for word, after "
                f"{same[0]} of {same[1]} trainings."
            )
            + " LENS has no adapter.",
            "Training and questions are timed with other rows running beside; the memory is what training took beyond "
            "the loaded models."
            + (
                ""
                if reading is None
                else f" LENS learns from features that were read once, for all seeds, in "
                f"{reading['seconds']:.0f} s ({reading['processor']:.0f} s of all cores), which come on top."
            ),
        ]
        return "\n\n".join(
            [
                "## Methods",
                self._rows(names, QUALITY),
                notes[0],
                "gIoU by kind of query:",
                self._rows(names, kinds),
                self._rows(names, COSTS),
                notes[1],
                _published(),
            ]
        )

    def _kinds(self, names: Sequence[str]) -> list[str]:
        reports = [report for name in names for report in self.finished[name].reports.values()]
        return list(dict.fromkeys(kind for report in reports for kind in report["exam"]["by_kind"]))

    def _mllmseg(self) -> str:
        names = [name for name in self.tables["mllmseg"] if name in self.finished]
        return "## The sources of MLLMSeg's fusion\n\n" + self._rows(names, ABLATED, {PAIRED: self._beyond("mllmseg")})

    def _self1e(self) -> str:
        names = [name for name in self.tables["self1e"] if name in self.finished]
        note = (
            "Every row starts from the adapter of the package's own SELF1E head, with all else fresh: what differs is "
            "how masks are read from an MLLM that answers in [SEG] already, under the attention that it learned with "
            "(SELF1E's own). The paper's numbers are its SELF1E-2B's cIoU on RefCOCO / RefCOCO+ / RefCOCOg, each "
            "trained in full, as far as its text goes."
        )
        paper = {name: published.SELF1E.get(name, NONE) for name in names}
        more = {PAIRED: self._beyond("self1e"), "paper": paper}
        return f"## SELF1E, one change at a time\n\n{self._rows(names, ABLATED, more)}\n\n{note}"

    def _beyond(self, table: str) -> dict[str, str]:
        """Every row beside the first, which is the method with its default settings."""
        first, *others = self.tables[table]
        if first not in self.finished:
            return dict.fromkeys(self.tables[table], NONE)
        differences = {
            name: self.finished[name].beyond(self.finished[first]) for name in others if name in self.finished
        }
        return {first: NONE, **{name: NONE if one is None else one.shown(3) for name, one in differences.items()}}

    def _counts(self, names: Sequence[str]) -> dict[str, int]:
        """The count of queries or questions of each number of a report: the same for all rows, which have one exam."""
        reports = [report for name in names for report in self.finished[name].reports.values()]
        counts = dict[str, int]()
        for exam in (report["exam"] for report in reports):
            kinds = {**exam["by_kind"], "small": exam["by_size"]["small"]}
            counts |= {f"gIoU {kind}": row["n"] for kind, row in kinds.items() if row and "n" in row}
            whole, presence = exam["with_target"] or {}, exam["presence"]
            counts |= dict.fromkeys(("gIoU", "cIoU", "present kept"), whole["n"]) if "n" in whole else {}
            counts |= {"absent refused": presence["absent"]} if presence.get("absent") else {}
        for side in ("off", "on"):
            questions = [report[side]["questions"] for report in reports if report.get(side)]
            counts |= {f"VQA {side}": questions[0]} if questions else {}
        return counts

    def _rows(
        self, names: Sequence[str], columns: Mapping[str, str], more: Mapping[str, Mapping[str, str]] | None = None
    ) -> str:
        more = more or {}
        counts = self._counts(names)
        titles = [f"{title} (n = {counts[key]})" if key in counts else title for key, title in columns.items()]
        lines = [["row", "seeds", *titles, *more]]
        for name in names:
            means = self.finished[name].means()
            cells = [means[key].shown(DIGITS.get(key, 3)) if key in means else NONE for key in columns]
            lines.append(
                [
                    _named(name, self.finished[name]),
                    str(len(self.finished[name].reports)),
                    *cells,
                    *(column[name] for column in more.values()),
                ]
            )
        return _table(lines)


def _named(name: str, row: Finished) -> str:
    if all(report["training"] is None for report in row.reports.values()):
        return f"{name} ({UNTRAINED})"
    return f"{name} (not trained: {LACKS[name]})" if name in LACKS else name


def _published() -> str:
    """The numbers that the papers report."""
    parts: dict[str, tuple[tuple[str, ...], Mapping[str, Sequence[str]]]] = {
        "cIoU of referring expressions (val / testA / testB; val / test)": (
            ("RefCOCO", "RefCOCO+", "RefCOCOg"),
            published.REFERRING,
        ),
        "gIoU / cIoU on ReasonSeg": (("val", "test"), published.REASONING),
        "gIoU / cIoU / absent refused on gRefCOCO": (("val", "testA", "testB"), published.GENERALISED),
    }
    lines = ["## The papers' own numbers", "On photographs, with their own models and data: not to be compared."]
    for title, (columns, rows) in parts.items():
        lines += [f"Paper: {title}.", _table([["method", *columns], *([name, *row] for name, row in rows.items())])]
    return "\n\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])
