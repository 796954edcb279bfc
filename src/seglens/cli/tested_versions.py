"""Which of the installed packages have the versions that SegLens was tested with, and how to install those."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TESTED = Path(__file__).parents[1] / "constraints.txt"  # a copy of the project's own, which pip takes with -c


@dataclass(frozen=True)
class Package:
    """An installed package of those that the tests ran with."""

    name: str
    installed: str
    tested: str

    @property
    def moved(self) -> bool:
        """Builds of one version ("+cpu", "+cu130") are that version."""
        return self.installed.partition("+")[0] != self.tested

    def __str__(self) -> str:
        return f"{self.name} {self.installed}" + (f" (tested: {self.tested})" if self.moved else "")


def installed_packages(tested: Path | None = None) -> list[Package]:
    """Of the packages in a file of `name==version` lines, by default `TESTED`, those that are installed here."""
    lines = (line.partition("#")[0].strip() for line in (tested or TESTED).read_text(encoding="utf-8").splitlines())
    packages = []
    for name, _, wanted in (line.partition("==") for line in lines if line):
        try:
            packages.append(Package(name, version(name), wanted))
        except PackageNotFoundError:
            continue
    return packages


def moved_packages() -> list[Package]:
    """The installed packages of another version than the tested one."""
    return [package for package in installed_packages() if package.moved]


def remedy() -> str:
    """What to install when SegLens does not work as it should."""
    if moved := moved_packages():
        return (
            f"the tests ran with other versions of {', '.join(package.name for package in moved)}; to install those: "
            f'python -m pip install -c "{TESTED}" seglens'
        )
    return "every version is the tested one, so a file of SegLens may be damaged: install SegLens again"
