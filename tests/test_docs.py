"""Every page for users is followed as it is written, and the site is built of them without a warning."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Run
from page_examples import Reader, blocks
from printed import assert_shown
from seglens.inference.segmenter import Segmenter

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))
# Written for people who change the package: their commands take hours, and stand there with their results
RECORDS = {"ablations.md", "benchmarks.md", "design.md", "fidelity.md", "log.md", "methods.md"}
FOR_CONTRIBUTORS = ["CONTRIBUTING.md", "docs/design.md", "docs/fidelity.md"]
RUN = {"python", "bash", "text"}
# their trainings, servers and exports take 5 to 21 s each
LONG = {"add-masks.md", "compare.md", "first-hour.md", "own-data.md", "photographs.md", "results.md", "serve.md"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in PAGES if name not in RECORDS],
)
def test_a_page_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seglens: Run) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    for block in blocks(page):
        assert block.title or block.language in RUN, f"nobody runs {block.text!r}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # no help text cuts an option
    with ExitStack() as servers:
        Reader(seglens, servers).follow(page)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. --strict: a broken link, an unknown name in the reference or a page in no menu ends the build."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    # the notice of the theme about its own future is no fault of a page
    done = subprocess.run(
        build, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_built_without_a_warning(site: Path) -> None:
    built = {path.parent.name or "index" for path in site.rglob("index.html")}
    assert {name.removesuffix(".md") for name in PAGES if name != "index.md"} <= built
    assert {"contributing", "changelog"} <= built


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture of another server: it reads the same without a network."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"' >]+", text), page
        links = re.findall(r"<link\b[^>]*>", text)
        assert not [x for x in links if "//" in x and not re.search(r"rel=[\"']?(canonical|edit)", x)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_pictures_are_small() -> None:
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size < 200_000, picture


def test_the_reader_notices() -> None:
    """What a page shows and what is printed: a wrong word, number or line is an error."""
    assert_shown("found 3022 pixels in ...\n...\nend", "found  3023 pixels in 12 ms\none\ntwo\nend\n")
    for block in ("found 9 pixels", "lost 3022 pixels", "found 3022 pixels\nmore"):
        with pytest.raises(AssertionError, match="the page shows"):
            assert_shown(block, "found 3022 pixels\n")
    with pytest.raises(AssertionError, match="leaves out"):
        assert_shown("one", "one\ntwo\n")


def test_pictures_are_what_the_model_does(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Drawn again, they are those of the page, but for what rounding moves."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    files = list(importlib.import_module("pictures").draw_all(segmenter, tmp_path))
    names = re.findall(r"\(images/(\w+\.png)\)", (DOCS / "how-lens-works.md").read_text(encoding="utf-8"))
    assert [path.name for path in files] == names
    for path in files:
        now, then = (np.asarray(Image.open(one).convert("RGB"), float) for one in (path, DOCS / "images" / path.name))
        assert now.shape == then.shape
        assert np.abs(now - then).mean() < 4, path.name  # of 255


def texts_of_the_code() -> list[str]:
    """Every text of the package, with three dots where something is filled in."""
    texts = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(v.value) if isinstance(v, ast.Constant) else "..." for v in node.values)
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_sentences_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    sentences = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(sentences) > 20
    texts = texts_of_the_code()
    for sentence in sentences:
        parts = [part.strip() for part in sentence.split("...") if part.strip(" ;,:")]
        assert any(all(part in one for part in parts) for one in texts), f"no text is {sentence!r}"


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS)
def test_files_and_names_on_a_page_for_contributors_exist(page: str) -> None:
    code = [path for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in code) + (ROOT / "pyproject.toml").read_text()
    words = set(re.findall(r"\w+", text))
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = {span for span in re.findall(r"`([^`\n]+)`", prose) if re.fullmatch(r"[\w./-]+", span)}
    paths = {span for span in spans if "/" in span or re.search(r"\.(py|md|toml|txt|jsonl|yaml)$", span)}
    places = [ROOT, ROOT / "src" / "seglens", *sorted((ROOT / "src" / "seglens").iterdir())]
    assert {path for path in paths if not any((place / path).exists() for place in places)} == set()
    names = {word for span in spans - paths for word in re.findall(r"[A-Za-z_]\w+", span)}
    assert len(names) > 10
    assert names - words == set()
