import json
from typing import ClassVar

import numpy as np
import pytest
import torch

from alignrec_pyg import BPR, VBPR, AlignRec, CheckpointError
from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.storage import read_manifest, write_manifest


@pytest.mark.parametrize("kind", ["user", "item"])
def test_users_and_items_are_needed(toy, kind):
    toy[kind].num_nodes = 0
    counts = "0 and 4" if kind == "user" else "3 and 0"
    with pytest.raises(ValueError, match=f"at least one user and one item .got {counts}"):
        BPR(toy)


def test_loading_names_what_does_not_fit(toy, tmp_path):
    AlignRec(toy).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds a AlignRec, not a BPR"):
        BPR.from_pretrained(tmp_path, toy)
    del toy["item"].x_text
    with pytest.raises(CheckpointError, match="does not fit 'data': 'text' needs to be one of"):
        AlignRec.from_pretrained(tmp_path, toy)
    toy["item"].x_text = torch.zeros(4, 9)
    with pytest.raises(CheckpointError, match=r"feature_table.weight.*\(4, 11\), \(4, 15\)"):
        AlignRec.from_pretrained(tmp_path, toy)


def test_loading_notices_other_ids_and_item_graphs(toy, tmp_path):
    AlignRec(toy).save_pretrained(tmp_path)
    ids = toy["user"].id
    toy["user"].id = ids[::-1].copy()
    with pytest.raises(CheckpointError, match="trained with other user ids than those"):
        AlignRec.from_pretrained(tmp_path, toy)
    toy["user"].id = ids
    toy[("item", "knn_image", "item")].edge_weight = torch.ones(8)
    with pytest.raises(CheckpointError, match=r"trained with other item graph 'image' .*4 of 4"):
        AlignRec.from_pretrained(tmp_path, toy)


def test_ids_are_equal_by_value(toy, tmp_path):
    toy["item"].id = np.array([3, 1, 4, 5], dtype=np.int32)
    toy["user"].id = np.array(["ann", "bob", "cy"])
    BPR(toy).save_pretrained(tmp_path)
    toy["item"].id = np.array([3, 1, 4, 5], dtype=np.int64)
    toy["user"].id = np.array(["ann", "bob", "cy"], dtype=object)
    BPR.from_pretrained(tmp_path, toy)
    toy["item"].id = np.array([3.0, 1.0, 4.0, 5.0])
    toy["user"].id = np.array([np.str_("ann"), "bob", "cy"], dtype=object)
    BPR.from_pretrained(tmp_path, toy)
    toy["item"].id = np.array(["3", "1", "4", "5"])
    with pytest.raises(CheckpointError, match="other item ids"):
        BPR.from_pretrained(tmp_path, toy)


def test_features_that_were_made_again_may_differ_by_rounding(toy, tmp_path):
    """Trained and frozen tables, and the item graph that is made of them."""
    AlignRec(toy, features=["text"]).save_pretrained(tmp_path / "trained")
    VBPR(toy, features=["text"]).save_pretrained(tmp_path / "frozen")
    toy["item"].x_text = toy["item"].x_text * (1 + 2e-5)
    toy[("item", "knn_image", "item")].edge_weight *= 1 - 1e-4
    for name, model in (("trained", AlignRec), ("frozen", VBPR)):
        folder = tmp_path / name
        with pytest.warns(UserWarning, match=r"differ by rounding, .*'text' by 2e-05 of"):
            model.from_pretrained(folder, toy)
        with pytest.raises(CheckpointError, match=r"by rounding .*or strict=False"):
            model.from_pretrained(folder, toy, strict=True)
    toy["item"].x_text[2, 0] += 1
    for name, model in (("trained", AlignRec), ("frozen", VBPR)):
        with pytest.raises(CheckpointError, match=r"other features 'text' .*1 of 4 .*first: 2"):
            model.from_pretrained(tmp_path / name, toy)


def test_an_interrupted_save_leaves_the_model_that_was_there(toy, tmp_path, monkeypatch):
    torch.manual_seed(0)
    first, second = BPR(toy), BPR(toy)
    first.save_pretrained(tmp_path)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alignrec_pyg.storage.listed_files.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            second.save_pretrained(tmp_path)
    for model in (first, second):
        loaded = BPR.from_pretrained(tmp_path, toy)
        assert torch.equal(loaded.user_embedding.weight, model.user_embedding.weight)
        second.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("[!.]*"))) == 2


def test_loaded_model_is_in_evaluation_mode(toy, tmp_path):
    BPR(toy).save_pretrained(tmp_path)
    assert not BPR.from_pretrained(tmp_path, toy).training


def test_loading_a_config_without_its_keys_is_an_error(toy, tmp_path):
    BPR(toy).save_pretrained(tmp_path)
    write_manifest(tmp_path / "config.json", {"model": "BPR"})
    with pytest.raises(CheckpointError, match="'hparams' is missing"):
        BPR.from_pretrained(tmp_path, toy)


def test_data_sets_are_not_graphs():
    with pytest.raises(ValueError, match=r"'data' needs to be a HeteroData .* pass the \.data"):
        BPR(Synthetic(10, 10, 60))


def test_loading_notices_other_frozen_features(toy, tmp_path):
    VBPR(toy).save_pretrained(tmp_path)
    VBPR.from_pretrained(tmp_path, toy)
    toy["item"].x_text = toy["item"].x_text + 1
    with pytest.raises(CheckpointError, match="trained with other features"):
        VBPR.from_pretrained(tmp_path, toy)


def test_loading_a_damaged_folder_is_an_error(toy, tmp_path):
    with pytest.raises(CheckpointError, match="is missing"):
        BPR.from_pretrained(tmp_path, toy)
    BPR(toy).save_pretrained(tmp_path)
    (tensors,) = tmp_path.glob("model-*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or was replaced"):
        BPR.from_pretrained(tmp_path, toy)


def test_config_is_plain_json(toy, tmp_path):
    AlignRec(toy).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"] == "AlignRec"
    assert config["hparams"]["features"] == ["image", "text"]
    assert config["num_items"] == 4


@pytest.mark.parametrize("model_class", [BPR, VBPR])  # VBPR has frozen features
def test_bfloat16_is_kept(toy, tmp_path, model_class):
    model = model_class(toy).bfloat16()
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path, toy)
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.bfloat16
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize(
    "change",
    [
        {"files": 5},
        {"files": {}},
        {"data": []},
        {"hparams": {"embedding_dim": 10**10}},
        {"hparams": {"embedding_dim": 10**30}},
        {"hparams": {"no_such": 1}},
        {"hparams": 5},
        {"model": 5},
    ],
)
def test_a_config_that_holds_something_else_is_an_error(toy, tmp_path, change):
    BPR(toy).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    write_manifest(path, {**read_manifest(path), **change})
    with pytest.raises(CheckpointError):
        BPR.from_pretrained(tmp_path, toy)
    assert len(list(tmp_path.glob("[!.]*"))) == 2


def test_a_model_of_somebody_else_is_not_replaced(toy, tmp_path):
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text('{"architectures": []}')
    with pytest.raises(CheckpointError, match="or not its own"):
        BPR(toy).save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("[!.]*"))) == 2
    (tmp_path / "config.json").unlink()
    BPR(toy).save_pretrained(tmp_path)
    assert (tmp_path / "model-00001-of-00002.safetensors").exists()


class Built(BPR):
    """Tells where its parameters are made."""

    devices: ClassVar[list[str]] = []

    def __init__(self, data, *, embedding_dim=8):
        super().__init__(data, embedding_dim=embedding_dim)
        self.devices.append(self.user_embedding.weight.device.type)


def test_sizes_are_compared_before_there_is_memory_for_them(toy, tmp_path, monkeypatch):
    Built(toy).save_pretrained(tmp_path)
    monkeypatch.setattr(Built, "devices", [])
    Built.from_pretrained(tmp_path, toy)
    assert Built.devices == ["meta", "cpu"]
    config = read_manifest(tmp_path / "config.json")
    write_manifest(tmp_path / "config.json", {**config, "hparams": {"embedding_dim": 9}})
    monkeypatch.setattr(Built, "devices", [])
    with pytest.raises(CheckpointError, match=r"'user_embedding.weight': \(\(3, 8\), \(3, 9\)\)"):
        Built.from_pretrained(tmp_path, toy)
    assert Built.devices == ["meta"]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: x.detach().numpy(),
        lambda x: torch.ones(x.size(1), device="cpu") @ x.t(),
    ],
    ids=["bool", "nonzero", "tolist", "numpy", "other device"],
)
def test_a_constructor_may_compute_with_the_values_of_its_tensors(toy, tmp_path, compute):
    class Computing(BPR):
        def __init__(self, data, *, embedding_dim=8):
            super().__init__(data, embedding_dim=embedding_dim)
            compute(self.user_embedding.weight)

    model = Computing(toy)
    model.save_pretrained(tmp_path)
    loaded = Computing.from_pretrained(tmp_path, toy)
    assert torch.equal(loaded.user_embedding.weight, model.user_embedding.weight)


def test_an_error_of_the_constructor_is_not_taken_for_one_of_a_device(toy, tmp_path, monkeypatch):
    Built(toy).save_pretrained(tmp_path)
    monkeypatch.setattr(Built, "devices", [])

    def failing(self, data, *, embedding_dim=8):
        self.devices.append(torch.empty(0).device.type)
        raise RuntimeError("out of something")

    monkeypatch.setattr(Built, "__init__", failing)
    with pytest.raises(CheckpointError, match="does not fit 'data': out of something"):
        Built.from_pretrained(tmp_path, toy)
    assert Built.devices == ["meta"]
