"""The Dockerfiles: read as Docker reads them, and held against the project that they build."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from command import Run
from page_examples import assert_known

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
KNOWN = {"FROM", "ENV", "RUN", "COPY", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


@dataclass(frozen=True)
class Step:
    """An instruction and the text after it."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of the exec form, which is JSON, or as a shell splits them."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


def stages(path: Path) -> list[list[Step]]:
    """The instructions of each stage; a backslash at the end of a line joins it to the next."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    steps = [Step(*line.split(None, 1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]
    grouped: list[list[Step]] = []
    for step in steps:
        if step.name == "FROM":
            grouped.append([])
        grouped[-1].append(step)
    return grouped


def of(stage: list[Step], name: str) -> list[Step]:
    return [step for step in stage if step.name == name]


def installs(stage: list[Step]) -> list[Step]:
    return [step for step in of(stage, "RUN") if "pip install" in step.text]


def test_there_is_one_for_cpus_and_one_for_gpus() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]
    cpu, cuda = (installs(stages(path)[-1])[0].words for path in FILES)
    assert "https://download.pytorch.org/whl/cpu" in cpu
    assert not [word for word in cuda if "whl/cpu" in word]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_instructions_are_those_of_docker(path: Path) -> None:
    for stage in stages(path):
        assert {step.name for step in stage} <= KNOWN
        assert stage[0].text.split()[0] == f"python:{sys.version_info[0]}.{_tested_python()}-slim"
    names = {step.text.split()[2] for step in (stage[0] for stage in stages(path)) if " AS " in step.text}
    copied = [word for stage in stages(path) for step in of(stage, "COPY") for word in step.words]
    sources = {word.removeprefix("--from=") for word in copied if word.startswith("--from=")}
    assert sources == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_sent(path: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        word
        for stage in stages(path)
        for step in of(stage, "COPY")
        if not step.text.startswith("--from")
        for word in step.words[:-1]
    ]
    assert {*copied} == {*allowed}
    assert all((ROOT / word).exists() for word in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "src", "constraints.txt"} <= {*copied}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_tested_versions_are_installed_with_extras_that_exist(path: Path) -> None:
    (step,) = installs(stages(path)[-1])
    at = step.words.index("--constraint")
    assert step.words[at + 1] == "/tmp/constraints.txt"
    extras = re.search(r"\.whl\)\[([\w,]+)\]$", step.words[-1])
    assert extras is not None
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"serve", "page"} <= {*extras[1].split(",")} <= {*known}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_image_does_not_run_as_root_and_the_command_exists(path: Path, seglens: Run) -> None:
    last = stages(path)[-1]
    users = [n for n, step in enumerate(last) if step.name == "USER"]
    doctor = next(n for n, step in enumerate(last) if step.text == "seglens doctor")
    assert users
    assert last[users[-1]].text != "root"
    assert users[-1] < doctor
    (entry,), (command,) = of(last, "ENTRYPOINT"), of(last, "CMD")
    assert_known(shlex.join([*entry.words, *command.words]), seglens)
    (port,) = of(last, "EXPOSE")
    (health,) = of(last, "HEALTHCHECK")
    code = json.loads(health.text[health.text.index("[") :])[-1]
    assert f"127.0.0.1:{port.text}/healthz" in code
    compile(code, "the health check", "exec")


def test_the_page_on_installing_names_what_exists() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"docker/[\w.]+", page)) == {f"docker/{path.name}" for path in FILES}
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == set(known) - {"dev", "docs"}


def _tested_python() -> int:
    """The minor version that the classifiers and the tools take for the lowest, with which the tests run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    match = re.fullmatch(r">=3\.(\d+)", project["requires-python"])
    assert match is not None
    return int(match[1])
