import math

import pytest
import torch
from torch import Tensor

from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.nn import Alignment

# user 0 and item 1 occur twice
BATCH = InteractionBatch(
    torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 3]), torch.tensor([2, 3, 0, 1])
)


@pytest.fixture
def tensors() -> tuple[Tensor, ...]:
    """IDs of users and items, contents of users and items, final users and items, features."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((3, 5), (4, 5), (3, 5), (4, 5), (3, 6), (4, 6), (4, 7))
    return tuple(torch.randn(size, generator=generator).requires_grad_() for size in sizes)


def align(tensors: tuple[Tensor, ...], batch=BATCH, **options) -> dict[str, Tensor]:
    *x, user, item, features = tensors
    module = Alignment(**options)
    return module(batch, tuple(x), user[batch.user], item[batch.pos_item], features.__getitem__)


def slow(tensors: tuple[Tensor, ...], **options) -> dict[str, Tensor]:
    """Pair by pair over the batch, duplicates and all."""
    id_user, id_item, content_user, content_item, user, item, features = tensors
    users, items = BATCH.user.tolist(), BATCH.pos_item.tolist()

    def cos(a: Tensor, b: Tensor) -> Tensor:
        return a @ b / (a.norm() * b.norm())

    def nce(x: Tensor, y: Tensor, rows: list[int]) -> Tensor:
        like = cos if options.get("cca_normalize", True) else torch.dot
        tau = options.get("temperature", 0.2)
        return sum(
            -torch.log(
                torch.exp(like(x[a], y[a]) / tau)
                / sum(torch.exp(like(x[a], y[b]) / tau) for b in rows)
            )
            for a in rows
        ) / len(rows)

    def cca(x: Tensor, y: Tensor, rows: list[int]) -> Tensor:
        if options.get("cca_symmetric", False):
            return (nce(x, y, rows) + nce(y, x, rows)) / 2
        return nce(x, y, rows)

    has = options.get("has_features", torch.ones(4, dtype=torch.bool))
    known = [i for i in items if has[i]]
    like = cos if options.get("reg_similarity") == "cosine" else torch.dot
    mse = (
        sum(
            (like(content_item[a], content_item[b]) - cos(features[a], features[b]).detach()) ** 2
            for a in known
            for b in known
        )
        / len(known) ** 2
    )
    return {
        "cca": cca(content_item, id_item, items) + cca(content_user, id_user, users),
        "uia": 1 - sum(cos(user[u], item[i]) for u, i in zip(users, items, strict=True)) / 4,
        "reg": mse if options.get("reg_reduction") == "mse" else mse.sqrt(),
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"cca_normalize": False},
        {"cca_symmetric": True},
        {"reg_similarity": "cosine"},
        {"reg_reduction": "mse"},
        {"has_features": torch.tensor([False, True, True, True])},
    ],
    ids=lambda options: next(iter(options), "default"),
)
def test_terms_equal_the_slow_reference_in_value_and_gradient(tensors, options):
    def gradients(term: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            term, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    found, expected = align(tensors, **options), slow(tensors, **options)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
        for a, b in zip(gradients(found[name]), gradients(expected[name]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_terms_of_a_batch_worked_out_by_hand():
    one, zero = [1.0, 0.0], [0.0, 1.0]
    x = tuple(torch.tensor(rows) for rows in ([one], [one, zero], [one], [one, one]))
    user, pos = torch.tensor([one, one]), torch.tensor([one, zero])
    batch = InteractionBatch(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([1, 0]))
    features = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    terms = Alignment(temperature=1.0)(batch, x, user, pos, features.__getitem__)
    # content 0 finds its ID (cosines 1, 0), content 1 does not; the user occurs twice: log 2
    items = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert terms["cca"].item() == pytest.approx(items + math.log(2))
    assert terms["uia"].item() == pytest.approx(0.5)
    # inner products are all 1, cosines of features 1 on the diagonal and 0 beside it
    assert terms["reg"].item() == pytest.approx(math.sqrt(2 / 4))


def test_features_are_asked_for_distinct_items_that_have_some_and_get_no_gradient(tensors):
    asked = []

    def features(items: Tensor) -> Tensor:
        asked.append(items.tolist())
        return tensors[-1][items]

    x = tensors[:4]
    module = Alignment(has_features=torch.tensor([True, True, True, False]))
    terms = module(BATCH, x, tensors[4][BATCH.user], tensors[5][BATCH.pos_item], features)
    assert asked == [[0, 1]]
    grad = torch.autograd.grad(terms["reg"], tensors[-1], allow_unused=True)
    assert grad == (None,)


def test_reg_is_zero_where_no_item_has_features(tensors):
    terms = align(tensors, has_features=torch.zeros(4, dtype=torch.bool))
    assert terms["reg"] == 0
    assert terms["cca"] > 0


def test_scale_of_reg_does_not_depend_on_the_batch_size(tensors):
    twice = InteractionBatch(*(torch.cat([column, column]) for column in BATCH))
    torch.testing.assert_close(align(tensors, twice)["reg"], align(tensors)["reg"])


def test_has_no_state_but_moves_its_mask(tensors):
    module = Alignment(has_features=torch.ones(4, dtype=torch.bool))
    assert not module.state_dict()
    assert not list(module.parameters())
    assert module.to("meta").has_features.device.type == "meta"
    assert "temperature=0.2" in repr(module)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("temperature", 0.0), ("reg_similarity", "euclid"), ("reg_reduction", "sum")],
)
def test_bad_options_are_named(argument, value):
    with pytest.raises(ValueError, match=rf"'{argument}' needs to be .*\(got '?{value}"):
        Alignment(**{argument: value})
