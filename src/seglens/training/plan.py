"""What a training will need, before anything is downloaded or long begins: steps, hours, memory, disk and readers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seglens.checkpoints.hub import hub_folder
from seglens.core.available_memory import free_memory
from seglens.features.cache.estimate import free_space
from seglens.features.cache.whole_files import size
from seglens.training.machine import CONTEXT, Machine
from seglens.training.planned_data import PlannedData
from seglens.training.planned_models import PlannedModels
from seglens.training.planned_tuned import ANSWER

PROCESS = 3e9  # bytes of host memory of Python with PyTorch and CUDA: an assumption
PROCESS_CPU = 1e9
AHEAD = 3  # steps whose features are in memory: the one that trains, the one that is read, the one that waits
WEIGHT = 4  # bytes of a trained weight; the gradient and the two moments have as many each


@dataclass(frozen=True)
class Need:
    """Something that is needed, of what there is; `change` is what to do where it does not fit."""

    what: str
    needed: float
    available: float
    change: str

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    def __str__(self) -> str:
        text = f"{self.what}: {size(self.needed)} of {size(self.available)} free"
        return text if self.fits else f"{text}: DOES NOT FIT; {self.change}"


@dataclass(frozen=True)
class Plan:
    """Bytes and hours of a training on `devices` of a machine. `cache_bytes` are by dataset, for the whole of each,
    whether it will be cached or not; `hours` is None where the speed of the machine is not known."""

    models: PlannedModels
    data: PlannedData
    machine: Machine
    devices: int
    out: Path

    # ---------------------------------------------------------------- sizes

    @property
    def caches(self) -> bool:
        return any(one.cached for one in self.data.datasets)

    @property
    def live(self) -> bool:
        return any(not one.cached for one in self.data.datasets)

    def cache_bytes(self) -> dict[str, int]:
        if not self.models.lens:
            return {}
        image, question = self.models.image_bytes(), self.models.question_bytes()
        return {one.name: round(one.images * (image + one.questions * question)) for one in self.data.datasets}

    def passes(self) -> tuple[int, int]:
        return self.models.recipe.training.passes(self.devices)

    def device_bytes(self, micro: int | None = None, live: bool | None = None, recompute: bool | None = None) -> float:
        """At most on one device: while features are cached, or in a step, whichever is more."""
        key = micro, live, recompute
        if key not in self._device_bytes:
            self._device_bytes[key] = self._peak(*key)
        return self._device_bytes[key]

    @cached_property
    def _device_bytes(self) -> dict[tuple[int | None, bool | None, bool | None], float]:
        return {}

    def _peak(self, micro: int | None, live: bool | None, recompute: bool | None) -> float:
        passes, own = self.passes()
        if micro is not None:
            passes, own = passes * own // micro, micro
        models = self.models if recompute is None else self.models.recomputing(recompute)
        step = models.peak(own, self.data.most, self.machine.cuda, passes, buckets=self.devices > 1).peak
        reading = models.beside_bytes() + models.encoder[1]
        if self.live if live is None else live:
            return step + reading  # the next step is read while one trains
        return max(step, reading + WEIGHT * models.trained)

    def run_bytes(self) -> int:
        """Of the run's folder: checkpoints with moments, one being written among them, and two heads."""
        keep = self.models.recipe.training.keep
        return (3 * (keep + 1) + 2) * WEIGHT * self.models.trained

    def disk_bytes(self) -> int:
        cached = self.cache_bytes()
        return self.run_bytes() + sum(cached[one.name] for one in self.data.datasets if one.cached)

    def host_bytes(self) -> float:
        training = self.models.recipe.training
        example = self.models.example_bytes(self.data.most)
        process = PROCESS if self.machine.cuda else PROCESS_CPU
        return self.devices * (process + AHEAD * training.images / self.devices * example)

    # ---------------------------------------------------------------- time

    @cached_property
    def encode_seconds(self) -> float | None:
        """Of the frozen parts for an image with its questions: those of a method that tunes are SAM's encoder alone."""
        if not self.machine.single:
            return None
        sam, models = self.models.encoder[2] / self.machine.single, self.models
        if not models.lens:
            return sam
        return (models.reading_flops() + self.data.questions * models.question_flops()) / self.machine.half + sam

    @cached_property
    def step_seconds(self) -> float | None:
        """Without the time to read data."""
        encode = self.encode_seconds
        if encode is None:
            return None
        training = self.models.recipe.training
        head = self.models.step_flops(max(1, round(self.data.questions))) / self.machine.half
        share = self.data.live_draws / (training.steps * training.images)
        return training.images / self.devices * (head + share * encode)

    def hours(self) -> dict[str, float] | None:
        """Of caching and of training."""
        encode, step = self.encode_seconds, self.step_seconds
        if encode is None or step is None:
            return None
        cached = sum(one.images for one in self.data.datasets if one.cached)
        steps = self.models.recipe.training.steps
        return {"caching": cached * encode / self.devices / 3600, "training": steps * step / 3600}

    def readers(self) -> int | None:
        """Cores that must decode live images on each machine, so that its devices never wait."""
        step, read = self.step_seconds, self.data.read_seconds
        if step is None or read is None:
            return None
        images = self.data.live_draws / self.models.recipe.training.steps
        return math.ceil(images * read / step) if images else 0

    # ---------------------------------------------------------------- what fits

    @cached_property
    def needs(self) -> list[Need]:
        device, host = self.device_bytes(), self.host_bytes()
        free, machine = float(free_memory() or 0), self.machine
        disks = [Need("disk", float(self.disk_bytes()), float(free_space(self.out)), self._less_disk())]
        if fetched := float(sum(self.models.downloads().values())):
            change = "set HF_HOME to a folder on another disk"
            disks.append(Need("disk for downloads", fetched, float(free_space(hub_folder())), change))
        total, available = (device, machine.memory) if machine.cuda else (host + self.devices * device, free)
        change = "" if total <= available else self._less_memory()
        if not machine.cuda:
            return [Need("memory", total, available, change), *disks]
        memory = Need(f"GPU memory ({machine.name})", total, available, change)
        return [memory, Need("host memory", host, free, "take fewer images per step (--set images=)"), *disks]

    @property
    def fits(self) -> bool:
        return all(need.fits for need in self.needs)

    def _less_memory(self) -> str:
        """The first change that is enough."""
        available = self.machine.memory
        _, own = self.passes()
        if not self.models.lens and not self.models.recomputes and self.device_bytes(recompute=True) <= available:
            return "use gradient checkpointing: --set recompute=true"
        if own > 1 and self.device_bytes(micro=1) <= available:
            return "take fewer images per pass: --set micro=1"
        if not self.models.lens:
            return "take a smaller MLLM, or train less of it (--set vocabulary=false, a smaller rank)"
        if self.live and self.device_bytes(micro=1, live=False) <= available:
            return "train from a cache (--cache FOLDER, without --live), with --set micro=1"
        return "take a smaller MLLM or a smaller SAM"

    def _less_disk(self) -> str:
        if not self.caches:
            return "give another disk with --out, or keep fewer checkpoints (--set keep=1)"
        smaller = "store with `seglens cache build --dtype int8` (about half), take a part of the data (limit=N), "
        return f"{smaller}cache only what is drawn often (--cache-datasets), or read live (--live)"

    # ---------------------------------------------------------------- for a person, and for a program

    def assumed(self) -> list[str]:
        before, words = self.models.tokens
        yes = [
            f"{before} tokens before the image and {words} of a question; their number needs the tokenizer",
            f"speed: {self.machine.source}",
            "memory is counted on tensors without data: no fragments, no workspaces of a GPU"
            + (f"; {CONTEXT / 1e9} GB are left for these and for CUDA" if self.machine.cuda else ""),
            "operations of attention between tokens of the MLLM are not counted; hours leave out loading, saving and "
            "validation, and waiting for data",
        ]
        if not self.models.lens:
            yes.append(f"{ANSWER} tokens of an answer beside its segmentation tokens")
        if self.devices > 1:
            yes.append("gradients lie in the buckets that DDP exchanges, and stay there between steps")
        return yes + list(self.data.assumed)

    def to_dict(self) -> dict[str, Any]:
        training, hours, cached = self.models.recipe.training, self.hours(), self.cache_bytes()
        return {
            "steps": training.steps,
            "images": training.images,
            "passes": list(self.passes()),
            "devices": self.devices,
            "machine": self.machine.name,
            "trained_parameters": self.models.trained,
            "gradient_checkpointing": None if self.models.lens else self.models.recomputes,
            "datasets": [
                {
                    "name": one.name,
                    "images": one.images,
                    "draws": round(one.draws, 1),
                    "draws_per_image": round(one.per_image, 3),
                    "cache_bytes": cached.get(one.name),
                    "cached": one.cached,
                }
                for one in self.data.datasets
            ],
            "hours": hours,
            "seconds_per_step": self.step_seconds,
            "readers": self.readers(),
            "needs": [
                {"what": n.what, "needed": round(n.needed), "available": round(n.available), "fits": n.fits}
                | ({} if n.fits else {"change": n.change})
                for n in self.needs
            ],
            "downloads": self.models.downloads(),
            "assumed": self.assumed(),
            "fits": self.fits,
        }

    def lines(self) -> Iterator[str]:
        training, hours, cached = self.models.recipe.training, self.hours(), self.cache_bytes()
        passes, micro = self.passes()
        yield (
            f"{training.steps} steps of {training.images} images, on {self.devices} x {self.machine.name} in {passes} "
            f"{'pass' if passes == 1 else 'passes'} of {micro}"
        )
        for one in self.data.datasets:
            cost = f", {size(cached[one.name])} to cache" if cached else ""
            how = "from a cache" if one.cached else "live"
            yield f"  {one.name}: {one.images} images, each drawn {one.per_image:.2f} times{cost}: {how}"
        if hours is not None:
            yield f"hours: {hours['training']:.2f}" + (f", and {hours['caching']:.2f} to cache" if self.caches else "")
        else:
            yield "hours: not known; measure this machine, or name a GPU with --gpu"
        if (readers := self.readers()) is not None:
            yield f"readers: {readers} cores to decode images ({1000 * (self.data.read_seconds or 0):.0f} ms each)"
        if not self.models.lens:
            on = self.models.recomputes
            other = size(self.device_bytes(recompute=not on))
            yield f"gradient checkpointing: {'on' if on else 'off'} (recompute={not on} would need {other} on a device)"
        yield from map(str, self.needs)
        for name, bytes_ in self.models.downloads().items():
            yield f"to download: {name}, about {size(bytes_)}"
        yield "assumed:"
        yield from (f"  {one}" for one in self.assumed())
