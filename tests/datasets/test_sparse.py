import numpy as np
import pytest
import scipy.sparse as sp

from alignrec_pyg.datasets import from_scipy
from alignrec_pyg.graph import INTERACTS

TRAIN = np.array([[1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_array, sp.coo_array, sp.lil_matrix])
def test_entries_are_interactions(kind):
    data = from_scipy(kind(TRAIN)).data
    assert (data["user"].num_nodes, data["item"].num_nodes) == (2, 3)
    assert set(zip(*data[INTERACTS].edge_index.tolist(), strict=True)) == {(0, 0), (0, 2), (1, 1)}
    assert "rating" not in data[INTERACTS]
    assert "split" not in data[INTERACTS]


def test_values_parts_and_ids():
    val = sp.csr_array(np.array([[0.0, 2.5, 0], [0, 0, 0]]))
    test = sp.coo_array(([0.0, 4.0], ([0, 1], [0, 2])), shape=(2, 3))
    dataset = from_scipy(
        sp.csr_array(TRAIN), val, test, user_id=["b", "a"], item_id=np.array([5, 3, 9])
    )
    links = dataset.data[INTERACTS]
    assert links.split.tolist() == [0, 0, 0, 1, 2]
    assert links.rating.tolist() == [1, 1, 1, 2.5, 4]
    assert links.edge_index[:, 3:].tolist() == [[0, 1], [1, 2]]
    assert dataset.data["user"].id.tolist() == ["b", "a"]
    assert dataset.data["item"].id.tolist() == [5, 3, 9]
    assert "'test': 1 stored zeros left out" in dataset.report.notes


def test_pairs_in_two_parts_are_noted():
    dataset = from_scipy(sp.csr_array(TRAIN), None, sp.csr_array(TRAIN[[1, 1]]))
    assert dataset.report.duplicates == 1
    assert any("left out first: entry (1, 1)" in note for note in dataset.report.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TRAIN,), "'train' needs to be a sparse matrix"),
        ((sp.csr_array((2, 3)),), "at least one entry that is not 0"),
        ((sp.csr_array(TRAIN), sp.csr_array((2, 4))), "the same users and items"),
        ((sp.csr_array(TRAIN * np.nan),), "needs finite values"),
    ],
)
def test_bad_matrices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_scipy(*arguments)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a"], "'user_id' needs 2 ids .got 1."),
        (["a", "a"], "'user_id' needs distinct ids"),
        (["a", 1], "'user_id' row 1, column 'user_id'.*all strings"),
    ],
)
def test_bad_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        from_scipy(sp.csr_array(TRAIN), user_id=ids)
