"""What commands share: options, printing, loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from seglens.core.text import shortened

if TYPE_CHECKING:
    from pydantic import BaseModel

    from seglens.backbones import Backbone
    from seglens.core.schema import Answer
    from seglens.inference.prediction import Prediction
    from seglens.inference.segmenter import Segmenter

Model = Annotated[str, typer.Option("--model", help="A head folder, a hub id, or 'embedded'.")]
HeadOrParts = Annotated[
    str | None,
    typer.Option(
        "--model", help="A head folder, a hub id, or 'embedded'; not with --backbone.", show_default="embedded"
    ),
]
MLLM = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="MLLM",
        help="A folder or hub id of an MLLM whose own attention says where to look: with --decoder, and without a "
        "trained head.",
    ),
]
SAM = Annotated[
    str | None, typer.Option("--decoder", metavar="SAM", help="The SAM or SAM 2 that draws for --backbone.")
]
Heads = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|choose",
        help="Attention heads of --backbone, from `seglens probe --heads`, or 'choose': for each query by itself; "
        "default those that the package knows of this MLLM, else 'choose'.",
    ),
]
Device = Annotated[str, typer.Option(help="auto (a CUDA GPU, Apple's mps, or else the CPU), cpu, cuda, mps, ...")]
DType = Annotated[
    str | None, typer.Option("--dtype", help="Of the MLLM: fp32, bf16, fp16 or auto; default fp32 on a CPU, else auto.")
]
LoadIn = Annotated[str | None, typer.Option(metavar="8bit|4bit", help="Load the MLLM in so few bits, by bitsandbytes.")]
AsIs = Annotated[
    bool,
    typer.Option(
        "--as-is", help="Chat shows pictures as they came, even to a processor that crops long ones (LLaVA-1.5's CLIP)."
    ),
]
PresenceThreshold = Annotated[
    float | None, typer.Option(help="Probability below which nothing is found; default the head's own, mostly 0.5.")
]
MaskThreshold = Annotated[
    float | None, typer.Option(help="Probability above which a pixel is in the mask (0.5; LENS's own code: 0.6).")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Show the mask in spite of an unfamiliar picture or unknown words.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write over files of other runs, and do anew what this one has done.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonLines = Annotated[
    bool,
    typer.Option("--json", help="Print JSON: a line per image and query, as seglens.core.schema.Line describes it."),
]
NEVER_REFUSES = (
    "note: {} was trained without absent targets: it shows a mask for every query, of what is not there too "
    "(docs/own-data.md, negatives)"
)
NEVER_REFUSES_YET = (
    "note: nothing is known of how much attention {} pays to what is there: it shows a mask for every query, of what "
    "is not there too (seglens probe --heads finds out)"
)
NAMES = ("model", "backbone", "decoder", "heads")
# As `seglens.core.devices` and `seglens.checkpoints.origin` have them, which import torch
AUTO, EMBEDDED = "auto", "embedded"


@dataclass(frozen=True)
class Loading:
    """Options of every command that loads a model: which one, where it computes, and in which numbers."""

    model: Model = EMBEDDED
    device: Device = AUTO
    dtype: DType = None
    load_in: LoadIn = None

    @property
    def placing(self) -> dict[str, Any]:
        """All but the name, as `Segmenter.from_pretrained` takes it."""
        return {name: value for name, value in vars(self).items() if name != "model"}


@dataclass(frozen=True)
class System:
    """The same of every command that segments: a trained head, or an MLLM and a mask decoder without one.

    Raises ValueError when both are named, or half of the second."""

    model: HeadOrParts = None
    backbone: MLLM = None
    decoder: SAM = None
    heads: Heads = None
    device: Device = AUTO
    dtype: DType = None
    load_in: LoadIn = None

    def __post_init__(self) -> None:
        if self.backbone is None and (self.decoder or self.heads):
            given = "--decoder" if self.decoder else "--heads"
            raise ValueError(
                f"got {given} without --backbone; name the MLLM too, or leave it out (a head names its own)"
            )
        if self.backbone is not None and self.model is not None:
            raise ValueError(
                f"got --model {self.model} and --backbone {self.backbone}; give --model for a trained head, which "
                "names its MLLM and its mask decoder, or --backbone and --decoder for none"
            )
        if self.backbone is not None and self.decoder is None:
            raise ValueError("got --backbone without --decoder; name the SAM or SAM 2 that draws the masks")

    @property
    def placing(self) -> dict[str, Any]:
        """All but the names, as `Segmenter.from_parts` takes it."""
        return {name: value for name, value in vars(self).items() if name not in NAMES}

    @property
    def name(self) -> str:
        """For people."""
        return (self.model or EMBEDDED) if self.backbone is None else f"{self.backbone} + {self.decoder}"


@dataclass(frozen=True)
class Talking(Loading):
    """Options of every command that loads a model to talk with."""

    as_is: AsIs = False


@dataclass(frozen=True)
class TalkingSystem(System):
    """Options of every command that segments and talks."""

    as_is: AsIs = False


@dataclass(frozen=True)
class Thresholds:
    """Options of every command that draws masks."""

    presence_threshold: PresenceThreshold = None
    mask_threshold: MaskThreshold = None

    def options(self) -> dict[str, Any]:
        """As `Segmenter.from_pretrained` takes them. Raises ValueError for what is no probability."""
        from seglens.inference.thresholds import check_presence, threshold_logit

        if self.presence_threshold is not None:
            check_presence(self.presence_threshold)  # before a model is loaded
        drawn = {} if self.mask_threshold is None else {"mask_threshold": threshold_logit(self.mask_threshold)}
        return {"presence_threshold": self.presence_threshold, **drawn}


GROUPED = (Loading, Talking, System, TalkingSystem, Thresholds)


def unfolded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as typer reads it: each parameter that is a group of options becomes an option per field."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if kind in GROUPED}
    if not groups:
        return command

    @wraps(command)
    def run(**given: Any) -> Any:
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        return command(**given, **made)

    plain = (p.replace(annotation=hints[p.name]) for p in signature(command).parameters.values())
    shown = [option for p in plain for option in (_options(groups[p.name]) if p.name in groups else [p])]
    run.__signature__ = Signature([p.replace(kind=Parameter.KEYWORD_ONLY) for p in shown])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in shown}
    return run


def _options(group: type[Any]) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    defaults = {field.name: field.default for field in fields(group)}
    return [Parameter(n, Parameter.KEYWORD_ONLY, default=value, annotation=hints[n]) for n, value in defaults.items()]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def say_left_out(faults: Sequence[str], of: str = "", shown: int = 3) -> None:
    """How many bad records a dataset leaves out, and the first of them."""
    if faults:
        say(f"left out{of}: {len(faults)} bad records: {shortened(faults, shown)}")


def tell_faults(faults: Sequence[str], could_not: str, count: int | None = None) -> None:
    """Each on a line of its own, at the end of a command that did the rest; `count` is of what they are about, where
    that is not one each. Raises typer.Exit when there are any."""
    if faults:
        say(f"seglens: {len(faults) if count is None else count} {could_not}:")
        for fault in faults:
            say(f"  {' '.join(fault.split())}")
        raise typer.Exit(1)


def emit(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def emit_line(line: BaseModel) -> None:
    """A line of JSON on standard output, at once."""
    said = json.dumps(line.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    print(printable(said), flush=True)


def printable(text: str) -> str:
    """Names of files may hold bytes that are no text: these stand there as backslashes and digits."""
    return text.encode("utf-8", "backslashreplace").decode()


def settled(system: System, thresholds: Thresholds) -> dict[str, Any]:
    """What of these options decides an answer, by their names: not where it is computed."""
    from seglens.checkpoints.hub import identified, identified_parts
    from seglens.convert.published import head_folder

    if system.backbone is None or system.decoder is None:
        model = identified(system.name, head_folder(system.name))
    else:
        model = identified_parts(system.backbone, system.decoder, system.heads)
    return {"model": model, "dtype": system.dtype, "load_in": system.load_in, **vars(thresholds)}


def why_not(prediction: Prediction | Answer) -> str:
    """Of a query that was not found: the reason, after the query, on one line."""
    return f"not found. {prediction.reason or ''}".strip()


def load_segmenter(loading: Loading | System, **options: Any) -> Segmenter:
    """The segmenter that the options name. Says on standard error when it cannot refuse."""
    from seglens.backbones import hide_loading_bars
    from seglens.inference.segmenter import Segmenter

    hide_loading_bars()
    options |= loading.placing
    if isinstance(loading, System) and loading.backbone is not None and loading.decoder is not None:
        made = Segmenter.from_parts(loading.backbone, loading.decoder, heads=loading.heads, **options)
        note = NEVER_REFUSES_YET.format(loading.backbone)
    else:
        name = loading.name if isinstance(loading, System) else loading.model
        made, note = Segmenter.from_pretrained(name, **options), NEVER_REFUSES.format(name)
    if made.config.presence == "untrained":
        say(note)
    return made


def load_mllm(name: str, **options: Any) -> Backbone:
    """An MLLM without a head; `options` as `place_backbone` takes them."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.origin import Origin
    from seglens.inference.frozen_models import place_backbone

    hide_loading_bars()
    return place_backbone(Origin.of(name), **options)
