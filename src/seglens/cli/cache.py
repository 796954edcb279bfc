"""`seglens cache build`, `seglens cache check` and `seglens cache estimate`."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.options import AUTO, AsJson, Device
from seglens.cli.output import print_json, print_left_out, print_stderr
from seglens.core.progress import progress

if TYPE_CHECKING:
    from seglens.data import Dataset
    from seglens.features.cache import Manifest
    from seglens.features.cache.writer import Extract
    from seglens.inference.frozen_models import Parts

Data = Annotated[str, typer.Option(help="Data to read, such as world:n=4000,seed=6,split=train,queries=8.")]
MLLM = Annotated[str, typer.Option(help="The MLLM: a folder or hub id, such as llava-hf/llava-1.5-7b-hf.")]
Decoder = Annotated[str, typer.Option(help="The SAM to prompt: a folder or hub id, such as facebook/sam-vit-huge.")]
Layer = Annotated[int | None, typer.Option(help="The layer whose hidden states are read; default the family's own.")]
ImageSize = Annotated[int | None, typer.Option(help="Canvas of an MLLM that takes several sizes (Qwen-VL; tiles).")]
Preset = Annotated[
    str,
    typer.Option(help="Of lens, for the training to come: how pictures are fitted to the canvas, and the system text."),
]
Setting = Annotated[list[str] | None, typer.Option("--set", help="name=value, as in the training to come: lay=squash.")]
DType = Annotated[str, typer.Option(help="auto (the precision of the frozen parts), bf16, fp16, int8.")]
PerShard = Annotated[int | None, typer.Option(help="Images per file, which a process holds in memory; default 64.")]


def cache_estimate(
    data: Data,
    backbone: MLLM,
    decoder: Decoder,
    out: Annotated[Path, typer.Option(help="Where it would be written: for the free space there.")] = Path("."),
    layer: Layer = None,
    image_size: ImageSize = None,
    preset: Preset = "default",
    setting: Setting = None,
    dtype: DType = "auto",
    shard: PerShard = None,
    device: Device = AUTO,
    as_json: AsJson = False,
) -> None:
    """Estimate the size of a cache from a few of its samples. Writes nothing."""
    from seglens.features.cache import estimate

    reading = CacheInputs(data, backbone, decoder, layer, image_size, preset, tuple(setting or ()), device)
    samples, extract, manifest = reading.begin(dtype, shard)
    estimated = estimate(samples, extract, out, manifest)
    if as_json:
        print_json(asdict(estimated))
    else:
        print(estimated)


def cache_build(
    data: Data,
    backbone: MLLM,
    decoder: Decoder,
    out: Annotated[Path, typer.Option(help="Folder for the cache; the same command resumes.")],
    layer: Layer = None,
    image_size: ImageSize = None,
    preset: Preset = "default",
    setting: Setting = None,
    dtype: DType = "auto",
    shard: PerShard = None,
    any_room: Annotated[bool, typer.Option("--any-room", help="Start even if the disk seems too small.")] = False,
    ray: Annotated[int, typer.Option(help="Write with this number of Ray actors instead, on all its machines.")] = 0,
    device: Device = AUTO,
    as_json: AsJson = False,
) -> None:
    """Compute the frozen features of a dataset once. Under torchrun the processes share the work."""
    from seglens.core.devices import usable_device
    from seglens.core.distributed import Ranks
    from seglens.data.dataset import faults_of
    from seglens.features.cache import build, estimate, left_out
    from seglens.features.cache.ray import build_with_ray
    from seglens.features.cache.writer import complete

    ranks = Ranks.here()
    reading = CacheInputs(data, backbone, decoder, layer, image_size, preset, tuple(setting or ()), device)
    samples, extract, manifest = reading.begin(dtype, shard)
    known = list(faults_of(samples))
    if ranks.first:
        estimated = estimate(samples, extract, out, manifest)
        print_stderr(str(estimated))
        if not any_room:
            estimated.refuse(out)
    mine = manifest.samples if ray else sum(len(manifest.indices(one)) for one in ranks.share(manifest.shards))
    with progress("caching", mine, hidden=as_json or not ranks.first) as tick:
        if ray:
            gpus = float(usable_device(device).type == "cuda")
            done = build_with_ray(reading.load, samples, out, manifest, ray, gpus, tick)
        else:
            done = build(samples, extract, out, manifest, ranks, tick)
    reported = set() if ranks.first else set(known)  # the first process reports what all know
    bad = left_out([fault for fault in faults_of(samples) if fault not in reported], done.skipped)
    print_left_out(bad)
    finished = complete(out, manifest)
    if as_json:
        print_json(
            {"cache": str(out), "shards": manifest.shards, "complete": finished, **asdict(done), "left_out": bad}
        )
    else:
        print(
            f"{out}: wrote {len(done.written)} shards, kept {len(done.kept)}; {finished} of {manifest.shards} are there"
        )


def cache_check(
    folder: Annotated[Path, typer.Argument(help="A cache.")],
    data: Annotated[str | None, typer.Option(help="Also compare with this data: pixels, questions, masks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a cache; a line for each fault, and exit code 1 if there is any."""
    from seglens.data import load_data
    from seglens.data.negatives import for_training
    from seglens.features.cache import check, read_manifest

    manifest, faults = read_manifest(folder), []
    for fault in check(folder, None if data is None else for_training(data, load_data(data))[0]):
        faults.append(fault)
        if not as_json:
            print(fault, flush=True)
    if as_json:
        print_json({"cache": str(folder), "shards": manifest.shards, "faults": faults})
    elif not faults:
        print(f"{folder}: {manifest.samples} samples in {manifest.shards} shards, every byte as it was written")
    if faults:
        raise SystemExit(1)


@dataclass(frozen=True)
class CacheInputs:
    """The data and the frozen parts by name: enough for an actor on another machine to begin."""

    data: str
    backbone: str
    decoder: str
    layer: int | None
    image_size: int | None
    preset: str
    settings: tuple[str, ...]
    device: str

    def samples(self) -> tuple[Dataset, str]:
        """The samples of a training, for which a cache is made, and their text."""
        from seglens.data import load_data
        from seglens.data.negatives import for_training

        return for_training(self.data, load_data(self.data))

    def parts(self) -> Parts:
        from seglens.backbones import hide_loading_bars
        from seglens.checkpoints.origin import Origin
        from seglens.inference.frozen_models import Parts
        from seglens.training.presets import adjusted, recipe

        preset = adjusted(recipe(self.preset), self.settings)
        hide_loading_bars()
        parts = Parts.load(
            Origin.of(self.backbone),
            Origin.of(self.decoder),
            layer=self.layer,
            image_size=self.image_size,
            canvas=preset.canvas,
            floors=preset.floors,
            device=self.device,
        )
        return preset.with_system(parts)

    def load(self) -> tuple[Dataset, Extract]:
        return self.samples()[0], self.parts().read

    def begin(self, dtype: str, shard: int | None) -> tuple[Dataset, Extract, Manifest]:
        """Samples, the function that reads one, and the manifest of what it gives."""
        from seglens.features.cache import PER_SHARD, Manifest

        samples, data = self.samples()  # before the parts are loaded: a wrong name is refused at once
        parts = self.parts()
        values = {name: value for name, value in vars(self).items() if name not in ("device", "settings")}
        values |= {"data": data, "dtype": dtype, "shard": shard}
        options = [f"--{k.replace('_', '-')} {shlex.quote(str(v))}" for k, v in values.items() if v is not None]
        options += [f"--set {shlex.quote(setting)}" for setting in self.settings]
        command = " ".join(["seglens cache build", *options])
        manifest = Manifest(parts.key, data, len(samples), samples.trainable, dtype, shard or PER_SHARD, command)
        return samples, parts.read, manifest
