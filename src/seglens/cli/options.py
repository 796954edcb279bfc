"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from seglens.core.ray_actors import Actors

# As in `seglens.core.devices` and `seglens.checkpoints.head`, which import torch
AUTO, EMBEDDED = "auto", "embedded"

Head = Annotated[str, typer.Option("--model", help="Trained head: a folder, a hub id, or 'embedded'.")]
HeadOrNone = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Trained head: a folder, a hub id, or 'embedded'; not with --backbone.",
        show_default=EMBEDDED,
    ),
]
MLLM = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="MLLM",
        help="MLLM without a trained head, a folder or hub id: its own attention locates. Needs --decoder.",
    ),
]
SAM = Annotated[
    str | None,
    typer.Option(
        "--decoder", metavar="SAM", help="SAM or SAM 2 that draws the masks for --backbone: a folder or hub id."
    ),
]
AttentionHeads = Annotated[
    str | None,
    typer.Option(
        "--heads",
        metavar="FILE|choose",
        help="Attention heads of --backbone: a file from `seglens probe --heads`, or 'choose', for each query anew. "
        "Default: those that the package has for this MLLM, else 'choose'.",
    ),
]
Device = Annotated[
    str,
    typer.Option(help="Where to compute: cpu, cuda, mps, ...; auto: a CUDA GPU, else Apple's mps, else the CPU."),
]
DType = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Number type of the MLLM: fp32, bf16, fp16 or auto. Default: fp32 on a CPU, else auto."
    ),
]
LoadIn = Annotated[str | None, typer.Option(metavar="8bit|4bit", help="Load the MLLM in 8 or 4 bits (bitsandbytes).")]
AsIs = Annotated[
    bool,
    typer.Option(
        "--as-is",
        help="Chat about pictures as they are, also if the MLLM crops long ones (LLaVA-1.5). Default: such pictures "
        "are padded to a square.",
    ),
]
PresenceThreshold = Annotated[
    float | None,
    typer.Option(help="Below this probability (0 to 1) a target counts as absent. Default: the head's, mostly 0.5."),
]
MaskThreshold = Annotated[
    float | None,
    typer.Option(help="Above this probability (0 to 1) a pixel is in the mask. Default: 0.5 (LENS's own code: 0.6)."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Show a mask although the picture or a word is unfamiliar to the model.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files of other runs, and compute again what this run has done.")
]
Together = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        help="How many images share a pass of the models. Default: as many as the model gains from and the free memory "
        "holds.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonLines = Annotated[
    bool,
    typer.Option("--json", help="Print JSON: one line per image and query, in the form of seglens.core.schema.Line."),
]


@dataclass(frozen=True)
class ModelOptions:
    """Options of every command that loads a model: which one, where it computes, and in which number type."""

    model: Head = EMBEDDED
    device: Device = AUTO
    dtype: DType = None
    load_in: LoadIn = None

    @property
    def placement(self) -> dict[str, Any]:
        """All but the name, as arguments of `Segmenter.from_pretrained`."""
        return {name: value for name, value in vars(self).items() if name != "model"}


@dataclass(frozen=True)
class SegmenterOptions:
    """Options of every command that segments: a trained head, or an MLLM and a mask decoder without one.

    Raises ValueError when both are given, or half of the second."""

    model: HeadOrNone = None
    backbone: MLLM = None
    decoder: SAM = None
    heads: AttentionHeads = None
    device: Device = AUTO
    dtype: DType = None
    load_in: LoadIn = None

    def __post_init__(self) -> None:
        if self.backbone is None and (self.decoder or self.heads):
            option = "--decoder" if self.decoder else "--heads"
            raise ValueError(
                f"got {option} without --backbone; name the MLLM too, or leave it out (a head names its own)"
            )
        if self.backbone is not None and self.model is not None:
            raise ValueError(
                f"got --model {self.model} and --backbone {self.backbone}; give --model for a trained head, which "
                "names its MLLM and its mask decoder, or --backbone and --decoder for none"
            )
        if self.backbone is not None and self.decoder is None:
            raise ValueError("got --backbone without --decoder; name the SAM or SAM 2 that draws the masks")

    @property
    def placement(self) -> dict[str, Any]:
        """All but the names, as arguments of `Segmenter.from_parts`."""
        names = ("model", "backbone", "decoder", "heads")
        return {name: value for name, value in vars(self).items() if name not in names}

    @property
    def name(self) -> str:
        """For people."""
        return (self.model or EMBEDDED) if self.backbone is None else f"{self.backbone} + {self.decoder}"


@dataclass(frozen=True)
class ChatModelOptions(ModelOptions):
    """Options of every command that loads a model to chat."""

    as_is: AsIs = False


@dataclass(frozen=True)
class ChatSegmenterOptions(SegmenterOptions):
    """Options of every command that segments and chats."""

    as_is: AsIs = False


@dataclass(frozen=True)
class ShardOptions:
    """Options of a run in shards. Raises ValueError when they do not fit together."""

    shard: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Write the answers about N images into one file. Default with --ray, or the format parquet: 256.",
        ),
    ] = None
    ray: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Compute shards with N actors of Ray, on all its machines."),
    ] = None
    ray_gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of each actor; with .5 two share one. Default: 1 where --device is a GPU."),
    ] = None
    ray_address: Annotated[
        str | None, typer.Option(help="Address of the Ray. Default: RAY_ADDRESS, else this machine alone.")
    ] = None

    def __post_init__(self) -> None:
        lonely = "--ray-gpus" if self.ray_gpus is not None else "--ray-address" if self.ray_address else None
        if self.ray is None and lonely:
            raise ValueError(f"got {lonely} without --ray; add --ray N, the number of actors")

    def actors(self, device: str) -> Actors | None:
        """Those that compute on `device`; None: this process does."""
        from seglens.core.devices import usable_device
        from seglens.core.ray_actors import Actors

        if self.ray is None:
            return None
        gpus = float(usable_device(device).type == "cuda") if self.ray_gpus is None else self.ray_gpus
        return Actors(self.ray, gpus, self.ray_address)


@dataclass(frozen=True)
class Thresholds:
    """Options of every command that draws masks."""

    presence_threshold: PresenceThreshold = None
    mask_threshold: MaskThreshold = None

    def arguments(self) -> dict[str, Any]:
        """As arguments of `Segmenter.from_pretrained`. Raises ValueError for what is no probability."""
        from seglens.inference.thresholds import check_presence, threshold_logit

        if self.presence_threshold is not None:
            check_presence(self.presence_threshold)  # before a model is loaded
        mask = {} if self.mask_threshold is None else {"mask_threshold": threshold_logit(self.mask_threshold)}
        return {"presence_threshold": self.presence_threshold, **mask}


OPTION_GROUPS = (ModelOptions, ChatModelOptions, SegmenterOptions, ChatSegmenterOptions, ShardOptions, Thresholds)


def with_single_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as typer reads it: each parameter that is a group of options becomes one option per field."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if kind in OPTION_GROUPS}
    if not groups:
        return command

    @wraps(command)
    def run(**values: Any) -> Any:
        grouped = {name: kind(**{f.name: values.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        return command(**values, **grouped)

    plain = (p.replace(annotation=hints[p.name]) for p in signature(command).parameters.values())
    single = [option for p in plain for option in (_options(groups[p.name]) if p.name in groups else [p])]
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in single]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in single}
    return run


def _options(group: type[Any]) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    defaults = {field.name: field.default for field in fields(group)}
    return [Parameter(n, Parameter.KEYWORD_ONLY, default=value, annotation=hints[n]) for n, value in defaults.items()]
