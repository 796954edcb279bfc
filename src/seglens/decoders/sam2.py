"""SAM 2 (arXiv 2408.00714) through transformers, on single images: a Hiera encoder and two finer maps for sharp edges.

The checkpoints on the hub are of trackers (`sam2_video`); transformers leaves out what only tracking uses.
"""

from __future__ import annotations

import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import Sam2Model

from seglens.core.types import Embedding
from seglens.decoders.base import MEAN, STD, MaskDecoder, Statistics


class Sam2Decoder(MaskDecoder):
    """Wraps a `Sam2Model`, such as `facebook/sam2.1-hiera-large`; freezes it.

    SAM 2's own processor squashes an image to a square. Here it is padded, as SAM's is: the MLLM's grid, the keypoints
    and the masks of this package share one frame, and a squashed one would need a second map between them.

    With a single mask asked for, SAM 2 in evaluation gives another of its masks instead where the first is unstable
    (area under a slightly moved threshold). That helps clicks, which are ambiguous, and `prompt` keeps it. Learned
    prompts are trained on the first mask alone; a switch that only inference has would give them masks that were never
    trained, so `decode` and every trained copy do without."""

    model = Sam2Model
    leading = 2  # the object-score token and the IoU token
    # scores of objects and masks feed no mask; conv_s0 and conv_s1 ran when the image was encoded, and their outputs
    # are what is cached: training them would change nothing
    idle = ("iou_prediction_head", "pred_obj_score_head", "conv_s0", "conv_s1")

    def __init__(
        self, module: Any, mean: Statistics = MEAN, std: Statistics = STD, name: str = "", revision: str | None = None
    ):
        super().__init__(module, mean, std, name, revision)
        single: Any = copy.copy(module.mask_decoder)  # shares every weight, and moves with the model
        single.dynamic_multimask_via_stability = False
        self._single = single

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        convolutions = (self.module.mask_decoder.conv_s0, self.module.mask_decoder.conv_s1)
        sides = (4 * self.side, 2 * self.side)
        finer = ((conv.out_channels, side, side) for conv, side in zip(convolutions, sides, strict=True))
        return ((self.width, self.side, self.side), *finer)

    def _embed(self, pixels: Float[Tensor, "b 3 s s"]) -> Embedding:
        *fine, coarse = self.module.get_image_embeddings(pixels)
        return Embedding(coarse, tuple(fine))

    def _finer(self, fine: list[Float[Tensor, "b _ _ _"]]) -> dict[str, Any]:
        return {"high_resolution_features": fine}
