import numpy as np
import pandas as pd
import pytest
import torch

from alignrec_pyg import BPR, Server
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.serving import server as module
from alignrec_pyg.serving.export_parquet import write_parquet

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def server(toy):
    torch.manual_seed(0)
    return Server(BPR(toy), toy)


@pytest.mark.parametrize("frame_rows", [3, 6, 1 << 18])
def test_rows_are_the_recommendations(server, tmp_path, monkeypatch, frame_rows):
    monkeypatch.setattr(module, "_FRAME_ROWS", frame_rows)
    path = tmp_path / "folder" / "best.parquet"
    assert server.to_parquet(path, k=3) == 7
    expected = server.recommend(["ann", "bob", "cy"], k=3, as_frame=True)
    pd.testing.assert_frame_equal(parquet.read_table(path).to_pandas(), expected)
    file = parquet.ParquetFile(path)
    assert file.num_row_groups == {3: 3, 6: 2, 1 << 18: 1}[frame_rows]
    types = ["string", "int32", "int64", "float"]
    assert [str(column.type) for column in file.schema_arrow] == types
    assert list(path.parent.iterdir()) == [path]


def test_some_users_and_some_items(server, tmp_path):
    path = tmp_path / "best.parquet"
    options = {"user_ids": ["cy", "ann"], "candidates": [10, 30], "exclude": [30]}
    assert server.to_parquet(path, exclude_known=False, **options) == 2
    assert parquet.read_table(path)["user_id"].to_pylist() == ["cy", "ann"]
    assert parquet.read_table(path)["item_id"].to_pylist() == [10, 10]
    assert server.to_parquet(path, user_ids=[]) == 0
    table = parquet.read_table(path)
    assert (table.num_rows, str(table.schema.field("user_id").type)) == (0, "string")


def test_what_goes_wrong_leaves_the_old_file(server, tmp_path):
    path = tmp_path / "best.parquet"
    server.to_parquet(path)
    before = path.read_bytes()

    def frames():
        yield server.recommend("ann", as_frame=True)
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        write_parquet(path, frames(), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_frame_at_a_time_is_held(tmp_path, monkeypatch):
    """Of 40,000 rows never more than a frame and a block of scores."""
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 2000, 50
    data[INTERACTS].edge_index = torch.stack([torch.arange(2000), torch.arange(2000) % 50])
    monkeypatch.setattr(module, "_FRAME_ROWS", 5000)
    monkeypatch.setattr("alignrec_pyg.evaluation.ranking._BLOCK_SCORES", 100 * 50)
    path = tmp_path / "best.parquet"
    assert Server(BPR(data, embedding_dim=4), data).to_parquet(path, k=20) == 40_000
    file = parquet.ParquetFile(path)
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert (sum(sizes), max(sizes)) == (40_000, 5000)
    assert np.unique(parquet.read_table(path)["user_id"].to_numpy()).size == 2000
