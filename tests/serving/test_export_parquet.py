import numpy as np
import pytest
import torch

from alignrec_pyg import BPR, recommend
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.serving import export_parquet as module
from alignrec_pyg.serving import export_recommendations

parquet = pytest.importorskip("pyarrow.parquet")


def by_user(path):
    lists = {}
    for row in parquet.read_table(path).to_pylist():
        lists.setdefault(row["user_id"], []).append(row)
    return lists


@pytest.mark.parametrize("row_group", [1, 3, 1 << 18])
def test_rows_are_the_recommendations(toy, tmp_path, monkeypatch, row_group):
    monkeypatch.setattr(module, "_ROW_GROUP", row_group)
    monkeypatch.setattr("alignrec_pyg.evaluation.ranking._BLOCK_SCORES", 8)  # two users at a time
    torch.manual_seed(0)
    model = BPR(toy)
    path = tmp_path / "folder" / "best.parquet"
    assert export_recommendations(model, toy, path, k=3) == 7
    lists = by_user(path)
    assert list(lists) == ["ann", "bob", "cy"]
    user_x, item_x = model.user_embedding.weight, model.item_embedding.weight
    for number, (user, rows) in enumerate(lists.items()):
        expected = recommend(model, toy, user, k=3)[0]
        assert [row["item_id"] for row in rows] == expected.tolist()
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        items = torch.tensor([toy["item"].id.tolist().index(row["item_id"]) for row in rows])
        scores = (item_x[items] @ user_x[number]).tolist()
        assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-6)
    file = parquet.ParquetFile(path)
    assert file.num_row_groups == {1: 2, 3: 2, 1 << 18: 1}[row_group]
    assert [str(column.type) for column in file.schema_arrow] == [
        "string",
        "int32",
        "int64",
        "float",
    ]
    assert list(path.parent.iterdir()) == [path]


def test_some_users_and_some_items(toy, tmp_path):
    path = tmp_path / "best.parquet"
    options = {"users": ["cy", "ann", "cy"], "candidates": [10, 30], "exclude": [30]}
    assert export_recommendations(BPR(toy), toy, path, exclude_known=False, **options) == 2
    assert {user: [row["item_id"] for row in rows] for user, rows in by_user(path).items()} == {
        "ann": [10],
        "cy": [10],
    }
    assert export_recommendations(BPR(toy), toy, path, users=[]) == 0
    assert parquet.read_table(path).num_rows == 0


def test_scores_that_are_not_finite_leave_the_old_file(toy, tmp_path):
    path = tmp_path / "best.parquet"
    export_recommendations(BPR(toy), toy, path)
    before = path.read_bytes()
    model = BPR(toy)
    model.user_embedding.weight.data[2] = float("nan")
    with pytest.raises(FloatingPointError):
        export_recommendations(model, toy, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_one_block_and_one_row_group_are_held(tmp_path, monkeypatch):
    """Of 40,000 rows never more than a row group and a block wait."""
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 2000, 50
    data[INTERACTS].edge_index = torch.zeros(2, 0, dtype=torch.int64)
    monkeypatch.setattr(module, "_ROW_GROUP", 5000)
    monkeypatch.setattr("alignrec_pyg.evaluation.ranking._BLOCK_SCORES", 100 * 50)
    path = tmp_path / "best.parquet"
    assert export_recommendations(BPR(data, embedding_dim=4), data, path, k=20) == 40_000
    file = parquet.ParquetFile(path)
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sum(sizes) == 40_000
    assert max(sizes) <= 5000 + 100 * 20
    assert np.unique(parquet.read_table(path)["user_id"].to_numpy()).size == 2000
