"""The page as a visitor meets it: the embedded model on loopback, in headless Chromium."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from seglens.core.png_files import png_bytes
from seglens.core.schema import Box, Click
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.web.examples import EXAMPLES
from seglens.serving.web.layers import colour_of
from seglens.serving.web.page_limits import PageLimits
from serving.web.visitor import Visitor, bytes_of
from shared import shared

# pycocotools gives NumPy 2 arrays in a way that NumPy 1 knew.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")]

CAT, SNOWMEN = 0, 1  # examples


@pytest.fixture(scope="session")
def cats(segmenter: Segmenter) -> OpenedImage:
    return segmenter.open(EXAMPLES[CAT].image)


def mask_of(visitor: Visitor, folder: Path) -> np.ndarray:
    """The mask that the page hands out."""
    return np.array(Image.open(visitor.download("mask.png", folder))) > 0


def colours(visitor: Visitor) -> set[tuple[int, ...]]:
    """Colours of the outlines that lie over the picture."""
    layer = np.array(Image.open(io.BytesIO(bytes_of(visitor.source("mask") or ""))))
    return set(map(tuple, layer[layer[..., 3] == 255][:, :3].tolist()))


def test_upload_ask_segment_and_download(
    visitor: Visitor, segmenter: Segmenter, cats: OpenedImage, tmp_path: Path
) -> None:
    file = tmp_path / "a picture of mine.png"
    file.write_bytes(png_bytes(Image.fromarray(cats.image)))
    visitor.upload(file)
    visitor.until(lambda: visitor.source("picture"))

    question = "what colour is the cup?"
    assert visitor.say(question).endswith(segmenter.ask(cats.image, question))
    assert visitor.talk()[-1].startswith("Dialogue (")
    assert visitor.source("mask") is None
    assert not visitor.all("#files a")

    assert visitor.say("segment the cat.").startswith("Segmentation (")
    right = cats.segment("segment the cat.")
    assert visitor.legend() == {"segment the cat.": f"score {right.score:.2f}, {right.mask.sum():,} pixels"}
    np.testing.assert_array_equal(mask_of(visitor, tmp_path), right.mask)

    book = COCO(visitor.download("coco.json", tmp_path))
    (annotation,) = book.loadAnns(book.getAnnIds())
    np.testing.assert_array_equal(book.annToMask(annotation).astype(bool), right.mask)
    assert book.loadCats(annotation["category_id"])[0]["name"] == "segment the cat."


def test_clicks_and_a_box_on_the_picture_refine_the_mask(visitor: Visitor, cats: OpenedImage, tmp_path: Path) -> None:
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    right = cats.segment("segment the cat.")
    spots = []
    reply = visitor.after(lambda: spots.append(visitor.click(110, 210)))
    right = cats.refine(right, [Click(x=spots[0][0], y=spots[0][1])])
    assert "refined" in reply
    np.testing.assert_array_equal(mask_of(visitor, tmp_path / "1"), right.mask)
    assert len(visitor.all("#stage path.plus")) == 1

    visitor.choose_option("mode", "remove")
    visitor.after(lambda: spots.append(visitor.click(115, 150)))
    right = cats.refine(right, [Click(x=spots[1][0], y=spots[1][1], label=0)])
    np.testing.assert_array_equal(mask_of(visitor, tmp_path / "2"), right.mask)
    assert len(visitor.all("#stage path.minus")) == 1

    visitor.choose_option("mode", "box")
    corners: list[tuple[float, float]] = []
    visitor.after(lambda: corners.extend(visitor.drag((190, 212), (108, 118))))  # towards any corner
    (x1, y1), (x0, y0) = corners
    right = cats.refine(right, box=Box(x0=x0, y0=y0, x1=x1, y1=y1))
    np.testing.assert_array_equal(mask_of(visitor, tmp_path / "3"), right.mask)
    assert visitor.shown("#stage .clicks rect")


def test_keys_alone_are_enough(visitor: Visitor) -> None:
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    canvas = visitor.one("#stage .canvas")
    assert canvas.get_attribute("tabindex") == "0"
    canvas.send_keys("\ue015" * 5)  # arrow down
    assert visitor.one("#stage .cross").get_attribute("hidden") is None
    visitor.after(lambda: visitor.one("#stage .canvas").send_keys("\ue007"))  # Enter
    assert "(128, 154) belongs to it." in visitor.talk()
    visitor.until(lambda: visitor.focus()["name"] == "stage div"), "drawn anew, the picture keeps the keyboard"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_keyboard_focus_is_visible_on_every_control(visitor: Visitor, theme: str) -> None:
    visitor.show_in(theme)
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    met = set()
    visitor.driver.execute_script("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    for _ in range(80):
        ActionChains(visitor.driver).send_keys(Keys.TAB).perform()
        at = visitor.focus()
        if at["name"]:
            assert at["ring"] >= 3, at
            assert at["contrast"] >= 4.5, at
            met.add(at["name"])
    controls = {
        "examples button",
        "upload button",
        "stage div",
        "layers input",
        "mode input",
        "files a",
        "words textarea",
        "words button",
        "tries button",
        "route input",
    }
    assert controls <= met


def test_a_follow_up_and_how_sure_the_model_was(visitor: Visitor) -> None:
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    assert visitor.say("where is it?").startswith("Follow-up (")
    assert visitor.shown("#scores")
    assert {"Dialogue", "Segmentation", "Follow-up"} <= set(visitor.one("#scores").text.split())
    assert visitor.source("mask"), "the mask that is spoken of stays"


def test_the_route_can_be_forced(visitor: Visitor) -> None:
    visitor.choose(CAT)
    visitor.choose_option("route", "segmentation")
    assert visitor.say("what colour is the cup?").startswith("Segmentation, as you chose")
    assert visitor.source("mask")
    assert not visitor.shown("#scores"), "the model was not asked"
    visitor.choose_option("route", "dialogue")
    assert visitor.say("segment the cat.").startswith("Dialogue, as you chose")


def test_layers_are_switched_on_and_off(visitor: Visitor) -> None:
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    layers = {"mask": "#stage .mask", "heat": "#stage .heat", "keypoints": "#stage .keypoints circle"}
    assert all(map(visitor.shown, layers.values()))
    for layer, css in layers.items():
        visitor.choose_option("layers", layer)
        visitor.until(lambda css=css: not visitor.shown(css))
    visitor.say("segment the cup.")
    assert not any(map(visitor.shown, layers.values())), "what was switched off stays off"
    for layer, css in layers.items():
        visitor.choose_option("layers", layer)
        visitor.until(lambda css=css: visitor.shown(css))


def test_each_of_several_things_has_its_own_colour_and_score(visitor: Visitor, tmp_path: Path) -> None:
    visitor.choose(SNOWMEN)
    visitor.after(lambda: visitor.one("#tries button:first-child").click())
    assert visitor.talk()[0] == "segment each of the snowmen."
    assert visitor.legend() == {"segment each of the snowmen.": "4 things"}
    things = visitor.things()
    assert [line.partition(":")[0] for line in things] == ["1", "2", "3", "4"]
    assert colours(visitor) == {colour_of(number) for number in range(4)}
    indexed = np.array(Image.open(visitor.download("instances.png", tmp_path)))
    assert np.bincount(indexed.ravel(), minlength=5)[1:].tolist() == [
        int(line.split(", ")[1].removesuffix(" pixels").replace(",", "")) for line in things
    ]
    assert len(COCO(visitor.download("coco.json", tmp_path)).anns) == 4


def test_undo_restores_the_previous_mask(visitor: Visitor, tmp_path: Path) -> None:
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    before = mask_of(visitor, tmp_path / "before")
    visitor.after(lambda: visitor.click(110, 210))
    visitor.choose_option("mode", "remove")
    visitor.after(lambda: visitor.click(115, 150))
    assert not np.array_equal(mask_of(visitor, tmp_path / "corrected"), before)
    visitor.press("undo")
    assert len(visitor.all("#stage .clicks path")) == 1
    visitor.press_keys(Keys.CONTROL, "z")
    visitor.until(lambda: not visitor.all("#stage .clicks path"))
    np.testing.assert_array_equal(mask_of(visitor, tmp_path / "after"), before)
    assert len(visitor.talk()) == 2

    visitor.one("#words textarea").send_keys("what I am typing")
    visitor.press_keys(Keys.CONTROL, "z")  # takes back letters, not the mask
    visitor.one("#words textarea").clear()
    assert visitor.source("mask")
    visitor.press("undo")
    assert (visitor.talk(), visitor.legend(), visitor.source("mask")) == ([], {}, None)
    assert not visitor.one("#stage .undo").is_enabled()


def test_undo_restores_the_previous_picture(visitor: Visitor, tmp_path: Path) -> None:
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    cat = mask_of(visitor, tmp_path / "before")
    visitor.choose(SNOWMEN)
    assert visitor.legend() == {}
    visitor.press("undo")
    np.testing.assert_array_equal(mask_of(visitor, tmp_path / "after"), cat)
    assert visitor.say("where is it?").startswith("Follow-up (")


def test_every_query_keeps_its_own_layer(visitor: Visitor, cats: OpenedImage, tmp_path: Path) -> None:
    visitor.choose(CAT)
    for words in ("segment the cat.", "segment the cup.", "segment the elephant."):
        visitor.say(words)
    cat, cup, none = cats.segment(["segment the cat.", "segment the cup.", "segment the elephant."])
    assert list(visitor.legend()) == ["segment the cat.", "segment the cup.", "segment the elephant."]
    assert visitor.legend()["segment the elephant."] == none.reason
    layers = [
        np.array(Image.open(io.BytesIO(bytes_of(one.get_attribute("src") or ""))))
        for one in visitor.all("#stage .mask")
    ]
    for prediction, layer in zip((cat, cup), layers, strict=True):
        np.testing.assert_array_equal(layer[..., 3] > 0, prediction.mask)
    assert len({tuple(layer[layer[..., 3] == 255][0]) for layer in layers}) == 2
    np.testing.assert_array_equal(mask_of(visitor, tmp_path), cat.mask | cup.mask)
    book = COCO(visitor.download("coco.json", tmp_path))
    assert [one["name"] for one in book.loadCats(book.getCatIds())] == ["segment the cat.", "segment the cup."]
    assert len(book.anns) == 2
    alone = np.array(Image.open(visitor.download("mask-2.png", tmp_path))) > 0
    np.testing.assert_array_equal(alone, cup.mask)

    visitor.say("Segment  the cat")  # asked again: in the place of the first
    assert list(visitor.legend()) == ["Segment the cat", "segment the cup.", "segment the elephant."]
    assert visitor.chosen() == "Segment the cat"


def test_layers_are_chosen_switched_off_and_removed(visitor: Visitor, cats: OpenedImage, tmp_path: Path) -> None:
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    visitor.say("segment the cup.")
    heat = visitor.source("heat")
    visitor.switch("segment the cat.")
    visible = [one.is_displayed() for one in visitor.all("#stage .mask")]
    assert visible == [False, True]
    visitor.press("choose", "segment the cat.")
    assert visitor.source("heat") != heat, "the heat map is that of the chosen one"
    assert not visitor.shown("#stage .heat"), "which is still switched off"
    spot = []
    visitor.after(lambda: spot.append(visitor.click(110, 210)))
    right = cats.refine(cats.segment("segment the cat."), [Click(x=spot[0][0], y=spot[0][1])])
    assert visitor.shown("#stage .heat"), "what is corrected is shown"
    assert all(box.is_selected() for box in visitor.all("#stage .switch input"))
    visitor.press("remove", "segment the cup.")
    assert list(visitor.legend()) == ["segment the cat."]
    np.testing.assert_array_equal(mask_of(visitor, tmp_path), right.mask)
    visitor.press("undo")
    assert list(visitor.legend()) == ["segment the cat.", "segment the cup."]


def test_a_reload_keeps_picture_and_chat(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    visitor = visit()
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    visitor.say("segment the cup.")
    visitor.switch("segment the cup.")
    before = visitor.talk(), visitor.legend(), visitor.source("picture"), visitor.chosen()
    mask = mask_of(visitor, tmp_path / "before")
    visitor.driver.refresh()
    visitor.until(lambda: visitor.source("picture"))
    assert (visitor.talk(), visitor.legend(), visitor.source("picture"), visitor.chosen()) == before
    assert [one.is_displayed() for one in visitor.all("#stage .mask")] == [True, False]
    np.testing.assert_array_equal(mask_of(visitor, tmp_path / "after"), mask)
    assert visitor.shown("#tries button")
    assert visitor.say("where is it?").startswith("Follow-up (")
    other = visit()
    assert (other.talk(), other.source("picture")) == ([], None), "nobody else sees it"


def test_a_reload_keeps_what_is_being_answered(visitor: Visitor) -> None:
    visitor.choose(CAT)
    visitor.send("segment the cat.")
    visitor.until(lambda: visitor.talk())
    visitor.driver.refresh()
    visitor.until(lambda: len(visitor.talk()) >= 2)
    assert visitor.talk()[0] == "segment the cat."
    assert visitor.source("mask")


def test_after_a_restart_of_the_server_the_page_states_what_is_lost(visitor: Visitor) -> None:
    visitor.driver.execute_script("sessionStorage.setItem('seglens', 'a key of the server before')")
    visitor.driver.refresh()
    visitor.until(lambda: visitor.talk())
    assert "the server was restarted" in visitor.talk()[0]
    visitor.choose(CAT)
    assert visitor.say("segment the cat.").startswith("Segmentation (")


@pytest.mark.parametrize("height", [844, 480])  # without and with the keyboard
def test_on_a_phone_the_answer_is_on_the_screen(visitor: Visitor, height: int) -> None:
    visitor.resize(390, height)
    visitor.choose(SNOWMEN)
    for words in ("segment each of the snowmen.", "how many snowmen are there?"):
        visitor.say(words)
        for css in (
            "#stage .canvas",
            "#stage .mask",
            "#chat [data-testid=bot] .message-content",
            "#words textarea",
            "#words button",
        ):
            visitor.until(lambda css=css: visitor.seen_whole(css))
    assert visitor.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    visitor.driver.execute_script("scrollTo(0, 0)")
    assert visitor.seen_whole("#words textarea"), "wherever the page stands"


def test_a_picture_that_is_sent_while_another_is_computed_waits(visitor: Visitor, tmp_path: Path) -> None:
    files = []
    for number in (CAT, SNOWMEN):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(png_bytes(Image.fromarray(EXAMPLES[number].image)))
    visitor.choose(2)
    requests = ["segment each bus.", "what colour is the mushroom?", "segment the yellow bus."]
    for words in requests:
        visitor.send(words)
    for file in files:
        visitor.upload(file)
    visitor.until(
        lambda: visitor.talk() == [] and (visitor.one("#stage .undo").get_attribute("title") or "").startswith("Undo")
    )
    visitor.say("segment the cat.")
    assert mask_of(visitor, tmp_path).any()
    visitor.press("undo")  # the request
    last = visitor.source("picture")
    visitor.press("undo")  # the second upload: the first was not lost
    assert visitor.source("picture") != last
    visitor.press("undo")
    assert [line for line in visitor.talk() if line in requests] == requests
    assert len(visitor.talk()) == 6


def test_two_visitors_never_mix(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    first, second = visit(), visit()
    first.come_back()
    first.choose(CAT)
    second.come_back()
    second.choose(SNOWMEN)
    second.say("segment the cat.")
    first.come_back()
    assert first.talk() == []
    assert first.source("mask") is None
    first.say("segment the cup.")
    mine = mask_of(first, tmp_path / "first")
    second.come_back()
    second.say("where is it?")
    assert second.talk()[0] == "segment the cat."
    assert len(second.talk()) == 4
    assert not np.array_equal(mask_of(second, tmp_path / "second"), mine)
    first.come_back()
    assert first.talk()[0] == "segment the cup."
    np.testing.assert_array_equal(mask_of(first, tmp_path / "again"), mine)


def test_a_word_that_the_model_does_not_know(visitor: Visitor) -> None:
    visitor.choose(CAT)
    assert "'xyzzy' is unknown" in visitor.say("segment the xyzzy.")
    assert "'xyzzy' is unknown" in visitor.legend()["segment the xyzzy."]
    assert "score" not in visitor.legend()["segment the xyzzy."]
    assert (visitor.source("mask"), visitor.all("#files a")) == (None, [])
    visitor.press("trust", "segment the xyzzy.")
    assert visitor.legend()["segment the xyzzy."].startswith("score")
    assert visitor.source("mask")


def test_a_photograph_gets_a_warning_at_the_picture(visitor: Visitor, segmenter: Segmenter) -> None:
    photograph = min(shared("coco/train2017").glob("*.jpg"))
    if segmenter.open(photograph).familiar is None:
        pytest.skip("the embedded model carries no statistic of the pictures that it knows")
    visitor.upload(photograph)
    assert "nothing of photographs" in visitor.one("#stage .strange").text
    assert visitor.one("#stage .strange a").get_attribute("href").endswith("#about")
    assert "docs/photographs.md" in visitor.one("#about").text
    visitor.say("segment the cup.")
    assert "score" not in visitor.legend()["segment the cup."]
    assert (visitor.source("mask"), visitor.source("heat"), visitor.all("#files a")) == (None, None, [])
    visitor.one("#stage .strange button").click()
    visitor.until(lambda: "because you asked for it" in visitor.one("#stage .strange").text)
    assert not visitor.all("#stage .trust")
    visitor.choose(CAT)
    assert not visitor.all("#stage .strange")


def test_errors_are_reported_and_the_page_stays_usable(visitor: Visitor, tmp_path: Path) -> None:
    assert "choose or upload one first" in visitor.say("segment the cat.")
    file = tmp_path / "no picture.png"
    file.write_bytes(b"these are words")
    visitor.upload(file)
    visitor.until(lambda: "is not an image" in visitor.talk()[-1])
    visitor.choose(CAT)
    visitor.after(lambda: visitor.click(100, 100))
    assert "segment something first" in visitor.talk()[-1]
    assert "⚠️" in visitor.say("   ")
    assert visitor.say("segment the cat.").startswith("Segmentation (")


def test_a_file_that_is_too_large_is_refused(visitor: Visitor, tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(bytes(PageLimits().upload_bytes + 1))
    visitor.upload(file)
    visitor.until(lambda: "exceed the maximum allowed size" in visitor.one(".toast-body").text)
    assert visitor.source("picture") is None


def test_messages_are_shown_as_text_whatever_they_contain(visitor: Visitor, tmp_path: Path) -> None:
    words = '<img src=x onerror="document.title=1"> **杯** 🍎 ../../x {{value}} ${1}'
    visitor.choose(CAT)
    visitor.choose_option("route", "segmentation")
    visitor.driver.execute_script(  # the driver cannot type beyond the basic plane
        "const box = document.querySelector('#words textarea, #words input'); box.value = arguments[0];"
        "box.dispatchEvent(new Event('input', {bubbles: true}))",
        words,
    )
    visitor.say("")
    assert visitor.talk()[0] == words
    assert list(visitor.legend()) == [words]
    assert visitor.driver.title == "SegLens"


def test_nothing_is_loaded_from_other_machines(visitor: Visitor) -> None:
    visitor.requests()
    visitor.driver.refresh()
    visitor.until(lambda: visitor.all("#examples button"))
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    addresses = {urlsplit(url) for url in visitor.requests()}
    assert {url.hostname for url in addresses if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


def test_every_picture_and_control_has_a_text(visitor: Visitor) -> None:
    visitor.driver.get_log("browser")  # of the tests before: a page that is left complains
    visitor.choose(CAT)
    visitor.say("segment the cat.")
    assert all(image.get_attribute("alt") for image in visitor.all("#examples img, #stage img"))
    nameless = visitor.driver.execute_script(
        "return [...document.querySelectorAll('input:not([type=file]), textarea, main button')].filter(one =>"
        "one.checkVisibility() && !one.labels?.length && !one.ariaLabel && !one.innerText.trim() && !one.title && "
        "!one.querySelector('img[alt]'))"
        ".map(one => one.outerHTML.slice(0, 200))"
    )
    assert nameless == []
    severe = [entry for entry in visitor.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert json.dumps(severe) == "[]"
