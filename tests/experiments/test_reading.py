import numpy as np
import pytest
import torch

from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.graph import feature_table


def test_outside_tables_join_the_datas_own(tiny_folder, tmp_path):
    table = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    np.save(tmp_path / "mine.npy", table)
    data = prepare(str(tiny_folder), tables={"mine": tmp_path / "mine.npy"}, scale="raw")
    assert data.features == ["image", "mine", "text"]
    assert torch.equal(feature_table(data.train, "mine"), torch.from_numpy(table))
    assert any("mine.npy" in note for note in data.report.notes)


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("text", np.ones((30, 2)), "a table of this name"),
        ("mine", np.ones((29, 2)), "needs the shape"),
        ("my-own+table", np.ones((30, 2)), "letters, digits and underscores"),
        ("mine", np.full((30, 2), np.nan), "at least one finite row"),
    ],
)
def test_unfit_outside_tables_are_told(tiny_folder, tmp_path, name, table, message):
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(SettingsError, match=message):
        prepare(str(tiny_folder), tables={name: tmp_path / "a.npy"})
    with pytest.raises(SettingsError, match="missing.npy"):
        prepare(str(tiny_folder), tables={"mine": tmp_path / "missing.npy"})


def test_rows_that_are_not_finite_are_missing_with_a_note(tiny_folder, tmp_path):
    table = np.ones((30, 2))
    table[3] = np.nan
    np.save(tmp_path / "a.npy", table)
    data = prepare(str(tiny_folder), tables={"mine": tmp_path / "a.npy"})
    assert data.train["item"].mask_mine.nonzero().tolist() == [[3]]
    note = "ATTENTION: feature 'mine': 1 rows with NaN or infinity taken as missing"
    assert note in data.report.notes
