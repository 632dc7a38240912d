import torch

from alignrec_pyg.graph import INTERACTS, on_device


def test_on_a_device_leaves_the_graph_where_it_is(toy):
    toy["item"].image = [b"bytes of a file"] * 4
    moved = on_device(toy, torch.device("meta"))
    assert moved["item"].image == toy["item"].image == [b"bytes of a file"] * 4
    assert moved["item"].x_image.is_meta
    assert moved[INTERACTS].edge_index.is_meta
    for store in toy.stores:
        for value in store.values():
            assert not (isinstance(value, torch.Tensor) and value.is_meta)
