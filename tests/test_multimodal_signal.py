"""From raw texts and images to recommendations: content helps, and only if it is the right one."""

import copy

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import BPR, VBPR, AlignRec, LightGCN, TrainConfig, evaluate, fit
from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.encoders import PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.transforms import ConcatFeatures, EncodeItems, KNNItemGraph, SplitInteractions


@pytest.fixture(scope="module")
def encoded() -> HeteroData:
    data = Synthetic(
        num_users=300, num_items=200, num_interactions=2500, num_topics=10, noise=0.0
    ).data
    data = EncodeItems(TfidfEncoder(32), "text")(data)
    data = EncodeItems(PatchPCAEncoder(32), "image")(data)
    return ConcatFeatures(["image", "text"], "mm")(data)


def recall_of(data: HeteroData, model_cls, **hparams) -> float:
    data = KNNItemGraph("mm", k=10)(data)
    train, val, test = SplitInteractions("random", seed=0)(data)
    torch.manual_seed(0)
    model = model_cls(train, **hparams)
    fit(model, train, val, TrainConfig(lr=5e-3, batch_size=512, max_epochs=20, patience=8))
    return evaluate(model, test)["recall@20"]


@pytest.mark.parametrize(
    ("model_cls", "hparams", "without_content"),
    [(VBPR, {"reg_weight": 0.001}, BPR), (AlignRec, {}, LightGCN)],
)
def test_the_items_content_helps_and_that_of_others_does_not(
    encoded, model_cls, hparams, without_content
):
    plain = recall_of(encoded, without_content)
    right = recall_of(encoded, model_cls, features=["mm"], **hparams)
    other = copy.copy(encoded)
    drawn = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    other["item"].x_mm = encoded["item"].x_mm[drawn]
    wrong = recall_of(other, model_cls, features=["mm"], **hparams)
    assert right > plain + 0.05
    assert wrong < plain
