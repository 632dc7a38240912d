from __future__ import annotations

import json
import os
import random
import signal
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from alignrec_pyg.pretraining import PretrainConfig, fit, pretrain
from alignrec_pyg.pretraining.pairs import PairDataset
from alignrec_pyg.pretraining.step import PretrainState
from alignrec_pyg.storage import CheckpointError, listed_files, read_manifest
from alignrec_pyg.training.parallel import Workers
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.training.sampling import seeded_generator

CONFIG = PretrainConfig(epochs=2, batch_size=8, micro_batch_size=3, log_every=2, lr=1e-3, seed=3)


def weights(objective):
    return {name: value.clone() for name, value in objective.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_history(stage1):
    """20 pairs in batches of 8 are 3 steps; entries every 2 steps and at the end of an epoch."""
    reported = []
    result = pretrain(
        stage1.objective(),
        stage1.pairs(20),
        stage1.pairs(4, seed=1),
        CONFIG,
        report=lambda step, entry: reported.append((step, entry)),
    )
    assert [entry["step"] for entry in result.history] == [2, 3, 3, 4, 6, 6]
    assert [entry["epoch"] for entry in result.history] == [1, 1, 1, 2, 2, 2]
    assert reported == [(entry["step"], entry) for entry in result.history]
    assert result.num_steps == 6
    assert result.history[0].keys() == {
        "step", "epoch", "lr", "loss", "grad_norm", "unreadable",
        "mlm", "mim", "mlm_accuracy", "mim_accuracy",
    }  # fmt: skip
    assert result.history[0]["lr"] == CONFIG.lr_at(1, 6)
    assert result.metrics == {
        name: value for name, value in result.history[-1].items() if name.startswith("val_")
    }
    assert {"val_loss", "val_mlm", "val_mlm_control_accuracy"} < result.metrics.keys()
    assert result.seconds > 0


def test_training_equals_a_plain_loop(stage1):
    """AdamW with decay of matrices only, warm-up, half a cosine and shortened gradients."""
    config = replace(
        CONFIG, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5, warmup=0.5, clip_norm=0.5
    )
    train, val = stage1.pairs(20), stage1.pairs(4, seed=1)
    objective, plain = stage1.objective(), stage1.objective()
    pretrain(objective, train, val, config)
    groups = {True: [], False: []}
    for name, parameter in plain.named_parameters():
        groups[plain.is_decayed(name, parameter)].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[True]}, {"params": groups[False], "weight_decay": 0.0}],
        betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5,
    )  # fmt: skip
    rates = iter([1 / 3, 2 / 3, 1, 1, 0.75, 0.25])  # half a cosine at 0, 1/3 and 2/3
    for epoch in (0, 1):
        order = torch.randperm(20, generator=seeded_generator(3, epoch, fit._ORDER))
        for numbers in order.split(8):
            batch = train[epoch, numbers.tolist()]
            sums, counts = plain(batch), plain.counts(batch)
            optimizer.zero_grad()
            (sums["mlm"] / counts["mlm"] + sums["mim"] / counts["mim"]).backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            rate = 1e-3 * next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    torch.testing.assert_close(weights(objective), weights(plain), rtol=1e-4, atol=1e-5)


def test_every_pair_once_an_epoch_in_an_order_of_its_own(stage1):
    pairs = stage1.pairs(20)
    state_ = PretrainState()
    seen = []

    class Noted(PairDataset):
        def __getitem__(self, key):
            seen.append(key)
            return super().__getitem__(key)

    noted = Noted(pairs.texts, pairs.images, pairs.tokenizer, pairs.config, seed=1)
    orders = []
    for epoch in (0, 1):
        state_.epoch = epoch
        batches = list(fit._epoch(noted, CONFIG, Workers(torch.device("cpu")), state_))
        assert [[len(part.images) for part in parts] for parts in batches] == [
            [3, 3, 2], [3, 3, 2], [3, 1],
        ]  # fmt: skip
        assert {key[0] for key in seen} == {epoch}
        orders.append([pair for _, part in seen for pair in part])
        assert sorted(orders[-1]) == list(range(20))
        seen.clear()
    assert orders[0] != orders[1]
    state_.step = 2  # what is done is not loaded again
    list(fit._epoch(noted, CONFIG, Workers(torch.device("cpu")), state_))
    assert [pair for _, part in seen for pair in part] == orders[1][16:]


def test_workers_share_each_batch(stage1):
    """Together they see every pair but those that cannot be shared out; batches are the same."""
    pairs, seen = stage1.pairs(21), []

    class Noted(PairDataset):
        def __getitem__(self, key):
            seen[-1].extend(key[1])
            return super().__getitem__(key)

    noted = Noted(pairs.texts, pairs.images, pairs.tokenizer, pairs.config, seed=1)
    workers = Workers(torch.device("cpu"))
    steps = {}
    for size, rank in ((1, 0), (2, 0), (2, 1)):
        workers.world_size, workers.rank = size, rank
        for step, _ in enumerate(_noted_steps(noted, workers, seen)):
            steps[size, rank, step] = set(seen[-1])
    for step in (0, 1):
        assert steps[2, 0, step] | steps[2, 1, step] == steps[1, 0, step]
        assert len(steps[2, 0, step]) == len(steps[2, 1, step]) == 4
    assert len(steps[1, 0, 2]) == 5
    assert len(steps[2, 0, 2]) == len(steps[2, 1, 2]) == 2
    with pytest.raises(ValueError, match="'batch_size' needs to be a multiple of the 2 workers"):
        fit.steps_of_epoch(21, replace(CONFIG, batch_size=9), workers)
    with pytest.raises(ValueError, match="'train' needs a pair for each of the 2 workers"):
        fit.steps_of_epoch(1, CONFIG, workers)
    assert fit.steps_of_epoch(21, CONFIG, workers) == 3


def _noted_steps(noted, workers, seen):
    """Loading goes step by step, so what was seen since the last one belongs to this one."""
    seen.append([])
    for parts in fit._epoch(noted, CONFIG, workers, PretrainState()):
        yield parts
        seen.append([])


def test_the_same_again_and_another_with_another_seed(stage1):
    found = []
    for seed, num_workers in ((3, 0), (3, 1), (4, 0)):
        objective = stage1.objective()
        config = replace(CONFIG, seed=seed, num_workers=num_workers)
        result = pretrain(objective, stage1.pairs(20), stage1.pairs(4, seed=1), config)
        found.append((result.history, weights(objective)))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])
    assert not same(found[0][1], found[2][1])


def run(stage1, folder, epochs=8):
    """Epochs of 3 steps, saved after every step."""
    objective = stage1.objective()
    result = pretrain(
        objective,
        stage1.pairs(20),
        stage1.pairs(4, seed=1),
        replace(CONFIG, epochs=epochs),
        checkpoint_dir=folder,
        checkpoint_seconds=0,
    )
    return result.history, weights(objective)


def killed(stage1, folder, event, fork):
    """Runs in a process of its own, which dies by SIGKILL at an event; False if it ends before.

    Events are forward passes (train and validation) and each step of a save: before the history,
    between it and the tensors, between them and the manifest.
    """
    left = event

    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    def work():
        for module, name in (
            (fit, "write_records"), (listed_files, "publish"), (listed_files, "write_manifest"),
        ):  # fmt: skip
            setattr(module, name, counted(getattr(module, name)))
        objective = type(stage1.objective())
        objective.forward = counted(objective.forward)
        run(stage1, folder)

    (code,) = fork(work)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_killed_at_six_random_points_the_run_ends_as_if_never_interrupted(stage1, tmp_path, fork):
    expected_history, expected = run(stage1, tmp_path / "whole")
    draw = random.Random(7)
    moments = []
    for _ in range(6):
        assert killed(stage1, tmp_path / "killed", draw.randrange(2, 25), fork)
        manifest = tmp_path / "killed" / "state.json"
        if manifest.exists():
            found = read_manifest(manifest)["state"]
            moments.append((found["epoch"], found["step"]))
    assert len(set(moments)) > 2  # it did go on in between
    assert moments == sorted(moments)
    history, found = run(stage1, tmp_path / "killed")
    assert history == expected_history
    assert same(found, expected)
    for name in ("history.jsonl", "state.json"):
        texts = [(tmp_path / part / name).read_text() for part in ("whole", "killed")]
        if name == "state.json":
            texts = [json.loads(text) for text in texts]
            for text in texts:
                del text["state"]["seconds"], text["state"]["cpu_seconds"]
                del text["manifest_sha256"]
        assert texts[0] == texts[1]
    files = [
        sorted(path.name for path in (tmp_path / part).iterdir()) for part in ("whole", "killed")
    ]
    assert files[0] == files[1]
    # a finished run is not trained again
    assert run(stage1, tmp_path / "killed")[0] == history


@pytest.mark.parametrize(
    ("number", "error", "at"),  # of 8 parts in each of 2 epochs
    [(signal.SIGINT, KeyboardInterrupt, 13), (signal.SIGTERM, SystemExit, 15)],
)
def test_interrupted_run_saves_and_goes_on(stage1, tmp_path, number, error, at):
    expected = run(stage1, tmp_path / "whole", epochs=2)
    objective = stage1.objective()
    steps = []

    class Counting(type(objective)):
        def counts(self, batch):
            if self.training:
                steps.append(batch)
                if len(steps) == at:
                    os.kill(os.getpid(), number)
            return super().counts(batch)

    objective.__class__ = Counting
    with pytest.raises(error):
        pretrain(
            objective,
            stage1.pairs(20),
            stage1.pairs(4, seed=1),
            CONFIG,
            checkpoint_dir=tmp_path / "run",
            checkpoint_seconds=1e9,
        )
    found = read_manifest(tmp_path / "run" / "state.json")["state"]
    assert (found["epoch"], found["step"]) == ((1, 2) if at == 13 else (2, 0))
    assert len(steps) == (14 if at == 13 else 16)  # the step was finished
    history, final = run(stage1, tmp_path / "run", epochs=2)
    assert history == expected[0]
    assert same(final, expected[1])


def test_another_run_in_the_folder_is_refused(stage1, tmp_path):
    train, val = stage1.pairs(8), stage1.pairs(4, seed=1)
    config = replace(CONFIG, epochs=1)
    pretrain(stage1.objective(), train, val, config, checkpoint_dir=tmp_path)
    for arguments, named in (
        ((stage1.objective(), train, val, replace(config, lr=1e-4)), "config"),
        ((stage1.objective(seed=1), train, val, config), "initial_weights"),
        ((stage1.objective(joint_masking=True), train, val, config), "objective"),
        ((stage1.objective(), stage1.pairs(8, seed=2), val, config), "train"),
    ):
        with pytest.raises(CheckpointError, match=rf"holds another run: .*\n  {named}"):
            pretrain(*arguments, checkpoint_dir=tmp_path)
    other_workers = replace(config, num_workers=1, max_failures=0.5)  # changes nothing
    pretrain(stage1.objective(), train, val, other_workers, checkpoint_dir=tmp_path)


def test_too_many_unreadable_images_stop_the_run(stage1, tmp_path):
    """Of the pairs of an epoch, however few the last entry of its history is about."""
    train, val = stage1.pairs(20), stage1.pairs(4, seed=1)
    train.images[7] = b"no image"
    config = replace(CONFIG, epochs=1, batch_size=3, log_every=1)
    with pytest.raises(ValueError, match=r"larger than 4.00% for these images: 1 of 20 cannot"):
        pretrain(stage1.objective(), train, val, replace(config, max_failures=0.04))
    result = pretrain(stage1.objective(), train, val, replace(config, max_failures=0.05))
    assert sum(entry.get("unreadable", 0) for entry in result.history) == 1


def test_a_diverged_run_saves_nothing(stage1, tmp_path):
    objective = stage1.objective()
    with torch.no_grad():
        objective.mlm_head.bias[0] = float("inf")
    with pytest.raises(TrainingDivergedError, match="epoch 1, step 1"):
        pretrain(objective, stage1.pairs(8), stage1.pairs(4), CONFIG, checkpoint_dir=tmp_path)
    assert not (tmp_path / "state.json").exists()


@pytest.mark.slow
def test_the_hidden_word_is_told_from_the_image(stage1):
    """The word is always hidden and shows only in the image: on held-out pairs it is told almost
    surely from its own image, and not at all if images are shuffled."""
    config = PretrainConfig(
        epochs=2, batch_size=16, micro_batch_size=16, lr=1e-2, log_every=1000, weight_decay=0.0
    )
    losses = {}
    for shuffled in (False, True):
        objective = stage1.objective(embed_dim=32)
        result = pretrain(
            objective,
            stage1.pairs(512, shuffled=shuffled, crop=1.0),
            stage1.pairs(128, seed=9, shuffled=shuffled),
            config,
        )
        losses[shuffled] = result.metrics
    assert losses[False]["val_mlm"] < 0.5  # ln 4 = 1.39 without the image
    assert losses[False]["val_mlm_accuracy"] > 0.9
    assert losses[False]["val_mlm_control"] > 1.2
    assert losses[False]["val_mlm_control_accuracy"] < 0.5
    assert losses[False]["val_mlm_alone"] > 1.2
    assert losses[False]["val_mlm_alone_accuracy"] < 0.5
    assert losses[True]["val_mlm"] > 1.2


def test_curves_of_each_value(monkeypatch, tmp_path):
    seen = []

    class Writer:
        def __init__(self, folder, purge_step):
            seen.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(fit, "find_spec", lambda name: object())
    with fit._curves(tmp_path, 7) as draw:
        draw({"step": 8, "epoch": 0, "loss": 1.5})
    assert seen == [
        (str(tmp_path / "tensorboard"), 8),
        ("epoch", 0, 8),
        ("loss", 1.5, 8),
        "closed",
    ]


def test_nothing_without_tensorboard_or_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(fit, "find_spec", lambda name: None)
    for folder in (tmp_path, None):
        with fit._curves(folder, 0) as draw:
            draw({"step": 1, "loss": 1.5})
    assert list(tmp_path.iterdir()) == []


def trained(stage1, folder):
    """Weights after 2 epochs of 22 pairs, of which two workers can share out all."""
    objective = stage1.objective()
    config = PretrainConfig(epochs=2, batch_size=8, micro_batch_size=3, lr=1e-3)
    val = stage1.pairs(7, seed=1)
    result = pretrain(objective, stage1.pairs(22), val, config, checkpoint_dir=folder)
    return {"weights": objective.state_dict(), "history": result.history}


def test_two_processes_do_what_one_does(stage1, tmp_path, two_processes):
    """Up to rounding: they share the batches, and add up gradients, losses and validation."""
    expected = trained(stage1, tmp_path / "one")
    both = two_processes.run(lambda rank: trained(stage1, tmp_path / "two"))
    assert read_manifest(tmp_path / "two" / "state.json")["run"]["workers"] == 2
    for found in both:
        for name, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, atol=1e-4, rtol=1e-3)
        assert len(found["history"]) == len(expected["history"])
        for one, two in zip(expected["history"], found["history"], strict=True):
            assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
