"""Ray Data writes the same bytes as one process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import Pictures, extract, files, manifest_for

from seglens.features.cache import build
from seglens.features.cache.ray import build_with_ray

SAMPLES = Pictures(40)
HERE = Path(__file__).parent


@pytest.mark.slow  # Ray and its actors take ten seconds to start, more on a busy machine
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'seglens[ray]'")
def test_the_same_bytes_although_an_actor_dies(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    command = [sys.executable, HERE / "with_ray.py", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    shards = tuple(range(14))
    assert (tmp_path / "report").read_text().splitlines() == [
        f"Built(written={shards}, kept=(), skipped=()) 40",
        f"Built(written=(), kept={shards}, skipped=())",
        "sample 3 of pictures:n=10 cannot be read: data/3.jpg is cut short; mend it, or where the data can, leave it "
        "out with bad=skip",
    ]
    assert (tmp_path / "grave").exists()  # it did die
    build(SAMPLES, extract, tmp_path / "alone", manifest_for(SAMPLES))
    assert files(tmp_path / "cache") == files(tmp_path / "alone")


def test_without_ray_the_error_names_the_command_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[ray\]'"):
        build_with_ray(lambda: (SAMPLES, extract), SAMPLES, tmp_path, manifest_for(SAMPLES), actors=2)
    assert files(tmp_path) == {}
