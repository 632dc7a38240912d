import numpy as np
import pytest
import torch

from alignrec_pyg.graph import content_hash


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        torch.tensor([[1.0, 2.0, 3.0]]),
        "text",
        1,
        None,
        ["a", "b"],
    ],
)
def test_content_hash_differs_with_content_dtype_and_shape(other):
    assert content_hash(torch.tensor([1.0, 2.0, 3.0])) != content_hash(other)


def test_content_hash_sees_a_dtype_of_the_same_bytes():
    assert content_hash(torch.zeros(3)) != content_hash(torch.zeros(3, dtype=torch.int32))


def test_content_hash_of_what_numpy_lacks():
    ones = torch.ones(3, dtype=torch.bfloat16)
    assert content_hash(ones) == content_hash(ones.clone())
    others = [ones + 1, ones.view(torch.int16), ones.float()]
    assert content_hash(ones) not in [content_hash(other) for other in others]


def test_content_hash_is_stable_and_sees_order_and_types():
    assert content_hash(torch.arange(3)) == content_hash(np.arange(3))
    assert content_hash("a", "b") != content_hash("b", "a")
    assert content_hash("1") != content_hash(1)
    assert content_hash(["a", "b"]) != content_hash("a", "b")
    objects = np.array(["a", "b"], dtype=object)
    assert content_hash(objects) == content_hash(["a", "b"])
