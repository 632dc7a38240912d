from types import SimpleNamespace

import pytest

from alignrec_pyg import TrainConfig
from alignrec_pyg.experiments import progress
from alignrec_pyg.experiments.estimate import Trial
from alignrec_pyg.experiments.progress import CellsProgress


def cell(row, seed):
    config = TrainConfig(max_epochs=40, eval_every=1, patience=4)
    return SimpleNamespace(row=row, seed=seed, config=config.completed(TrainConfig(), num_links=0))


def result(row, num_epochs, seconds):
    return SimpleNamespace(row=row, num_epochs=num_epochs, seconds=seconds)


@pytest.fixture
def shown(monkeypatch):
    """What the one bar has been told, and a clock that stands still unless a test moves it."""
    shown = SimpleNamespace(now=0.0, updates=[])

    class Bar:
        def __init__(self, name, *, shown):
            pass

        def update(self, share, seconds_left, text):
            shown.updates.append((share, seconds_left, text))

    monkeypatch.setattr(progress, "Progress", Bar)
    monkeypatch.setattr(progress.time, "monotonic", lambda: shown.now)
    return shown


def test_other_seeds_of_a_row_tell_how_long_a_cell_takes(shown):
    cells = [cell("A", 0), cell("A", 1), cell("B", 0)]
    cells_progress = CellsProgress(cells, {0: result("A", 20, 10.0)}, jobs=1)
    assert cells_progress.expected_seconds(1) == 10.0
    assert cells_progress.expected_seconds(2) == 10.0  # all that is known
    cells_progress.finish(1, result("A", 30, 20.0))
    assert cells_progress.expected_seconds(2) == 25 * (10 / 20 + 20 / 30) / 2
    assert shown.updates[-1][0] == 0.5


def test_a_cell_in_training_tells_the_seconds_of_its_epochs(shown):
    """Without any result: 3.5 times its patience, then what is left of the patience at least."""
    cells_progress = CellsProgress([cell("A", 0)], {}, jobs=1)
    report = cells_progress.reporter(0)
    cells_progress.refresh()
    assert shown.updates[-1] == (0.0, None, "0 of 1 runs: A seed 0 epoch 0")
    shown.now = 4.0
    report(2, {"best_epoch": 2, "step": 6})
    assert shown.updates[-1][:2] == (pytest.approx(2 / 17.5), pytest.approx(31.0))
    assert shown.updates[-1][2] == "0 of 1 runs: A seed 0 epoch 2"
    shown.now = 32.0
    report(16, {"best_epoch": 16, "step": 48})
    assert shown.updates[-1][:2] == (pytest.approx(16 / 21), pytest.approx(10.0))
    shown.now = 78.0
    report(39, {"best_epoch": 39, "step": 117})  # the limit of epochs is near
    assert shown.updates[-1][:2] == (pytest.approx(39 / 40), pytest.approx(2.0))


def test_cells_that_run_at_a_time_share_the_time_left(shown):
    cells = [cell("A", seed) for seed in range(5)]
    cells_progress = CellsProgress(cells, {0: result("A", 20, 10.0)}, jobs=2)
    cells_progress.refresh()
    assert shown.updates[-1] == (0.0, 20.0, "0 of 4 runs: ")
    for index in (1, 2, 3):
        cells_progress.finish(index, result("A", 20, 10.0))
    assert shown.updates[-1] == (0.75, 10.0, "3 of 4 runs: ")  # not less than the one that is left


def test_a_cell_that_failed_is_not_waited_for(shown):
    cells_progress = CellsProgress([cell("A", 0), cell("A", 1)], {0: result("A", 20, 10.0)}, jobs=1)
    cells_progress.begin(1)
    cells_progress.fail(1)
    assert shown.updates[-1] == (1.0, 0.0, "1 of 1 runs: ")


def test_nothing_is_shown_where_all_is_there(shown):
    CellsProgress([cell("A", 0)], {0: result("A", 20, 10.0)}, jobs=1).refresh()
    assert shown.updates == []


def test_a_trial_tells_the_seconds_of_an_epoch_before_any_has_ended(shown):
    """40 epochs at most; patience 4 at every evaluation, which is every second epoch."""
    trial = Trial(epoch_steps=10, epoch_seconds=3.0, evaluation_seconds=2.0, peak_bytes=0)
    cells = [cell("A", 0), cell("A", 1), cell("P", 0)]
    for entry in cells:
        entry.config = TrainConfig(max_epochs=40, patience=4, eval_steps=20).completed(
            TrainConfig(), num_links=0
        )
    cells_progress = CellsProgress(cells, {}, jobs=2, trials={"A": trial, "P": Trial()})
    each = 3.0 + 2.0 / 2
    assert cells_progress.expected_seconds(0) == 3.5 * (4 + 1) * 2 * each
    assert cells_progress.expected_seconds(2) == 0
    found = cells_progress.seconds_to_go()
    least = (1 + 4 + 1) * 2 * each  # the first evaluation, and those that bring nothing better
    assert (found.least, found.expected, found.most) == (least, 35 * each, 40 * each)
    cells_progress.finish(0, result("A", 30, 90.0))
    assert cells_progress.expected_seconds(1) == 90.0  # better known than by the trial


def test_models_in_closed_form_do_not_tell_how_long_others_train(shown):
    cells_progress = CellsProgress([cell("A", 0), cell("P", 0)], {1: result("P", 1, 2.0)}, jobs=1)
    assert cells_progress.expected_seconds(0) == 3.5 * 5 * 2.0
