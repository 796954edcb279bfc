"""Training a method, on frozen features or through its own adapter: the loop is one page, and the same on one device
or on many.

A step is a number of images, whatever the number of devices and however few of them fit on one at a time: losses are
averaged over all masks of the step, and every random number is a function of the seed, the step and the part of it. So
a run that is killed, or goes on with other devices, uses the same data and draws the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from seglens.checkpoints.config import INIT, HeadConfig
from seglens.core.available_memory import TRAINING, check_room
from seglens.core.distributed import Ranks
from seglens.core.locks import LOCK, held
from seglens.core.progress import progress
from seglens.features.examples import Example, ExampleSource, batches
from seglens.methods import method_settings, name_of
from seglens.methods.base import Method
from seglens.methods.groups import groups
from seglens.training.checkpoint import RunError, RunState
from seglens.training.config import TrainConfig
from seglens.training.example_stream import ExampleStream
from seglens.training.launch import accelerator_for, arrange, begin_curves, halting, need_extras, precise
from seglens.training.run_folder import LAST, RunFolder, claim
from seglens.training.step_terms import added, infinite_message, infinite_parts, smoothed, summed, totals
from seglens.training.validation import validate


class Terminated(SystemExit):
    """The run got the signal to end (SIGTERM) and has written a checkpoint: the same command goes on after `step`."""

    def __init__(self, step: int):
        super().__init__(128 + 15)
        self.step = step


def fit(
    method: Method,
    stream: ExampleStream,
    config: TrainConfig,
    head: HeadConfig,
    out: Path,
    validation: ExampleSource | None = None,
    quiet: bool = False,
    saved: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train `method` in place, on its device. Checkpoints, curves and heads go to `out`: `head` is that of the last
    step, `best` the one with the best score on `validation`. `saved` is called after each checkpoint. Returns the last
    smoothed terms. Runs under `torchrun` or `accelerate launch` on any number of devices; the same command resumes.
    Under FSDP and DeepSpeed `method` is in shards from then on: load the head from `out`.

    Raises ValueError when `out` holds a run with other settings or data, another process is training there, the step
    cannot be cut evenly, or a loss is no longer a number; Terminated on SIGTERM, after a checkpoint."""
    need_extras(config.trackers)
    with held(out / LOCK) if Ranks.here().first else nullcontext():
        return _fit(method, stream, config, head, out, validation, quiet, saved)


def _as_now(method: str, written: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run by an older version: those that it did not have are their defaults, as in a head's config.

    Raises ValueError on a setting that is none of the method's now."""
    training = {**TrainConfig().deciding(), **written["training"]}
    return {**written, "training": training, "method": asdict(method_settings(method, written["method"]))}


def _fit(
    method: Method,
    stream: ExampleStream,
    config: TrainConfig,
    head: HeadConfig,
    out: Path,
    validation: ExampleSource | None,
    quiet: bool,
    saved: Callable[[], None],
) -> dict[str, float]:
    accelerator = accelerator_for(next(method.parameters()).device, config.trackers, out)
    passes, micro = config.passes(accelerator.num_processes)
    arrange(accelerator, passes, micro, config.clip)
    settings = {
        "training": config.deciding(),
        "method": asdict(method.config),
        "data": stream.fingerprint(),
        INIT: (head.trained or {}).get(INIT),
    }
    if accelerator.is_main_process:
        claim(out, settings, partial(_as_now, name_of(method.config)))
    parameters = groups(method, config.lr, config.language_lr, config.weight_decay, config.decay)
    trained = [{"params": list(group.parameters), "weight_decay": group.weight_decay} for group in parameters]
    # on a GPU the default holds copies of all gradients and states while it steps: a fifth of the peak memory
    fused = {"fused": True} if accelerator.device.type == "cuda" else {}
    _check_room(method)
    optimiser = torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, **fused)
    model, optimiser = accelerator.prepare(method, optimiser)
    begin_curves(accelerator, settings)
    folder = RunFolder(out, head, config.keep)
    state = folder.resume(accelerator, model, optimiser)
    mine = [a * accelerator.num_processes + accelerator.process_index for a in range(passes)]

    def numbers(step: int, part: int) -> range:
        """The examples of a part of a step."""
        return range(step * config.images + part * micro, step * config.images + (part + 1) * micro)

    steps = range(state.step, config.steps)
    coming = stream.examples(number for step in steps for part in mine for number in numbers(step, part))

    def read(_: int) -> list[list[Example]]:
        """This device's parts of the next step."""
        return [list(islice(coming, micro)) for _ in mine]

    hidden = quiet or not accelerator.is_main_process
    if state.step and not hidden:
        Console(stderr=True).print(f"resuming from step {state.step}", highlight=False)
    with progress("training", config.steps, state.step, hidden) as advance, halting() as halt:
        for parts in _ahead(read, state.step, config.steps):
            model.train()
            step = state.step
            for group, named in zip(optimiser.param_groups, parameters, strict=True):
                group["lr"] = named.lr * config.rate(step)
            counts, losses_of_parts = totals(accelerator, parts), []
            for part, examples in zip(mine, parts, strict=True):
                random, losses_of_batches = _seeded(config.seed, step, part), []
                with accelerator.accumulate(model):
                    for batch in batches(examples, accelerator.device):
                        inputs = method.random_inputs(batch.truth.valid.shape, random)
                        inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
                        with precise(accelerator.device, config.mixed_precision):
                            output = model(batch.inputs, batch.embedding, **inputs)
                        losses_of_batches.append(method.losses(output, batch.truth, counts))
                    losses = added(losses_of_batches)
                    # accelerate averages over passes and devices; the totals have done that already
                    accelerator.backward(passes * accelerator.num_processes * sum(losses.values()))
                    if accelerator.sync_gradients and config.clip is not None:
                        accelerator.clip_grad_norm_(model.parameters(), config.clip)
                    optimiser.step()
                    optimiser.zero_grad()
                losses_of_parts.append({name: value.detach() for name, value in losses.items()})
            terms, ending = summed(accelerator, losses_of_parts, halt())
            if not all(map(math.isfinite, terms.values())):
                bad = infinite_parts(accelerator, mine, losses_of_parts)
                names = [stream.name(n) for part in bad for n in numbers(step, part)]
                raise RunError(infinite_message(step + 1, terms, names))
            state = RunState(step + 1, smoothed(state.smooth, terms))
            step = state.step
            if step % config.log_every == 0:
                accelerator.log({**state.smooth, "lr": config.lr * config.rate(step - 1)}, step=step)
            if validation is not None and (step % config.validate_every == 0 or step == config.steps):
                with precise(accelerator.device, config.mixed_precision):
                    scores = validate(accelerator, model, validation, micro)
                accelerator.log({f"validation/{name}": value for name, value in scores.items()}, step=step)
                folder.keep_if_best(accelerator, model, scores, step)
            if step % config.save_every == 0 or step == config.steps or ending:
                folder.save(accelerator, model, optimiser, state)
                saved()
            advance(1, state.smooth)
            if ending and step < config.steps:
                accelerator.end_training()
                raise Terminated(step)
    folder.export(accelerator, model, LAST)
    accelerator.end_training()
    method.eval()
    return state.smooth


def _check_room(method: Method) -> None:
    """Raises MemoryError before a backward pass that could not report it: native code ends the process there."""
    own = sum(one.numel() * one.element_size() for one in method.parameters() if one.requires_grad)
    on_cpu = next(method.parameters()).device.type == "cpu"
    check_room(3 * own if on_cpu else 0, "gradients and states of the training", spare=TRAINING)


def _seeded(seed: int, step: int, part: int) -> torch.Generator:
    """The randomness of one part of a step, for dropout (the global generator) and for what is returned."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + part)
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + part)


def _ahead(read: Callable[[int], Any], first: int, end: int) -> Iterator[Any]:
    """The results of `read(first)` to `read(end - 1)`, each begun while the one before is being used."""
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(read, first)] if first < end else []
        for step in range(first, end):
            result = coming.pop().result()
            if step + 1 < end:
                coming.append(reader.submit(read, step + 1))
            yield result
