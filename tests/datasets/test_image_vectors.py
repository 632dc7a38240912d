import numpy as np
import pytest

from alignrec_pyg.datasets import image_vectors
from alignrec_pyg.datasets.image_vectors import WIDTH, read_image_vectors


def record(asin, value):
    return asin.encode() + np.full(WIDTH, value, dtype="<f4").tobytes()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "image_features_Toy.b"
    rows = [("B000000003", 3), ("B000000001", 1), ("B000000009", 9), ("B000000001", 7)]
    path.write_bytes(b"".join(record(*row) for row in rows))
    return path


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_rows_of_the_items_asked_for(path, monkeypatch, block):
    monkeypatch.setattr(image_vectors, "_BLOCK", block)
    items = np.array(["B000000001", "B000000002", "B000000003"], dtype=object)
    notes = []
    ids, table = read_image_vectors(path, items, notes)
    assert ids.tolist() == ["B000000001", "B000000003"]
    assert table.dtype == np.float32
    assert table.shape == (2, WIDTH)
    assert table[:, 0].tolist() == [1, 3]
    assert table[:, -1].tolist() == [1, 3]
    assert notes == ["image_features_Toy.b: 1 further rows of an item left out"]


def test_other_files_are_refused(path):
    items = np.array(["B000000002"], dtype=object)
    with pytest.raises(ValueError, match="a row for none of 1 items"):
        read_image_vectors(path, items, [])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="records of 16,394 bytes.*may be cut off"):
        read_image_vectors(path, items, [])
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="got 0 bytes"):
        read_image_vectors(path, items, [])
    path.write_bytes("é".encode() + record("B0000000", 1))
    with pytest.raises(ValueError, match="ids need to be ASCII"):
        read_image_vectors(path, items, [])
