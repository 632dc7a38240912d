import numpy as np
import pytest
import torch
from torch import nn

from alignrec_pyg import BPR, Server
from alignrec_pyg.serving import fold_in_users
from alignrec_pyg.serving import new_users as module


def test_vectors_are_those_of_one_system_per_user(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    item_x = torch.randn(20, 4, generator=generator)
    history = torch.tensor([[2, 0, 2, 0, 2, 3], [1, 5, 19, 6, 7, 7]])
    x = item_x.double().numpy()
    gram = x.T @ x / 20
    expected = np.zeros((5, 4))
    for user in (0, 2, 3):
        own = x[[i for u, i in history.t().tolist() if u == user]]
        system = own.T @ own / len(own) + gram + 0.3 * np.trace(gram) / 4 * np.eye(4)
        expected[user] = np.linalg.solve(system, own.mean(axis=0))
    for numbers in (1 << 24, 16):
        monkeypatch.setattr(module, "_BLOCK_NUMBERS", numbers)
        folded = fold_in_users(item_x, history, 5, ridge=0.3)
        assert folded.dtype == torch.float32
        np.testing.assert_allclose(folded.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_units_do_not_matter_and_a_large_ridge_gives_the_mean():
    item_x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    history = torch.tensor([[0, 0], [1, 5]])
    plain, scaled = (fold_in_users(c * item_x, history, 1) for c in (1, 100))
    torch.testing.assert_close(scaled * 100, plain)
    mean = item_x[[1, 5]].mean(0, keepdim=True)
    direction = torch.nn.functional.normalize(fold_in_users(item_x, history, 1, ridge=1e6))
    torch.testing.assert_close(direction, torch.nn.functional.normalize(mean))
    with pytest.raises(ValueError, match=r"'ridge' needs to be finite and positive \(got 0\)"):
        fold_in_users(item_x, history, 1, ridge=0)


def test_a_new_user_of_the_checkerboard_gets_the_items_of_the_parity(checkerboard):
    train, _ = checkerboard
    model = BPR(train, embedding_dim=6)
    model.item_embedding.weight = nn.Parameter(train["item"].x_mm)  # parity, and noise
    histories = [[0, 10, 20, 30], [11, 13, 49]]
    for parity, (row, _) in enumerate(Server(model, train).new_users(histories, k=15)):
        assert set(row % 2) == {parity}
        assert not set(row) & set(histories[parity])
