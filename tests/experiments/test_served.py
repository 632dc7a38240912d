import argparse
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import alignrec_pyg
from alignrec_pyg import fit
from alignrec_pyg.experiments import served
from alignrec_pyg.experiments.cells import KS, Cell
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.runner import run_cells
from alignrec_pyg.experiments.served import choose, keep_best
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.store import CellStore
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import BPR, Popularity
from alignrec_pyg.train_config import TrainConfig

CPU = torch.device("cpu")


class Mine(BPR):
    """A class of one's own."""


def stored(row, seed, value):
    return SimpleNamespace(row=row, seed=seed, val_metrics={"recall@20": value})


def test_the_mean_over_seeds_decides():
    results = [stored("A", 0, 0.1), stored("B", 0, 0.3), stored("A", 1, 0.6), stored("B", 1, 0.2)]
    assert choose(results, [0, 1]) == pytest.approx({"A": 0.35, "B": 0.25})
    assert list(choose(results, [0, 1])) == ["A", "B"]
    assert list(choose([stored("B", 0, 0.2), stored("A", 0, 0.2)], [0])) == ["B", "A"]  # a tie
    assert choose([*results, stored("C", 0, 0.9)], [0, 1]).keys() == {"A", "B"}  # C misses a seed
    assert choose([stored("C", 0, 0.9)], [0, 1]) == {"C": 0.9}


@pytest.fixture
def session(tiny_folder, tmp_path):
    data = prepare(str(tiny_folder))
    return Session(
        options=argparse.Namespace(),
        device=CPU,
        models={},
        data=data,
        prepare=lambda **_: data,
        seeds=range(2),
        out=tmp_path / "out",
    )


def cells_of(session, model=BPR, **hparams):
    config = TrainConfig(max_epochs=4, batch_size=64, lr=0.01, eval_every=1, ks=KS)
    config = config.completed(TrainConfig(), num_links=0)
    return [
        Cell(row=model.__name__, model=model, hparams=hparams, config=replace(config, seed=seed))
        for seed in session.seeds
    ]


def results_of(session, cells):
    store = CellStore(session.out / "cells")
    return run_cells(cells, session.data.parts, store, CPU, print).results


def with_best(results, best):
    """The results as if one of them were the best on validation."""
    return [
        replace(one, val_metrics={"recall@20": float(number == best)}, best_epoch=number + 2)
        for number, one in enumerate(results)
    ]


def test_the_best_seed_is_trained_anew_on_all_links_for_as_many_epochs(session):
    cells = cells_of(session, embedding_dim=4)
    made = keep_best(session, cells, with_best(results_of(session, cells), 1))
    assert (made.row, made.epochs, made.folder) == ("BPR", 3, session.out / "model")
    assert str(made).endswith(f"\ntrained anew on all 192 links in 3 epochs: {made.folder}")
    model, data = alignrec_pyg.load(made.folder)
    known = session.data.known
    torch.manual_seed(1)
    expected = BPR(known, embedding_dim=4)
    fit(expected, known, None, replace(cells[1].config, max_epochs=3))
    for name, value in expected.state_dict().items():
        assert model.state_dict()[name].equal(value)
    assert data[INTERACTS].edge_index.equal(known[INTERACTS].edge_index)
    assert list((session.out / "cells").glob("*.unfinished")) == []


def test_a_baseline_may_be_the_best(session):
    cells = [*cells_of(session, embedding_dim=4), *cells_of(session, Popularity)]
    results = with_best(results_of(session, cells), 2)
    made = keep_best(session, cells, results)
    assert made.row == "Popularity"
    assert type(alignrec_pyg.load(made.folder)[0]) is Popularity
    assert str(made).splitlines() == [
        "to serve: Popularity, best by validation recall@20, mean over 2 seeds (Popularity 0.5000, "
        "then BPR 0.0000; test links choose nothing)",
        f"solved anew on all 192 links: {made.folder}",
    ]


def test_what_is_made_is_made_once(session, monkeypatch):
    cells = cells_of(session, embedding_dim=4)
    results = with_best(results_of(session, cells), 0)
    calls = []
    original = served.refit
    monkeypatch.setattr(
        served, "refit", lambda *args, **more: calls.append(0) or original(*args, **more)
    )
    keep_best(session, cells, results)
    keep_best(session, cells, results)
    assert len(calls) == 1
    keep_best(session, cells, with_best(results, 1))  # another seed
    assert len(calls) == 2
    (weights,) = (session.out / "model").glob("model-*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    keep_best(session, cells, with_best(results, 1))  # damaged since
    assert len(calls) == 3
    alignrec_pyg.load(session.out / "model")


def test_an_interrupted_training_goes_on(session, monkeypatch):
    cells = cells_of(session, embedding_dim=4)
    results = with_best(results_of(session, cells), 1)
    original = served.refit

    def interrupted(model, data, result, **more):
        original(model, data, replace(result, best_epoch=1), **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(served, "refit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keep_best(session, cells, results)
    assert not (session.out / "model").exists()
    (state,) = (session.out / "cells").glob("*.unfinished/state.json")
    assert '"epoch": 1' in state.read_text()
    keep_best(session, cells, results)
    assert not state.parent.exists()
    assert (session.out / "model" / "config.json").exists()


def test_a_class_of_ones_own_is_loaded_by_it(session):
    cells = cells_of(session, Mine, embedding_dim=4)
    made = keep_best(session, cells, with_best(results_of(session, cells), 0))
    assert made.class_path == f"{__name__}:Mine"
    assert type(alignrec_pyg.load(made.folder, Mine)[0]) is Mine
