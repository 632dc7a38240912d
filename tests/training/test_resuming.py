import copy
import math
import os
import signal
from dataclasses import replace

import pytest
import torch

from alignrec_pyg import (
    BM3,
    BPR,
    FREEDOM,
    AlignRec,
    CheckpointError,
    LightGCN,
    TrainingDivergedError,
    evaluate,
    fit,
)
from alignrec_pyg.atomic import LockedError, folder_lock
from alignrec_pyg.graph import INTERACTS, mask_key
from alignrec_pyg.storage import read_manifest
from alignrec_pyg.training.sampling import TripletSampler
from tests.training.small_runs import build, same_weights, small_config


def test_a_folder_that_another_run_is_in_is_refused(checkerboard, tmp_path, monkeypatch):
    monkeypatch.setattr("alignrec_pyg.training.state._LOCK_SECONDS", 0)
    train, test = checkerboard
    with (
        folder_lock(tmp_path),
        pytest.raises(LockedError, match=f"{tmp_path} is in use by process"),
    ):
        fit(build(train), train, test, small_config(), checkpoint_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".alignrec.lock"]
    assert fit(build(train), train, test, small_config(), checkpoint_dir=tmp_path).num_epochs == 4


def test_no_diverged_state_is_saved(checkerboard, tmp_path):
    train, test = checkerboard
    model = build(train)
    with torch.no_grad():
        model.user_embedding.weight[0] = math.nan
    with pytest.raises(TrainingDivergedError, match="epoch 1, batch 1"):
        fit(model, train, test, small_config(), checkpoint_dir=tmp_path, checkpoint_seconds=0)
    assert [path.name for path in tmp_path.iterdir()] == [".alignrec.lock"]


@pytest.mark.parametrize(
    ("model_cls", "fan_out"),  # all draw random numbers of their own
    [(BM3, None), (FREEDOM, None), (FREEDOM, (3, 2))],
)
def test_interrupted_run_continues_to_the_same_bits(checkerboard, tmp_path, model_cls, fan_out):
    """Ctrl-C in the middle of an epoch, twice, then on to the end."""
    train, test = checkerboard
    config = small_config(fan_out=fan_out)
    whole = build(train, model_cls)
    expected = fit(whole, train, test, config)

    class Interrupted(model_cls):
        batches = 0
        interrupt_at = 0

        def loss(self, data, batch):
            self.batches += 1
            if self.batches == self.interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(data, batch)

    Interrupted.__name__ = model_cls.__name__
    for interrupt_at in (3, 9):
        model = build(train, Interrupted)
        model.interrupt_at = interrupt_at
        with pytest.raises(KeyboardInterrupt):
            fit(model, train, test, config, checkpoint_dir=tmp_path)
        state = read_manifest(tmp_path / "state.json")["state"]
        assert state["step"] > 0
    model = build(train, model_cls)
    found = fit(model, train, test, config, checkpoint_dir=tmp_path)
    assert found.history == expected.history
    assert same_weights(model, whole)
    # a finished run is not trained again
    again = build(train, model_cls)
    assert fit(again, train, test, config, checkpoint_dir=tmp_path).history == found.history
    assert same_weights(again, whole)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_in_the_last_epoch_is_not_lost(checkerboard, tmp_path, number, error):
    train, test = checkerboard

    def last(epoch, metrics):
        if epoch == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(error):
        fit(build(train), train, test, small_config(), report=last, checkpoint_dir=tmp_path)
    assert read_manifest(tmp_path / "state.json")["state"]["finished"]


def test_killed_run_continues_to_the_same_bits(checkerboard, tmp_path, fork):
    train, test = checkerboard
    whole = build(train, BM3)
    expected = fit(whole, train, test, small_config())

    class Killed(BM3):
        batches_left = 0

        def loss(self, data, batch):
            self.batches_left -= 1
            if self.batches_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().loss(data, batch)

    Killed.__name__ = "BM3"
    settings = {"checkpoint_dir": tmp_path, "checkpoint_seconds": 0}
    for kill_at in (8, 6):
        model = build(train, Killed)
        model.batches_left = kill_at
        codes = fork(lambda model=model: fit(model, train, test, small_config(), **settings))
        assert codes == [-signal.SIGKILL]
    state = read_manifest(tmp_path / "state.json")["state"]
    assert (state["epoch"], state["step"]) == (2, 2)  # 7 batches, then 5 more
    model = build(train, BM3)
    found = fit(model, train, test, small_config(), checkpoint_dir=tmp_path)
    assert found.history == expected.history
    assert same_weights(model, whole)


def test_another_run_in_the_folder_is_an_error_that_names_the_difference(checkerboard, tmp_path):
    train, test = checkerboard
    fit(build(train), train, test, small_config(), checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"(?m)^  config.lr 0.5 \(saved 0.01\)$"):
        fit(build(train), train, test, small_config(lr=0.5), checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"(?m)^  hparams.reg_weight 3.0 \(saved"):
        fit(build(train, reg_weight=3.0), train, test, small_config(), checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"(?m)^  model LightGCN \(saved BPR\)$"):
        fit(build(train, LightGCN), train, test, small_config(), checkpoint_dir=tmp_path)
    links = test[INTERACTS]
    for name in ("edge_index", "edge_label_index"):  # validation on other links, known or not
        other = copy.copy(test)
        other[INTERACTS][name] = links[name][:, 1:]
        with pytest.raises(CheckpointError, match=r"(?m)^  graphs \w+ \(saved"):
            fit(build(train), train, other, small_config(), checkpoint_dir=tmp_path)
    train[INTERACTS].edge_label_index = train[INTERACTS].edge_label_index[:, 1:]
    with pytest.raises(CheckpointError, match=r"(?m)^  graphs \w+ \(saved"):
        fit(build(train), train, test, small_config(), checkpoint_dir=tmp_path)


def test_damaged_checkpoint_is_an_error(checkerboard, tmp_path):
    train, test = checkerboard
    fit(build(train), train, test, small_config(), checkpoint_dir=tmp_path)
    (best,) = tmp_path.glob("best-*.safetensors")
    best.write_bytes(best.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"best-.* is damaged"):
        fit(build(train), train, test, small_config(), checkpoint_dir=tmp_path)


def test_without_a_checkpoint_folder_the_signals_are_left_alone(checkerboard):
    train, test = checkerboard

    class Interrupted(BPR):
        def loss(self, data, batch):
            os.kill(os.getpid(), signal.SIGINT)
            return super().loss(data, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(build(train, Interrupted), train, test, small_config())


@pytest.mark.parametrize("max_epochs", [8, 7])  # the seventh is evaluated out of turn
def test_a_run_that_ended_goes_on_as_if_it_had_been_asked_for_more(
    checkerboard, tmp_path, max_epochs
):
    train, test = checkerboard
    longer = small_config(eval_every=4, max_epochs=14, lr_decay=0.5, lr_decay_epochs=2)
    whole = build(train, BM3)
    expected = fit(whole, train, test, longer)
    shorter = replace(longer, max_epochs=max_epochs)
    first = fit(build(train, BM3), train, test, shorter, checkpoint_dir=tmp_path)
    assert first.num_epochs == max_epochs
    model = build(train, BM3)
    found = fit(model, train, test, longer, checkpoint_dir=tmp_path)
    assert found.num_epochs == 14
    extra = [set(a) - set(b) for a, b in zip(found.history, expected.history, strict=True)]
    assert [n + 1 for n, names in enumerate(extra) if names] == ([7] if max_epochs == 7 else [])
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours | theirs == ours
    if found.best_epoch != 7:
        assert same_weights(model, whole)
    # fewer epochs than are done: the result is that of those done
    again = fit(build(train, BM3), train, test, shorter, checkpoint_dir=tmp_path)
    assert (again.history, again.best_epoch) == (found.history, found.best_epoch)


def told(monkeypatch, values):
    """Lets evaluations give these values of recall@1, one after the other."""
    left = iter(values)
    monkeypatch.setattr(
        "alignrec_pyg.training.run.evaluate_distributed",
        lambda model, val, ks, workers: {f"recall@{k}": next(left) for k in ks},
    )


def test_a_run_that_patience_ended_goes_on_with_more_patience(checkerboard, tmp_path, monkeypatch):
    train, test = checkerboard
    told(monkeypatch, [0.5, 0.4, 0.3, 0.6, 0.1])
    config = small_config(eval_every=4, max_epochs=100, patience=1, ks=(1,), monitor="recall@1")
    arguments = {"checkpoint_dir": tmp_path, "progress": False}
    first = fit(build(train), train, test, config, **arguments)
    assert (first.num_epochs, first.best_epoch) == (12, 4)  # stale at 8 and 12
    assert (first.stopped_early, first.still_rising, first.way_on) == (True, False, None)
    more = replace(config, max_epochs=200)  # patience has ended it all the same
    assert fit(build(train), train, test, more, **arguments).num_epochs == 12
    patient = replace(config, patience=2, max_epochs=20)
    second = fit(build(train), train, test, patient, **arguments)
    assert (second.num_epochs, second.best_epoch) == (20, 16)
    assert (second.stopped_early, second.still_rising, second.way_on) == (
        False,
        False,
        "max_epochs",
    )
    assert str(second) == "best epoch 16 of 20, at the limit of epochs"


@pytest.mark.parametrize(
    ("best", "still_rising", "way_on"), [(18, False, None), (19, True, "patience")]
)
def test_validation_rises_still_where_the_best_is_in_the_last_tenth(
    checkerboard, monkeypatch, best, still_rising, way_on
):
    train, test = checkerboard
    told(monkeypatch, [n / 100 if n <= best else 0.0 for n in range(1, 21)])
    config = small_config(max_epochs=40, patience=20 - best - 1, ks=(1,), monitor="recall@1")
    result = fit(build(train), train, test, config, progress=False)
    assert (result.num_epochs, result.best_epoch, result.stopped_early) == (20, best, True)
    assert (result.still_rising, result.way_on) == (still_rising, way_on)
    assert str(result).endswith(", stopped early" + ", validation still rising" * still_rising)


def test_evaluations_and_patience_are_counted_in_steps(checkerboard, tmp_path, monkeypatch):
    train, test = checkerboard
    steps = len(TripletSampler(train, batch_size=small_config().batch_size))
    assert steps > 1
    config = small_config(
        max_epochs=40, ks=(1,), monitor="recall@1",
        eval_steps=2 * steps - 1, patience_steps=4 * steps,
    )  # fmt: skip
    told(monkeypatch, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    arguments = {"checkpoint_dir": tmp_path, "progress": False}
    first = fit(build(train), train, test, config, **arguments)
    evaluated = [entry["step"] / steps for entry in first.history if "recall@1" in entry]
    assert evaluated == [2, 4, 6, 8]  # at 8 six epochs have brought nothing, at 6 four
    assert (first.best_epoch, first.stopped_early) == (2, True)
    longer = replace(config, min_steps=11 * steps)
    second = fit(build(train), train, test, longer, **arguments)
    assert (second.num_epochs, second.stopped_early) == (11, True)
    shorter = replace(longer, min_steps=0, patience_steps=None, patience=99, max_epochs=12)
    third = fit(build(train), train, test, shorter, **arguments)
    assert (third.num_epochs, third.stopped_early) == (12, False)


def test_without_validation_nothing_rises(checkerboard):
    train, _ = checkerboard
    result = fit(build(train), train, None, small_config(max_epochs=2), progress=False)
    assert (result.stopped_early, result.still_rising) == (False, False)


def test_time_of_the_processor_goes_on_where_a_run_goes_on(checkerboard, tmp_path, monkeypatch):
    train, test = checkerboard
    config = small_config(max_epochs=1)
    fit(build(train), train, test, config, checkpoint_dir=tmp_path)
    spent = read_manifest(tmp_path / "state.json")["state"]["cpu_seconds"]
    assert spent > 0
    monkeypatch.setattr("time.process_time", lambda: 0.0)  # no more of it
    longer = replace(config, max_epochs=2)
    result = fit(build(train), train, test, longer, checkpoint_dir=tmp_path)
    assert result.cpu_seconds == pytest.approx(spent)


def test_an_evaluation_out_of_turn_may_be_the_best_and_uses_up_no_patience(
    checkerboard, tmp_path, monkeypatch
):
    train, test = checkerboard
    told(monkeypatch, [0.5, 0.4, 0.3, 0.2])
    config = small_config(eval_every=4, max_epochs=6, patience=1, ks=(1,), monitor="recall@1")
    assert fit(build(train), train, test, config, checkpoint_dir=tmp_path).num_epochs == 6
    longer = replace(config, max_epochs=40)
    result = fit(build(train), train, test, longer, checkpoint_dir=tmp_path)
    assert (result.num_epochs, result.best_epoch) == (12, 4)  # stale at 8 and 12, not at 6
    told(monkeypatch, [0.5, 0.9, 0.3, 0.2])
    other = tmp_path / "other"
    fit(build(train), train, test, config, checkpoint_dir=other)
    result = fit(build(train), train, test, longer, checkpoint_dir=other)
    assert (result.num_epochs, result.best_epoch) == (12, 6)


def test_a_run_that_goes_on_may_ask_for_other_cut_offs(checkerboard, tmp_path):
    train, test = checkerboard
    config = small_config(lr=0.05, max_epochs=6, patience=20, ks=(1,), monitor="recall@1")
    first = fit(build(train, BM3), train, test, config, checkpoint_dir=tmp_path)
    model = build(train, BM3)
    other = replace(config, ks=(1, 7), max_epochs=7, eval_every=5)
    found = fit(model, train, test, other, checkpoint_dir=tmp_path)
    assert found.num_epochs == 7
    whole = build(train, BM3)
    expected = fit(whole, train, test, replace(config, max_epochs=7, ks=(1, 7)))
    assert found.history[6]["loss"] == expected.history[6]["loss"]  # the evaluation left no trace
    assert found.best_epoch in (first.best_epoch, 7)
    assert found.best_metrics == evaluate(model, test, ks=(1, 7))


def test_fewer_epochs_than_were_begun_end_with_an_evaluation(checkerboard, tmp_path):
    train, test = checkerboard
    config = small_config(max_epochs=20, eval_every=10)

    class Interrupted(BPR):
        batches = 0

        def loss(self, data, batch):
            self.batches += 1
            if self.batches == 9:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(data, batch)

    Interrupted.__name__ = "BPR"
    with pytest.raises(KeyboardInterrupt):
        fit(build(train, Interrupted), train, test, config, checkpoint_dir=tmp_path)
    epoch = read_manifest(tmp_path / "state.json")["state"]["epoch"]
    assert epoch >= 1
    result = fit(build(train), train, test, replace(config, max_epochs=1), checkpoint_dir=tmp_path)
    assert result.num_epochs == result.best_epoch == epoch + 1


def test_a_run_goes_on_where_features_differ_by_rounding_and_says_so(checkerboard, tmp_path):
    train, test = checkerboard
    config = small_config(max_epochs=2)
    fit(build(train, AlignRec), train, test, config, checkpoint_dir=tmp_path)
    longer = replace(config, max_epochs=3)
    rounded = copy.copy(train)
    rounded["item"].x_mm = train["item"].x_mm * (1 + 1e-5)
    with pytest.warns(UserWarning, match="differ by rounding, .*'mm' by 1e-05"):
        result = fit(build(rounded, AlignRec), rounded, test, longer, checkpoint_dir=tmp_path)
    assert result.num_epochs == 3
    other = copy.copy(train)
    other["item"].x_mm = train["item"].x_mm.clone()
    other["item"].x_mm[5] += 1
    with pytest.raises(CheckpointError, match=r"other features 'mm' .*\(1 of 50 .*first: 5\)"):
        fit(build(other, AlignRec), other, test, longer, checkpoint_dir=tmp_path)
    regraphed = copy.copy(train)
    graph = regraphed["item", "knn_mm", "item"]
    graph.edge_weight = graph.edge_weight * 2
    with pytest.raises(CheckpointError, match="other item graph 'mm'"):
        fit(build(regraphed, AlignRec), regraphed, test, longer, checkpoint_dir=tmp_path)


@pytest.mark.parametrize("model_cls", [BPR, AlignRec])
def test_tables_that_the_model_does_not_read_may_come_and_go(checkerboard, tmp_path, model_cls):
    train, test = checkerboard
    reads = {} if model_cls is BPR else {"features": ["mm"], "item_graph": "mm"}
    config = small_config(max_epochs=1)
    fit(build(train, model_cls, **reads), train, test, config, checkpoint_dir=tmp_path)
    more = copy.copy(train)
    more["item"].x_audio = torch.rand(train["item"].num_nodes, 3)
    more["item"][mask_key("audio")] = torch.arange(train["item"].num_nodes) == 0
    more["item", "knn_audio", "item"].edge_index = train["item", "knn_mm", "item"].edge_index
    more["item", "knn_audio", "item"].edge_weight = train["item", "knn_mm", "item"].edge_weight
    longer = replace(config, max_epochs=2)
    resumed = build(more, model_cls, **reads)
    fit(resumed, more, test, longer, checkpoint_dir=tmp_path)
    whole = build(train, model_cls, **reads)
    assert fit(whole, train, test, longer).num_epochs == 2
    assert same_weights(resumed, whole)
