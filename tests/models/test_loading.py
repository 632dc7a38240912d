import copy

import pytest
import torch

from alignrec_pyg import (
    BPR,
    LATTICE,
    MGCN,
    VBPR,
    Aligned,
    AlignRec,
    CheckpointError,
    load,
    recommend,
)
from alignrec_pyg.graph import INTERACTS, known_links
from alignrec_pyg.storage import read_manifest, write_manifest
from alignrec_pyg.transforms import KNNItemGraph


@pytest.fixture
def data(toy):
    return KNNItemGraph("text", k=2)(toy)


def build(model_cls, data):
    torch.manual_seed(0)
    hparams = {"item_graph": "image"} if model_cls is AlignRec else {}
    return model_cls(data, embedding_dim=4, **hparams).eval()


@pytest.mark.parametrize("model_cls", [BPR, VBPR, AlignRec, MGCN, LATTICE])
def test_a_model_saved_with_its_graph_needs_nothing_else(data, tmp_path, model_cls):
    model = build(model_cls, data)
    model.save_pretrained(tmp_path, data)
    found, graph = load(tmp_path)
    assert type(found) is model_cls
    assert not found.training
    with torch.no_grad():
        for ours, theirs in zip(found(graph), model(data), strict=True):
            assert torch.equal(ours, theirs)
    users = data["user"].id
    lists = (recommend(*pair, users, k=2) for pair in ((found, graph), (model, data)))
    assert all(a.tolist() == b.tolist() for a, b in zip(*lists, strict=True))
    assert graph["user"].id.tolist() == users.tolist()
    assert graph["item"].id.dtype == data["item"].id.dtype


def test_all_that_users_have_had_is_known(data, tmp_path):
    data[INTERACTS].edge_label_index = torch.tensor([[0, 2], [3, 0]])
    data["user", "knows", "item"].edge_index = torch.tensor([[1], [0]])
    build(BPR, data).save_pretrained(tmp_path, data)
    _, graph = load(tmp_path)
    assert torch.equal(graph[INTERACTS].edge_index, data[INTERACTS].edge_index)
    stored, known = (known_links(part).t().tolist() for part in (graph, data))
    assert sorted(stored) == sorted(known)


def test_data_that_the_model_would_not_load_on_are_refused_when_it_is_saved(data, tmp_path):
    model = build(AlignRec, data)
    model.save_pretrained(tmp_path, data)
    rounded, other, ids, lacking = (copy.copy(data) for _ in range(4))
    rounded["item"].x_image = data["item"].x_image * (1 + 1e-5)
    with pytest.warns(UserWarning, match="AlignRec was trained with data that differ by rounding"):
        model.save_pretrained(tmp_path, rounded)
    other["item"].x_image = data["item"].x_image + 1
    with pytest.raises(CheckpointError, match="AlignRec was trained with other features 'image'"):
        model.save_pretrained(tmp_path, other)
    ids["user"].id = data["user"].id[::-1].copy()
    with pytest.raises(CheckpointError, match="AlignRec was trained with other user ids than"):
        model.save_pretrained(tmp_path, ids)
    del lacking["item", "knn_image", "item"]
    with pytest.raises(ValueError, match=r"'item_graphs' needs to be among .*\['image'\]"):
        model.save_pretrained(tmp_path, lacking)
    with pytest.warns(UserWarning, match="differ by rounding"):
        assert load(tmp_path)[1]["item"].x_image.equal(rounded["item"].x_image)


def test_an_aligned_model_builds_its_backbone(data, tmp_path):
    model = Aligned(data, build(MGCN, data), reg_weight=0.4).eval()
    model.save_pretrained(tmp_path, data)
    found, graph = load(tmp_path)
    assert found.description() == model.description()
    with torch.no_grad():
        assert torch.equal(found(graph)[0], model(data)[0])


class Own(BPR):
    """A class that is none of the package."""


@pytest.mark.parametrize(
    "backbone",
    [
        None,
        5,
        [],
        {"model": 5, "hparams": {}},
        {"model": "VBPR", "hparams": 5},
        {"model": "VBPR"},
        {"model": "VBPR", "hparams": {"no_such": 1}},
        {"model": "VBPR", "hparams": {"embedding_dim": "wide"}},
        {"model": "BPR", "hparams": {}},
        {"model": "NoSuchModel", "hparams": {}},
    ],
)
def test_a_backbone_that_is_none_is_told(data, tmp_path, backbone):
    Aligned(data, build(VBPR, data)).save_pretrained(tmp_path, data)
    path = tmp_path / "config.json"
    config = read_manifest(path)
    del config["backbone"]
    write_manifest(path, config if backbone is None else {**config, "backbone": backbone})
    with pytest.raises(CheckpointError):
        load(tmp_path)


def test_a_class_of_ones_own_is_passed_and_never_imported(data, tmp_path):
    build(Own, data).save_pretrained(tmp_path, data)
    with pytest.raises(CheckpointError, match=r"holds a Own, .*pass its class, load\(.*, Own\)"):
        load(tmp_path)
    assert type(load(tmp_path, Own)[0]) is Own
    with pytest.raises(CheckpointError, match="holds a Own, not a VBPR"):
        load(tmp_path, VBPR)


class OwnContent(MGCN):
    """A backbone that is none of the package."""


def test_an_aligned_model_around_a_backbone_of_ones_own(data, tmp_path):
    model = Aligned(data, build(OwnContent, data), reg_weight=0.4).eval()
    model.save_pretrained(tmp_path, data)
    with pytest.raises(CheckpointError, match=r"holds a OwnContent, .*load\(.*, OwnContent\)"):
        load(tmp_path)
    for wrong in (MGCN, Own):
        with pytest.raises(CheckpointError, match="an Aligned around a OwnContent .got"):
            load(tmp_path, wrong)
    found, graph = load(tmp_path, OwnContent)
    assert type(found.backbone) is OwnContent
    with torch.no_grad():
        assert torch.equal(found(graph)[1], model(data)[1])
    Aligned(data, build(MGCN, data)).save_pretrained(tmp_path, data)
    assert type(load(tmp_path, Aligned)[0].backbone) is MGCN


def test_a_folder_without_its_graph_says_what_to_do(data, tmp_path):
    build(VBPR, data).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"VBPR\.from_pretrained\(folder, data\), or save it"):
        load(tmp_path)
    build(VBPR, data).save_pretrained(tmp_path, data)
    path = tmp_path / "config.json"
    config = read_manifest(path)
    write_manifest(path, {**config, "graph": {**config["graph"], "features": ["video"]}})
    with pytest.raises(CheckpointError, match="holds a graph that cannot be read"):
        load(tmp_path)
