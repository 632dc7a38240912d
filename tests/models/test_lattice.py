import copy
import gc
import pickle
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from alignrec_pyg import LATTICE, TrainConfig, evaluate, fit
from alignrec_pyg.graph import INTERACTS, InteractionBatch, knn_edge_type
from alignrec_pyg.models import lattice
from alignrec_pyg.storage import CheckpointError
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from alignrec_pyg.transforms import KNNItemGraph

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))
NAMES = ["image", "text", "audio"]


@pytest.fixture
def toy(toy):
    toy["item"].x_audio = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    for name in NAMES[1:]:
        toy = KNNItemGraph(name, k=2)(toy)
    return toy


def dense_item_graph(model: LATTICE, data) -> Tensor:
    n = model.num_items
    shares = model.modality_logits.softmax(0)
    learned = frozen = torch.zeros(n, n)
    for m, name in enumerate(model.item_graphs):
        edges = data[knn_edge_type(name)]
        a = torch.zeros(n, n).index_put_(tuple(edges.edge_index.flip(0)), edges.edge_weight)
        frozen = frozen + shares[m] * a
        linear = model.modalities[m].linear
        z = normalize(model.modalities[m].table.weight @ linear.weight.t() + linear.bias)
        c = z @ z.t()
        kept = torch.zeros(n, n)
        for i in range(n):
            kept[i, c[i].topk(min(model.num_neighbors, n)).indices] = 1
        learned = learned + shares[m] * c * kept
    degree = learned.sum(1)
    degree = torch.where(degree > 0, degree, learned.clamp(min=0).sum(1))
    learned = learned / (degree.unsqueeze(1) * degree).sqrt()
    return (1 - model.frozen_share) * learned + model.frozen_share * frozen


def dense_embeddings(model: LATTICE, data, graph: Tensor) -> tuple[Tensor, Tensor]:
    num_users, size = model.num_users, model.num_users + model.num_items
    a = torch.eye(size)
    for u, i in data[INTERACTS].edge_index.t().tolist():
        a[u, num_users + i] = a[num_users + i, u] = 1
    a = a / a.sum(1, keepdim=True)
    e = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    x = (e + a @ e + a @ a @ e) / 3
    return x[:num_users], x[num_users:] + normalize(graph @ e[num_users:])


def bpr(user: Tensor, item: Tensor) -> Tensor:
    u, i, j = user[BATCH.user], item[BATCH.pos_item], item[BATCH.neg_item]
    return -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()


def start(model: LATTICE, data, epoch: int = 0, batches: int = 1) -> LATTICE:
    model.train()
    model.on_epoch_start(data, seeded_generator(0, epoch))
    for batch in range(batches):
        model.on_batch_start(seeded_generator(0, epoch, batch))
    return model


def shift(model: LATTICE) -> None:
    """As an optimiser does: in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))


@pytest.mark.parametrize("num_sets", [1, 2, 3])
@pytest.mark.parametrize("num_neighbors", [2, 3, 10])
@pytest.mark.parametrize("freeze_features", [False, True])
def test_embeddings_and_gradients_equal_the_equations(
    toy, num_sets, num_neighbors, freeze_features
):
    torch.manual_seed(1)
    model = LATTICE(
        toy,
        features=NAMES[:num_sets],
        embedding_dim=4,
        num_neighbors=num_neighbors,
        frozen_share=0.6,
        freeze_features=freeze_features,
    )
    torch.nn.init.normal_(model.modality_logits)
    expected = dense_embeddings(model, toy, dense_item_graph(model, toy))
    found = start(model, toy)(toy)
    parameters = dict(model.named_parameters())
    assert ("modalities.0.table.weight" in parameters) is not freeze_features
    for name, a, b in zip(
        parameters,
        torch.autograd.grad(bpr(*found), parameters.values()),
        torch.autograd.grad(bpr(*expected), parameters.values()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    for embeddings in (found, model.eval()(toy)):
        for a, b in zip(embeddings, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_terms_equal_the_equations(toy):
    model = start(LATTICE(toy, embedding_dim=4, l2_weight=0.5), toy)
    user, item = model(toy)
    batch = replace(BATCH, full_size=10)
    terms = model.loss_terms(toy, batch)
    torch.testing.assert_close(terms["bpr"], bpr(user, item))
    rows = torch.cat([user[[0, 2, 0]], item[[1, 3, 0]], item[[2, 0, 3]]])
    torch.testing.assert_close(terms["l2"], (rows**2).sum() / 20)
    total = model.loss(toy, batch)[0]
    torch.testing.assert_close(total, terms["bpr"] + 0.5 * terms["l2"])


def test_the_first_batch_of_an_epoch_trains_the_graph_the_others_keep_it(toy):
    model = start(LATTICE(toy, embedding_dim=4), toy)
    graph = dense_item_graph(model, toy).detach()
    model(toy)
    shift(model)
    model.on_batch_start(seeded_generator(0, 0, 1))
    user, item = model(toy)
    for a, b in zip((user, item), dense_embeddings(model, toy, graph), strict=True):
        torch.testing.assert_close(a, b)
    bpr(user, item).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"user_embedding.weight", "item_embedding.weight"}
    start(model, toy, epoch=1)
    expected = dense_embeddings(model, toy, dense_item_graph(model, toy))
    torch.testing.assert_close(model(toy)[1], expected[1])


def test_inference_makes_the_graph_once_of_the_weights_as_they_are(toy, monkeypatch):
    calls = []
    search = lattice.cosine_neighbors
    monkeypatch.setattr(lattice, "cosine_neighbors", lambda *a: calls.append(1) or search(*a))
    model = start(LATTICE(toy, features=["text"], embedding_dim=4), toy, batches=2).eval()
    for _ in range(3):
        model(toy)
    assert len(calls) == 1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5, fused=True)  # raises no version
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    expected = dense_embeddings(model, toy, dense_item_graph(model, toy))
    torch.testing.assert_close(model(toy)[1], expected[1])
    assert len(calls) == 2


def test_graphs_go_with_their_epoch_and_model(toy, monkeypatch):
    made = []

    def recorded(build):
        def wrapper(*arguments, **options):
            structure, weight = build(*arguments, **options)
            made.append(weakref.ref(weight))
            return structure, weight

        return wrapper

    def alive():
        gc.collect()
        return sum(reference() is not None for reference in made)

    for name in ("_kept_graph", "_new_graph"):
        monkeypatch.setattr(LATTICE, name, recorded(getattr(LATTICE, name)))
    model = LATTICE(toy, embedding_dim=4)
    for epoch in range(4):
        model.train().on_epoch_start(toy, seeded_generator(0, epoch))
        assert alive() == 0
        for batch in range(3):
            model.on_batch_start(seeded_generator(0, epoch, batch))
            model(toy)
        assert alive() == 1  # the epoch's
        model.eval()
        assert alive() == 0
        model(toy)
        assert alive() == 1  # for inference
    assert len(made) == 12  # in each epoch: of the first batch, of those after it, for inference
    del model
    assert alive() == 0


def test_items_without_a_feature_set_keep_to_themselves(toy):
    toy["item"].mask_text = torch.tensor([False, True, False, True])
    toy["item"].x_text[[1, 3]] = 0
    toy = KNNItemGraph("text", k=2)(toy)
    model = LATTICE(toy, features=["text"], embedding_dim=4, num_neighbors=3, frozen_share=0.0)
    structure, weight = model._new_graph(toy, model._projected(), keep=False)
    matrix = torch.zeros(4, 4).index_put_(
        (structure.target.long(), structure.source.long()), weight
    )
    torch.testing.assert_close(matrix[[1, 3]], torch.eye(4)[[1, 3]])
    assert (matrix[[0, 2]][:, [1, 3]] == 0).all()
    assert (matrix[[0, 2]][:, [0, 2]] != 0).all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_goes_on_within_the_epoch(toy, duplicate):
    model = start(LATTICE(toy, embedding_dim=4), toy)
    model(toy)
    shift(model)
    other = duplicate(model)
    for each in (model, other):
        each.on_batch_start(seeded_generator(0, 0, 1))
    assert torch.equal(model(toy)[1], other(toy)[1])


class StoppedError(Exception):
    pass


def test_training_interrupted_within_an_epoch_gives_the_same_weights(
    checkerboard, tmp_path, monkeypatch
):
    train, test = checkerboard
    config = TrainConfig(lr=0.05, batch_size=256, max_epochs=3, eval_every=2)
    assert len(TripletSampler(train, batch_size=256)) >= 4

    def new() -> LATTICE:
        torch.manual_seed(0)
        return LATTICE(train, embedding_dim=8, num_neighbors=5, frozen_share=0.1)

    whole = new()
    expected = fit(whole, train, test, config)
    for stop_at in (2, 7):  # in the middle of epochs 0 and 1
        seen = []

        def stop(model, generator, seen=seen, stop_at=stop_at):
            seen.append(1)
            if len(seen) == stop_at + 1:
                raise StoppedError
            model._batches_of_epoch += 1

        folder = tmp_path / str(stop_at)
        with monkeypatch.context() as patch:
            patch.setattr(LATTICE, "on_batch_start", stop)
            with pytest.raises(StoppedError):
                fit(new(), train, test, config, checkpoint_dir=folder, checkpoint_seconds=0)
        resumed = new()
        assert fit(resumed, train, test, config, checkpoint_dir=folder).history == expected.history
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_second_fit_with_the_same_seed_starts_a_new_epoch(toy):
    model = start(LATTICE(toy, embedding_dim=4), toy)
    model(toy)
    evaluate(model, toy, ks=(1,))
    shift(model)
    found = start(model, toy)(toy)[1]
    torch.testing.assert_close(found, dense_embeddings(model, toy, dense_item_graph(model, toy))[1])


def test_a_fit_after_an_aborted_one_starts_a_new_epoch(toy):
    model = start(LATTICE(toy, embedding_dim=4), toy)
    model(toy)  # the first batch, and nothing after it
    shift(model)
    found = start(model, toy)(toy)[1]
    torch.testing.assert_close(found, dense_embeddings(model, toy, dense_item_graph(model, toy))[1])


def test_other_lacking_items_are_told_when_loading(toy, tmp_path):
    LATTICE(toy).save_pretrained(tmp_path)
    toy["item"].mask_text = torch.tensor([True, False, False, False])
    with pytest.raises(CheckpointError, match="other features lacking"):
        LATTICE.from_pretrained(tmp_path, toy)


def test_graphs_are_those_of_the_features_or_named(toy):
    assert LATTICE(toy, features=["text", "image"]).item_graphs == ["text", "image"]
    assert LATTICE(toy, features=["text"], item_graphs=["image"]).item_graphs == ["image"]
    del toy[knn_edge_type("text")]
    with pytest.raises(ValueError, match="'item_graphs' needs to be among"):
        LATTICE(toy)


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("num_neighbors", 0, "1 or more"),
        ("num_item_layers", -1, "0 or more"),
        ("num_layers", -1, "0 or more"),
        ("frozen_share", 1.1, r"in \[0, 1\]"),
    ],
)
def test_arguments_are_checked(toy, argument, value, rule):
    with pytest.raises(ValueError, match=f"'{argument}' needs to be {rule} \\(got {value}\\)"):
        LATTICE(toy, **{argument: value})


def test_parameter_count(published_sizes):
    data = published_sizes(19_445, 7_050, {"image": 4096, "text": 384})
    ids, features = (19_445 + 7_050) * 64, 7_050 * (4096 + 384)
    projections = (4096 + 1) * 64 + (384 + 1) * 64
    count = published_sizes.count(LATTICE, data, item_graphs=["mm", "mm"])
    assert count == ids + features + projections + 2
