from __future__ import annotations

import sys
from types import ModuleType

from alignrec_pyg.pretraining import log
from alignrec_pyg.pretraining.log import RunLog


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
    monkeypatch.setattr(log, "find_spec", lambda name: object())
    with RunLog(tmp_path, 7) as run:
        run.write({"step": 8, "epoch": 0, "loss": 1.5})
    assert seen == [
        (str(tmp_path / "tensorboard"), 8),
        ("epoch", 0, 8),
        ("loss", 1.5, 8),
        "closed",
    ]


def test_nothing_without_tensorboard_or_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    with RunLog(tmp_path, 0) as run:
        run.write({"step": 1, "loss": 1.5})
    with RunLog(None, 0) as run:
        run.write({"step": 1, "loss": 1.5})
    assert list(tmp_path.iterdir()) == []
