"""The last touch of an exported MLLM: which pictures are of its world (`backbones.familiarity`).

A small reader of the vision tower's patch states learns to tell drawn scenes, also resized, compressed, padded, cut,
mirrored or grey, from pictures that are not of the world (`odd_pictures`), and from phantoms: patch states with mean
and covariance of drawn ones and nothing else of them. No photograph is shown to it. Its threshold is what all but few
of further drawn scenes reach."""

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
from seglens.embedded.odd_pictures import strange
from seglens.model_files.int8_weights import pack, unpack
from seglens.world.world import World

TAPPED = (6,)  # layers of the tower: the last alone, where photographs were farthest
LOOKS = 64
SCENES, STRANGE, HELD = 900, 900, 500  # to learn from, and to set the threshold by; every scene in two ways
STEPS, BATCH, RATE = 1400, 32, 3e-3
PHANTOMS = 16  # of a batch of strange pictures; without them 86 % of the photographs were told, with them all
# Of drawn scenes, in all the ways in which they come but one. Photographs lie nearer to them in the InternVL's tower.
FLAGGED = {"mllm": 0.002, "internvl": 0.006}
HARDEST = "grey"  # a few of these look like photographs: they are learnt, and do not move the threshold
SEED = 21

Pixels = UInt8[np.ndarray, "h w 3"]


def ways(image: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """A scene as users may send it."""
    picture = Image.fromarray(image)
    side = int(rng.integers(128, 1025))
    made = {
        "plain": picture,
        "resized": picture.resize((side, side), Image.Resampling.BICUBIC),
        "jpeg": _compressed(picture, int(rng.integers(60, 96))),
        "padded": _padded(picture, rng),
        "cut": picture.crop((0, int(rng.integers(0, 90)), 256, int(rng.integers(170, 257)))),
        "mirrored": picture.transpose(Image.Transpose(int(rng.integers(0, 2)))),
        "grey": picture.convert("L").convert("RGB"),
    }
    return {name: np.asarray(one) for name, one in made.items()}


def _compressed(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _padded(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """To a wide or a tall one, with black, white, grey or any colour."""
    long = int(rng.integers(300, 640))
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    grounds = [(0, 0, 0), (255, 255, 255), (127, 127, 127), colour]
    made = Image.new("RGB", (long, 256) if rng.random() < 0.5 else (256, long), grounds[rng.integers(len(grounds))])
    made.paste(picture, (int(rng.integers(0, made.width - 255)), int(rng.integers(0, made.height - 255))))
    return made


def drawn(seed: int, start: int, count: int, without: str = "") -> Iterator[Pixels]:
    """Scenes of the training split, every one in two of the ways in which scenes come, but for one."""
    world = World("train", seed)
    for index in range(start, start + count):
        rng = np.random.default_rng([seed, index])
        made = ways(world.scene(index).image, rng)
        yield from (made[name] for name in rng.choice([name for name in made if name != without], 2, replace=False))


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
    """Make the statistic of an MLLM of the world and write it into its folder; `flagged` is the share of drawn scenes
    that may lie below its threshold."""
    familiar, known = states(backbone, drawn(seed, 0, SCENES))
    other, seen = states(backbone, (strange(seed, index) for index in range(STRANGE)))
    values = familiar.float()[known]
    mean, spread = values.mean(0), values.std(0) + 1e-3
    normal: Callable[[Tensor], Tensor] = lambda rows: ((rows.float() - mean) / spread).clamp(-MOST, MOST)  # noqa: E731
    looks = _learn((familiar, known), (other, seen), normal, seed)
    made = Familiarity(torch.tensor(TAPPED), mean, spread, **looks, threshold=torch.tensor(0.0))
    made = Familiarity(**unpack(pack(made.state())))  # judged as it will be read
    held, shown = states(backbone, drawn(seed, SCENES, HELD, without=HARDEST))
    scores = made.score(held, shown)
    state = {**made.state(), "threshold": scores.quantile(flagged).nextafter(torch.tensor(-torch.inf))}
    made = Familiarity(**state)
    made.save(folder)
    return made


def _phantoms(
    rows: Tensor, shown: Tensor, normal: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Callable[[int], Tensor]:
    """Makes normalised patch states that have the covariance of drawn ones, around the mean of a drawn picture."""
    spread = torch.linalg.cholesky(normal(rows)[shown].T.cov() + 1e-3 * torch.eye(rows.shape[-1]))

    def made(patches: int) -> Tensor:
        chosen = torch.randint(len(rows), (PHANTOMS,), generator=generator)
        share = shown[chosen, :, None] / shown[chosen].sum(1)[:, None, None]
        mean = (normal(rows[chosen]) * share).sum(1, keepdim=True) * torch.rand(PHANTOMS, 1, 1, generator=generator)
        noise = torch.randn(PHANTOMS, patches, rows.shape[-1], generator=generator) @ spread.T
        return (mean + noise * (0.5 + 0.5 * torch.rand(PHANTOMS, 1, 1, generator=generator))).clamp(-MOST, MOST)

    return made


def _learn(
    familiar: tuple[Float[Tensor, "n f d"], Bool[Tensor, "n f"]],
    other: tuple[Float[Tensor, "m f d"], Bool[Tensor, "m f"]],
    normal: Callable[[Tensor], Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Logistic regression on what the looks find, and the looks with it."""
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
            given = normal(rows[chosen])
            if rows is other[0]:
                given[:PHANTOMS] = phantoms(given.shape[1])
            scores.append(read(given, some, look, least, weight) + bias)
        loss = F.binary_cross_entropy_with_logits(torch.cat(scores), truth)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {"look": look.detach(), "least": least.detach(), "weight": weight.detach()}
