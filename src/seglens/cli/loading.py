"""Models that the options name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seglens.cli.options import ModelOptions, SegmenterOptions, Thresholds
from seglens.cli.output import print_stderr
from seglens.core.cpu_threads import use_threads_for

if TYPE_CHECKING:
    from torch import nn

    from seglens.backbones import Backbone
    from seglens.inference.segmenter import Segmenter

NEVER_REFUSES = (
    "note: {} was trained without absent targets: expect masks also for what is not in the picture "
    "(docs/own-data.md, negatives)"
)
NEVER_REFUSES_YET = (
    "note: it is not known how much attention {} pays to what is in a picture: expect masks also for what is not in it "
    "(seglens probe --heads measures it)"
)


def load_segmenter(options: ModelOptions | SegmenterOptions, **arguments: Any) -> Segmenter:
    """The segmenter that the options name. Prints a note on standard error when it cannot refuse."""
    from seglens.backbones import hide_loading_bars
    from seglens.inference.segmenter import Segmenter

    hide_loading_bars()
    arguments |= options.placement
    if isinstance(options, SegmenterOptions) and options.backbone is not None and options.decoder is not None:
        segmenter = Segmenter.from_parts(options.backbone, options.decoder, heads=options.heads, **arguments)
        note = NEVER_REFUSES_YET.format(options.backbone)
    else:
        name = options.name if isinstance(options, SegmenterOptions) else options.model
        segmenter, note = Segmenter.from_pretrained(name, **arguments), NEVER_REFUSES.format(name)
    if segmenter.config.presence == "untrained":
        print_stderr(note)
    decoder = [] if segmenter.decoder is None else [segmenter.decoder.module]
    choose_threads(segmenter.backbone, *decoder, segmenter.method)
    return segmenter


def load_mllm(name: str, **arguments: Any) -> Backbone:
    """An MLLM without a head; `arguments` as those of `place_backbone`."""
    from seglens.backbones import hide_loading_bars
    from seglens.checkpoints.origin import Origin
    from seglens.inference.frozen_models import place_backbone

    hide_loading_bars()
    mllm = place_backbone(Origin.of(name), **arguments)
    choose_threads(mllm)
    return mllm


def choose_threads(backbone: Backbone, *beside: nn.Module) -> None:
    """As many threads as the model on this CPU is worth."""
    if backbone.device.type == "cpu":
        modules = (backbone.module, *beside)
        use_threads_for(sum(one.numel() for module in modules for one in module.parameters()))


def answer_settings(options: SegmenterOptions, thresholds: Thresholds) -> dict[str, Any]:
    """The options that an answer depends on, by their names; not where it is computed."""
    from seglens.checkpoints.hub import identified, identified_parts
    from seglens.convert.published import head_folder

    if options.backbone is None or options.decoder is None:
        model = identified(options.name, head_folder(options.name))
    else:
        model = identified_parts(options.backbone, options.decoder, options.heads)
    return {"model": model, "dtype": options.dtype, "load_in": options.load_in, **vars(thresholds)}
