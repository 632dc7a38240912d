"""A training run to throw away, so that what loads only when first used is no cell's memory."""

from __future__ import annotations

import tempfile

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.evaluation.ranking import rank
from alignrec_pyg.graph import ITEM, feature_key
from alignrec_pyg.models import AlignRec
from alignrec_pyg.training.loop import TrainConfig, fit
from alignrec_pyg.transforms import KNNItemGraph, SplitInteractions

_USERS, _ITEMS, _LINKS = 60, 80, 900
_TABLE = "noise"
_GRAPH = "cosine"


def warm_up(device: torch.device) -> None:
    """Trains and scores AlignRec for one epoch on a tiny data set, checkpoint included.

    Args:
        device: Where the cells run.
    """
    train, val, test = (part.to(str(device)) for part in _tiny_data())
    model = AlignRec(train, features=[_TABLE], item_graph=_GRAPH).to(device)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, train, val, TrainConfig(max_epochs=1), checkpoint_dir=folder)
    rank(model, test)


def _tiny_data() -> tuple[HeteroData, HeteroData, HeteroData]:
    data = Synthetic(_USERS, _ITEMS, _LINKS, num_topics=2, image_size=4).data
    del data[ITEM]["text"], data[ITEM]["image"]
    generator = torch.Generator().manual_seed(0)
    data[ITEM][feature_key(_TABLE)] = torch.randn(_ITEMS, 8, generator=generator)
    data = KNNItemGraph(_TABLE, weighting="cosine", name=_GRAPH)(data)
    return SplitInteractions("random")(data)
