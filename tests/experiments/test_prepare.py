import shutil

import numpy as np
import pytest
import torch

from alignrec_pyg import AlignRec
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.graph import feature_table


def test_problems_come_together(tiny_folder, tmp_path):
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(SettingsError) as caught:
        prepare(
            str(tiny_folder),
            features=["imgae", "txt"],
            neighbors={"text": tmp_path / "a.npz"},
        )
    assert len(caught.value.problems) == 3


def test_feature_rows_have_length_1_for_all_models_or_stay_as_stored(tiny_folder):
    stored = np.load(tiny_folder / "text.npy")
    raw = prepare(str(tiny_folder), scale="raw")
    np.testing.assert_array_equal(feature_table(raw.train, "text"), stored)
    scaled = prepare(str(tiny_folder))
    length = np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(feature_table(scaled.train, "text"), stored / length, rtol=1e-5)
    for data in (raw, scaled):
        data.inputs(AlignRec)
        both = torch.cat([feature_table(data.train, name) for name in ("image", "text")], dim=1)
        assert torch.equal(feature_table(data.train, "image+text"), both)


def test_rows_ten_times_as_long_are_told_where_they_stay_so(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    for name, length in (("image", 15.0), ("text", 1.0)):
        table = np.load(folder / f"{name}.npy")
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        np.save(folder / f"{name}.npy", length * unit)
    raw, scaled = prepare(str(folder), scale="raw"), prepare(str(folder))
    (note,) = set(raw.report.notes) - set(scaled.report.notes)
    assert note.startswith("ATTENTION: rows of 'image' are 15 times as long as those of 'text', ")
