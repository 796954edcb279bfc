"""The same shards, written by actors of Ray Data on as many machines as it has. Needs `pip install 'seglens[ray]'`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seglens.core.locks import LOCK, held
from seglens.core.ray_actors import Actors, import_ray, rows_of_actors
from seglens.features.cache.fingerprint import CacheError
from seglens.features.cache.manifest import Manifest
from seglens.features.cache.writer import Built, Extract, Samples, begin, intact, write

Load = Callable[[], tuple[Samples, Extract]]


class ShardActor:
    """An actor: loads the frozen parts once, then writes shard after shard to the shared folder."""

    def __init__(self, load: Load, folder: Path, manifest: Manifest):
        self.samples, self.extract = load()
        self.folder, self.manifest = folder, manifest

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Rows of shard and fault: an error comes back as text, because an exception would be retried and wrapped."""
        return {"shard": batch["shard"], "fault": [self._write(shard) for shard in batch["shard"].tolist()]}

    def _write(self, shard: int) -> str:
        try:
            if intact(self.folder, self.manifest, shard) is None:  # a lost actor may have written it
                write(self.samples, self.extract, self.folder, self.manifest, shard)
        except CacheError as error:
            return str(error)
        return ""


def build_with_ray(
    load: Load,
    samples: Samples,
    folder: Path,
    manifest: Manifest,
    actors: int,
    gpus: float = 0.0,
    tick: Callable[[int], None] = lambda images: None,
) -> Built:
    """As `build`, with `actors` writers of `gpus` each. `load` runs in every actor (it is pickled); `folder` must be
    one that all machines share. An actor that is lost is replaced, and its shard written again.

    Raises ImportError when Ray is not installed, and what `build` raises."""
    import_ray()
    folder = folder.absolute()  # an actor's working folder is another
    manifest = begin(samples, folder, manifest)
    shards = range(manifest.shards)
    kept = tuple(shard for shard in shards if intact(folder, manifest, shard) is not None)
    todo = [shard for shard in shards if shard not in set(kept)]
    tick(sum(len(manifest.indices(shard)) for shard in kept))
    if todo:
        with held(folder / LOCK):  # by this process, for all of its actors
            for row in rows_of_actors(ShardActor, (load, folder, manifest), todo, Actors(actors, gpus)):
                if row["fault"]:
                    raise CacheError(row["fault"])
                tick(len(manifest.indices(row["shard"])))
    skipped = [one for shard in shards for one in intact(folder, manifest, shard) or ()]
    return Built(tuple(todo), kept, tuple(skipped))
