"""A visitor of the page: real hands on a real browser."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "disable-dev-shm-usage",
    "window-size=1280,1000",
)

FOCUS = """
const one = document.activeElement, ringed = one.matches("label > input[type=radio], label > input[type=checkbox]")
  ? one.parentElement : one, style = getComputedStyle(ringed);
const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
const page = getComputedStyle(document.querySelector("gradio-app")).backgroundColor;
const [low, high] = [light(style.outlineColor), light(page)].sort((a, b) => a - b);
const name = one === document.body ? "" : one.closest("[id]:not([id^=html-])")?.id + " " + one.tagName.toLowerCase();
return { name, ring: style.outlineStyle === "solid" ? parseFloat(style.outlineWidth) : 0,
  contrast: (high + 0.05) / (low + 0.05) };
"""
WHOLE = """
const one = [...document.querySelectorAll(arguments[0])].at(-1);
if (!one) return false;
const { left, right, top, bottom } = one.getBoundingClientRect();
const over = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
return top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth
  && (one.contains(over) || over.contains(one));
"""

T = TypeVar("T")


def chromium() -> webdriver.Chrome:
    """A browser that logs every request it makes."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in OPTIONS:
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(DRIVER)))


class Visitor:
    """One tab with the page."""

    def __init__(self, driver: webdriver.Chrome, address: str):
        self.driver = driver
        driver.switch_to.new_window("tab")
        driver.get(address)
        self.tab = driver.current_window_handle
        self.until(lambda: self.all("#examples button"))

    def come_back(self) -> None:
        """To this tab."""
        self.driver.switch_to.window(self.tab)

    def leave(self) -> None:
        """Close the tab: each holds a connection, and Chromium opens six to one host at most."""
        self.come_back()
        self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.until(lambda: self.all(css))[0]

    def until(self, ready: Callable[[], T], seconds: float = 30) -> T:
        """What `ready` gives once it is something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := ready():
                    return found
            except StaleElementReferenceException:  # drawn anew just now
                pass
            time.sleep(0.03)
        raise AssertionError(f"nothing after {seconds} s; the talk so far: {self.talk()}")

    # ------------------------------------------------------------------------------------------------ what is done

    def show_in(self, theme: str) -> None:
        """Open the page anew, "light" or "dark"."""
        self.driver.get(f"{self.driver.current_url.partition('?')[0]}?__theme={theme}")
        self.until(lambda: self.all("#examples button"))

    def choose(self, number: int) -> None:
        """An example."""
        before = self.source("picture")
        self.all("#examples button")[number].click()
        self.until(lambda: self.source("picture") != before)

    def upload(self, file: Path) -> None:
        self.one("#pictures input[type=file]").send_keys(str(file))

    def say(self, words: str) -> str:
        """Type and press Enter; the reply."""
        return self.after(lambda: self.one("#words textarea, #words input").send_keys(words, Keys.ENTER))

    def after(self, deed: Callable[[], Any]) -> str:
        """The reply to a deed: two lines are added to the talk by it."""
        before = len(self.talk())
        deed()
        self.until(lambda: len(self.talk()) >= before + 2)
        return self.talk()[-1]

    def send(self, words: str) -> None:
        """Type and press Enter, and wait for nothing."""
        self.one("#words textarea, #words input").send_keys(words, Keys.ENTER)
        self.until(lambda: not self.one("#words textarea, #words input").get_attribute("value"))

    def press_keys(self, *keys: str) -> None:
        """All at once, where the keyboard is."""
        chain = ActionChains(self.driver)
        for key in keys:
            chain.key_down(key)
        for key in reversed(keys):
            chain.key_up(key)
        chain.perform()

    def choose_option(self, group: str, value: str) -> None:
        self.one(f"#{group} input[value='{value}'], #{group} input[name='{value}']").click()

    def click(self, x: float, y: float) -> tuple[float, float]:
        """Click near pixel (x, y) of the image; where exactly, in pixels of the image."""
        at, exact = self._aim(x, y)
        self._mouse(at).click().perform()
        return exact

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> tuple[tuple[float, float], ...]:
        """Draw a box; its corners exactly."""
        (first, exact), (last, exact_end) = self._aim(*start), self._aim(*end)
        self._mouse(first).click_and_hold().perform()
        self._mouse(last).release().perform()
        return exact, exact_end

    def _aim(self, x: float, y: float) -> tuple[tuple[int, int], tuple[float, float]]:
        """The pixel of the window that shows pixel (x, y) of the image, and what that is in the image."""
        canvas = self.one("#stage .canvas")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        box = self.driver.execute_script(
            "const b = arguments[0].getBoundingClientRect(); return [b.left, b.top, b.width, b.height,"
            "Number(arguments[0].dataset.width), Number(arguments[0].dataset.height)]",
            canvas,
        )
        left, top, width, height, columns, rows = box
        at = round(left + x / columns * width), round(top + y / rows * height)
        return at, ((at[0] - left) / width * columns, (at[1] - top) / height * rows)

    def _mouse(self, at: tuple[int, int]) -> ActionChains:
        chain = ActionChains(self.driver, duration=20)
        chain.w3c_actions.pointer_action.move_to_location(*at)
        return chain

    # ------------------------------------------------------------------------------------------------ what is seen

    def talk(self) -> list[str]:
        """Every line of the talk, as it reads."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('#chat [data-testid=user], #chat [data-testid=bot]')]"
            ".map(line => line.innerText.trim())"
        )

    def source(self, layer: str) -> str | None:
        """The image of a layer of the stage as a data URI; None where there is none."""
        return self.driver.execute_script(
            "return document.querySelector(arguments[0])?.getAttribute('src') ?? null", f"#stage .{layer}"
        )

    def shown(self, css: str) -> bool:
        return any(one.is_displayed() for one in self.all(css))

    def legend(self) -> dict[str, str]:
        """The words of every query, and what was found."""
        rows = self.driver.execute_script(
            "return [...document.querySelectorAll('#stage .legend > li')].map(row =>"
            "[row.querySelector('.words').innerText, row.querySelector('.result').innerText])"
        )
        return dict(rows)

    def things(self) -> list[str]:
        """What the legend shows of each of several things."""
        return [one.text for one in self.all("#stage .legend li li")]

    def press(self, act: str, words: str = "") -> None:
        """A button of the row of the legend with these words, or of the picture; until the page has answered."""
        row = f"//li[.//button[contains(@class, 'words') and normalize-space() = {json.dumps(words)}]]" if words else ""
        xpath = f"//*[@id='stage']{row}//button[@data-act='{act}']"
        before = self._state()
        self.until(lambda: self.driver.find_elements(By.XPATH, xpath))[0].click()
        self.until(lambda: self._state() != before)

    def _state(self) -> tuple[Any, ...]:
        return self.talk(), self.legend(), self.chosen(), self.source("picture")

    def chosen(self) -> str | None:
        """The words of the query that clicks correct."""
        return next((one.text for one in self.all("#stage .legend .chosen .words")), None)

    def switch(self, words: str) -> None:
        """The box in the legend that shows or hides a mask."""
        self.one(f"#stage input[aria-label='Show the mask of “{words}”']").click()

    def seen_whole(self, css: str) -> bool:
        """Whether the last of these lies on the screen as it is, with nothing over its middle."""
        return self.driver.execute_script(WHOLE, css)

    def resize(self, width: int, height: int) -> None:
        """A screen of that size, in CSS pixels, as a phone has it."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def download(self, name: str, folder: Path) -> Path:
        """Press the link of that name; the file, once it is whole."""
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        self.one(f"a[download='{name}']").click()
        self.until(lambda: (folder / name).exists() and not list(folder.glob("*.crdownload")))
        return folder / name

    def focus(self) -> dict[str, Any]:
        """What has the keyboard: its name, the width of the ring around it in pixels, and the contrast of the ring with
        the page under it, as WCAG counts it."""
        return self.driver.execute_script(FOCUS)

    def requests(self) -> set[str]:
        """Addresses that the browser has requested since the last call."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }


def bytes_of(uri: str) -> bytes:
    """The file inside a data URI."""
    return base64.b64decode(uri.partition("base64,")[2])
