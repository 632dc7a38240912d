import copy
import json
import math
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import ClassVar

import numpy as np
import pytest
import torch

from alignrec_pyg import BPR, FREEDOM, GRCN, MGCN, MMGCN, VBPR, AlignRec, CheckpointError, LightGCN
from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.nn import user_item_adjacency
from alignrec_pyg.storage import read_manifest, write_manifest


def test_loss_skips_terms_of_weight_zero_in_the_gradient(toy):
    model = LightGCN(toy, reg_weight=0.0)
    model.loss_terms = lambda data, batch: {
        "bpr": model.user_embedding.weight.sum(),
        "reg": model.user_embedding.weight.sum() * float("inf"),
    }
    total, terms = model.loss(toy, None)
    assert torch.isfinite(total)
    assert not torch.isfinite(terms["reg"])


def test_loss_and_weights_have_to_agree(toy):
    model = BPR(toy)
    model.loss_terms = lambda data, batch: {"bpr": torch.zeros(())}
    with pytest.raises(RuntimeError, match="BPR has terms"):
        model.loss(toy, None)


@pytest.mark.parametrize("value", [0, -1])
def test_embedding_dim_has_to_be_positive(toy, value):
    with pytest.raises(ValueError, match=r"'embedding_dim' needs to be in \[1, 65536\]"):
        BPR(toy, embedding_dim=value)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (AlignRec, {"cca_weight": -1}, "'cca_weight' needs to be finite and 0 or more .got -1"),
        (AlignRec, {"temperature": math.inf}, "'temperature' needs to be finite and positive"),
        (AlignRec, {"num_layers": 2.0}, "'num_layers' needs to be an integer .got 2.0"),
        (AlignRec, {"num_layers": -1}, "'num_layers' needs to be 0 or more"),
        (AlignRec, {"mlp_relu": 1}, "'mlp_relu' needs to be True or False .got 1"),
        (AlignRec, {"reg_target": "dead"}, "'reg_target' needs to be one of .'live', 'frozen'"),
        (BPR, {"embedding_dim": 10**9}, r"'embedding_dim' needs to be in \[1, 65536\]"),
        (LightGCN, {"reg_weight": math.nan}, "'reg_weight' needs to be finite and 0 or more"),
        (MMGCN, {"latent_dim": 10**9}, r"'latent_dim' needs to be in \[0, 65536\]"),
    ],
)
def test_hyper_parameters_are_checked_when_a_model_is_built(toy, model, values, message):
    with pytest.raises(ValueError, match=message):
        model(toy, **values)


@pytest.mark.parametrize("kind", ["user", "item"])
def test_users_and_items_are_needed(toy, kind):
    toy[kind].num_nodes = 0
    counts = "0 and 4" if kind == "user" else "3 and 0"
    with pytest.raises(ValueError, match=f"at least one user and one item .got {counts}"):
        BPR(toy)


def test_prepared_graphs_of_links_that_are_gone_are_dropped(toy):
    model = LightGCN(toy).eval()
    links = toy[INTERACTS].edge_index
    alive = []
    for number in range(8):
        toy[INTERACTS].edge_index = links.roll(number, dims=1)
        model(toy)
        alive.append(weakref.ref(toy[INTERACTS].edge_index))
    assert sum(reference() is not None for reference in alive) == 3


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
        patch.setattr("alignrec_pyg.storage.publish", killed)
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


def test_hyper_parameters_are_plain(toy, tmp_path):
    model = VBPR(toy, features=("text",), embedding_dim=np.int64(4), reg_weight=np.float32(0.5))
    assert model.hparams == json.loads(json.dumps(model.hparams))
    model.save_pretrained(tmp_path)


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


class OneLayer(LightGCN):
    def __init__(self, data, *, reg_weight=0.5):
        super().__init__(data, num_layers=1, reg_weight=reg_weight)


class OwnAttributes(OneLayer):
    def __init__(self, data, *, scale=2.0):
        super().__init__(data)
        self.scale = scale


def test_a_subclass_may_take_fewer_arguments_or_store_its_own(toy):
    model = OwnAttributes(toy)
    assert (model.num_layers, model.scale, model.hparams) == (1, 2.0, {"scale": 2.0})
    assert model.loss_weights == {"bpr": 1.0, "reg": 0.5}
    assert OneLayer(toy, reg_weight=0.1).hparams == {"reg_weight": 0.1}


def test_arguments_become_attributes_and_names_those_selected(toy):
    model = FREEDOM(toy, dropout=0.5, features=("text",))
    assert (model.dropout, model.features, model.item_graph) == (0.5, ["text"], "image")
    assert not hasattr(model, "data")


def test_a_term_weighs_as_its_argument_says(toy):
    weights = AlignRec(toy, cca_weight=0.3, l2_weight=0.4).loss_weights
    assert weights == {"bpr": 1.0, "cca": 0.3, "uia": 0.1, "reg": 0.1, "l2": 0.4}


def test_published_defects_are_those_of_the_papers_data_sets():
    assert [GRCN.published_hparams(name) for name in ("baby", "own")] == [{"faithful": True}, {}]
    assert MGCN.published_hparams("baby") == {}


def test_a_graph_of_links_is_kept_for_its_options(toy):
    model = BPR(toy)
    graphs = [model.item_to_user_graph(toy, name) for name in ("row", "symmetric", "row")]
    assert graphs[0] is graphs[2]
    assert not torch.equal(graphs[0].matrix.values(), graphs[1].matrix.values())


def test_threads_get_the_graphs_of_the_data_they_give(toy, monkeypatch):
    other = toy.clone()
    other[INTERACTS].edge_index = torch.tensor([[0, 1, 2, 2], [3, 0, 0, 2]])
    model = LightGCN(toy).eval()
    with torch.no_grad():
        expected = [model(data) for data in (toy, other)]
    together = Barrier(2)  # both threads have prepared a graph, and are about to keep it

    def build(*arguments):
        graph = user_item_adjacency(*arguments)
        together.wait(timeout=60)
        return graph

    def right(number):
        results = []
        for _ in range(150):
            with torch.no_grad():
                found = model((toy, other)[number].clone())
            results.append(all(map(torch.equal, found, expected[number])))
        return all(results)

    monkeypatch.setattr("alignrec_pyg.models.base.user_item_adjacency", build)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(right, range(2))) == [True, True]
    finally:
        sys.setswitchinterval(interval)


class Renamed(AlignRec):
    """Hands most arguments on, and stores none of its own."""

    def __init__(self, data, *, share=1.0, names=("a",), **options):
        super().__init__(data, **options)


def test_a_subclass_need_not_store_its_arguments(toy, tmp_path):
    model = Renamed(toy, share=0.5, embedding_dim=4)
    assert model.hparams["share"] == 0.5
    assert model.hparams["names"] == ["a"]
    assert model.hparams["embedding_dim"] == 4
    model.save_pretrained(tmp_path)
    loaded = Renamed.from_pretrained(tmp_path, toy)
    assert loaded.hparams == model.hparams == copy.deepcopy(model).hparams
    assert model.clone_for(toy).hparams == model.hparams


def test_a_hyper_parameter_that_json_cannot_hold_is_named(toy, tmp_path):
    with pytest.raises(
        ValueError, match=r"'names' needs to be a number, a string, .*function is not JSON"
    ):
        Renamed(toy, names=lambda: 1).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


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
