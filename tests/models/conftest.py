"""Graphs of the published sizes, for parameter counts without the memory."""

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, knn_edge_type


class PublishedSizes:
    def __call__(self, num_users: int, num_items: int, widths: dict[str, int]) -> HeteroData:
        data = HeteroData()
        data["user"].num_nodes = num_users
        data["item"].num_nodes = num_items
        for name, width in widths.items():
            data["item"][f"x_{name}"] = torch.empty(num_items, width, device="meta")
            data["item"][f"mask_{name}"] = torch.zeros(num_items, dtype=torch.bool)
        data[INTERACTS].edge_index = torch.zeros(2, 1, dtype=torch.int64)
        data[knn_edge_type("mm")].edge_index = torch.zeros(2, 1, dtype=torch.int64)
        data[knn_edge_type("mm")].edge_weight = torch.ones(1)
        return data

    @staticmethod
    def count(model_cls, data: HeteroData, **hparams) -> int:
        with torch.device("meta"):
            model = model_cls(data, **hparams)
        return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def published_sizes() -> PublishedSizes:
    return PublishedSizes()
