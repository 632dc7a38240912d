"""What every exported model has to do, but those in closed form: test_closed_form.py has them."""

import copy
import inspect
import math
import pickle
import re
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

import alignrec_pyg.models
from alignrec_pyg import (
    BM3,
    FREEDOM,
    MGCN,
    VBPR,
    Aligned,
    ContentLightGCN,
    TrainConfig,
    evaluate,
    fit,
    recommend,
)
from alignrec_pyg.graph import INTERACTS, InteractionBatch, NeighborSampling, Nodes, knn_edge_type
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.nn.features import sparse_gradients
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from alignrec_pyg.transforms import KNNItemGraph


class AlignedContentLightGCN(Aligned):
    backbone_cls = ContentLightGCN

    def __init__(self, data, *, embedding_dim=64):
        super().__init__(data, self.backbone_cls(data, embedding_dim=embedding_dim))


class AlignedMGCN(AlignedContentLightGCN):
    backbone_cls = MGCN


class AlignedVBPR(AlignedContentLightGCN):
    backbone_cls = VBPR


def model_of_the_guide() -> type[Recommender]:
    """The worked example of docs/add_a_model.md, in a module, so that it can be pickled."""
    page = Path(__file__).parents[2] / "docs" / "add_a_model.md"
    (block,) = re.findall(
        r"^```python\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    guide = sys.modules["add_a_model"] = ModuleType("add_a_model")
    exec(compile(block, page.name, "exec"), vars(guide))
    return guide.Profile


Profile = model_of_the_guide()

EXPORTED = [getattr(alignrec_pyg.models, name) for name in alignrec_pyg.models.model_names()]
MODELS = [
    *(model for model in EXPORTED if not issubclass(model, ClosedFormRecommender)),
    AlignedContentLightGCN,
    AlignedMGCN,
    AlignedVBPR,
    Profile,
]
# users start as sums of their items' features, or items of their neighbours' IDs in the item graph,
# which tell the parity: see their own tests
KNOW_THE_CHECKERBOARD = (
    ContentLightGCN,
    AlignedContentLightGCN,
    alignrec_pyg.DualGNN,
    alignrec_pyg.GRCN,
    alignrec_pyg.LGMRec,
    alignrec_pyg.MENTOR,
    alignrec_pyg.PGL,
    alignrec_pyg.SMORE,
    Profile,
)
IGNORE_LINKS = (alignrec_pyg.BPR, VBPR, AlignedVBPR)
pytestmark = pytest.mark.parametrize("model_cls", MODELS, ids=lambda cls: cls.__name__)


@pytest.fixture
def toy(toy, model_cls, device):
    """With an item graph for every feature table where the model reads them all."""
    plain_cls = getattr(model_cls, "backbone_cls", model_cls)
    if "item_graphs" in plain_cls.hparam_parameters():
        toy = KNNItemGraph("text", k=2)(toy)
    return toy.to(str(device))


def built(model_cls, data, **arguments) -> Recommender:
    """The model, on the device of the data."""
    return model_cls(data, **arguments).to(data[INTERACTS].edge_index.device)


def start_epoch(model: Recommender, data) -> None:
    device = data[INTERACTS].edge_index.device
    model.on_epoch_start(data, seeded_generator(0, 0, device=device))
    model.on_batch_start(seeded_generator(0, 0, 0, device=device))


def first_loss(model: Recommender, data):
    start_epoch(model, data)
    return model.loss(data, TripletSampler(data).batch(0, 0))


def test_embeds_all_users_and_items_in_one_space(model_cls, toy):
    user, item = built(model_cls, toy)(toy)
    assert user.shape[0] == 3
    assert item.shape[0] == 4
    assert user.shape[1] == item.shape[1]


def test_loss_is_the_weighted_sum_of_its_terms(model_cls, toy):
    model = built(model_cls, toy)
    total, terms = first_loss(model, toy)
    assert terms.keys() == model.loss_weights.keys()
    assert all(term.dim() == 0 and torch.isfinite(term) for term in terms.values())
    expected = sum(model.loss_weights[name] * term for name, term in terms.items())
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("backward_inside", [False, True])
def test_trains_and_evaluates_under_autocast(model_cls, toy, backward_inside):
    losses, gradients, scores = [], [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = built(model_cls, toy)
        with torch.autocast(toy["item"].x_image.device.type, torch.bfloat16, enabled=enabled):
            loss = first_loss(model, toy)[0]
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
        gradient = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        with torch.autocast(toy["item"].x_image.device.type, torch.bfloat16, enabled=enabled):
            evaluate(model, toy, ks=1)
            with torch.no_grad():
                user, item = model.eval()(toy)
        losses.append(loss)
        gradients.append(torch.cat(gradient))
        scores.append(user.float() @ item.float().t())
    assert losses[1].dtype == gradients[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    for exact, lower in (gradients, scores):
        assert (lower - exact).norm() < 0.1 * exact.norm()


def test_rows_that_a_batch_reads_are_those_of_all(model_cls, toy, monkeypatch):
    """Vectors, loss terms and gradients, and nothing that depends on a row that is not read."""
    monkeypatch.setattr("alignrec_pyg.nn.propagation._FEW_ENTRIES", 0)  # as in a large graph
    toy["item"].x_text[3] = 0
    toy["item"].mask_text = ~toy["item"].x_text.any(dim=1)  # takes no part in REG
    torch.manual_seed(0)
    model = built(model_cls, toy).double()
    start_epoch(model, toy)
    device = toy[INTERACTS].edge_index.device
    nodes = Nodes(torch.tensor([0, 2], device=device), torch.tensor([1, 2], device=device))
    found, expected = model(toy, nodes), model(toy)
    torch.testing.assert_close(found[0], expected[0][nodes.user])
    torch.testing.assert_close(found[1], expected[1][nodes.item])

    batch = InteractionBatch(*torch.tensor([[2, 0, 2], [2, 1, 2], [1, 2, 0]], device=device))

    def terms_and_gradients():
        start_epoch(model, toy)
        model.zero_grad(set_to_none=False)
        total, terms = model.loss(toy, batch)
        total.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return {n: term.detach() for n, term in terms.items()}, gradients

    found = terms_and_gradients()
    monkeypatch.setattr(InteractionBatch, "compact", lambda self: self)
    for values, others in zip(found, terms_and_gradients(), strict=True):
        assert values.keys() == others.keys()
        for name, value in values.items():
            torch.testing.assert_close(value, others[name], msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("num_neighbors", [(99, 99, 99), (-1, -1, -1)])
def test_neighbourhoods_drawn_whole_are_those_read_whole(model_cls, toy, num_neighbors):
    """Vectors, loss terms and, of rows that are read, gradients, which are sparse in tables."""
    torch.manual_seed(0)
    model = built(model_cls, toy)
    if not model.supports_neighbor_sampling:
        pytest.skip("reads whole neighbourhoods")
    if model_cls is BM3:
        model.reg_weight = 0.0
    device = toy[INTERACTS].edge_index.device
    batch = InteractionBatch(*torch.tensor([[2, 0, 2], [2, 1, 2], [1, 2, 0]], device=device))

    def terms_and_gradients(batch):
        start_epoch(model, toy)
        model.zero_grad(set_to_none=True)
        total, terms = model.loss(toy, batch)
        total.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return {n: term.detach() for n, term in terms.items()}, gradients

    sampling = NeighborSampling(num_neighbors, seeded_generator(0, device=device))
    with sparse_gradients(model):
        terms, gradients = terms_and_gradients(replace(batch, sampling=sampling))
    expected_terms, expected = terms_and_gradients(batch)
    tables = [name for name in gradients if name.endswith("_embedding.weight")]
    assert all(gradients[name].is_sparse for name in tables)
    if model_cls is BM3:  # an estimate from the batch's vectors
        del terms["reg"], expected_terms["reg"]
    torch.testing.assert_close(terms, expected_terms)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient.to_dense(), expected[name], msg=lambda text, n=name: f"{n}: {text}"
        )


def test_every_parameter_gets_a_gradient(model_cls, toy):
    torch.manual_seed(0)
    model = built(model_cls, toy)
    first_loss(model, toy)[0].backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # a bias added to both scores of FREEDOM's feature terms cancels, in the paper too
    assert without <= (
        {f"modalities.{m}.linear.bias" for m in (0, 1)} if model_cls is FREEDOM else set()
    )


@pytest.mark.parametrize("made_inside", ["", "data", "data and model"])
def test_inference_mode_gives_the_same_and_training_goes_on(model_cls, toy, made_inside):
    torch.manual_seed(0)
    model = built(model_cls, toy).eval()
    with torch.no_grad():
        expected = model(toy)
    with torch.inference_mode():
        given = toy.clone() if "data" in made_inside else toy
        if "model" in made_inside:
            torch.manual_seed(0)
            model = built(model_cls, given)
        else:
            model._graphs.clear()
        found = [model.eval()(given), model(given)]
    with torch.no_grad():
        found.append(model.eval()(given))
    for vectors in found:
        torch.testing.assert_close(vectors, expected)
    if "model" not in made_inside:
        first_loss(model.train(), given)[0].backward()


@pytest.mark.parametrize("freeze_features", [True, False])
def test_trains_on_a_graph_that_was_made_in_inference_mode(model_cls, toy, freeze_features):
    arguments = model_cls.hparam_parameters()
    options = {"freeze_features": freeze_features} if "freeze_features" in arguments else {}
    with torch.inference_mode():
        made = toy.clone()
    model = built(model_cls, made, **options)
    fit(model, made, made, TrainConfig(max_epochs=1, ks=(20,)), progress=False)


def test_recommends_in_bfloat16(model_cls, toy):
    torch.manual_seed(0)
    model = built(model_cls, toy).eval()
    with torch.no_grad():
        user, item = model(toy)
        exact = user @ item.t()
        user, item = model.bfloat16()(toy)
    found = user.float() @ item.float().t()
    assert (found - exact).norm() < 0.1 * exact.norm()
    assert len(recommend(model, toy, ["ann"], k=1)[0]) == 1


@pytest.mark.parametrize("freeze_features", [True, False])
def test_items_without_features_do_not_blow_up_gradients(model_cls, toy, freeze_features):
    for name in ("image", "text"):
        toy["item"][f"x_{name}"][3] = 0
        toy["item"][f"mask_{name}"] = ~toy["item"][f"x_{name}"].any(dim=1)
    arguments = model_cls.hparam_parameters()
    options = {"freeze_features": freeze_features} if "freeze_features" in arguments else {}
    torch.manual_seed(0)
    model = built(model_cls, toy, **options)
    first_loss(model, toy)[0].backward()
    largest = max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None)
    assert largest < 100


def test_constructor_takes_data_and_keywords_with_defaults(model_cls, toy):
    assert list(inspect.signature(model_cls.__init__).parameters)[1] == "data"
    for parameter in model_cls.hparam_parameters().values():
        assert parameter.kind is parameter.KEYWORD_ONLY, parameter.name
        assert parameter.default is not parameter.empty, parameter.name


def test_hyper_parameters_build_the_same_model_again(model_cls, toy):
    model = built(model_cls, toy, embedding_dim=5)
    again = built(model_cls, toy, **model.hparams)
    assert again.hparams == model.hparams
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_same_seed_gives_the_same_weights_and_reset_draws_them_anew(model_cls, toy):
    torch.manual_seed(3)
    first = built(model_cls, toy)
    torch.manual_seed(3)
    second = built(model_cls, toy)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    second.reset_parameters()
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)
    torch.manual_seed(3)
    torch.nn.init.normal_(next(first.parameters()))
    torch.manual_seed(4)
    first.reset_parameters()
    torch.manual_seed(4)
    second.reset_parameters()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


USERS, ITEMS = 400, 300


def assert_drawn_from(values: Tensor, cumulative) -> None:
    """Kolmogorov's test at 0.1 %: the largest distance from the distribution function."""
    values = values.detach().flatten().double().sort().values
    steps = torch.arange(values.numel() + 1) / values.numel()
    expected = cumulative(values)
    distance = torch.maximum(expected - steps[:-1], steps[1:] - expected).max().item()
    assert distance < 1.95 / math.sqrt(values.numel())


def uniform(values: Tensor, bound: float) -> None:
    assert values.abs().max() <= bound * (1 + 1e-6)
    assert_drawn_from(values, lambda x: (x / bound + 1) / 2)


def normal(values: Tensor, std: float) -> None:
    assert_drawn_from(values, torch.distributions.Normal(0.0, std).cdf)


def xavier_uniform(values: Tensor, _: nn.Module) -> None:
    uniform(values, (6 / sum(values.shape)) ** 0.5)


def xavier_normal(values: Tensor, _: nn.Module) -> None:
    normal(values, (2 / sum(values.shape)) ** 0.5)


def xavier_normal_as_one(values: Tensor, _: nn.Module) -> None:
    """Rows of a table that holds users and items."""
    normal(values, (2 / (USERS + ITEMS + values.size(1))) ** 0.5)


def xavier_uniform_side_by_side(values: Tensor, module: nn.Module) -> None:
    """Columns of two tables of 64 columns each."""
    for table in values.split(64, dim=1):
        xavier_uniform(table, module)


def xavier_normal_side_by_side(values: Tensor, _: nn.Module) -> None:
    """Columns of two tables of 64 columns each."""
    for table in values.split(64, dim=1):
        normal(table, (2 / (USERS + 64)) ** 0.5)


def softmax_of_xavier_normal(values: Tensor, _: nn.Module) -> None:
    torch.testing.assert_close(values.sum(1), torch.ones(USERS))
    logits = values.log()
    normal(logits[:, 0] - logits[:, 1], 2**0.5 * (2 / (USERS + 2)) ** 0.5)


def linear(values: Tensor, module: nn.Module) -> None:
    """As torch draws weights and biases of a linear layer."""
    assert isinstance(module, nn.Linear)
    uniform(values, module.in_features**-0.5)


def constant(value: float):
    return lambda values, _: torch.testing.assert_close(values, torch.full_like(values, value))


def features(values: Tensor, _: nn.Module) -> None:
    """As they were extracted: all tables, or one of them."""
    tables = many_items()["item"]
    known = (tables.x_image, tables.x_text, torch.cat([tables.x_image, tables.x_text], dim=1))
    assert any(torch.equal(values, table) for table in known)


# What papers and their published code say, by the names of parameters; the first pattern counts.
TABLES = {"user_embedding.weight": xavier_uniform, "item_embedding.weight": xavier_uniform}
DRAWS = {
    "BPR": {"*_embedding.weight": xavier_normal},
    "LightGCN": TABLES,
    "VBPR": {**TABLES, "projection.weight": xavier_normal, "projection.bias": constant(0.0)},
    "MMGCN": {
        "*_embedding.weight": xavier_normal_as_one,
        "*.preference.weight": xavier_normal,
        "*.neighbors.weight": xavier_normal,
        "*.own.weight": xavier_normal,
        "*.layers.0.combine.weight": xavier_normal,
        "*": linear,
    },
    "GRCN": {
        "*_embedding.weight": xavier_normal_as_one,
        "*_confidence": xavier_normal_as_one,
        "preferences.*": xavier_normal,
        "*.linear.weight": xavier_normal,
        "*": linear,
    },
    "DualGNN": {
        "user_embedding.weight": xavier_normal_side_by_side,
        "modality_weight": softmax_of_xavier_normal,
        "*": linear,
    },
    "BM3": {
        **TABLES,
        "*.table.weight": features,
        "*.linear.weight": xavier_normal,
        "predictor.weight": xavier_normal,
        "*": linear,
    },
    "MGCN": {**TABLES, "*.table.weight": features, "*": linear},
    "FREEDOM": {**TABLES, "*.table.weight": features, "*": linear},
    "LATTICE": {
        **TABLES,
        "modality_logits": constant(0.5),
        "*.table.weight": features,
        "*": linear,
    },
    "SLMRec": {"*.weight": xavier_uniform, "*": linear},
    "SMORE": {
        **TABLES,
        "filters": lambda values, _: normal(values, 1.0),
        "*.table.weight": features,
        "*": linear,
    },
    "LGMRec": {"*": xavier_uniform},
    "MENTOR": {
        "user_embedding.weight": xavier_normal_side_by_side,
        "item_embedding.weight": xavier_normal,
        "modality_weight": softmax_of_xavier_normal,
        "*": linear,
    },
    "PGL": {
        "user_embedding.weight": xavier_uniform_side_by_side,
        "*.table.weight": features,
        "*": linear,
    },
    "AlignRec": {
        **TABLES,
        "feature_table.weight": features,
        "layer_norm.weight": constant(1.0),
        "layer_norm.bias": constant(0.0),
        "*": linear,
    },
    # ours
    "WeightedAlignRec": {**TABLES, "*": linear},
    "ContentLightGCN": {
        **TABLES,
        "projection.weight": xavier_uniform,
        "projection.bias": constant(0.0),
    },
    "Profile": {**TABLES, "*": linear},
}
# image features are wider than 90, and mapped to 48
MMGCN_OPTIONS = {"max_feature_dim": 90, "latent_dim": 48}
DRAWN_WITH = {
    "AlignRec": [{"feature_norm": True}],
    "MMGCN": [MMGCN_OPTIONS, {**MMGCN_OPTIONS, "faithful": True}],
}


def many_items() -> HeteroData:
    """Enough rows to tell distributions apart; of item graphs it has self-loops."""
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = USERS, ITEMS
    generator = torch.Generator().manual_seed(0)
    data["item"].x_image = torch.randn(ITEMS, 96, generator=generator)
    data["item"].x_text = torch.randn(ITEMS, 80, generator=generator)
    data[INTERACTS].edge_index = torch.stack([torch.arange(USERS), torch.arange(USERS) % ITEMS])
    for name in ("image", "text"):
        edges = data[knn_edge_type(name)]
        edges.edge_index = torch.arange(ITEMS).expand(2, ITEMS)
        edges.edge_weight = torch.ones(ITEMS)
    return data


def test_parameters_are_drawn_as_published(model_cls):
    """At first, and again by ``reset_parameters`` of a model whose parameters have all changed."""
    plain_cls = getattr(model_cls, "backbone_cls", model_cls)
    draws = DRAWS[plain_cls.__name__]
    graph = {"item_graph": "image"} if "item_graph" in model_cls.hparam_parameters() else {}

    def check(model: Recommender) -> None:
        for name, values in drawn.items():
            owner = name.rpartition(".")[0]
            name = name.removeprefix("backbone.")
            pattern = next(pattern for pattern in draws if fnmatch(name, pattern))
            try:
                draws[pattern](values.detach(), model.get_submodule(owner))
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error

    for options in DRAWN_WITH.get(model_cls.__name__, [{}]):
        torch.manual_seed(0)
        model = model_cls(many_items(), **graph, **options)
        drawn = dict(model.named_parameters())
        if options.get("faithful"):
            drawn |= {n: v for n, v in model.named_buffers() if n in model.state_dict()}
        check(model)
        with torch.no_grad():
            for values in drawn.values():
                values.fill_(7.0)
        model.reset_parameters()
        check(model)


def test_does_not_change_or_keep_the_data(model_cls, toy):
    before = copy.deepcopy(toy)
    model = built(model_cls, toy)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    first_loss(model, toy)[0].backward()
    optimizer.step()
    for store, expected in zip(toy.stores, before.stores, strict=True):
        assert list(store.keys()) == list(expected.keys())
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(store[key], value), key
    assert not any(value is toy for value in vars(model).values())


def test_follows_the_graph_it_is_given(model_cls, toy):
    model = built(model_cls, toy).eval()
    before = model(toy)[0].detach().clone()
    other = copy.copy(toy)
    other[INTERACTS].edge_index = toy[INTERACTS].edge_index[:, :3].clone()
    after = model(other)[0].detach().clone()
    assert torch.equal(model(toy)[0], before)
    if model_cls not in IGNORE_LINKS:
        assert not torch.equal(before, after)
        toy[INTERACTS].edge_index[1, 0] = 3  # in place: the prepared graph is stale
        assert not torch.equal(model(toy)[0], before)


def test_saves_and_loads_to_the_same_scores(model_cls, toy, tmp_path):
    model = built(model_cls, toy, embedding_dim=5).eval()
    model.save_pretrained(tmp_path)
    loaded = model_cls.from_pretrained(tmp_path, toy).eval()
    assert loaded.hparams == model.hparams
    for a, b in zip(model(toy), loaded(toy), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_can_be_copied_and_pickled_after_use(model_cls, toy, duplicate):
    model = built(model_cls, toy)
    first_loss(model, toy)
    other = duplicate(model).eval()
    for a, b in zip(model.eval()(toy), other(toy), strict=True):
        assert torch.equal(a, b)
    difference = len(pickle.dumps(model)) - len(pickle.dumps(built(model_cls, toy).eval()))
    assert abs(difference) < 100  # no prepared graph; names of storages differ in length


def test_never_recommends_known_items(model_cls, toy):
    lists = recommend(built(model_cls, toy), toy, ["ann", "bob", "cy"], k=4)
    assert [sorted(row.tolist()) for row in lists] == [[30, 40], [10, 40], [10, 20, 30]]


def test_learns_the_checkerboard(model_cls, checkerboard, device):
    train, test = (graph.to(str(device)) for graph in checkerboard)
    torch.manual_seed(0)
    model = built(model_cls, train)
    untrained = evaluate(model, test, ks=(1,))["recall@1"]
    config = TrainConfig(lr=0.01, batch_size=128, max_epochs=4, ks=(1,), monitor="recall@1")
    fit(model, train, test, config)
    if model_cls not in KNOW_THE_CHECKERBOARD:
        assert untrained < 0.6  # the graph alone tells something, training the rest
    assert evaluate(model, test, ks=(1,))["recall@1"] > 0.9


def test_two_runs_with_one_seed_are_equal_to_the_last_bit(model_cls, checkerboard):
    train, test = checkerboard

    def run() -> Recommender:
        torch.manual_seed(0)
        model = built(model_cls, train, embedding_dim=8)
        fit(model, train, test, TrainConfig(lr=0.01, batch_size=256, max_epochs=2, seed=5))
        return model

    for a, b in zip(run().parameters(), run().parameters(), strict=True):
        assert torch.equal(a, b)
