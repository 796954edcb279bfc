"""The recipe as a command: twelve stages, each resumable, from nothing to the weights in the package.

vision ----+--> alignment --> joint --+--> internvl -----+--> mllmseg, self1e
language --+                          +--> chat --+      +--> lisa
sam ----------------------------------------------+--> head
                                                  +---> lisa
chat, internvl --> familiar
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import SamImageProcessorPil

from seglens.backbones import load_backbone
from seglens.backbones.familiarity import FILE
from seglens.core.locks import LOCK, held
from seglens.embedded.chat_stage import train_chat
from seglens.embedded.familiarity_stage import FLAGGED, calibrate
from seglens.embedded.head_stages import LAYER, TUNED, stage_head, stage_tuned
from seglens.embedded.internvl_stage import INTERNVL, make_internvl, make_internvl_processor, start_from_llava
from seglens.embedded.language_stages import Learner, Oracle, PatchLoss, train_alignment, train_joint, train_language
from seglens.embedded.models import IMAGE_MEAN, IMAGE_STD, LLAVA, make_llava, make_processor, make_sam, save_packed
from seglens.embedded.sam_stage import train_sam
from seglens.embedded.stage import Budget
from seglens.embedded.subprocess_jobs import side_by_side
from seglens.embedded.vision_stage import PatchReadout, pixels, train_vision
from seglens.model_files.checksums import write_sums
from seglens.world.chat_phrases import new_words
from seglens.world.world import World

NEEDS: dict[str, tuple[str, ...]] = {
    "vision": (),
    "language": (),
    "alignment": ("vision", "language"),
    "joint": ("alignment",),
    "sam": (),
    "internvl": ("joint",),
    "chat": ("joint",),
    "head": ("chat", "sam"),
    "mllmseg": ("internvl",),
    "self1e": ("internvl",),
    "lisa": ("internvl", "sam"),
    "familiar": ("chat", "internvl"),
}
BUDGETS: dict[str, Budget] = {
    "vision": Budget(steps=5200, batch=16, lr=1.5e-3, seed=1),
    "language": Budget(steps=3000, batch=8, lr=1.5e-3, seed=2),
    "alignment": Budget(steps=1000, batch=16, lr=1e-3, seed=3),
    "joint": Budget(steps=2200, batch=8, lr=8e-4, seed=4),
    "chat": Budget(steps=2400, batch=8, lr=1e-3, seed=15),
    "internvl_alignment": Budget(steps=300, batch=16, lr=1e-3, seed=13),
    "internvl": Budget(steps=1100, batch=8, lr=8e-4, hold=0.45, seed=14),
    "sam": Budget(steps=6500, batch=8, lr=1e-3, seed=5),
}
PATCHES = 0.3  # weight of the loss of single patches, in the InternVL's stages
LENS_LAYERS = 2  # after LAYER, of which LENS has copies


def _learner() -> Learner:
    torch.manual_seed(0)
    tokenizer = make_processor().tokenizer
    model = make_llava(len(tokenizer), tokenizer.convert_tokens_to_ids(LLAVA.image))
    return Learner(model, tokenizer, Oracle(model.config.text_config.hidden_size, tokenizer), LLAVA)


def _load(out: Path, stage: str, **modules: nn.Module) -> None:
    """Load the modules of a finished stage. Raises ValueError for an unfinished one."""
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
    train_vision(_learner().model.model.vision_tower, BUDGETS["vision"], out)


def stage_language(out: Path, weights: Path) -> None:
    train_language(_learner(), BUDGETS["language"], out)


def stage_alignment(out: Path, weights: Path) -> None:
    learner = _learner()
    _load(out, "vision", vit=learner.model.model.vision_tower)
    _load(out, "language", language=learner.language, oracle=learner.oracle)
    train_alignment(learner, BUDGETS["alignment"], out)


def stage_joint(out: Path, weights: Path) -> None:
    learner = _learner()
    _load(out, "language", language=learner.language, oracle=learner.oracle)
    _load(out, "alignment", vit=learner.model.model.vision_tower, projector=learner.model.model.multi_modal_projector)
    train_joint(learner, BUDGETS["joint"], out)


def stage_chat(out: Path, weights: Path) -> None:
    learner = _learner()
    _load(out, "joint", model=learner.model)
    train_chat(learner, BUDGETS["chat"], out, LAYER + LENS_LAYERS)
    words = learner.words.detach()
    learner.model.resize_token_embeddings(len(words), mean_resizing=False)
    with torch.no_grad():
        learner.language.embed_tokens.weight.copy_(words)
    save_packed(learner.model, weights / "mllm")
    make_processor(new_words()).save_pretrained(weights / "mllm")


def stage_internvl(out: Path, weights: Path) -> None:
    """The InternVL starts from the trained LLaVA and its oracle, is aligned to this, and learns end to end."""
    llava, processor = _learner(), make_internvl_processor()
    _load(out, "joint", model=llava.model)
    _load(out, "language", oracle=llava.oracle)
    model = make_internvl(len(processor.tokenizer), processor.image_token_id)
    start_from_llava(llava.model, model, pixels([World("train", 0).scene(i) for i in range(16)], INTERNVL.side))
    readout = PatchReadout(model.config.vision_config.hidden_size)
    _load(out, "vision", readout=readout)
    learner, patch_loss = Learner(model, processor.tokenizer, llava.oracle, INTERNVL), PatchLoss(readout, PATCHES)
    train_alignment(learner, BUDGETS["internvl_alignment"], out, "internvl_alignment", patch_loss)
    train_joint(learner, BUDGETS["internvl"], out, "internvl", patch_loss)
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


def stage_familiar(out: Path, weights: Path) -> None:
    """Which pictures are of the drawn world, by the states of the exported MLLMs' vision towers."""
    for name, flagged in FLAGGED.items():
        (weights / name / FILE).unlink(missing_ok=True)  # a file of an earlier version may no longer be readable
        calibrate(load_backbone(weights / name, dtype=torch.float32), weights / name, flagged)


RUN: dict[str, Callable[[Path, Path], None]] = {
    "vision": stage_vision,
    "language": stage_language,
    "alignment": stage_alignment,
    "joint": stage_joint,
    "chat": stage_chat,
    "internvl": stage_internvl,
    "sam": stage_sam,
    "head": stage_head,
    **{method: partial(stage_tuned, method) for method in TUNED},
    "familiar": stage_familiar,
}


EXPORTED = {
    "chat": ("mllm",),
    "head": ("lens",),
    "familiar": ("mllm", "internvl"),
}  # the others have the name of their stage


def run_stage(stage: str, out: Path, weights: Path) -> None:
    """One stage in this process, on the GPU if there is one."""
    # heads are placed with the parts they read
    if stage not in ("head", "familiar", *TUNED) and torch.cuda.is_available():
        torch.set_default_device("cuda")
    with held(out / f".{stage}{LOCK}"):
        RUN[stage](out, weights)
        for name in EXPORTED.get(stage, (stage,)):
            if (weights / name).is_dir():
                write_sums(weights / name)
    torch.set_default_device(None)


def build(out: Path, weights: Path, stages: Sequence[str] = tuple(NEEDS), jobs: int = 2) -> None:
    """Run the stages, up to `jobs` side by side, each in a separate process with its share of the cores."""
    for stage in stages:
        if stage not in NEEDS:
            raise ValueError(f"there is no stage {stage!r}; choose from {', '.join(NEEDS)}")
    if len(stages) == 1:
        return run_stage(stages[0], out, weights)
    commands = {stage: ("seglens.embedded.build", stage, str(out), str(weights)) for stage in stages}
    with held(out / LOCK):
        side_by_side(commands, jobs, NEEDS)


if __name__ == "__main__":
    _, name, out, weights, threads = sys.argv
    torch.set_num_threads(int(threads))
    try:
        run_stage(name, Path(out), Path(weights))
    except ValueError as error:
        sys.exit(f"seglens: {error}")
