import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg import DualGNN, TrainConfig, evaluate, fit
from alignrec_pyg.graph import INTERACTS, InteractionBatch
from alignrec_pyg.models import dualgnn
from alignrec_pyg.models.dualgnn_user_graph import common_item_neighbors, polya_urn_counts
from alignrec_pyg.nn import user_item_edges
from alignrec_pyg.training.sampling import seeded_generator

BATCH = InteractionBatch(
    torch.tensor([0, 2, 0, 5]), torch.tensor([1, 3, 0, 4]), torch.tensor([2, 0, 3, 1])
)
NUM_USERS, NUM_ITEMS = 7, 5


@pytest.fixture
def data() -> HeteroData:
    """User 6 shares no item with anybody; the others have 2 to 5 neighbours, counts 1 to 3."""
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = NUM_USERS, NUM_ITEMS
    liked = [(0, 1), (0, 1, 2), (0, 1, 2), (2,), (1, 3), (3, 2), (4,)]
    links = [(user, item) for user, items in enumerate(liked) for item in items]
    data[INTERACTS].edge_index = torch.tensor(links).t().contiguous()
    generator = torch.Generator().manual_seed(0)
    for name, width in (("audio", 3), ("image", 6), ("text", 5)):
        data["item"][f"x_{name}"] = torch.randn(NUM_ITEMS, width, generator=generator)
    return data


def dense_user_graph(data: HeteroData, k: int, seed: int | None) -> Tensor:
    """Lists of neighbours, with repeats if there is a seed, and the softmax over each."""
    links = data[INTERACTS].edge_index
    liked = torch.zeros(NUM_USERS, NUM_ITEMS).index_put_((links[0], links[1]), torch.tensor(1.0))
    common = (liked @ liked.t()).fill_diagonal_(0)
    counts, neighbors = common.sort(dim=1, descending=True, stable=True)
    counts, neighbors = counts[:, :k], neighbors[:, :k]
    times = (counts > 0).long()
    if seed is not None:
        times = polya_urn_counts(counts, seeded_generator(0, seed))
    matrix = torch.zeros(NUM_USERS, NUM_USERS)
    for user in range(NUM_USERS):
        repeated = neighbors[user].repeat_interleave(times[user])
        for other, weight in zip(repeated, common[user, repeated].softmax(0), strict=True):
            matrix[user, other] += weight
    return matrix


def dense_modalities(model: DualGNN, data: HeteroData) -> list[tuple[Tensor, Tensor]]:
    edge_index, edge_weight = user_item_edges(data[INTERACTS].edge_index, NUM_USERS, NUM_ITEMS)
    size = NUM_USERS + NUM_ITEMS
    a = torch.zeros(size, size).index_put_((edge_index[1], edge_index[0]), edge_weight)
    d = model.embedding_dim
    out = []
    for m, modality in enumerate(model.modalities):
        z = modality.table.weight @ modality.hidden.weight.t() + modality.hidden.bias
        z = torch.where(z > 0, z, 0.01 * z) @ modality.output.weight.t() + modality.output.bias
        x = torch.cat([model.user_embedding.weight[:, m * d : (m + 1) * d], z])
        x = x / x.square().sum(1, keepdim=True).sqrt()
        total = x
        for _ in range(model.num_layers):
            x = a @ x
            total = total + x
        out.append((total[:NUM_USERS], total[NUM_USERS:]))
    return out


def dense_embeddings(
    model: DualGNN, data: HeteroData, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    x = dense_modalities(model, data)
    item = sum(item for _, item in x)
    users = [user for user, _ in x]
    if model.faithful:  # what the in-place sum leaves behind
        users[0] = sum(users)
    user = sum(model.modality_weight[:, [m]] * u for m, u in enumerate(users))
    return user + dense_user_graph(data, model.num_neighbors, seed) @ user, item


def dense_loss(model: DualGNN, data: HeteroData, seed: int | None = None) -> Tensor:
    user, item = dense_embeddings(model, data, seed)
    terms = []
    for u, i, j in zip(*(column.tolist() for column in BATCH), strict=True):
        probability = torch.sigmoid(user[u] @ item[i] - user[u] @ item[j])
        terms.append(probability.log2() if model.faithful else probability.log())
    loss = -torch.stack(terms).mean()
    reg = model.modality_weight.square().mean()
    for preference in model.user_embedding.weight.split(model.embedding_dim, dim=1):
        reg = reg + preference[BATCH.user].square().mean()
    return loss + model.reg_weight * reg


@pytest.mark.parametrize("features", [["text"], ["text", "image"], ["text", "audio", "image"]])
@pytest.mark.parametrize("freeze_features", [True, False])
@pytest.mark.parametrize("faithful", [True, False])
def test_values_and_gradients_equal_the_equations(data, features, freeze_features, faithful):
    model = DualGNN(
        data,
        features=features,
        embedding_dim=4,
        latent_dim=6,
        num_neighbors=3,
        reg_weight=0.3,
        freeze_features=freeze_features,
        faithful=faithful,
    )
    torch.nn.init.normal_(model.modality_weight)
    for found, expected in zip(model(data), dense_embeddings(model, data), strict=True):
        torch.testing.assert_close(found, expected)
    parameters = dict(model.named_parameters())
    assert any("table" in name for name in parameters) != freeze_features
    found, expected = model.loss(data, BATCH)[0], dense_loss(model, data)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, list(parameters.values())),
        torch.autograd.grad(expected, list(parameters.values())),
    )


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_layers_are_summed(data, num_layers):
    model = DualGNN(data, embedding_dim=4, num_layers=num_layers)
    for found, expected in zip(model(data), dense_embeddings(model, data), strict=True):
        torch.testing.assert_close(found, expected)


def test_training_hears_the_lists_of_the_epoch_inference_every_neighbour_once(data):
    model = DualGNN(data, embedding_dim=4, num_neighbors=5)
    inference = dense_embeddings(model, data)[0]
    torch.testing.assert_close(model.train()(data)[0], inference)  # no list drawn yet
    seen = []
    for epoch in (3, 4):
        model.on_epoch_start(data, seeded_generator(0, epoch))
        seen.append(model.train()(data)[0])
        torch.testing.assert_close(seen[-1], dense_embeddings(model, data, epoch)[0])
        torch.testing.assert_close(model.loss(data, BATCH)[0], dense_loss(model, data, epoch))
        torch.testing.assert_close(model.eval()(data)[0], inference)
    assert not torch.allclose(seen[0], seen[1])


def test_users_with_enough_neighbours_hear_the_same_in_every_epoch(data):
    model = DualGNN(data, embedding_dim=4, num_neighbors=2)
    before = model(data)[0]
    for epoch in range(3):
        model.on_epoch_start(data, seeded_generator(0, epoch))
        torch.testing.assert_close(model(data)[0], before)


def test_faithful_adds_the_first_weight_to_all_modalities(data):
    torch.manual_seed(0)
    intended = DualGNN(data, features=["image", "text"], embedding_dim=4)
    torch.manual_seed(0)
    published = DualGNN(data, features=["image", "text"], embedding_dim=4, faithful=True)
    (image, image_item), (text, text_item) = (
        (user[6], item) for user, item in dense_modalities(intended, data)
    )
    w0, w1 = intended.modality_weight[6]  # user 6 hears nobody
    torch.testing.assert_close(intended(data)[0][6], w0 * image + w1 * text)
    torch.testing.assert_close(published(data)[0][6], w0 * (image + text) + w1 * text)
    for model in (intended, published):
        torch.testing.assert_close(model(data)[1], image_item + text_item)


@pytest.mark.parametrize(("faithful", "expected"), [(False, math.log(2)), (True, 1.0)])
def test_terms_of_equal_scores_and_known_parameters(data, faithful, expected):
    model = DualGNN(data, features=["image", "text"], embedding_dim=2, faithful=faithful)
    with torch.no_grad():
        model.user_embedding.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 0.0]))
        model.modality_weight.fill_(0.5)
    same = replace(BATCH, neg_item=BATCH.pos_item)
    terms = model.loss_terms(data, same)
    torch.testing.assert_close(terms["bpr"], torch.tensor(expected))
    # mean of squares: 5 / 2 of P_image, 9 / 2 of P_text, 1 / 4 of w
    torch.testing.assert_close(terms["reg"], torch.tensor(7.25))


def test_neighbours_are_searched_once_and_go_with_their_model(data, monkeypatch):
    found = []

    def search(*arguments):
        neighbors, counts = common_item_neighbors(*arguments)
        found.append(weakref.ref(neighbors))
        return neighbors, counts

    monkeypatch.setattr(dualgnn, "common_item_neighbors", search)
    model = DualGNN(data)
    for epoch in range(3):
        model.train().on_epoch_start(data, seeded_generator(0, epoch))
        model.loss(data, BATCH)
        model.eval()(data)
    assert len(found) == 1
    del model
    gc.collect()
    assert found[0]() is None


def test_other_data_in_training_have_all_their_neighbours(data):
    other = data.clone()
    other[INTERACTS].edge_index = data[INTERACTS].edge_index[:, 1:]
    model = DualGNN(data, embedding_dim=4, num_neighbors=5).train()
    model.on_epoch_start(data, seeded_generator(0, 3))
    torch.testing.assert_close(model(other)[0], dense_embeddings(model, other)[0])
    torch.testing.assert_close(model(data)[0], dense_embeddings(model, data, 3)[0])


def test_learns_the_checkerboard_from_the_wrong_side(checkerboard):
    train, test = checkerboard
    torch.manual_seed(0)
    model = DualGNN(train)
    with torch.no_grad():
        model.modality_weight.neg_()  # as drawn, the graphs and features tell the parity
    assert evaluate(model, test, ks=(1,))["recall@1"] < 0.1
    config = TrainConfig(lr=0.01, batch_size=128, max_epochs=8, ks=(1,), monitor="recall@1")
    fit(model, train, test, config)
    assert evaluate(model, test, ks=(1,))["recall@1"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "'latent_dim' needs to be 1 or more"),
        ({"num_neighbors": 0}, "'num_neighbors' needs to be 1 or more"),
        ({"num_layers": -1}, "'num_layers' needs to be 0 or more"),
        ({"features": []}, "DualGNN needs at least one item feature table"),
        ({"features": ["smell"]}, "'smell' needs to be one of"),
    ],
)
def test_wrong_arguments_are_named(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        DualGNN(data, **arguments)


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 3.74), (35_598, 18_357, 5.87), (192_403, 63_001, 26.34)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    # The published code also counts what no score depends on: a weight per item and modality, and
    # three linear maps to 64 from 64, 64 and 3 x 64.
    unused = 2 * num_items + (64 + 64 + 3 * 64) * 64 + 3 * 64
    assert round((published_sizes.count(DualGNN, data) + unused) / 1e6, 2) == expected
