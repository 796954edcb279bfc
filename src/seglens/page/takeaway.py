"""The last masks as files to take away. They travel inside the page: nothing lies on the server's disk, where another
visitor might find it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from seglens.page.layers import embed
from seglens.prediction import Prediction, png_bytes


def takeaway(predictions: Sequence[Prediction]) -> dict[str, str] | None:
    """Addresses of the mask as a PNG and as COCO's JSON; None where there is no mask."""
    things = [one for p in predictions for one in p.things]
    if not things:
        return None
    mask = Image.fromarray(predictions[0].mask.astype(np.uint8) * 255)
    return {"png": embed("image/png", png_bytes(mask)), "coco": embed("application/json", json.dumps({}).encode())}
