from __future__ import annotations

import importlib
import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import AlignRec
from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.encoders import PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.transforms import ConcatFeatures, EncodeItems, KNNItemGraph, SplitInteractions


class Served(NamedTuple):
    """What a page is made of."""

    model: AlignRec
    data: HeteroData
    val: HeteroData
    titles: list[str]
    encode: list[Any]
    item_graphs: list[KNNItemGraph]

    def parts(self) -> dict[str, Any]:
        return {
            "titles": self.titles,
            "encode": self.encode,
            "item_graphs": self.item_graphs,
        }


@pytest.fixture(scope="session")
def served() -> Served:
    """60 users, 80 items with images and texts, and a model that was not trained."""
    data = Synthetic(60, 80, 1500, num_topics=4, image_size=16).data
    encoders = {"text": TfidfEncoder(8), "image": PatchPCAEncoder(8, image_size=16)}
    for name, encoder in encoders.items():
        data = EncodeItems(encoder, name)(data)
    concat, graph = ConcatFeatures(["image", "text"], name="mm"), KNNItemGraph("mm", k=5)
    train, val, test = SplitInteractions("random", seed=0)(graph(concat(data)))
    torch.manual_seed(0)
    model = AlignRec(train, features=["mm"], item_graph="mm", embedding_dim=16)
    titles = [f"Item number {number}" for number in range(80)]
    encode = [EncodeItems(encoder, name, fit=False) for name, encoder in encoders.items()]
    return Served(model, test, val, titles, [*encode, concat], [graph])


@pytest.fixture
def apart() -> Callable[..., Any]:
    """Runs work in a forked process while a block runs; skips without gradio or without fork.

    Gradio leaves event loops behind, which would be told in whatever test comes next.
    """
    if find_spec("gradio") is None:
        pytest.skip("needs gradio ('demo' extra)")
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("gradio")  # takes seconds: here once, and not in each process

    @contextmanager
    def running(work: Callable[[Callable[[str], object]], object]) -> Iterator[str]:
        """``work(tell)`` runs until the block ends; the block is given what it tells first."""
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python >= 3.12, with threads
            child = os.fork()
        if child == 0:
            warnings.simplefilter("ignore")  # of gradio
            try:
                work(lambda line: os.write(write, f"{line}\n".encode()))
                signal.pause()
            except BaseException:
                os.write(write, traceback.format_exc().encode())
            finally:
                os._exit(1)
        os.close(write)
        try:
            with os.fdopen(read, encoding="utf-8") as told:
                yield told.readline().strip()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    return running


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that keeps a log of what it asks for; skips where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [path for path in map(shutil.which, names) if path]
    driver = shutil.which("chromedriver")
    if not found or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = found[0]
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    service = selenium.ChromeService(executable_path=driver)
    opened = selenium.Chrome(options=options, service=service)
    yield opened
    opened.quit()


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    """An image file."""
    from PIL import Image

    path = tmp_path / "poster.png"
    Image.new("RGB", (40, 60), "teal").save(path)
    return path
