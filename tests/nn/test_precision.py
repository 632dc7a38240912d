import pytest
import torch

from alignrec_pyg.nn import (
    Adjacency,
    bpr_loss,
    cosine_alignment_loss,
    embedding_norm_loss,
    info_nce_loss,
    l2_loss,
    similarity_loss,
)
from alignrec_pyg.nn.precision import in_float32


def test_under_autocast_tensors_of_less_precision_are_widened_and_autocast_is_off():
    @in_float32
    def product(x, y, *, scale, name="product"):
        return name, scale * (x @ y)

    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        name, found = product(x, x.bfloat16(), scale=torch.tensor(2.0, dtype=torch.float16))
        assert (x @ x).dtype == torch.bfloat16  # on again
    assert name == "product"
    assert torch.equal(found, 2 * (x @ x.bfloat16().float()))
    assert product(x.bfloat16(), x.bfloat16(), scale=1)[1].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: bpr_loss(x[:, 0], y[:, 0]),
        lambda x, y: cosine_alignment_loss(x, y),
        lambda x, y: embedding_norm_loss(x, y),
        lambda x, y: info_nce_loss(x, y),
        lambda x, y: l2_loss(x, y, batch_size=8),
        lambda x, y: similarity_loss(x, y),
    ],
    ids=["bpr", "cosine_alignment", "embedding_norm", "info_nce", "l2", "similarity"],
)
def test_losses_compute_in_float32(loss):
    """Also with values whose squares float16 cannot hold."""
    generator = torch.Generator().manual_seed(0)
    x, y = (500 * torch.randn(8, 4, generator=generator).half() for _ in range(2))
    x, wide = x.requires_grad_(), x.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        found = loss(x, y)
    found.backward()
    expected = loss(wide, y.float())
    expected.backward()
    assert torch.equal(found, expected)
    assert torch.equal(x.grad, wide.grad.half())


def test_propagation_computes_in_float32():
    edges, weight = torch.tensor([[0, 1, 2], [1, 0, 0]]), torch.tensor([0.1, 0.2, 0.3])
    adjacency = Adjacency.from_edges(edges, weight, 3, 3)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide = x.float().requires_grad_()
    expected = adjacency.matmul(wide)
    expected.sum().backward()
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = adjacency.matmul(x)
        found.sum().backward()
    assert torch.equal(found, expected)
    assert torch.equal(x.grad, wide.grad.bfloat16())
