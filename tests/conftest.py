"""Settings and fixtures of all tests."""

from __future__ import annotations

import copy
import gc
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import: no test may reach for the network
os.environ["OMP_NUM_THREADS"] = "1"  # of processes too that tests start
# Under `uv run` Ray's workers would each set up an environment of their own.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

import numpy as np
import pytest

# Imported inside functions: the process of pytest-xdist that hands out tests reads this file, too.
if TYPE_CHECKING:
    import torch
    from torch_geometric.data import HeteroData


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every device there is: on a machine with a GPU, tests that ask for it run twice."""
    if "device" in metafunc.fixturenames:
        import torch

        names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        metafunc.parametrize("device", names, indirect=True)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets named by ``ALIGNREC_DATA``; skips where there is none."""
    path = os.environ.get("ALIGNREC_DATA")
    if not path:
        pytest.skip("ALIGNREC_DATA names no folder of real data sets")
    folder = Path(path)
    if not folder.is_dir():
        pytest.skip(f"ALIGNREC_DATA={path} is not a folder")
    return folder


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """Python's own handler, also where the tests run in the background with Ctrl-C ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """A device that there is."""
    import torch

    return torch.device(request.param)


@pytest.fixture
def toy() -> HeteroData:
    """3 users, 4 items, two feature tables and an item graph; every link is also to predict."""
    import torch
    from torch_geometric.data import HeteroData

    from alignrec_pyg.graph import INTERACTS
    from alignrec_pyg.transforms import KNNItemGraph

    data = HeteroData()
    data["user"].num_nodes = 3
    data["user"].id = np.array(["ann", "bob", "cy"], dtype=object)
    data["item"].num_nodes = 4
    data["item"].id = np.array([10, 20, 30, 40])
    generator = torch.Generator().manual_seed(0)
    data["item"].x_image = torch.randn(4, 6, generator=generator)
    data["item"].x_text = torch.randn(4, 5, generator=generator)
    links = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 3]])
    data[INTERACTS].edge_index = links
    data[INTERACTS].edge_label_index = links
    return KNNItemGraph("image", k=2)(data)


@pytest.fixture
def checkerboard() -> tuple[HeteroData, HeteroData]:
    """50 x 50: even users like even items, odd like odd; each user's own number is held out.

    The right answer is known without a reference run: the held-out item is the only one of the
    user's parity that is not known yet.
    """
    import torch
    from torch_geometric.data import HeteroData

    from alignrec_pyg.graph import INTERACTS
    from alignrec_pyg.transforms import KNNItemGraph

    size = 50
    user, item = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    liked = torch.stack([user, item])[:, (user + item) % 2 == 0]
    held_out = liked[0] == liked[1]
    train = HeteroData()
    train["user"].num_nodes = train["item"].num_nodes = size
    noise = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
    parity = torch.nn.functional.one_hot(torch.arange(size) % 2, 2)
    train["item"].x_mm = torch.cat([parity, 0.1 * noise], dim=1)
    train[INTERACTS].edge_index = liked[:, ~held_out]
    train[INTERACTS].edge_label_index = liked[:, ~held_out]
    train = KNNItemGraph("mm", k=5)(train)
    test = copy.copy(train)
    test[INTERACTS].edge_label_index = liked[:, held_out]
    return train, test


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a CLIP small enough to train in a test; skips where open_clip cannot be imported."""
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"open_clip cannot be imported: {error}")
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 20,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    }
    path = tmp_path_factory.mktemp("open_clip") / "tiny-clip.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return path.stem


def start_fork(work: Callable[[], object]) -> int:
    """Number of a process forked from this one, which does some work and exits with 0, or 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python >= 3.12, with threads
        child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    return child


def exit_code(child: int) -> int:
    """Waits for a forked process; ``-n`` if signal ``n`` killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def fork() -> Callable[..., list[int]]:
    """Does each piece of work in a forked process, all at once, and gives their exit codes."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    return lambda *works: [exit_code(child) for child in [start_fork(work) for work in works]]


class ProcessGroup:
    """Two processes that train together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0

    def run(self, work: Callable[[int], object]) -> list[Any]:
        """What ``work(rank)`` gives on each: anything ``torch.save`` can hold.

        It is ``None`` of one that leaves by ``os._exit(0)``.
        """
        import torch

        self._number += 1
        children = [start_fork(partial(self._work, work, rank)) for rank in range(2)]
        assert [exit_code(child) for child in children] == [0, 0]
        paths = [self._path(rank) for rank in range(2)]
        return [torch.load(p, weights_only=False) if p.exists() else None for p in paths]

    def _path(self, rank: int) -> Path:
        return self.folder / f"{self._number}-{rank}.pt"

    def _work(self, work: Callable[[int], object], rank: int) -> None:
        import torch

        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{self.folder}/group{self._number}",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=120),
        )
        torch.save(work(rank), self._path(rank))
        torch.distributed.destroy_process_group()


@pytest.fixture
def two_processes(tmp_path: Path) -> ProcessGroup:
    """A group of two forked processes; skips where there is no fork."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    return ProcessGroup(tmp_path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Runs a folder of tests in one process, which alone makes its fixtures and imports."""
    from xdist.scheduler import LoadScopeScheduling

    class Folders(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0].rpartition("/")[0]

    return Folders(config, log)


_unfreeze = gc.unfreeze


def pytest_collection_finish() -> None:
    """Takes the objects of all imported modules out of every later garbage collection.

    Experiments freeze and unfreeze, too: here everything stays frozen, since each of their cells
    collects garbage before its memory is measured.
    """
    gc.collect()
    gc.freeze()
    gc.unfreeze = lambda: None


def pytest_sessionfinish() -> None:
    """Lets extension modules take leave of their objects."""
    _unfreeze()


EXTRAS = {"graph": ("torch_cluster", "torch_sparse"), "tune": ("ray", "optuna")}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Computes in one thread, skips what needs an extra that is not installed."""
    import torch

    # tiny tensors: more threads only wait for each other; a command that ran may have set others
    torch.set_num_threads(1)
    for extra, packages in EXTRAS.items():
        if item.get_closest_marker(f"{extra}_extra") is None:
            continue
        missing = [name for name in packages if find_spec(name) is None]
        if missing:
            pytest.skip(f"needs the '{extra}' extra ({', '.join(missing)} not installed)")


@pytest.fixture
def plain_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments without warm-up, estimate and drawing, whose results they do not change.

    A fixture of a module that runs an experiment does so as users do.
    """
    from alignrec_pyg.experiments import charts, learning_curves, results, runner

    def write_mark(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"\x89PNG")

    monkeypatch.setattr(runner, "warm_up", lambda device: None)
    monkeypatch.setattr(runner, "try_rows", lambda *_: {})
    monkeypatch.setattr(charts, "write_figure", write_mark)
    monkeypatch.setattr(results, "write_chart", write_mark)
    monkeypatch.setattr(learning_curves, "write_run_curves", write_mark)
    monkeypatch.setattr(learning_curves, "write_validation_curves", write_mark)


USERS, ITEMS, PER_USER = 24, 30, 8


def _write_folder(folder, features=("image", "text"), labels=True, times=False):
    """Two tastes: users like the items of their own parity, more or less; features show it."""
    generator = np.random.default_rng(0)
    moments = np.random.default_rng(1).permutation(USERS * PER_USER)
    columns = ["userID", "itemID", *["timestamp"] * times, *["x_label"] * labels]
    rows = ["\t".join(columns)]
    last = 0
    for user in range(USERS):
        weight = np.where(np.arange(ITEMS) % 2 == user % 2, 5.0, 1.0)
        items = generator.choice(ITEMS, PER_USER, replace=False, p=weight / weight.sum())
        if user == 0 and ITEMS - 1 not in items:
            items[0] = ITEMS - 1  # the largest id says how many items there are
        for position, item in enumerate(items):
            label = max(0, position - PER_USER + 3)
            time = 1_500_000_000 + moments[user * PER_USER + position]
            values = [user, item, *[time] * times, *[label] * labels]
            rows.append("\t".join(str(value) for value in values))
            last = max(last, item)
    assert last == ITEMS - 1
    folder.mkdir(parents=True)
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n")
    for number, name in enumerate(features):
        table = generator.normal(size=(ITEMS, 6 + number)).astype(np.float32)
        table[:, 0] += 3.0 * (np.arange(ITEMS) % 2)
        np.save(folder / f"{name}.npy", table)
    return folder


def _write_neighbors(path, k=10, cosine=True, shift=1):
    """Every item's neighbours are itself and the next ones."""
    neighbor = (np.arange(ITEMS)[:, None] + shift * np.arange(k)) % ITEMS
    arrays = {"neighbor": neighbor.astype(np.int32)}
    if cosine:
        arrays["cosine"] = np.tile(np.linspace(1, 0.5, k, dtype=np.float32), (ITEMS, 1))
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Labels and two feature tables."""
    return _write_folder(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def timed_folder(tmp_path_factory):
    """Labels, times and three feature tables."""
    folder = tmp_path_factory.mktemp("data") / "timed"
    return _write_folder(folder, features=("audio", "image", "text"), times=True)


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory):
    """Labels and no feature table."""
    return _write_folder(tmp_path_factory.mktemp("data") / "bare", features=())


@pytest.fixture(scope="session")
def write_folder():
    """Writes a folder like ``tiny_folder`` with other tables, without labels or with times."""
    return _write_folder


@pytest.fixture(scope="session")
def write_neighbors():
    """Writes neighbour lists for the items of ``tiny_folder``."""
    return _write_neighbors
