from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from alignrec_pyg import EASE, TrainConfig
from alignrec_pyg.demo import Page, Showcase, page
from alignrec_pyg.demo.model import load_or_train

_CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const luminance = (color) => {
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)]
    .map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const layers = [];
for (let element = arguments[0]; element; element = element.parentElement)
  layers.unshift(getComputedStyle(element).backgroundColor);
const behind = ["white", ...layers].map(luminance).pop();
const text = luminance(getComputedStyle(arguments[0]).color);
return (Math.max(text, behind) + .05) / (Math.min(text, behind) + .05);
"""
STRANGE = "<b>Bold</b> {{name}} ${1 + 1}"


def test_what_to_install_is_said(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"the demo page needs 'gradio'.*--extra demo"):
        page(served.model, served.data)


def failing(*args, **kwargs):
    raise RuntimeError("a secret of the server")


def test_whatever_goes_wrong_is_a_sentence(served, caplog):
    shown = Page.__new__(Page)  # without gradio
    shown._showcase = Showcase(served.model, served.data, **served.parts())
    assert 'role="alert">There is no user “99”' in shown.for_user("99", 5, False)[1]
    assert "<h2>Recommended to user 7</h2>" in shown.for_user("7", 5, False)[1]
    assert "The image cannot be read: " in shown.preview(b"no image")
    assert shown.preview(None) == ""
    for name in ("for_user", "new_item", "preview"):
        setattr(shown._showcase, name, failing)
    answers = [shown.for_user("7", 5, False)[1], shown.new_item(None, "x", 5), shown.preview(b"")]
    for answer in answers:
        assert 'role="alert">This cannot be shown' in answer
        assert "secret" not in answer
    assert caplog.text.count("RuntimeError: a secret of the server") == 3


def test_a_model_without_vectors_has_a_page_that_says_what_it_cannot_do(served, apart):
    model = EASE(served.data)
    model.solve(served.data)

    def serve(tell):
        tell(page(model, served.data, **served.parts()).launch(wait=False))

    with apart(serve) as address, urlopen(f"{address}config") as answer:
        parts = [part["props"] for part in json.load(answer)["components"]]
    shown = {part.get("elem_id"): part.get("value") for part in parts}
    assert shown["ar-recommended"].count("Why? It is") == 10
    texts = [str(part.get("value")) for part in parts]
    assert sum("EASE cannot place a new item by its image or text" in text for text in texts) == 1
    assert any("Model: EASE" in text and "adds most to the score" in text for text in texts)
    tabs = ("For a user", "A new item", "About")
    assert [part["label"] for part in parts if part.get("label") in tabs] == list(tabs)
    assert "ar-show" not in shown


class Opened:
    """A page in the browser, and what a person does there."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.address = address
        driver.get_log("performance")  # empties it
        self.width(1280)
        driver.get(address)
        self.wait_for(lambda: self.text("#ar-recommended"))

    def width(self, pixels: int) -> None:
        """As wide as a desktop's window, or as a phone."""
        size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return " ".join(element.text for element in self.all(selector))

    def wait_for(self, done: Callable[[], object], seconds: float = 60) -> None:
        """Elements may be replaced while they are read: it is tried again."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + seconds
        while True:
            try:
                if done():
                    return
            except (WebDriverException, IndexError):
                pass
            assert time.monotonic() < end, self.text("body")
            time.sleep(0.05)

    def open_tab(self, name: str) -> None:
        def click() -> bool:
            (tab,) = [tab for tab in self.all("button[role=tab]") if tab.text == name]
            tab.click()
            return tab.get_attribute("aria-selected") == "true"

        self.wait_for(click)

    def pick(self, user: str) -> None:
        """Types into the list of users and takes the line that is left."""
        box = self.all("#ar-user input")[0]
        box.click()
        self.wait_for(lambda: self.all("ul[role=listbox] li"))
        self.enter(box, f"user {user} ·")
        self.wait_for(lambda: len(self.all("ul[role=listbox] li")) == 1)
        self.all("ul[role=listbox] li")[0].click()
        self.wait_for(lambda: f"Recommended to user {user}\n" in self.text("#ar-recommended"))

    def enter(self, box: Any, text: str) -> None:
        """In place of what is there."""
        from selenium.webdriver.common.keys import Keys

        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text)

    def show(self, expected: str) -> None:
        """Asks what the new item is like."""
        self.all("#ar-show")[0].click()
        self.wait_for(lambda: expected in self.text("#ar-result"))

    def upload(self, file: Path) -> None:
        if self.all("#ar-image button[aria-label=Clear]"):
            self.all("#ar-image button[aria-label=Clear]")[0].click()
        self.wait_for(lambda: self.all("#ar-image input[type=file]"))
        self.all("#ar-image input[type=file]")[0].send_keys(str(file))
        self.wait_for(lambda: file.stem[:5] in self.text("#ar-image"))

    def asked(self) -> set[str]:
        """Hosts that the browser has asked for anything."""
        messages = [json.loads(entry["message"]) for entry in self.driver.get_log("performance")]
        sent = [
            message["message"]["params"]["request"]["url"]
            for message in messages
            if message["message"]["method"] == "Network.requestWillBeSent"
        ]
        parts = [urlsplit(url) for url in sent]
        return {part.netloc for part in parts if part.scheme in ("http", "https", "ws", "wss")}

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        script = "return document.documentElement.scrollWidth - window.innerWidth"
        return int(self.driver.execute_script(script))

    def contrast(self, selector: str) -> float:
        """How light and dark the text of an element and what is behind it are, as WCAG has it."""
        return float(self.driver.execute_script(_CONTRAST, self.all(selector)[0]))

    def stops(self, count: int) -> list[str]:
        """Tags of what the key Tab leads to, from the first tab on."""
        from selenium.webdriver.common.keys import Keys

        self.all("button[role=tab]")[0].click()
        tags = []
        for _ in range(count):
            self.driver.switch_to.active_element.send_keys(Keys.TAB)
            tags.append(self.driver.switch_to.active_element.tag_name)
        return tags

    def broken(self) -> int:
        """Images that the browser cannot show."""
        script = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
        return int(self.driver.execute_script(script))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_in_a_browser(served, apart, browser, poster, tmp_path):
    images = [None, *served.data["item"].image[1:]]
    parts = {**served.parts(), "titles": [STRANGE, *served.titles[1:]], "images": images}

    def serve(tell):
        tell(page(served.model, served.data, title="Test page", **parts).launch(wait=False))

    with apart(serve) as address:
        with urlopen(address) as answer:
            assert "default-src 'self'" in answer.headers["content-security-policy"]
        opened = Opened(browser, address)
        pick_a_user(opened)
        bring_an_item(opened, poster, tmp_path)
        read_and_reach_all(opened)
        assert opened.asked() == {urlsplit(address).netloc}


def pick_a_user(opened: Opened) -> None:
    opened.pick("7")
    rows = opened.all("#ar-recommended .ar-row")
    assert len(rows) == 10
    assert all("Why? It is" in row.text for row in rows)
    assert all(len(row.find_elements("css selector", ".ar-reasons img, .ar-none")) for row in rows)
    assert "What user 7 knows" in opened.text("#ar-known")
    opened.enter(opened.all("#ar-k input[type=number]")[0], "50\t")
    opened.wait_for(lambda: len(opened.all("#ar-recommended .ar-row")) > 10)
    count = len(opened.all("#ar-recommended .ar-row"))
    opened.all("#ar-hide input")[0].click()
    opened.wait_for(lambda: 10 < len(opened.all("#ar-recommended .ar-row")) < count)
    assert STRANGE in opened.text(".ar")  # as it is, and not as HTML or a template
    assert opened.all(".ar-none")
    assert (opened.broken(), opened.overflow()) == (0, 0)
    opened.width(390)
    assert opened.overflow() == 0
    first, known = opened.all("#ar-recommended .ar-row")[0], opened.all("#ar-known")[0]
    assert first.rect["y"] < 900 < known.rect["y"]  # on the first screen
    for control in ("#ar-user", "#ar-k", "#ar-hide"):  # none is cut off
        box = opened.all(control)[0].rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    opened.width(1280)


def bring_an_item(opened: Opened, poster: Path, tmp_path: Path) -> None:
    opened.open_tab("A new item")
    opened.show("Give an image or a text.")
    opened.upload(poster)
    opened.wait_for(lambda: opened.all("#ar-preview img"))
    opened.show("Placed by its image alone")
    assert len(opened.all("#ar-result .ar-card")) == 10
    assert "rank" in opened.text("#ar-result .ar-row")
    opened.all("#ar-text textarea")[0].send_keys("qqq")
    opened.show("knows none of its words")
    opened.width(390)
    assert opened.overflow() == 0
    opened.width(1280)
    broken = tmp_path / "broken.png"
    broken.write_bytes(poster.read_bytes()[:60])
    opened.upload(broken)
    opened.wait_for(lambda: "cannot be read" in opened.text("#ar-preview"))
    opened.show("The image cannot be read: ")
    assert not opened.all("#ar-result .ar-card")
    assert "Traceback" not in opened.text("body")
    opened.open_tab("About")
    opened.wait_for(lambda: "recall@20" in opened.text(".ar-about"))


def read_and_reach_all(opened: Opened) -> None:
    for theme in ("light", "dark"):
        opened.driver.get(f"{opened.address}?__theme={theme}")
        opened.wait_for(lambda: opened.text("#ar-recommended"))
        assert bool(opened.all(".dark")) == (theme == "dark")
        shown = ["button[aria-selected=true]", ".max_value", ".ar-hit", ".ar-hit small"]
        contrasts = {name: opened.contrast(name) for name in shown}
        opened.open_tab("A new item")
        contrasts["#ar-show"] = opened.contrast("#ar-show")
        assert min(contrasts.values()) >= 4.5, (theme, contrasts)
    opened.open_tab("For a user")
    # two tabs, the user, the list's length and its two companions, a check box, the known items
    tags = ["button", "button", "input", "input", "button", "input", "input", "summary"]
    assert opened.stops(8) == tags


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_movielens_in_a_browser(data_folder, apart, browser, tmp_path):
    made = load_or_train(
        data_folder / "ml-latest-small", tmp_path, config=TrainConfig(max_epochs=2)
    )

    def serve(tell):
        shown = page(
            made.model,
            made.data,
            titles=made.titles,
            encode=made.encode,
            item_graphs=made.item_graphs,
            id_vectors="neighbors",
        )
        tell(shown.launch(wait=False))

    with apart(serve) as address:
        opened = Opened(browser, address)
        opened.pick("17")
        assert len(opened.all("#ar-recommended .ar-row > .ar-poster img")) >= 8
        script = "return [...document.images].map(i => getComputedStyle(i).objectFit)"
        assert set(browser.execute_script(script)) == {"contain"}  # none is stretched
        for width in (1280, 390):
            opened.width(width)
            assert (opened.broken(), opened.overflow()) == (0, 0)
        opened.open_tab("A new item")
        movie, item = made.titles.index("Toy Story (1995)"), made.data["item"]
        poster = tmp_path / "poster.jpg"
        poster.write_bytes(item.image[movie]())
        opened.upload(poster)
        opened.all("#ar-text textarea")[0].send_keys(item.text[movie])
        opened.show("Placed by its image and text together")
        assert opened.all("#ar-result .ar-card")[0].text.startswith("Toy Story (1995)")
        assert opened.asked() == {urlsplit(address).netloc}
