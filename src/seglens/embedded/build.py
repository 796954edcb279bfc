"""The recipe as a command: twelve stages, each resumable, from nothing to the weights that the package carries.

vision ----+--> alignment --> joint --+--> internvl --------+--> mllmseg, self1e
language --+                          +--> manners --+      +--> lisa
sam -------------------------------------------------+--> head
                                                     +---> lisa
manners, internvl --> familiar
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import SamImageProcessorPil

from seglens.backbones import load_backbone
from seglens.backbones.familiarity import FILE
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.head import save_head
from seglens.checkpoints.origin import Origin
from seglens.core.locks import LOCK, held
from seglens.data.world import WorldData
from seglens.embedded.chat_stage import train_manners
from seglens.embedded.familiarity_stage import FLAGGED, calibrate
from seglens.embedded.heads import embedded_config, lens_config
from seglens.embedded.internvl_stage import INTERNVL, make_internvl, make_internvl_processor, transplant
from seglens.embedded.language_stages import Dense, Oracle, Pupil, train_alignment, train_joint, train_language
from seglens.embedded.models import IMAGE_MEAN, IMAGE_STD, LLAVA, make_llava, make_processor, make_sam, save_packed
from seglens.embedded.recipe import Budget
from seglens.embedded.sam_stage import train_sam
from seglens.embedded.subprocess_jobs import side_by_side
from seglens.embedded.vision_stage import PatchReadout, pixels, train_vision
from seglens.features.cache import Cache
from seglens.inference.frozen_models import Parts
from seglens.methods import METHODS, build_lens, build_method
from seglens.methods.tuned import TunedMethod
from seglens.model_files.checksums import write_sums
from seglens.training.config import TrainConfig
from seglens.training.example_stream import ExampleStream, epochs_of, tuned_stream
from seglens.training.trainer import fit
from seglens.world.chat_phrases import new_words
from seglens.world.world import World

NEEDS: dict[str, tuple[str, ...]] = {
    "vision": (),
    "language": (),
    "alignment": ("vision", "language"),
    "joint": ("alignment",),
    "sam": (),
    "internvl": ("joint",),
    "manners": ("joint",),
    "head": ("manners", "sam"),
    "mllmseg": ("internvl",),
    "self1e": ("internvl",),
    "lisa": ("internvl", "sam"),
    "familiar": ("manners", "internvl"),
}
BUDGETS: dict[str, Budget] = {
    "vision": Budget(steps=5200, batch=16, lr=1.5e-3, seed=1),
    "language": Budget(steps=3000, batch=8, lr=1.5e-3, seed=2),
    "alignment": Budget(steps=1000, batch=16, lr=1e-3, seed=3),
    "joint": Budget(steps=2200, batch=8, lr=8e-4, seed=4),
    "manners": Budget(steps=2400, batch=8, lr=1e-3, seed=15),
    "internvl_alignment": Budget(steps=300, batch=16, lr=1e-3, seed=13),
    "internvl": Budget(steps=1100, batch=8, lr=8e-4, hold=0.45, seed=14),
    "sam": Budget(steps=6500, batch=8, lr=1e-3, seed=5),
}
PATCHES = 0.3  # weight of what single patches show, in the InternVL's stages
LAYER = 2  # of 6; docs/ablations.md compares 1 to 3
LENS_LAYERS = 2  # that the head copies behind it


@dataclass(frozen=True)
class Lot:
    """What a head that tunes its MLLM learns from: steps, images of a step, queries about an image; and how fast."""

    steps: int
    images: int
    queries: int
    rate: float


TUNED = {"mllmseg": Lot(1500, 8, 8, 1.5e-3), "self1e": Lot(1600, 4, 4, 1e-3), "lisa": Lot(500, 8, 8, 1e-3)}
HEAD_DATA = WorldData(n=6000, seed=6, split="train", queries=8)
HEAD_TRAINING = TrainConfig(steps=2000, images=8, lr=6e-4, weight_decay=0.02, seed=0, save_every=500)


def _pupil() -> Pupil:
    torch.manual_seed(0)
    tokenizer = make_processor().tokenizer
    model = make_llava(len(tokenizer), tokenizer.convert_tokens_to_ids(LLAVA.image))
    return Pupil(model, tokenizer, Oracle(model.config.text_config.hidden_size, tokenizer), LLAVA)


def _adopt(out: Path, stage: str, **modules: nn.Module) -> None:
    """Load a finished stage's modules; refuse an unfinished one."""
    path = out / f"{stage}.ckpt"
    if not path.exists():
        raise ValueError(f"{path} does not exist; run the stage {stage!r} first")
    state = torch.load(path, weights_only=True, map_location=torch.get_default_device())
    steps = state["budget"]["steps"]
    if state["step"] < steps:
        raise ValueError(f"{path} stopped at step {state['step']} of {steps}; run the stage {stage!r} to its end first")
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state["modules"].items() if k.startswith(prefix)})


def stage_vision(out: Path, weights: Path) -> None:
    train_vision(_pupil().model.model.vision_tower, BUDGETS["vision"], out)


def stage_language(out: Path, weights: Path) -> None:
    train_language(_pupil(), BUDGETS["language"], out)


def stage_alignment(out: Path, weights: Path) -> None:
    pupil = _pupil()
    _adopt(out, "vision", vit=pupil.model.model.vision_tower)
    _adopt(out, "language", language=pupil.language, oracle=pupil.oracle)
    train_alignment(pupil, BUDGETS["alignment"], out)


def stage_joint(out: Path, weights: Path) -> None:
    pupil = _pupil()
    _adopt(out, "language", language=pupil.language, oracle=pupil.oracle)
    _adopt(out, "alignment", vit=pupil.model.model.vision_tower, projector=pupil.model.model.multi_modal_projector)
    train_joint(pupil, BUDGETS["joint"], out)


def stage_manners(out: Path, weights: Path) -> None:
    pupil = _pupil()
    _adopt(out, "joint", model=pupil.model)
    train_manners(pupil, BUDGETS["manners"], out, LAYER + LENS_LAYERS)
    words = pupil.words.detach()
    pupil.model.resize_token_embeddings(len(words), mean_resizing=False)
    with torch.no_grad():
        pupil.language.embed_tokens.weight.copy_(words)
    save_packed(pupil.model, weights / "mllm")
    make_processor(new_words()).save_pretrained(weights / "mllm")


def stage_internvl(out: Path, weights: Path) -> None:
    """The InternVL starts from the trained LLaVA and its oracle, is aligned to this, and learns end to end."""
    llava, processor = _pupil(), make_internvl_processor()
    _adopt(out, "joint", model=llava.model)
    _adopt(out, "language", oracle=llava.oracle)
    model = make_internvl(len(processor.tokenizer), processor.image_token_id)
    transplant(llava.model, model, pixels([World("train", 0).scene(i) for i in range(16)], INTERNVL.side))
    readout = PatchReadout(model.config.vision_config.hidden_size)
    _adopt(out, "vision", readout=readout)
    pupil, dense = Pupil(model, processor.tokenizer, llava.oracle, INTERNVL), Dense(readout, PATCHES)
    train_alignment(pupil, BUDGETS["internvl_alignment"], out, "internvl_alignment", dense)
    train_joint(pupil, BUDGETS["internvl"], out, "internvl", dense)
    save_packed(model, weights / "internvl")
    processor.save_pretrained(weights / "internvl")


def stage_sam(out: Path, weights: Path) -> None:
    torch.manual_seed(0)
    sam = make_sam()
    train_sam(sam, BUDGETS["sam"], out)
    save_packed(sam, weights / "sam")
    side = {"longest_edge": sam.config.vision_config.image_size}
    pad = {"height": side["longest_edge"], "width": side["longest_edge"]}
    SamImageProcessorPil(size=side, pad_size=pad, image_mean=IMAGE_MEAN, image_std=IMAGE_STD).save_pretrained(
        weights / "sam"
    )


def frozen_parts(weights: Path, layer: int = LAYER, mllm: str = "mllm", **reading: Any) -> Parts:
    """An exported MLLM ("mllm" or "internvl") and SAM as a user loads them, on the GPU if there is one; on a CPU,
    training is fastest with eager attention. `reading`: the `canvas` and `floors` of a preset."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    origins = (Origin(str(weights / name)) for name in (mllm, "sam"))
    named = {"dtype": torch.float32, "attn_implementation": "eager", **reading}
    return Parts.load(*origins, layer=layer, device=device, **named)


def features(parts: Parts, data: WorldData, out: Path) -> Cache:
    """The frozen features of training data, kept in `out` for as long as data and weights are the same."""
    made = hashlib.sha256(json.dumps([repr(data), parts.key], sort_keys=True).encode()).hexdigest()
    return parts.cached(data, repr(data), out / f"features_{made[:12]}", "fp16")


def example_stream(parts: Parts, data: WorldData, out: Path, seed: int = 0) -> ExampleStream:
    """For a head on frozen parts: every image once per epoch, with all its questions."""
    return epochs_of(features(parts, data, out), seed)


def stage_head(out: Path, weights: Path) -> None:
    parts, config = frozen_parts(weights), lens_config()
    torch.manual_seed(0)
    head = build_lens(config, parts.backbone, parts.sam()).to(parts.device)
    note = {"data": asdict(HEAD_DATA), "training": asdict(HEAD_TRAINING)}
    made = HeadConfig("lens", asdict(config), Origin("../mllm"), LAYER, Origin("../sam"), trained=note)
    fit(head, example_stream(parts, HEAD_DATA, out), HEAD_TRAINING, made, out / "head")
    save_head(weights / "lens", made, head.state_dict(), torch.int8)


def stage_tuned(method: str, out: Path, weights: Path) -> None:
    """A head that tunes the InternVL: what is kept is its adapter and its own parts."""
    budget, needs_sam = TUNED[method], METHODS[method].needs_decoder
    parts = Parts.load(
        Origin(str(weights / "internvl")),
        Origin(str(weights / "sam")) if needs_sam else None,
        device="cuda" if torch.cuda.is_available() else "cpu",
        segmentation_only=False,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    config = embedded_config(method)
    head = build_method(config, parts.backbone, parts.decoder).to(parts.device)
    assert isinstance(head, TunedMethod)
    data = WorldData(n=8000, seed=6, split="train", queries=budget.queries)
    training = TrainConfig(
        steps=budget.steps, images=budget.images, lr=budget.rate, weight_decay=0.02, warmup=50, seed=0, save_every=100
    )
    note = {"data": asdict(data), "training": asdict(training)}
    origins = Origin("../internvl"), None, Origin("../sam") if needs_sam else None
    made = HeadConfig(method, asdict(config), *origins, trained=note)
    stream = tuned_stream(parts, data, repr(data), head, training.seed)
    fit(head, stream, training, made, out / method)
    save_head(weights / method, made, head.state_dict(), torch.int8)


def stage_familiar(out: Path, weights: Path) -> None:
    """Which pictures are of the world, by what the exported MLLMs' vision towers say of them."""
    for name, flagged in FLAGGED.items():
        (weights / name / FILE).unlink(missing_ok=True)  # one of an earlier version might not be read any more
        calibrate(load_backbone(weights / name, dtype=torch.float32), weights / name, flagged)


RUN: dict[str, Callable[[Path, Path], None]] = {
    "vision": stage_vision,
    "language": stage_language,
    "alignment": stage_alignment,
    "joint": stage_joint,
    "manners": stage_manners,
    "internvl": stage_internvl,
    "sam": stage_sam,
    "head": stage_head,
    **{method: partial(stage_tuned, method) for method in TUNED},
    "familiar": stage_familiar,
}


EXPORTED = {"manners": ("mllm",), "head": ("lens",), "familiar": ("mllm", "internvl")}  # the others: as they are called


def run_stage(stage: str, out: Path, weights: Path) -> None:
    """One stage in this process, on the GPU if there is one."""
    if (
        stage not in ("head", "familiar", *TUNED) and torch.cuda.is_available()
    ):  # heads are placed with the parts they read
        torch.set_default_device("cuda")
    with held(out / f".{stage}{LOCK}"):
        RUN[stage](out, weights)
        for name in EXPORTED.get(stage, (stage,)):
            if (weights / name).is_dir():
                write_sums(weights / name)
    torch.set_default_device(None)


def build(out: Path, weights: Path, stages: Sequence[str] = tuple(NEEDS), jobs: int = 2) -> None:
    """Run the stages, up to `jobs` side by side, each in its own process with its share of the cores."""
    for stage in stages:
        if stage not in NEEDS:
            raise ValueError(f"there is no stage {stage!r}; choose from {', '.join(NEEDS)}")
    if len(stages) == 1:
        return run_stage(stages[0], out, weights)
    work = {stage: ("seglens.embedded.build", stage, str(out), str(weights)) for stage in stages}
    with held(out / LOCK):
        side_by_side(work, jobs, NEEDS)


if __name__ == "__main__":
    _, one, into, export, cores = sys.argv
    torch.set_num_threads(int(cores))
    try:
        run_stage(one, Path(into), Path(export))
    except ValueError as error:
        sys.exit(f"seglens: {error}")
