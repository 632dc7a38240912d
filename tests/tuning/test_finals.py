import pytest

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.training.loop import fit
from alignrec_pyg.tuning.finals import _as_completed, train_finalists
from alignrec_pyg.tuning.sweep import Resources


@pytest.mark.parametrize(("limit", "most"), [(None, 5), (2, 2), (7, 5), (1, 1)])
def test_calls_are_made_once_each_and_no_more_at_a_time_than_allowed(processes, limit, most):
    resources = Resources(cpus=2, gpus=0.5, max_concurrent=limit)
    ended = list(_as_completed(lambda a, b: a + b, [(i, 10) for i in range(5)], resources))
    assert sorted(ended) == [(i, i + 10) for i in range(5)]
    assert processes.most == most
    assert processes.options == {"num_cpus": 2, "num_gpus": 0.5}
    if limit is None:
        assert ended == [(i, i + 10) for i in reversed(range(5))]
    assert list(_as_completed(max, [], resources)) == []


def test_finalists_train_to_the_end_and_one_that_fails_stops_no_other(job, processes, capsys):
    configs = [
        {"number": 4, "seed": 0, "point": {"lr": 1e-5}},
        {"number": 5, "seed": 0, "point": {"lr": 1e30}},
        {"number": 4, "seed": 1, "point": {"lr": 1e-5}},
    ]
    resources = Resources(cpus=1, gpus=0)
    first, failed, second = train_finalists(job, configs, resources)
    assert [(t.number, t.seed, t.outcome) for t in (first, failed, second)] == [
        (4, 0, "finished"), (5, 0, "failed"), (4, 1, "finished"),
    ]  # fmt: skip
    assert failed.reason.startswith("TrainingDivergedError: ")
    assert "not finite" in failed.reason
    assert (failed.val, failed.epochs) == ({}, 0)
    cell, _ = job.cell(configs[2]["point"], 1)
    fitted = fit(cell.build(job.train), job.train, job.val, cell.config)
    assert second.val == {name: fitted.best_metrics[name] for name in METRICS}
    assert second.val != first.val
    assert (second.best_epoch, second.epochs) == (fitted.best_epoch, 4)
    assert second.seconds > 0
    err = capsys.readouterr().err
    assert "[3/3] configuration 4, seed 0: validation recall@20 1.0000, finished" in err
    assert "configuration 5, seed 0: validation recall@20 none (TrainingDivergedError" in err
