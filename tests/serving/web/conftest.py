"""One page and one browser for all tests of the folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver

from serving.web.visitor import CHROMIUM, DRIVER, Visitor, chromium


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """`seglens page` on loopback, with the embedded model. A separate process: gradio leaves event loops open, and
    warnings are errors here."""
    command = [sys.executable, "-m", "seglens", "page", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        line = page.stdout.readline()
        try:
            yield line.removeprefix("SegLens is at ").strip()
            page.send_signal(signal.SIGINT)
            assert page.wait(60) == 130
            assert page.stderr is not None
            assert "Traceback" not in page.stderr.read()
        finally:
            page.kill()


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"needs {CHROMIUM} and {DRIVER}; on Debian: apt-get install chromium chromium-driver")
    driver = chromium()
    yield driver
    driver.quit()


@pytest.fixture
def visit(driver: webdriver.Chrome, address: str) -> Iterator[Callable[[], Visitor]]:
    """Opens the page, for as many visitors as you like."""
    visitors = list[Visitor]()

    def arrive() -> Visitor:
        visitors.append(Visitor(driver, address))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        visitor.leave()


@pytest.fixture
def visitor(visit: Callable[[], Visitor]) -> Visitor:
    """Someone who has just opened the page."""
    return visit()
