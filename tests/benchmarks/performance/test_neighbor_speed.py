import numpy as np
import pytest
import torch

from benchmarks.performance import neighbor_speed


def test_rows_are_near_those_of_the_tables(tmp_path):
    table = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float16)
    np.save(tmp_path / "a.npy", table)
    rows = neighbor_speed.rows_like([tmp_path / "a.npy"], 50)
    one = torch.nn.functional.normalize(rows)
    cosine = one @ torch.nn.functional.normalize(torch.from_numpy(table).float()).T
    assert cosine.max(dim=1).values.mean() == pytest.approx(1 / 1.25**0.5, abs=0.03)
    assert neighbor_speed.rows_like([], 5).shape == (5, 384)


def test_each_backend_has_its_recall(capsys):
    pytest.importorskip("faiss", reason="faiss (extra 'serving') is missing")
    assert neighbor_speed.main(["--items", "400"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert lines[2].startswith("| matmul | 400 |")
    assert lines[2].endswith("| 1 |")
    assert "refused: 'min_recall' needs to be at most 0." in lines[3]
