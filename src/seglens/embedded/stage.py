"""A stage of the recipe: a fixed number of steps, each a pure function of its number; it resumes exactly."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from seglens.core.files import write_atomic

SAVE_EVERY = 240.0  # seconds
LOG_EVERY = 100  # steps
WEIGHT_DECAY = 0.02


@dataclass(frozen=True)
class Budget:
    """The length and the rate of a stage's training."""

    steps: int
    batch: int
    lr: float
    warmup: int = 150
    hold: float = 0.35  # share of the steps at full rate before the cosine falls
    seed: int = 0

    def rate(self, step: int) -> float:
        done = step / self.steps
        fall = 1.0 if done < self.hold else 0.5 * (1 + math.cos(math.pi * (done - self.hold) / (1 - self.hold)))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (fall + 0.01)


def _is_matrix(name: str, weight: nn.Parameter) -> bool:
    """Whether Muon may orthogonalise it: hidden 2-D weights, not look-up tables, tokens or output heads."""
    return weight.dim() == 2 and not any(word in name for word in ("embed", "lm_head", "token", "readout"))


def _digest(module: nn.Module) -> str:
    """A hash of the weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Stage:
    """Trains the parameters of `modules` that require gradients; `gains` scales the rate by name prefix."""

    def __init__(
        self,
        name: str,
        modules: Mapping[str, nn.Module],
        budget: Budget,
        out: Path,
        gains: Mapping[str, float] | None = None,
    ):
        self.name, self.modules, self.budget, self.out = name, nn.ModuleDict(dict(modules)), budget, out
        out.mkdir(parents=True, exist_ok=True)
        named = [(n, p) for n, p in self.modules.named_parameters() if p.requires_grad]
        self.trained = [p for _, p in named]
        gain = lambda n: next((g for prefix, g in (gains or {}).items() if n.startswith(prefix)), 1.0)  # noqa: E731
        groups = lambda test: [{"params": [p], "gain": gain(n)} for n, p in named if test(n, p)]  # noqa: E731
        matrices, rest = groups(_is_matrix), groups(lambda n, p: not _is_matrix(n, p))
        rate, decay = budget.lr, WEIGHT_DECAY
        adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
        self.optimisers: list[torch.optim.Optimizer] = [adam]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self.optimisers.append(muon)
        self.step, self.start = 0, _digest(self.modules)

    @property
    def checkpoint(self) -> Path:
        return self.out / f"{self.name}.ckpt"

    def resume(self) -> bool:
        """Continue from the last checkpoint, exactly; False when there is none.

        Raises ValueError when it was made with another budget, or started from other weights."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True, map_location=torch.get_default_device())
        if (state["budget"], state["ground"]) != (asdict(self.budget), self.start):
            raise ValueError(
                f"{self.checkpoint} was made with another budget or from other weights; delete it to train again"
            )
        self.modules.load_state_dict(state["modules"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        return True

    def save(self) -> None:
        """Write the checkpoint: the old one stays whole until the new one is."""
        state = {
            "step": self.step,
            "budget": asdict(self.budget),
            "ground": self.start,
            "modules": self.modules.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.checkpoint, buffer.getvalue())

    @property
    def done(self) -> bool:
        return self.step >= self.budget.steps

    def run(
        self,
        terms_of: Callable[[int], Mapping[str, Tensor]],
        evaluate: Callable[[], Mapping[str, float]],
        evaluate_every: int,
    ) -> None:
        """Train to the end. `terms_of(step)` returns the named terms whose sum is the loss."""
        began, first, saved = time.time(), self.step, time.time()
        smooth: dict[str, float] = {}
        while not self.done:
            terms = terms_of(self.step)
            self._update(sum(terms.values()))  # type: ignore[arg-type]
            for key, value in terms.items():
                smooth[key] = 0.97 * smooth.get(key, value.item()) + 0.03 * value.item()
            self.step += 1
            if self.step % evaluate_every == 0 or self.done:
                self._log(smooth, began, first, evaluate())
            elif self.step % LOG_EVERY == 0:
                self._log(smooth, began, first, {})
            if self.done or time.time() - saved > SAVE_EVERY:
                self.save()
                saved = time.time()

    def _update(self, loss: Tensor) -> None:
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.budget.rate(self.step) * group["gain"]
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()

    def _log(self, smooth: Mapping[str, float], began: float, first: int, scores: Mapping[str, float]) -> None:
        spent = time.time() - began
        line = {"stage": self.name, "step": self.step, "of": self.budget.steps, "seconds": round(spent, 1)}
        line["samples_per_second"] = round((self.step - first) * self.budget.batch / spent, 1)
        line |= {k: round(v, 4) for k, v in {**smooth, **scores}.items()}
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(" ".join(f"{k} {v}" for k, v in line.items()), flush=True)


def as_tensor(data: np.ndarray) -> Tensor:
    """Drawn data as a tensor on torch's default device, where the stage computes."""
    return torch.from_numpy(data).to(torch.get_default_device())


def half_precision() -> torch.autocast:
    """bf16 autocast on torch's default device; weights and optimisers stay fp32."""
    return torch.autocast(torch.get_default_device().type, torch.bfloat16)


def scene_numbers(step: int, batch: int) -> Iterable[int]:
    """The scene numbers of a step."""
    return range(step * batch, (step + 1) * batch)
