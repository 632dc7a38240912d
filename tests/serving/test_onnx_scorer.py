import json

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import BPR, Server, rank
from alignrec_pyg.evaluation.ranking import rank_blocks
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.serving import onnx_scorer as module

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

USERS, ITEMS = 30, 40


@pytest.fixture
def case():
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = USERS, ITEMS
    data["user"].id = np.array([f"u{n}" for n in range(USERS)], dtype=object)
    liked = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.2
    liked[4] = torch.arange(ITEMS) >= 3  # three are left
    data[INTERACTS].edge_index = liked.nonzero().t()
    torch.manual_seed(0)
    return BPR(data, embedding_dim=8), data


def test_gives_the_lists_and_scores_of_the_model(case, tmp_path):
    model, data = case
    Server(model, data).to_onnx(tmp_path / "scorer.onnx", k=5)
    assert list(tmp_path.iterdir()) == [tmp_path / "scorer.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "scorer.onnx")
    known = [[] for _ in range(USERS)]
    for user, item in data[INTERACTS].edge_index.t().tolist():
        known[user].append(item)
    width = max(map(len, known))
    exclude = np.array([row + [ITEMS] * (width - len(row)) for row in known])
    users = np.arange(USERS)
    item, score = session.run(["item", "score"], {"user": users, "exclude": exclude})
    (block,) = rank_blocks(model, data, torch.arange(USERS), 5, data[INTERACTS].edge_index)
    left = block.item.numpy() < ITEMS
    assert left.sum() == USERS * 5 - 2
    assert item[left].tolist() == block.item.numpy()[left].tolist()
    np.testing.assert_allclose(score, block.score, rtol=1e-5)
    # nobody excluded, other users, repeated
    item, _ = session.run(None, {"user": np.array([7, 2, 7]), "exclude": np.full((3, 1), ITEMS)})
    expected = rank(model, data, 5, torch.tensor([2, 7]), exclude_known=False).item
    assert item.tolist() == expected[[1, 0, 1]].tolist()


def test_the_file_knows_the_ids(case, tmp_path):
    model, data = case
    Server(model, data).to_onnx(tmp_path / "scorer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "scorer.onnx")
    ids = session.get_modelmeta().custom_metadata_map
    assert json.loads(ids["user_id"])[3] == "u3"
    assert json.loads(ids["item_id"]) == list(range(ITEMS))


def test_what_does_not_fit_is_refused(case, tmp_path, monkeypatch):
    model, data = case
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 40\] \(got 41\)"):
        Server(model, data).to_onnx(tmp_path / "scorer.onnx", k=41)
    monkeypatch.setattr(module, "_MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 2 GiB for an ONNX file"):
        Server(model, data).to_onnx(tmp_path / "scorer.onnx")
    assert list(tmp_path.iterdir()) == []
