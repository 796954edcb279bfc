"""The last stage of an exported MLLM: which pictures are of the drawn world (`backbones.familiarity`).

A small reader of the vision tower's patch states learns to distinguish drawn scenes, also resized, compressed, padded,
cut, mirrored or grey, from pictures that are not of the world (`odd_pictures`), and from phantoms: random patch states
with the mean and the covariance of those of drawn scenes. It is trained without photographs. Its threshold is one that
all but a few of further drawn scenes reach."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor, nn

from seglens.backbones import Backbone
from seglens.backbones.familiarity import MOST, Familiarity, content, patches, read
from seglens.embedded.odd_pictures import odd_picture
from seglens.model_files.int8_weights import pack, unpack
from seglens.world.world import World

TAPPED = (6,)  # layers of the tower: only the last, where photographs were farthest away
LOOKS = 64  # attention queries
SCENES, ODD, HELD_OUT = 900, 900, 500  # to learn from, and (the last) for the threshold; every scene in two variants
STEPS, BATCH, RATE = 1400, 32, 3e-3
PHANTOMS = 16  # of a batch of odd pictures; without them 86 % of the photographs were recognised, with them all
# Share of drawn scenes, in all variants but HARDEST. Photographs are nearer to them in the InternVL's tower.
FLAGGED = {"mllm": 0.002, "internvl": 0.006}
HARDEST = "grey"  # a few of these look like photographs: they are learnt, and do not affect the threshold
SEED = 21

Pixels = UInt8[np.ndarray, "h w 3"]


def variants(image: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """A scene in the forms in which users may send it."""
    picture = Image.fromarray(image)
    side = int(rng.integers(128, 1025))
    pictures = {
        "plain": picture,
        "resized": picture.resize((side, side), Image.Resampling.BICUBIC),
        "jpeg": _compressed(picture, int(rng.integers(60, 96))),
        "padded": _padded(picture, rng),
        "cut": picture.crop((0, int(rng.integers(0, 90)), 256, int(rng.integers(170, 257)))),
        "mirrored": picture.transpose(Image.Transpose(int(rng.integers(0, 2)))),
        "grey": picture.convert("L").convert("RGB"),
    }
    return {name: np.asarray(one) for name, one in pictures.items()}


def _compressed(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _padded(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """To a wide or a tall one, with black, white, grey or any colour."""
    long = int(rng.integers(300, 640))
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    grounds = [(0, 0, 0), (255, 255, 255), (127, 127, 127), colour]
    padded = Image.new("RGB", (long, 256) if rng.random() < 0.5 else (256, long), grounds[rng.integers(len(grounds))])
    padded.paste(picture, (int(rng.integers(0, padded.width - 255)), int(rng.integers(0, padded.height - 255))))
    return padded


def drawn(seed: int, start: int, count: int, without: str = "") -> Iterator[Pixels]:
    """Scenes of the training split, each in two of its variants, never in the one called `without`."""
    world = World("train", seed)
    for index in range(start, start + count):
        rng = np.random.default_rng([seed, index])
        pictures = variants(world.scene(index).image, rng)
        names = [name for name in pictures if name != without]
        yield from (pictures[name] for name in rng.choice(names, 2, replace=False))


@torch.no_grad()
def states(backbone: Backbone, images: Iterator[Pixels] | Sequence[Pixels]) -> tuple[Tensor, Tensor]:
    """The tower's patch states at the tapped layers, "n f d", and which of them show the picture, "n f"."""
    rows, shown = [], []
    for image in images:
        tower = backbone.mllm.encode(image).tower
        rows.append(patches(tower, TAPPED)[0].half().cpu())
        shown.append(content(backbone.canvas.frame(image), Familiarity.side(tower)))
    return torch.stack(rows), torch.stack(shown)


def calibrate(backbone: Backbone, folder: Path, flagged: float, seed: int = SEED) -> Familiarity:
    """Train the reader of an MLLM and write it into its folder; `flagged` is the share of drawn scenes that
    may be below its threshold."""
    familiar, familiar_mask = states(backbone, drawn(seed, 0, SCENES))
    other, other_mask = states(backbone, (odd_picture(seed, index) for index in range(ODD)))
    values = familiar.float()[familiar_mask]
    mean, spread = values.mean(0), values.std(0) + 1e-3
    normal: Callable[[Tensor], Tensor] = lambda rows: ((rows.float() - mean) / spread).clamp(-MOST, MOST)  # noqa: E731
    learnt = _learn((familiar, familiar_mask), (other, other_mask), normal, seed)
    familiarity = Familiarity(torch.tensor(TAPPED), mean, spread, **learnt, threshold=torch.tensor(0.0))
    familiarity = Familiarity(**unpack(pack(familiarity.state())))  # in the precision in which it will be read
    held_out, shown = states(backbone, drawn(seed, SCENES, HELD_OUT, without=HARDEST))
    scores = familiarity.score(held_out, shown)
    state = {**familiarity.state(), "threshold": scores.quantile(flagged).nextafter(torch.tensor(-torch.inf))}
    familiarity = Familiarity(**state)
    familiarity.save(folder)
    return familiarity


def _phantoms(
    rows: Tensor, shown: Tensor, normal: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Callable[[int], Tensor]:
    """Makes normalised patch states that have the covariance of drawn ones, around the mean of a drawn picture."""
    spread = torch.linalg.cholesky(normal(rows)[shown].T.cov() + 1e-3 * torch.eye(rows.shape[-1]))

    def draw(patches: int) -> Tensor:
        chosen = torch.randint(len(rows), (PHANTOMS,), generator=generator)
        share = shown[chosen, :, None] / shown[chosen].sum(1)[:, None, None]
        mean = (normal(rows[chosen]) * share).sum(1, keepdim=True) * torch.rand(PHANTOMS, 1, 1, generator=generator)
        noise = torch.randn(PHANTOMS, patches, rows.shape[-1], generator=generator) @ spread.T
        return (mean + noise * (0.5 + 0.5 * torch.rand(PHANTOMS, 1, 1, generator=generator))).clamp(-MOST, MOST)

    return draw


def _learn(
    familiar: tuple[Float[Tensor, "n f d"], Bool[Tensor, "n f"]],
    other: tuple[Float[Tensor, "m f d"], Bool[Tensor, "m f"]],
    normal: Callable[[Tensor], Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Logistic regression on what the attention queries find, trained together with them."""
    generator = torch.Generator().manual_seed(seed)
    phantoms = _phantoms(*familiar, normal, generator)
    width = familiar[0].shape[-1]
    look = nn.Parameter(torch.randn(LOOKS, width, generator=generator) / width**0.5)
    least, weight = nn.Parameter(torch.zeros(LOOKS)), nn.Parameter(torch.zeros(2 * LOOKS))
    bias = nn.Parameter(torch.zeros(()))
    adam = torch.optim.AdamW([look, least, weight, bias], RATE, weight_decay=0.05)
    truth = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)])
    for step in range(STEPS):
        for group in adam.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        scores = []
        for rows, shown in (familiar, other):
            chosen = torch.randint(len(rows), (BATCH,), generator=generator)
            some = torch.rand(shown[chosen].shape, generator=generator)
            some = shown[chosen] & (some < 0.3 + 0.7 * torch.rand(BATCH, 1, generator=generator))
            inputs = normal(rows[chosen])
            if rows is other[0]:
                inputs[:PHANTOMS] = phantoms(inputs.shape[1])
            scores.append(read(inputs, some, look, least, weight) + bias)
        loss = F.binary_cross_entropy_with_logits(torch.cat(scores), truth)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {"look": look.detach(), "least": least.detach(), "weight": weight.detach()}
