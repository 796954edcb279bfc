"""Shards by two machines of one Ray, of which one is killed, for `test_shards.py`: two_machines.py PICTURES FOLDER.

A separate program, because Ray stays in the process. The machines are Ray's own stand-ins: each has its own processes
and its own store."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from seglens.core.ray_actors import Actors
from seglens.exports import Command
from seglens.exports.shards import ImageList, ShardPlan, ShardRun
from seglens.inference.segmenter import Segmenter

STORE = 100 * 2**20
SOON = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}  # a dead machine is noticed
SECONDS = 120  # that the first actor waits for the second


@dataclass(frozen=True)
class Load:
    """Loads on both machines before either goes on; each leaves a file with its name. The one that is not `first` then
    stays busy until it is killed."""

    folder: Path
    first: str

    def __call__(self) -> Segmenter:
        here = ray.get_runtime_context().get_node_id()
        segmenter = Segmenter.from_pretrained(segmentation_only=True)
        (self.folder / here).touch()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and (here != self.first or len(list(self.folder.iterdir())) < 2):
            time.sleep(0.1)
        return segmenter


def main(pictures: Path, folder: Path) -> None:
    machine = {"num_cpus": 1, "object_store_memory": STORE}
    head = {**machine, "include_dashboard": False, "_system_config": SOON}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    other = cluster.add_node(**machine)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    (folder / "loaded").mkdir()
    images = ImageList.of([str(pictures)])
    queries = ("the largest thing", "the deer")
    plan = ShardPlan("parquet", Command(queries, {"each": None}), images.digest, len(images), 2)
    run = ShardRun(plan, images, folder / "out", Load(folder / "loaded", ray.get_runtime_context().get_node_id()))
    written, killed = 0, False
    for _ in run.outcomes(Actors(2)):
        written += 1
        if not killed:
            cluster.remove_node(other, allow_graceful=False)
            killed = True
    machines = len(list((folder / "loaded").iterdir()))
    again = [one.known for one in run.outcomes(Actors(2))]
    report = {"machines": machines, "killed": killed, "written": written, "again": again}
    (folder / "report.json").write_text(json.dumps(report))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
