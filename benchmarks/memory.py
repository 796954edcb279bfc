"""Peak memory of training: `python benchmarks/memory.py [--size 7b|small] [--device cuda]`. GB of 10^9 bytes.

A step of 2 images with 3 questions each, AdamW included: LENS's head on features from a cache, or with the frozen parts
beside it, against LoRA as LISA trains it, through the same MLLM. On a GPU the allocator's peak is measured. Without one
the same modules run on fake tensors at the true size, and every tensor that is alive is accounted for: that is no
measurement of a GPU (no workspaces, no fragments, a CPU's attention kernels). How far the account agrees with the
memory that a process really takes is then checked at a small size on this CPU.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import models
import torch
from lora import LoraModel
from measure import Ratio, Report, machine, options
from models import Size
from torch import Tensor, nn

from seglens.backbones import Backbone, draw_blueprint
from seglens.decoders.sam import SamDecoder
from seglens.embedded.profiling import Resident
from seglens.methods import Lens, build_lens
from seglens.training import account
from seglens.training.account import Account as Account
from seglens.training.account import AllPrompts, PassShape, Peak, update
from seglens.training.account import pretend as pretend
from seglens.training.config import TrainConfig
from seglens.training.machine import CONTEXT
from seglens.training.planned_models import PlannedModels
from seglens.training.presets import recipe

IMAGES, QUESTIONS = 2, 3
BEFORE, BEHIND = 5, 24  # tokens before the image, and of a question
ANSWER = 7  # LISA's answer is trained too
GB = 1e9


def optimiser(module: nn.Module, fused: bool) -> torch.optim.AdamW:
    """As `fit` has it: on a GPU PyTorch updates all weights together unless the update is fused."""
    config, how = TrainConfig(), {"fused": True} if fused else {"foreach": True}
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, **how)


@dataclass(frozen=True)
class Ready:
    """What is trained, what is in memory beside it, and the loss of a step on a device."""

    trained: nn.Module
    beside: tuple[nn.Module, ...]
    loss: Callable[[str], Tensor]


# ---------------------------------------------------------------- LENS


def lens(size: Size, device: str, live: bool = False) -> Ready:
    """The head. `live`: the layers that are read and SAM stay in memory and read the images first."""
    short = replace(size, layers=size.read + 2)
    with torch.device(device):
        mllm = models.backbone(models.llava(short, torch.bfloat16), size)
        decoder = SamDecoder(models.sam(size))
        head = build_lens(models.head_config(size), mllm, AllPrompts(decoder)).train()
    if not live:
        decoder.module.vision_encoder = None
        return Ready(head, (decoder.module,), partial(lens_loss, head, size))

    def loss(device: str) -> Tensor:
        look(mllm, decoder, size, device)
        return lens_loss(head, size, device)

    return Ready(head, (mllm.module, decoder.module), loss)


@torch.no_grad()
def look(mllm: Backbone, decoder: SamDecoder, size: Size, device: str) -> None:
    """Read the images of a step, as `Backbone.open`, `Backbone.read` and `MaskDecoder.encode` do."""
    side, p, words = models.PATCH * size.cells, BEFORE + size.cells**2, mllm.module.get_input_embeddings()
    for _ in range(IMAGES):
        with torch.device(device):
            rows = mllm.mllm.family.encode(torch.randn(1, 3, side, side, dtype=torch.bfloat16), mllm.tiling).rows
            prefix = torch.cat([words(torch.ones(1, BEFORE, dtype=torch.long)), rows], 1)
            _, memory = mllm.layers_below().prefix(prefix, torch.arange(p)[None])
            questions = words(torch.ones(1, QUESTIONS, BEHIND, dtype=torch.long))
            mask, positions = torch.ones(questions.shape[:-1], dtype=torch.bool), torch.arange(p, p + BEHIND)
            mllm.layers_below().questions(questions, positions.expand(1, QUESTIONS, -1), mask, memory)
            decoder._embed(torch.randn(1, 3, size.canvas, size.canvas))


def lens_loss(head: Lens, size: Size, device: str) -> Tensor:
    cells, side = (size.cells, size.cells), size.canvas // 16
    maps = ((size.prompt_width, side, side),)
    shape = PassShape(IMAGES, QUESTIONS, BEFORE, BEHIND, cells, size.width, 1, maps, size.canvas // 4)
    return account.lens_loss(head, shape, device)


# ---------------------------------------------------------------- LISA


def lora(size: Size, device: str, words: bool = True, checkpointing: bool = False) -> Ready:
    """Of LISA's training."""
    with torch.device(device):
        mllm = models.llava(size, torch.bfloat16)
        decoder = SamDecoder(models.sam(size, torch.bfloat16))
        model = LoraModel(mllm, decoder, words, checkpointing)
    n, s, side = IMAGES * QUESTIONS, size.canvas // 4, models.PATCH * size.cells

    def loss(device: str) -> Tensor:
        with torch.device(device):
            batch = (
                torch.randn(n, 3, side, side, dtype=torch.bfloat16),
                torch.randn(IMAGES, 3, size.canvas, size.canvas, dtype=torch.bfloat16),
                torch.ones(n, BEFORE, dtype=torch.long),
                torch.ones(n, BEHIND + ANSWER, dtype=torch.long),
                torch.rand(IMAGES, QUESTIONS, s, s),
            )
        return model(*batch, slice(-3, -2))

    return Ready(model, (decoder.module,), loss)


# ---------------------------------------------------------------- how it is measured

WAYS: dict[str, Callable[[Size, str], Ready]] = {
    "LENS, features from a cache": lens,
    "LENS, MLLM to the read layer and SAM beside it": partial(lens, live=True),
    "LISA-style LoRA": lora,
    "LISA-style LoRA, gradient checkpointing": partial(lora, checkpointing=True),
    "LoRA without words": partial(lora, words=False),
    "LoRA without words, gradient checkpointing": partial(lora, words=False, checkpointing=True),
}
CHECKED = ("LENS, features from a cache", "LISA-style LoRA")


def accounted(way: str, size: Size, fused: bool = False) -> Peak:
    """Of fake tensors."""
    ready = WAYS[way](size, "meta")
    return account.accounted(
        ready.trained, ready.beside, lambda: ready.loss("cpu"), lambda: optimiser(ready.trained, fused)
    )


def measured(way: str, size: Size, device: str, fused: bool = False) -> Peak:
    """Of a GPU's allocator, or of this process: what is resident now and was at most since the last call."""
    before = 0
    if device == "cpu":
        if size is not models.SIZES["tiny"]:
            measured(way, models.SIZES["tiny"], device, fused)  # code is loaded when it is first used
            gc.collect()
        before = Resident.now()
    ready = WAYS[way](size, device)
    stepper = optimiser(ready.trained, fused)
    update(ready.loss(device), stepper)
    gc.collect()
    if device == "cpu":
        Resident.reset_peak()
        resting = Resident.now()
        update(ready.loss(device), stepper)
        return Peak(resting - before, Resident.peak() - before)
    torch.cuda.reset_peak_memory_stats(device)
    resting = torch.cuda.memory_allocated(device)
    update(ready.loss(device), stepper)
    return Peak(resting, torch.cuda.max_memory_allocated(device))


def in_a_process(way: str, size: str, threads: int) -> Peak:
    """`measured` on this CPU, in a separate process that gives back what it frees."""
    command = [sys.executable, __file__, "--size", size, "--one", way, "--threads", str(threads)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Peak(**json.loads(finished.stdout))


# ---------------------------------------------------------------- whole trainings

CONFIGS = Path(__file__).parents[1] / "tests" / "backbones" / "configs"
# InternLM2.5-7B, the language model of InternVL2.5-8B, in the form of transformers
INTERNLM2 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 92553,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
TUNED = {"SELF1E-8B": ("self1e", "authors-8b", 60), "MLLMSeg-8B": ("mllmseg", "authors", 40)}  # aims in GB


def training(method: str, preset: str, folder: Path) -> PlannedModels:
    """A preset with its MLLM of 7B or 8B."""
    named = recipe(preset, method)
    config = json.loads(
        (CONFIGS / ("llava-1.5-7b-hf.json" if method == "lens" else "InternVL3-8B-hf.json")).read_text()
    )
    if method == "mllmseg":
        config["text_config"] = INTERNLM2
    (folder / "config.json").write_text(json.dumps(config))
    if method == "lens":
        models.sam_config(models.SIZES["7b"]).save_pretrained(folder / "sam")
        named = replace(named, decoder=str(folder / "sam"))
    return PlannedModels(named, draw_blueprint(folder, layer=named.layer), half=True)


def tuned_peaks() -> dict[str, float]:
    """GB on each of several GPUs, in passes of the preset's size."""
    rows = {}
    for name, (method, preset, _) in TUNED.items():
        with TemporaryDirectory() as folder:
            for on in (False, True):
                planned = training(method, preset, Path(folder)).recomputing(on)
                peak = planned.peak(planned.recipe.training.micro or 1, QUESTIONS, fused=True, passes=2, buckets=True)
                rows[f"{name}, {'' if on else 'no '}gradient checkpointing"] = peak.peak / GB
    return rows


def lens_peaks() -> dict[str, float]:
    """GB on one GPU, CUDA's own share included, in passes of the preset's size: from a cache, or with the parts."""
    with TemporaryDirectory() as folder:
        planned = training("lens", "quick", Path(folder))
        micro = planned.recipe.training.micro or 1
        cached = planned.peak(micro, QUESTIONS, fused=True, passes=2).peak + CONTEXT
        live = cached + planned.beside_bytes() + planned.encoder[1]
        return {"LENS-7B from a cache": cached / GB, "LENS-7B live": live / GB}


def trainings(threads: int) -> Report:
    rows = tuned_peaks() | lens_peaks()
    ratios = [
        Ratio(f"GB of {name} with gradient checkpointing", rows[f"{name}, gradient checkpointing"], aim, most=True)
        for name, (_, _, aim) in TUNED.items()
    ]
    gib = 2**30 / GB
    ratios += [
        Ratio("GB of LENS-7B live, on a card of 40 GiB", rows["LENS-7B live"], 40 * gib, most=True),
        Ratio("GB of LENS-7B from a cache, on a card of 24 GiB", rows["LENS-7B from a cache"], 24 * gib, most=True),
    ]
    notes = [
        "an account of tensors, not a measured GPU; passes of the preset's size, 3 questions each; a fused AdamW",
        f"of methods that tune: gradients in DDP's buckets; of LENS: {CONTEXT / GB} GB for CUDA",
    ]
    return Report("peak memory of whole trainings", "7b", "GB", rows, ratios, notes, machine("cpu", threads))


def compare(size: str, device: str, threads: int, check: str | None) -> Report:
    """`check` is the size at which the account is compared with a process; None leaves that out."""
    shapes, cuda, fused = models.SIZES[size], torch.device(device).type == "cuda", "LENS ... and a fused AdamW"

    def find(way: str, fused: bool = False) -> Peak:
        peak = measured(way, shapes, device, fused) if cuda else accounted(way, shapes, fused)
        gc.collect()
        return peak

    peaks = {way: find(way) for way in WAYS} | {fused: find(CHECKED[0], fused=True)}
    rows = {way: peak.peak / GB for way, peak in peaks.items()}
    rows |= {f"between steps: {way}": peak.resting / GB for way, peak in peaks.items()}
    cached, live, whole, spared = (peaks[way].peak for way in list(WAYS)[:4])
    third = 1 / 3
    ratios = [
        Ratio("LENS from a cache as a share of LISA-style LoRA", cached / whole, third, most=True),
        Ratio("... with a fused AdamW", peaks[fused].peak / whole, third, most=True),
        Ratio("LENS from a cache as a share of LoRA with gradient checkpointing", cached / spared, third, most=True),
        Ratio("... with a fused AdamW", peaks[fused].peak / spared, third, most=True),
        Ratio("LENS with the MLLM and SAM beside it as a share of LISA-style LoRA", live / whole, third, most=True),
    ]
    notes = [f"a step: {IMAGES} images, {QUESTIONS} questions each; trained weights fp32, computed in bf16"]
    notes.append("measured: the peak of the GPU's allocator" if cuda else "an account of tensors, not a measured GPU")
    for way in CHECKED if check else ():
        real, account = in_a_process(way, check or size, threads), accounted(way, models.SIZES[check or size])
        notes.append(
            f"checked at size {check}, {way}: accounted {account.peak / GB:.3f} GB, process {real.peak / GB:.3f} GB "
            f"({account.peak / real.peak:.2f} of it)"
        )
    return Report("peak memory of a training step", size, "GB", rows, ratios, notes, machine(device, threads))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", sizes=("7b", "small", "tiny"))
    parser.add_argument("--one", choices=WAYS, help="measure one way in this process and print bytes")
    parser.add_argument("--no-check", action="store_true", help="leave out the comparison with a real process")
    parser.add_argument("--trainings", action="store_true", help="account for whole trainings alone")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    if settings.trainings:
        return trainings(settings.threads).show(settings.json)
    if settings.one:
        print(json.dumps(asdict(measured(settings.one, models.SIZES[settings.size], settings.device))))
        return
    check = None if settings.no_check or settings.device != "cpu" else "small"
    compare(settings.size, settings.device, settings.threads, check).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
