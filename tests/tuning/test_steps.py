from types import SimpleNamespace

import pytest
import torch

from alignrec_pyg.experiments.presets import PAPER
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.tuning.configurations import Trial, collect
from alignrec_pyg.tuning.spaces import WIDE

pytest.importorskip("ray.tune", reason="needs Ray ('tune' extra)")

from alignrec_pyg.tuning import steps
from tuning import search

pytestmark = pytest.mark.tune_extra


def trial(number, seed, outcome):
    return Trial(
        number=number, seed=seed, point={"lr": number / 100}, outcome=outcome, reason="", val={},
        best_epoch=1, epochs=1, seconds=1.0,
    )  # fmt: skip


def test_finalists_train_what_was_stopped_and_every_other_seed():
    best = collect([trial(3, 0, "finished"), trial(5, 0, "stopped"), trial(5, 1, "finished")])
    asked = steps._unfinished(SimpleNamespace(seeds=range(3)), best)
    assert [(one["number"], one["seed"]) for one in asked] == [(5, 0), (3, 1), (3, 2), (5, 2)]
    assert [one["point"] for one in asked] == [{"lr": n / 100} for n in (5, 3, 3, 5)]


@pytest.mark.parametrize(
    ("words", "max_epochs", "trials"),
    [
        ([], 123, 20),
        (["--scheduler", "none", "--num-samples", "7"], None, 7),
    ],
)
def test_the_scheduler_and_number_of_trials_are_those_asked_for(words, max_epochs, trials):
    options = search._parser().parse_args(words)
    session = SimpleNamespace(options=options, device=torch.device("cpu"))
    preset = PAPER["AlignRec"].with_train(max_epochs=123)
    plan = steps._plan(session, WIDE["AlignRec"], preset)
    assert (plan.max_epochs, plan.trials) == (max_epochs, trials)
    assert (plan.cpus, plan.gpus) == (torch.get_num_threads(), 0.0)


def test_shares_of_a_gpu_fit_the_device():
    def gpus(*words, device="cuda"):
        options = search._parser().parse_args(words)
        session = SimpleNamespace(options=options, device=torch.device(device))
        return steps._plan(session, WIDE["BPR"], PAPER["BPR"]).gpus

    assert gpus() == gpus("--device", "cuda") == 0.25
    assert gpus("--gpus-per-trial", "0") == gpus("--device", "cpu", device="cpu") == 0
    assert gpus("--gpus-per-trial", "1", "--address", "auto", device="cpu") == 1
    for device, need, share in (("cuda", "above 0", "0"), ("cpu", "0", "0.5")):
        message = rf"needs to be {need} with --device {device} \(got {share}\): leave one of"
        with pytest.raises(SettingsError, match=message):
            gpus("--device", device, "--gpus-per-trial", share, device=device)
    with pytest.raises(SettingsError, match="torch finds no GPU"):
        gpus("--gpus-per-trial", "1", device="cpu")


def test_random_configurations_have_their_numbers_and_seed_0():
    options = search._parser().parse_args(["--search", "random", "--num-samples", "4"])
    session = SimpleNamespace(options=options, device=torch.device("cpu"))
    plan = steps._plan(session, WIDE["BPR"], PAPER["BPR"])
    assert [(one["number"], one["seed"]) for one in plan.trials] == [(n, 0) for n in range(4)]
