import numpy as np
import pytest

from benchmarks import spectral_features
from benchmarks.spectral_features import spectral_features as make


def two_rings(size=6):
    """Two separate rings of ``size`` items, each item with its two neighbours and itself."""
    item = np.arange(size)
    ring = np.stack([item, (item + 1) % size, (item - 1) % size], axis=1)
    neighbor = np.concatenate([ring, ring + size])
    return neighbor, np.tile([1.0, 0.8, 0.8], (2 * size, 1))


def test_table_is_the_scaled_eigenvectors_of_the_normalised_graph():
    rng = np.random.default_rng(0)
    num_items = 12
    neighbor = np.stack([rng.choice(num_items, 3, replace=False) for _ in range(num_items)])
    cosine = rng.random((num_items, 3)) + 0.1
    dense = np.zeros((num_items, num_items))
    for item in range(num_items):
        for other, value in zip(neighbor[item], cosine[item], strict=True):
            if other != item:
                dense[item, other] = value
    dense = (dense + dense.T) / 2
    degree = dense.sum(1)
    normal = dense / np.sqrt(np.outer(degree, degree))
    value, vector = np.linalg.eigh(normal)
    expected = vector[:, ::-1][:, :4] * np.sqrt(np.maximum(value[::-1][:4], 0))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = make(neighbor, cosine, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_items_of_separate_parts_have_nothing_in_common():
    table = make(*two_rings(), dim=2)
    cosine = table @ table.T
    np.testing.assert_allclose(cosine[:6, :6], 1, atol=1e-5)
    np.testing.assert_allclose(cosine[:6, 6:], 0, atol=1e-5)


def test_items_without_neighbours_lack_the_feature():
    neighbor, cosine = two_rings()
    neighbor[0] = 0
    neighbor[neighbor == 0] = 0
    for row in range(1, 12):
        neighbor[row][neighbor[row] == 0] = row
    table = make(neighbor, cosine, 3)
    assert not table[0].any()
    np.testing.assert_allclose(np.linalg.norm(table[1:], axis=1), 1, atol=1e-5)


def test_same_seed_same_table():
    assert np.array_equal(make(*two_rings(), dim=3), make(*two_rings(), dim=3))


@pytest.mark.parametrize("dim", [0, 12])
def test_dim_is_checked(dim):
    with pytest.raises(ValueError, match=r"'dim' needs to be in \[1, 11\]"):
        make(*two_rings(), dim=dim)


def test_script_writes_the_table(tmp_path, write_neighbors, capsys):
    path = write_neighbors(tmp_path / "text.npz")
    out = tmp_path / "deep" / "table.npy"
    arguments = ["--neighbors", str(path), "--out", str(out), "--dim", "5"]
    assert spectral_features.main(arguments) == 0
    assert np.load(out, allow_pickle=False).shape == (30, 5)
    assert spectral_features.main([*arguments[:-1], "99"]) == 1
    assert "--dim needs to be in" in capsys.readouterr().err
    bare = write_neighbors(tmp_path / "bare.npz", cosine=False)
    assert spectral_features.main(["--neighbors", str(bare), "--out", str(out)]) == 1
    assert "cosine" in capsys.readouterr().err
