import copy
import math

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

import alignrec_pyg.models
from alignrec_pyg import FREEDOM, MGCN, VBPR, Aligned, AlignRec, evaluate, recommend
from alignrec_pyg.encoders import TfidfEncoder
from alignrec_pyg.graph import INTERACTS, knn_edge_type
from alignrec_pyg.models import ALS, BM3, BPR, ClosedFormRecommender, ContentKNN, LightGCN
from alignrec_pyg.serving import add_items, new_items
from alignrec_pyg.serving.new_items import extend_model
from alignrec_pyg.transforms import EncodeItems, KNNItemGraph

USERS, ITEMS = 6, 9


class AlignedMGCN(Aligned):
    def __init__(self, data, *, embedding_dim=64):
        super().__init__(data, MGCN(data, embedding_dim=embedding_dim))


EXPORTED = [getattr(alignrec_pyg.models, name) for name in alignrec_pyg.models.model_names()]
MODELS = [
    *(model for model in EXPORTED if not issubclass(model, ClosedFormRecommender)),
    AlignedMGCN,
]
BY_ID = (BPR, LightGCN, BM3)
GRAPHS = [KNNItemGraph("image", k=3), KNNItemGraph("text", k=3)]


def features(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(count, 5, generator=generator),
        "text": torch.randn(count, 4, generator=generator),
    }


@pytest.fixture
def data():
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = USERS, ITEMS
    data["user"].id = np.array([f"u{n}" for n in range(USERS)], dtype=object)
    data["item"].id = np.arange(100, 100 + ITEMS)
    data["item"].title = ["known only to old items"] * ITEMS
    for name, table in features(ITEMS, 0).items():
        data["item"][f"x_{name}"] = table
    liked = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(3)) < 0.4
    liked[0, 0] = True
    data[INTERACTS].edge_index = data[INTERACTS].edge_label_index = liked.nonzero().t()
    for graph in GRAPHS:
        data = graph(data)
    return data


def built(model_cls, data):
    options = {"item_graph": "image"} if model_cls.inputs.item_graph == "one" else {}
    torch.manual_seed(1)
    model = model_cls(data, embedding_dim=4, **options)
    with torch.no_grad():  # far from the start, where many parameters are zero
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


@pytest.mark.parametrize("model_cls", MODELS, ids=lambda cls: cls.__name__)
def test_known_vectors_stay_and_new_ones_tell_content_alone(model_cls, data):
    model = built(model_cls, data)
    rows = features(3, 5)
    new = new_items([7, 8, 9], features=rows)
    if model_cls in BY_ID:
        with pytest.raises(ValueError, match=f"{model_cls.__name__} scores items by their ID"):
            add_items(model, data, new, item_graphs=GRAPHS)
        return
    grown, larger = add_items(model, data, new, item_graphs=GRAPHS)
    user, item = model(data)
    grown_user, grown_item = grown(larger)
    torch.testing.assert_close(grown_user, user)
    torch.testing.assert_close(grown_item[:ITEMS], item)
    assert grown_item.shape[0] == ITEMS + 3
    assert len({tuple(row) for row in grown_item[ITEMS:].tolist()}) == 3
    # one by one, in another order: the same vectors
    again, stepwise = model, data
    for n in (2, 0, 1):
        one = new_items([(7, 8, 9)[n]], features={k: v[n : n + 1] for k, v in rows.items()})
        again, stepwise = add_items(again, stepwise, one, item_graphs=GRAPHS)
    torch.testing.assert_close(again(stepwise)[1][ITEMS:], grown_item[ITEMS:][[2, 0, 1]])
    assert evaluate(grown, larger, ks=5)["num_users"] == len(
        set(data[INTERACTS].edge_label_index[0].tolist())
    )


@pytest.mark.parametrize("model_cls", [ALS, ContentKNN], ids=lambda cls: cls.__name__)
def test_models_in_closed_form_take_no_new_items(model_cls, data):
    new = new_items([7], features=features(1, 5))
    with pytest.raises(ValueError, match=f"{model_cls.__name__}, which is solved on all items"):
        add_items(model_cls(data), data, new, item_graphs=GRAPHS, id_vectors="neighbors")


WITHOUT_GRAPH = [
    cls
    for cls in MODELS
    if cls not in BY_ID
    and cls.__name__ in ("ContentLightGCN", "DualGNN", "GRCN", "LGMRec", "MMGCN", "SLMRec", "VBPR")
]


@pytest.mark.parametrize("model_cls", WITHOUT_GRAPH, ids=lambda cls: cls.__name__)
def test_a_new_item_is_a_known_one_without_links_and_id(model_cls, data):
    """The slow way: the model trained with the item there all along, its own parameters zero."""
    new = new_items([7], features=features(1, 5))
    with_it = copy.copy(data)
    with_it["item"].num_nodes = ITEMS + 1
    for name in ("id", "title"):
        del with_it["item"][name]
    for name, row in features(1, 5).items():
        with_it["item"][f"x_{name}"] = torch.cat([data["item"][f"x_{name}"], row])
    model = built(model_cls, data)
    slow = built(model_cls, with_it)
    trained = model.state_dict()
    with torch.no_grad():
        for name, value in slow.state_dict().items():
            if value.shape == trained[name].shape:
                value.copy_(trained[name])
            else:
                value[:ITEMS] = trained[name]
                value[ITEMS:] = 0
    grown, larger = add_items(model, data, new)
    torch.testing.assert_close(grown(larger)[1][ITEMS], slow(with_it)[1][ITEMS])


def neighbours(data, row, feature="image", k=3):
    """Weights of the k - 1 nearest known items, by the formula, one pair at a time."""
    table = data["item"][f"x_{feature}"].double()

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    def nearest(vector, others):
        return sorted(others, key=lambda j: -cosine(vector, table[j]))[: k - 1]

    def degree(vector, others):
        return 1 + sum(cosine(vector, table[j]) for j in nearest(vector, others))

    own = degree(row.double(), range(ITEMS))
    weights = {}
    for j in nearest(row.double(), range(ITEMS)):
        others = degree(table[j], [i for i in range(ITEMS) if i != j])
        weights[j] = cosine(row.double(), table[j]) / math.sqrt(own * others)
    return weights


def test_alignrec_takes_gated_ids_of_the_neighbours(data):
    model, row = built(AlignRec, data), features(1, 5)
    grown, larger = add_items(model, data, new_items([7], features=row), item_graphs=GRAPHS)
    table = model.feature_table.weight
    expected = torch.zeros(4)
    for j, weight in neighbours(data, row["image"][0]).items():
        gate = model.gate(model.projection(table[j])).sigmoid()
        expected += weight * model.item_embedding.weight[j] * gate
    torch.testing.assert_close(grown(larger)[1][ITEMS], expected, rtol=1e-4, atol=1e-5)


def test_freedom_takes_ids_of_the_neighbours_and_vbpr_projects(data):
    row = features(1, 5)
    model = built(FREEDOM, data)
    grown, larger = add_items(model, data, new_items([7], features=row), item_graphs=GRAPHS)
    expected = sum(
        weight * model.item_embedding.weight[j]
        for j, weight in neighbours(data, row["image"][0]).items()
    )
    torch.testing.assert_close(grown(larger)[1][ITEMS], expected, rtol=1e-4, atol=1e-5)
    model = built(VBPR, data)
    grown, larger = add_items(model, data, new_items([7], features=row))
    both = torch.cat([row["image"][0], row["text"][0]])
    expected = model.projection.weight @ both + model.projection.bias
    torch.testing.assert_close(grown(larger)[1][ITEMS], torch.cat([torch.zeros(4), expected]))


@pytest.mark.parametrize("model_cls", [BPR, BM3, VBPR])
def test_id_vectors_of_the_neighbours(model_cls, data):
    model, row = built(model_cls, data), features(1, 5)
    graph = KNNItemGraph("image", k=3, name="not in the data")
    grown, larger = add_items(
        model, data, new_items([7], features=row), item_graphs=[graph], id_vectors="neighbors"
    )
    weights = neighbours(data, row["image"][0])
    mean = sum(w * model.item_embedding.weight[j] for j, w in weights.items())
    expected = mean / sum(weights.values())
    torch.testing.assert_close(grown.item_embedding.weight[ITEMS], expected, rtol=1e-4, atol=1e-5)
    assert knn_edge_type("not in the data") not in larger.edge_types
    with pytest.raises(ValueError, match="'neighbors' needs 'item_graphs'"):
        add_items(model, data, new_items([7], features=row), id_vectors="neighbors")


def test_neighbours_of_negative_cosine_have_no_say_in_id_vectors(data):
    model, row = built(BPR, data), features(1, 11)
    weights = neighbours(data, row["image"][0], k=5)
    assert sum(weight < -0.1 for weight in weights.values()) == 1
    graph = KNNItemGraph("image", k=5, name="not in the data")
    new = new_items([7], features=row)
    grown, _ = add_items(model, data, new, item_graphs=[graph], id_vectors="neighbors")
    positive = {j: weight for j, weight in weights.items() if weight > 0}
    mean = sum(w * model.item_embedding.weight[j] for j, w in positive.items())
    expected = mean / sum(positive.values())
    torch.testing.assert_close(grown.item_embedding.weight[ITEMS], expected, rtol=1e-4, atol=1e-5)


def test_the_larger_graph(data):
    model = built(VBPR, data)
    new = new_items([7, 8], features={**features(2, 5), "unheard of": torch.ones(2, 1)})
    new["item"].x_image[1] = 0
    new["item"].mask_image = torch.tensor([False, True])
    before = copy.deepcopy(data)
    _, larger = add_items(model, data, new, item_graphs=GRAPHS[:1])
    item = larger["item"]
    assert (item.num_nodes, item.id.tolist()) == (11, [*range(100, 109), 7, 8])
    assert item.mask_image.tolist() == [False] * 10 + [True]
    assert item.added.tolist() == [False] * 9 + [True] * 2
    assert torch.equal(item.x_text[ITEMS:], features(2, 5)["text"])
    assert sorted(item.keys()) == sorted(
        ["num_nodes", "id", "added", "x_image", "x_text", "mask_image", "mask_text"]
    )
    into = {
        name: larger[knn_edge_type(name)].edge_index[1].bincount(minlength=11).tolist()[ITEMS:]
        for name in ("image", "text")
    }
    assert into == {"image": [3, 1], "text": [1, 1]}  # no transform for text: itself alone
    assert torch.equal(larger[INTERACTS].edge_index, data[INTERACTS].edge_index)
    for store, expected in zip(data.stores, before.stores, strict=True):
        assert list(store.keys()) == list(expected.keys())


def test_texts_become_recommendations(data):
    data["item"].text = ["red boat", "blue boat", "red car"] * 3
    encoder = TfidfEncoder(3)
    data = EncodeItems(encoder, "text")(data)
    model = VBPR(data, features=["text"])
    new = new_items([7, 8], text=["red boat", "blue car"])
    new = EncodeItems(encoder, "text", fit=False)(new)
    grown, larger = add_items(model, data, new)
    torch.testing.assert_close(larger["item"].x_text[ITEMS], data["item"].x_text[0])
    (row,) = recommend(grown, larger, "u0", k=5, candidates=[7, 8])
    assert sorted(row) == [7, 8]


def test_what_is_missing_is_named(data):
    rows = features(2, 5)
    model = built(AlignRec, data)
    new = new_items([7, 8], features=rows)
    with pytest.raises(ValueError, match=r"KNNItemGraph that built each of .* \['image'\] of Al"):
        add_items(model, data, new)
    with pytest.raises(ValueError, match=r"feature tables \['text'\] of AlignRec"):
        add_items(
            model,
            data,
            new_items([7, 8], features={"image": rows["image"]}),
            item_graphs=GRAPHS[:1],
        )
    with pytest.raises(ValueError, match=r"ids that are not in 'data' \(1 are known.*\[105\]"):
        add_items(model, data, new_items([7, 105], features=rows), item_graphs=GRAPHS)
    with pytest.raises(ValueError, match=r"needs ids if 'data' has ids.*\(data: ids\)"):
        add_items(model, data, new_items(features=rows), item_graphs=GRAPHS)
    wide = new_items([7], features={"image": torch.ones(1, 5), "text": torch.ones(1, 9)})
    with pytest.raises(ValueError, match=r"feature .text. of the new .* \(1, 4\) \(got \(1, 9"):
        add_items(built(VBPR, data), data, wide)
    with pytest.raises(ValueError, match="'id_vectors' needs to be one of .'none', 'neighbors'"):
        add_items(model, data, new, id_vectors="mean")
    with pytest.raises(ValueError, match=r"\(got lengths \{'text': 2, 'image': 2, 'ids': 1\}"):
        new_items([7], features=rows)
    with pytest.raises(ValueError, match="distinct"):
        new_items([7, 7], features=rows)
    with pytest.raises(ValueError, match="at least one of them is required"):
        new_items()


def test_ids_may_be_numbers_only(data):
    del data["item"].id
    _, larger = add_items(built(VBPR, data), data, new_items(features=features(2, 5)))
    assert "id" not in larger["item"]
    assert larger["item"].num_nodes == 11


def test_ids_are_of_the_type_of_the_known_ones(data):
    model, rows = built(VBPR, data), features(1, 5)
    wrong = 5 if isinstance(data["item"].id.tolist()[0], str) else "5"
    with pytest.raises(ValueError, match="'new' needs ids of the type of the known ones"):
        add_items(model, data, new_items([wrong], features=rows))
    texts = copy.copy(data)
    texts["item"].id = data["item"].id.astype(str).astype(object)
    with pytest.raises(ValueError, match="'new' needs ids of the type of the known .* .got .5.."):
        add_items(built(VBPR, texts), texts, new_items([5], features=rows))


@pytest.fixture
def larger(toy):
    """Two items more."""
    data = copy.copy(toy)
    data["item"].num_nodes = 6
    del data["item"].id
    for name in ("image", "text"):
        table = toy["item"][f"x_{name}"]
        data["item"][f"x_{name}"] = torch.cat([table, torch.ones(2, table.size(1))])
    return data


def test_keeps_what_was_trained_and_adds_zeros_and_features(toy, larger):
    model = VBPR(toy, embedding_dim=5, freeze_features=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    extended = extend_model(model.train(), larger)
    assert torch.equal(torch.get_rng_state(), state)
    assert (extended.num_items, extended.training, model.training) == (6, False, True)
    for name, value in extended.state_dict().items():
        old = before[name]
        assert torch.equal(value[: old.size(0)], old)
        assert torch.equal(model.state_dict()[name], old)
        assert value.data_ptr() != model.state_dict()[name].data_ptr()
    assert torch.equal(extended.item_embedding.weight[4:], torch.zeros(2, 5))
    assert torch.equal(extended.feature_table.weight[4:], torch.ones(2, 11))


def test_means_over_weighted_neighbours(toy, larger):
    model = BPR(toy, embedding_dim=5)
    edges = torch.tensor([[0, 2, 2], [4, 4, 5]])
    extended = extend_model(model, larger, (edges, torch.tensor([1.0, 3.0, 0.2])))
    table = model.item_embedding.weight
    expected = torch.stack([(table[0] + 3 * table[2]) / 4, table[2]])
    torch.testing.assert_close(extended.item_embedding.weight[4:], expected)


def test_saved_and_loaded_with_the_larger_graph(toy, larger, tmp_path):
    extended = extend_model(FREEDOM(toy, embedding_dim=5), larger)
    extended.save_pretrained(tmp_path)
    loaded = FREEDOM.from_pretrained(tmp_path, larger)
    for a, b in zip(extended(larger), loaded(larger), strict=True):
        assert torch.equal(a, b)
    assert loaded(larger)[0].shape == (3, 5)
    assert larger[INTERACTS].edge_index.max() < 4
