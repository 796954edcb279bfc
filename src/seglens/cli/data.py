"""`seglens data check` and `seglens data show`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.options import AsJson, Overwrite
from seglens.cli.output import print_json, print_stderr

if TYPE_CHECKING:
    from seglens.core.types import Sample
    from seglens.data import Dataset
    from seglens.data.faults import Note, RecordFault
    from seglens.data.records import Records

Spec = Annotated[
    str, typer.Argument(metavar="DATA", help="Dataset with its options, as in coco:images=...,annotations=...")
]


def data_check(
    spec: Spec,
    as_json: AsJson = False,
    limit: Annotated[int | None, typer.Option(min=0, help="Decode only the first N images.")] = None,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Also find copies among the image files.")] = False,
) -> None:
    """Check every record of a dataset: one line for each bad one, then a summary.

    Exit code 1 when there are any or nothing can be used, 2 when the dataset cannot be opened at all."""
    from seglens.data.check import Check
    from seglens.data.faults import DataError, Note, RecordFault

    check: Check | None = None
    try:
        records, first = _records(spec)
        check = Check(records, min((n for n in (first, limit) if n is not None), default=None), duplicates)
    except DataError as error:
        if not error.faults and not error.notes:
            raise
        results: Iterable[RecordFault | Note] = (*error.faults, *error.notes)  # nothing can be used, for these reasons
    else:
        results = check
    lines = []
    for one in results:
        lines.append(one)
        if not as_json:
            print(f"{'fault' if isinstance(one, RecordFault) else 'note'}: {one}", flush=True)
    faults = [one for one in lines if isinstance(one, RecordFault)]
    notes = [one for one in lines if isinstance(one, Note)]
    counts = {name: getattr(check, name, 0) for name in ("images", "queries", "absent", "spoken")}
    kinds = dict(Counter(fault.kind for fault in faults))
    if as_json:
        lists = {"faults": [one.to_json() for one in faults], "notes": [one.to_json() for one in notes]}
        print_json({"data": spec, **counts, "faults_by_kind": kinds, **lists})
    else:
        absent = f"{counts['absent']} of them absent" + (
            f", {counts['spoken']} answered in words" * bool(counts["spoken"])
        )
        print(f"{counts['images']} usable images, {counts['queries']} queries ({absent})")
        kinds_text = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        print(f"{len(faults)} faults{f' ({kinds_text})' if kinds_text else ''}, {len(notes)} notes")
        if check is not None and counts["queries"] > counts["spoken"] and not counts["absent"]:
            print(_no_absent(check.records))
    if faults or not (counts["images"] or limit == 0):
        raise typer.Exit(1)


def _no_absent(records: Records) -> str:
    from seglens.data.negatives import USUAL, vocabulary

    if len(vocabulary(records)) > 1:
        return (
            "no target is absent: `seglens train` adds queries for classes that an image does not show "
            f"(negatives={USUAL:g}, unless it is given), and `seglens data show` shows them with that option"
        )
    return (
        "no target is absent, and there is no list of classes to choose some from: a head that is trained on this "
        "shows a mask for every query; declare absent targets where the format can"
    )


def data_show(
    spec: Spec,
    n: Annotated[int, typer.Option(min=1, help="Number of samples, spread evenly over the dataset.")] = 4,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/data"),
    overwrite: Overwrite = False,
) -> None:
    """Write one picture per sample: the image, then each query with its mask or answer. Bad records are left out and
    listed."""
    from seglens.core.file_names import slug
    from seglens.core.files import write_new
    from seglens.core.png_files import marked_png
    from seglens.data.contact_sheet import sheet

    data, shown = _open(spec), 0
    for index in _spread(len(data), n):
        sample = _sample(data, index)
        if sample is None:
            continue
        path = out / f"{index:06d}_{slug(Path(sample.id).stem)}.png"
        write_new({path: marked_png(sheet(sample))}, overwrite)
        texts = (f"{one.query} -> {one.answer}" if one.spoken else one.query for one in sample.targets)
        print(f"{path}: {'; '.join(texts)}")
        shown += 1
    if not shown:
        raise ValueError(f"none of the chosen samples of {spec!r} can be shown; see `seglens data check`")


def _open(spec: str) -> Dataset:
    """The dataset without its bad records. Raises DataError with the faults when there is nothing else in it."""
    from inspect import signature

    from seglens.data import DATASETS, load_data
    from seglens.data.faults import DataError
    from seglens.data.spec import parse, write

    spec_as_given, (name, options) = spec, parse(spec)
    if name in DATASETS and "bad" in signature(DATASETS[name]).parameters:
        spec = write(name, {**options, "bad": "skip"})
    try:
        return load_data(spec)
    except ValueError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise ValueError(str(error).replace(repr(spec), repr(spec_as_given))) from None


def _records(spec: str) -> tuple[Records, int | None]:
    """The records to check, and how many images of them if `spec` limits them."""
    from seglens.data.mixing import names_a_mixture
    from seglens.data.records import Records
    from seglens.data.spec import parse
    from seglens.data.subset import Limited

    name = parse(spec)[0]
    if names_a_mixture(spec):
        raise ValueError(f"{name} is a mixture for training; check its datasets one by one, as in ade20k:root=...")
    data = _open(spec)
    inner, limit = (data.inner, data.count) if isinstance(data, Limited) else (data, None)
    if isinstance(inner, Records):
        return inner, limit
    if name == "world":
        raise ValueError(f"{spec!r} is drawn, not read from annotation files: there is nothing to check")
    raise ValueError(f"{spec!r} is wrapped by prompt=, which changes no record; check it without")


def _sample(data: Dataset, index: int) -> Sample | None:
    from seglens.data.records import Records

    if not isinstance(data, Records):
        return data[index]
    sample, faults = data.decode(index)
    for fault in faults:
        print_stderr(f"left out: {fault}")
    return sample


def _spread(length: int, n: int) -> list[int]:
    """Up to `n` numbers below `length`, evenly spread."""
    n = min(n, length)
    return [round(i * (length - 1) / max(1, n - 1)) for i in range(n)]
