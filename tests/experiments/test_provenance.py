import shutil

import torch
import torch_geometric

from alignrec_pyg.experiments import provenance


def test_code_version_follows_the_sources_that_train(monkeypatch, tmp_path):
    package = shutil.copytree(provenance._PACKAGE, tmp_path / "alignrec_pyg")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    version = provenance.code_version()
    assert provenance.code_version() == version
    for unrelated in (
        "report.py",
        "datasets/mmrec.py",
        "transforms/k_core.py",
        "feature_eval/rows.py",
    ):
        (package / unrelated).write_text("changed")
    assert provenance.code_version() == version
    for relevant in ("models/bpr.py", "nn/losses.py", "evaluate.py", "train.py", "sampling.py"):
        (package / relevant).write_text("changed")
        assert provenance.code_version() != version
        version = provenance.code_version()
    for library in (torch, torch_geometric):
        monkeypatch.setattr(library, "__version__", "0.0")
        assert provenance.code_version() != version
        version = provenance.code_version()


def test_code_version_follows_the_sources_that_run_and_measure_a_cell(monkeypatch, tmp_path):
    benchmarks = shutil.copytree(provenance._BENCHMARKS, tmp_path / "benchmarks")
    monkeypatch.setattr(provenance, "_BENCHMARKS", benchmarks)
    version = provenance.code_version()
    (benchmarks / "table.py").write_text("changed")
    assert provenance.code_version() == version
    for relevant in ("cells.py", "memory.py", "runner.py", "warm_up.py"):
        (benchmarks / relevant).write_text("changed")
        assert provenance.code_version() != version
        version = provenance.code_version()


def test_commit_needs_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "_BENCHMARKS", tmp_path)
    assert provenance.commit() is None


def test_hardware_and_versions_are_told():
    assert "threads" in provenance.hardware(torch.device("cpu"))
    assert set(provenance.versions()) >= {"python", "torch", "torch_geometric", "alignrec_pyg"}
