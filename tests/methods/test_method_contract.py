"""What every method promises, on tiny MLLMs of every kind; no test here knows how a method works.

Errors are relative to the largest value compared, measured on one thread of a CPU with AVX-512.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.bare import Bare, digest, error
from seglens.backbones import Backbone, load_backbone
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin, embedded_folder
from seglens.core.geometry import Canvas
from seglens.core.schema import Click
from seglens.core.types import MethodOutput, Sample, Target, Totals
from seglens.decoders import MaskDecoder, load_decoder
from seglens.features.examples import Batch, collate
from seglens.features.frozen import extract
from seglens.inference.segmenter import Segmenter
from seglens.methods import METHODS, Method, build_method, method_settings
from seglens.methods.preset import TILE
from seglens.methods.tuned import TunedMethod
from seglens.training.config import TrainConfig
from seglens.training.presets import Recipe
from seglens.training.setup import prepare
from seglens.training.tuned_examples import ExampleMaker
from tiny import EVERY, KINDS, SLOW

# settings small enough for tiny models, in the words that a tokenizer of one token per word or byte can be asked in
METHOD_CASES: dict[str, dict[str, Any]] = {
    "lens": {"keypoints": 5, "encoder_width": 64, "drop": 0.0},
    "lisa": {"request": "{}", "answers": ("[SEG].",)},
    "ufo": {"request": "{}", "answers": ("<MASK>.",), "mask_side": 32},
    "mllmseg": {
        "request": "{}",
        "answers": ("[SEG].",),
        "refusal": "[REJ].",
        "rank": 8,
        "alpha": 16.0,
        "width": 32,
        "heads": 4,
        "feed_forward": 64,
        "subpixels": 8,
        "decoder_dropout": 0.0,
    },
    "self1e": {"request": "{}", "answers": ("[SEG].",), "rank": 8, "mask_side": 32},
    "localization": {"mass": 0.5},
}
EVERYWHERE = ("lens", "lisa", "ufo", "localization")  # one of each sort on every kind of MLLM, the others on two
TWO = ("llava-1.5", "internvl")
PAIRS = [(name, kind) for name in METHOD_CASES for kind in KINDS if name in EVERYWHERE or kind in TWO]
PAIRS_OF_TWO = [(name, kind) for name, kind in PAIRS if kind in TWO]
TRAINED = [name for name in METHOD_CASES if METHODS[name].trained]
TRAINED_PAIRS = [(name, kind) for name, kind in PAIRS if name in TRAINED]
TRAINED_OF_TWO = [(name, kind) for name, kind in PAIRS_OF_TWO if name in TRAINED]
IN_TILES = [  # a frozen MLLM is shown the whole picture beside them, one that is tuned is not
    ("lens", "internvl-tiles"),
    ("lens", "llava-next-tiles"),
    ("lens", "llava-onevision-tiles"),
    ("mllmseg", "internvl-tiles"),
    ("self1e", "internvl-tiles"),
    ("ufo", "internvl-tiles"),
    ("lens", "internvl-by-shape"),
    ("mllmseg", "internvl-by-shape"),
    ("self1e", "internvl-by-shape"),
    ("ufo", "internvl-by-shape"),
    ("lisa", "internvl-by-shape"),
    ("localization", "internvl-by-shape"),
    ("lens", "llava-next-by-shape"),
    ("lens", "llava-onevision-by-shape"),
    ("lens", "molmo2"),
    ("localization", "molmo2"),
]
IN_TILES_TRAINED = [(name, kind) for name, kind in IN_TILES if name in TRAINED]
LEARNT = [  # each takes seconds
    ("lens", "internvl"),
    ("lisa", "llava-1.5"),
    ("ufo", "internvl"),
    ("mllmseg", "internvl"),
    ("self1e", "llava-1.5"),
    ("ufo", "internvl-tiles"),
    ("ufo", "internvl-by-shape"),
]
SQUASHED = [(*pair, "squash") for pair in LEARNT if pair[1] != "internvl-by-shape"]

# where an image token is one patch, F_V1^HQ is F_V1, and what SELF1E adds of the one it takes away of the other
IDLE = {("self1e", "llava-1.5"): "amplifiers.given."}

QUERIES = ("the red cup", "what keeps you dry when it rains ?", "dog")
QUESTION = "what is in the picture ?"
SIZES = ((48, 64), (64, 40), (1, 70), (70, 1))
EXACT = {"dtype": torch.float32}
SAME = 5e-6  # measured: up to 8e-7


# ------------------------------------------------------------------ what is tried


def scene(height: int = 48, width: int = 64, absent: tuple[int, ...] = (), spoken: bool = False) -> Sample:
    """Three coloured boxes and a query for each; those of `absent` are asked for and not there. On request a fourth
    question, which is answered in words."""
    image, masks = np.full((height, width, 3), 90, np.uint8), np.zeros((3, height, width), bool)
    boxes = [(1, 3, 0, 3), (1, 5, 4, 7), (4, 6, 1, 3)]  # top, bottom in sixths; left, right in eighths
    for q, (top, bottom, left, right) in enumerate(boxes):
        rows, columns = (
            slice(start * side // parts, max(end * side // parts, start * side // parts + 1))
            for start, end, side, parts in ((top, bottom, height, 6), (left, right, width, 8))
        )
        masks[q, rows, columns] = q not in absent
        if q not in absent:
            image[rows, columns] = [(220, 30, 30), (30, 200, 60), (40, 60, 230)][q]
    targets = [Target(query, mask) for query, mask in zip(QUERIES, masks, strict=True)]
    if spoken:
        targets.append(Target("what is this ?", np.zeros((height, width), bool), answer="a red cup", spoken=True))
    return Sample(f"{height}x{width}", image, tuple(targets))


@dataclass(frozen=True)
class System:
    """A method on the parts that it needs; the digests of these before it was built, and its parameters after."""

    name: str
    backbone: Backbone
    decoder: MaskDecoder | None
    method: Method
    frozen: list[str]
    start: dict[str, Tensor]

    @property
    def kind(self) -> str:
        return Path(self.backbone.name).name

    @property
    def tuned(self) -> bool:
        return isinstance(self.method, TunedMethod)

    @property
    def parts(self) -> list[nn.Module]:
        return [part.module for part in (self.backbone, self.decoder) if part is not None]

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.method.named_parameters() if p.requires_grad}

    @property
    def config(self) -> HeadConfig:
        layer = None if self.tuned else self.backbone.layer
        return HeadConfig(
            self.name,
            asdict(self.method.config),
            Origin.of(self.backbone.name),
            layer,
            None if self.decoder is None else Origin.of(self.decoder.name),
            self.backbone.image_size,
            self.backbone.canvas,
        )

    def segmenter(self) -> Segmenter:
        return Segmenter(self.backbone, self.decoder, self.method, self.config)

    def batch(self, *samples: Sample) -> Batch:
        """As training makes it."""
        if isinstance(self.method, TunedMethod):
            maker = ExampleMaker(self.method.mllm, self.decoder, self.method.mask_side)
            examples: list[Any] = list(map(maker.example, samples))
        else:
            assert self.decoder is not None
            examples = [extract(sample, self.backbone, self.decoder) for sample in samples]
        return collate(examples)

    def forward(self, batch: Batch) -> MethodOutput:
        """A pass of training."""
        torch.manual_seed(0)
        drawn = self.method.random_inputs(batch.truth.valid.shape, torch.Generator().manual_seed(0))
        return self.method(batch.inputs, batch.embedding, **drawn)

    def loss(self, batch: Batch, totals: Totals | None = None) -> Tensor:
        return sum(self.method.losses(self.forward(batch), batch.truth, totals).values(), torch.zeros(()))

    def steps(self, batch: Batch, count: int, rate: float = 1e-3) -> Iterator[tuple[float, MethodOutput]]:
        """Loss and output of each of some steps of training."""
        optimiser = torch.optim.AdamW(self.trained.values(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        self.method.train()
        for _ in range(count):
            output = self.forward(batch)
            loss = sum(self.method.losses(output, batch.truth).values(), torch.zeros(()))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            yield loss.item(), output
        self.method.eval()


Load = Callable[[str], Backbone]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Backbones by their kind: nothing that a method does may change one."""

    @lru_cache
    def loaded(kind: str) -> Backbone:
        folder = tmp_path_factory.mktemp("methods") / kind
        EVERY[kind].save(folder)
        return load_backbone(folder, **{**EVERY[kind].options, **EXACT, "as_is": True})  # chat as the bare model's

    return loaded


def laid(backbone: Backbone, canvas: Canvas) -> Backbone:
    """The same model with another canvas."""
    return Backbone(replace(backbone.mllm, canvas=canvas), backbone.as_is)


def build(name: str, backbone: Backbone, decoder: MaskDecoder | None) -> System:
    frozen = [digest(part.module) for part in (backbone, decoder) if part is not None]
    torch.manual_seed(0)
    method = build_method(method_settings(name, METHOD_CASES[name]), backbone, decoder).eval()
    start = {name: p.detach().clone() for name, p in method.named_parameters()}
    return System(name, backbone, decoder, method, frozen, start)


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest, load: Load, decoder: MaskDecoder) -> System:
    """After two steps of training, because a fresh adapter changes nothing. Only to be read."""
    name, kind, *lay = request.param
    backbone = laid(load(kind), TILE) if lay else load(kind)
    if not METHODS[name].trained:  # it chooses among masks, which are rounding errors in a SAM of random weights
        return build(name, backbone, load_decoder(embedded_folder("embedded/sam")))
    system = build(name, backbone, decoder if METHODS[name].needs_decoder else None)
    assert all(math.isfinite(loss) for loss, _ in system.steps(every_question(system), 2, rate=5e-3))
    return system


def another(system: System, absent: tuple[int, ...] = ()) -> Sample:
    """Of another size, and of the same grid as the first, which a batch needs."""
    return scene(*((45, 60) if system.backbone.canvas.tiles else (64, 40)), absent=absent)


def every_question(system: System) -> Batch:
    """About a target that is not there, one answered in words, and images with different numbers of questions."""
    many, few = scene(absent=(1,), spoken=system.tuned), another(system, absent=(0,))
    batch = system.batch(many, replace(few, targets=few.targets[:1]))
    spoken = [False] * (len(many.targets) - 3)
    assert batch.truth.valid.tolist() == [[True, True, True, *spoken], [True, False, False, *spoken]]
    assert batch.truth.present.tolist() == [[True, False, True, *spoken], [False, False, False, *spoken]]
    return batch


def on(pairs: Sequence[tuple[str, ...]]) -> pytest.MarkDecorator:
    each = [pytest.param(pair, marks=pytest.mark.slow if pair[1] in SLOW else (), id="-".join(pair)) for pair in pairs]
    return pytest.mark.parametrize("system", each, indirect=True)


def test_every_method_has_a_case() -> None:
    assert set(METHOD_CASES) == set(METHODS)


# ------------------------------------------------------------------ training


@pytest.mark.slow
@on(LEARNT)
def test_overfits_one_scene(system: System) -> None:
    """Three questions about one image, learned in seconds: everything that must carry a gradient carries it."""
    system = build(system.name, system.backbone, system.decoder)
    batch = system.batch(scene())
    truth = batch.truth.masks > 0.5
    start, losses, worst, step = time.process_time(), list[float](), 0.0, 0
    for step, (loss, output) in enumerate(system.steps(batch, 600, rate=4e-3), 1):
        losses.append(loss)
        if step % 10 == 0:
            drawn = output.mask_logits > 0
            worst = ((drawn & truth).sum((2, 3)) / (drawn | truth).sum((2, 3))).min().item()
            if worst > 0.9 or time.process_time() - start > 15:
                break
    print(f"{step} steps, {time.process_time() - start:.1f} s, IoU {worst:.3f}, loss {losses[-1] / losses[0]:.3f}")
    assert worst > 0.9
    assert losses[-1] < 0.5 * losses[0]


@on(TRAINED_PAIRS + IN_TILES_TRAINED)
def test_gradients_reach_what_is_trained_and_nothing_else(system: System) -> None:
    still = {name for name, p in system.trained.items() if torch.equal(p, system.start[name])}
    assert all(name.startswith(IDLE.get((system.name, system.kind), ())) for name in still), still
    grads = gradients(system, every_question(system))
    assert grads.keys() == system.trained.keys()
    assert all(grad.isfinite().all() for grad in grads.values())
    assert all(p.grad is None for p in system.method.parameters() if not p.requires_grad)
    assert all(p.grad is None and not p.requires_grad for part in system.parts for p in part.parameters())
    assert list(map(digest, system.parts)) == system.frozen


def gradients(system: System, batch: Batch) -> dict[str, Tensor]:
    """Those of one pass, by the names of what is trained."""
    terms = system.method.losses(system.forward(batch), batch.truth)
    assert all(term.isfinite() for term in terms.values())
    trained = system.trained
    grads = torch.autograd.grad(sum(terms.values(), torch.zeros(())), list(trained.values()), allow_unused=True)
    return {name: grad for name, grad in zip(trained, grads, strict=True) if grad is not None}


@on(PAIRS_OF_TWO)
def test_the_state_shares_no_tensor_with_the_frozen_parts(system: System) -> None:
    theirs = {p.data_ptr() for part in system.parts for p in (*part.parameters(), *part.buffers())}
    assert not theirs & {tensor.data_ptr() for tensor in system.method.state_dict().values()}


@on(TRAINED_OF_TWO)
def test_a_step_in_passes_has_the_same_loss(system: System) -> None:
    samples = scene(spoken=system.tuned), scene(64, 40, absent=(0, 2))
    whole, parts = system.batch(*samples), [system.batch(sample) for sample in samples]
    totals = whole.truth.totals()
    expected = system.loss(whole).item()
    assert sum(system.loss(part, totals).item() for part in parts) == pytest.approx(expected, rel=SAME)


@on(TRAINED_OF_TWO)
def test_a_batch_without_targets_has_finite_losses(system: System) -> None:
    batch = system.batch(scene(absent=(0, 1, 2)))
    assert not batch.truth.present.any()
    assert all(grad.isfinite().all() for grad in gradients(system, batch).values())


@on([(name, "llava-1.5") for name in TRAINED if name != "lens"])
def test_questions_in_words_teach_no_mask(system: System) -> None:
    sample = scene(spoken=True)
    batch = system.batch(replace(sample, targets=sample.targets[3:]))
    terms = system.method.losses(system.forward(batch), batch.truth)
    assert {name for name, term in terms.items() if term != 0} == {"text"}


def one_step(name: str, load: Load, decoder: MaskDecoder) -> Recipe:
    """The shortest training of a method."""
    return Recipe(
        method_settings(name, METHOD_CASES[name]),
        TrainConfig(steps=1, images=1, trackers=()),
        backbone=load("llava-1.5").name,
        decoder=decoder.name,
    )


@pytest.mark.parametrize("name", [name for name in METHOD_CASES if name not in TRAINED])
def test_a_method_with_nothing_to_train_is_refused_by_training(
    name: str, load: Load, decoder: MaskDecoder, tmp_path: Path
) -> None:
    recipe = one_step(name, load, decoder)
    with pytest.raises(ValueError, match=f"^{name} has nothing to train"):
        prepare(recipe, "world:n=2,split=train", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert not build(name, load("llava-1.5"), decoder).method.state_dict()


# ------------------------------------------------------------------ segmenting


def logits(segmenter: Segmenter, image: np.ndarray) -> Tensor:
    return torch.stack([torch.tensor(p.mask_logits) for p in segmenter.segment(image, list(QUERIES))])


@on(PAIRS_OF_TWO + SQUASHED + IN_TILES)
def test_masks_have_the_size_of_the_image(system: System) -> None:
    for size in (*SIZES[:2], (8, 60)) if system.kind == "llava-next-by-shape" else SIZES:  # it unpads a line to nothing
        sample = scene(*size)
        for prediction in system.segmenter().segment(sample.image, list(QUERIES)):
            assert prediction.mask.shape == prediction.mask_logits.shape == size
            assert np.isfinite(prediction.mask_logits).all()


@on(TRAINED_PAIRS + SQUASHED + IN_TILES_TRAINED)
def test_training_and_segmenting_give_the_same_masks(system: System) -> None:
    """The pass with gradients over whole sequences, and the one that encodes an image once."""
    sample = scene()
    with torch.no_grad():
        frame = system.backbone.canvas.frame(sample.image)
        taught = frame.to_image_logits(system.forward(system.batch(sample)).mask_logits[0])
    assert error(logits(system.segmenter(), sample.image), taught) < SAME


@on(PAIRS + IN_TILES)
def test_many_questions_equal_single_ones(system: System) -> None:
    image, queries = scene().image, [f"{query} {number}" for number in range(8) for query in QUERIES]
    opened = system.segmenter().open(image)
    together = opened.segment(queries)
    assert len(together) == 24
    # the step to a peak between cells divides by how sharp it is
    same = SAME if METHODS[system.name].trained else 10 * SAME
    for k in (0, 7, 23):
        alone = opened.segment(queries[k])
        assert error(torch.tensor(alone.mask_logits), torch.tensor(together[k].mask_logits)) < same


@on(TRAINED_OF_TWO + SQUASHED + IN_TILES_TRAINED)
def test_batches_equal_single_images(system: System) -> None:
    samples = scene(), another(system)
    with torch.no_grad():
        together = system.forward(system.batch(*samples)).mask_logits
        for b, sample in enumerate(samples):
            assert error(together[b], system.forward(system.batch(sample)).mask_logits[0]) < SAME


@on([*PAIRS_OF_TWO, ("lens", "internvl-by-shape"), ("lens", "llava-next-by-shape")])
def test_a_prediction_explains_itself(system: System) -> None:
    """What a method has of a heat map, keypoints and presence is of this image and in its pixels."""
    opened = system.segmenter().open(scene().image)
    for prediction in opened.segment(list(QUERIES)):
        assert prediction.presence is None or 0 <= prediction.presence <= 1
        assert prediction.found == bool(prediction.mask.any())
        assert (prediction.keypoints >= 0).all()
        assert (prediction.keypoints <= 64).all()
        if system.decoder is not None and prediction.heat_map is not None:
            assert prediction.heat_map.shape == system.backbone.mllm.tiling_of(opened.seen.frame).grid
            assert len(prediction.keypoints)
            refined = opened.refine(prediction, [Click(x=10, y=20), Click(x=50, y=40, label=0)])
            assert refined.mask[20, 10]
            assert not refined.mask[40, 50]


@on(PAIRS_OF_TWO + SQUASHED + IN_TILES)
def test_a_saved_head_gives_the_same_masks(system: System, tmp_path: Path) -> None:
    image = scene().image
    system.segmenter().save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path, **EXACT)
    assert again.method.config == system.method.config
    assert again.backbone.canvas == system.backbone.canvas
    assert torch.equal(logits(again, image), logits(system.segmenter(), image))


@on(SQUASHED)
def test_a_squashed_picture_fills_the_canvas_and_comes_back_whole(system: System) -> None:
    """The canvas's borders are the picture's, in masks, truth, heat map and keypoints; and a square is no other."""
    sample = scene(30, 90)
    opened = system.segmenter().open(sample.image)
    predictions = opened.segment(list(QUERIES))
    alone = opened.segment(QUERIES[1])
    assert error(torch.tensor(alone.mask_logits), torch.tensor(predictions[1].mask_logits)) < SAME
    drawn = torch.stack([torch.tensor(one.canvas_logits) for one in predictions])
    stretched = F.interpolate(drawn[None], (30, 90), mode="bilinear", align_corners=False)[0]
    assert error(torch.stack([torch.tensor(one.mask_logits) for one in predictions]), stretched) < 1e-5
    truth = system.batch(sample).truth
    shares = torch.tensor([float(target.mask.mean()) for target in sample.targets])
    assert torch.allclose(truth.masks[0].mean((1, 2)), shares, atol=2e-3)
    assert torch.allclose(truth.cells[0].mean((1, 2)), shares, atol=2e-3)
    for one in predictions:
        if one.heat_map is not None:
            heat = torch.tensor(one.heat_map / one.heat_map.max())[None, None]
            full = F.interpolate(heat, (30, 90), mode="bilinear", align_corners=False)[0, 0]
            assert error(torch.tensor(one.heat_at_size()), full) < 1e-5
            assert (one.keypoints <= (90, 30)).all()
            assert (one.keypoints >= 0).all()
            rows, columns = np.unravel_index(one.heat_map.argmax(), one.heat_map.shape)
            strongest = one.keypoints[one.keypoint_scores.argmax()] * one.heat_map.shape[::-1] / (90, 30)
            assert np.abs(strongest - (columns + 0.5, rows + 0.5)).max() <= 1  # of a cell: one Newton step
    square = scene(48, 48).image
    assert torch.equal(
        system.backbone.pixels(square), laid(system.backbone, replace(TILE, lay="letterbox")).pixels(square)
    )


@on(TRAINED_OF_TWO)
def test_half_precision_is_bounded(system: System) -> None:
    """Autocast, as in training; the loss itself is reckoned in float32."""
    batch = system.batch(scene())
    with torch.no_grad():
        exact = system.forward(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = system.forward(batch)
        terms = system.method.losses(rough, batch.truth)
    assert error(rough.mask_logits, exact.mask_logits) < 0.06  # measured: .003 to .020
    assert {term.dtype for term in terms.values()} == {torch.float32}


# ------------------------------------------------------------------ what a method leaves alone


@lru_cache
def talk(folder: str) -> tuple[str, Tensor]:
    """What the bare model answers, and its logits."""
    return Bare.load(Path(folder), **EXACT).talk(scene().image, QUESTION, 8)


@on(PAIRS + IN_TILES)
def test_chat_is_untouched(system: System) -> None:
    """Word for word and bit for bit, after building, training and segmenting, and with the adapter in place."""
    image, segmenter = scene().image, system.segmenter()
    answer, expected = talk(system.backbone.name)
    segmenter.segment(image, list(QUERIES))
    assert segmenter.ask(image, QUESTION, 8) == answer
    with torch.no_grad():
        logits = system.backbone.module(**system.backbone.chat_inputs(image, QUESTION)).logits
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "lens"])
def test_a_method_that_tunes_refuses_a_cache(name: str, load: Load, decoder: MaskDecoder, tmp_path: Path) -> None:
    recipe = one_step(name, load, decoder)
    with pytest.raises(ValueError, match=f"^{name} trains an adapter .* leave out --cache"):
        prepare(recipe, "world:n=2,split=train", tmp_path / "out", cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())
