import copy

import pytest
import torch

from alignrec_pyg import (
    BPR,
    FREEDOM,
    MGCN,
    VBPR,
    Aligned,
    AlignRec,
    CheckpointError,
    ContentLightGCN,
    TrainConfig,
    fit,
)
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.nn import Alignment
from alignrec_pyg.transforms import KNNItemGraph

BATCH = InteractionBatch(
    torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 3]), torch.tensor([2, 3, 0, 1])
)
HPARAMS = {AlignRec: {"item_graph": "image"}, ContentLightGCN: {}, MGCN: {}, VBPR: {}}
OPTIONS = {
    "temperature": 0.7,
    "cca_normalize": False,
    "cca_symmetric": True,
    "reg_similarity": "cosine",
    "reg_reduction": "mse",
}
on_every_backbone = pytest.mark.parametrize("backbone_cls", HPARAMS, ids=lambda cls: cls.__name__)


@pytest.fixture
def data(toy):
    return KNNItemGraph("text", k=2)(toy)


def build(backbone_cls, data, **hparams):
    torch.manual_seed(0)
    return backbone_cls(data, **{"embedding_dim": 3, **HPARAMS[backbone_cls], **hparams})


@pytest.mark.parametrize("options", [{"temperature": 0.4}, OPTIONS], ids=["default", "options"])
@on_every_backbone
def test_adds_the_alignment_of_the_encoders_features_to_the_backbones_loss(
    backbone_cls, data, options
):
    backbone = build(backbone_cls, data)
    model = Aligned(data, backbone, cca_weight=0.3, uia_weight=0.5, reg_weight=0.7, **options)
    alone = build(backbone_cls, data)
    x = alone.representations(data)
    user, item = alone(data)
    features = torch.cat([data["item"].x_image, data["item"].x_text], dim=1)
    extra = Alignment(**options)(
        BATCH, x, user[BATCH.user], item[BATCH.pos_item], features.__getitem__
    )
    own_total, own = alone.loss(data, BATCH)
    total, terms = model.loss(data, BATCH)
    assert list(terms) == [*own, "align_cca", "align_uia", "align_reg"]
    for name, term in own.items():
        torch.testing.assert_close(terms[name], term)
        assert model.loss_weights[name] == alone.loss_weights[name]
    for name, term in extra.items():
        torch.testing.assert_close(terms[f"align_{name}"], term)
    expected = own_total + 0.3 * extra["cca"] + 0.5 * extra["uia"] + 0.7 * extra["reg"]
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(
        torch.autograd.grad(total, list(backbone.parameters())),
        torch.autograd.grad(expected, list(alone.parameters())),
    )


@on_every_backbone
def test_ranks_as_the_backbone_and_has_no_parameters_of_its_own(backbone_cls, data):
    backbone = build(backbone_cls, data)
    model = Aligned(data, backbone)
    assert all(torch.equal(a, b) for a, b in zip(model(data), backbone(data), strict=True))
    assert list(model.state_dict()) == [f"backbone.{name}" for name in backbone.state_dict()]


@on_every_backbone
def test_without_weights_training_is_that_of_the_backbone(backbone_cls, data):
    config = TrainConfig(lr=0.01, max_epochs=3, ks=(1,), monitor="recall@1")
    alone = build(backbone_cls, data)
    fit(alone, data, data, config)
    worn = build(backbone_cls, data)
    fit(Aligned(data, worn, cca_weight=0, uia_weight=0, reg_weight=0), data, data, config)
    aligned = build(backbone_cls, data)
    fit(Aligned(data, aligned), data, data, config)
    for a, b in zip(alone.parameters(), worn.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert any(
        not torch.allclose(a, b, rtol=1e-3)
        for a, b in zip(alone.parameters(), aligned.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", ["align_cca", "align_uia", "align_reg"])
def test_each_term_trains_the_backbone(data, name):
    model = Aligned(data, build(ContentLightGCN, data, embedding_dim=8))
    before = model.loss_terms(data, BATCH)[name]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(50):
        optimizer.zero_grad()
        model.loss_terms(data, BATCH)[name].backward()
        optimizer.step()
    assert model.loss_terms(data, BATCH)[name] < before / 2


def test_propagates_once_per_batch(data, monkeypatch):
    backbone = build(MGCN, data)
    calls = []
    representations = backbone.representations
    monkeypatch.setattr(
        backbone, "representations", lambda *asked: calls.append(1) or representations(*asked)
    )
    Aligned(data, backbone).loss(data, BATCH)
    assert calls == [1]


def test_target_stays_the_encoders_features_while_the_backbone_trains_its_copy(data):
    backbone = build(MGCN, data)
    model = Aligned(data, backbone)
    items = torch.tensor([2, 0])
    before = model._target(items)
    assert torch.equal(before[:, :6], data["item"].x_image[items])
    with torch.no_grad():
        backbone.modalities[0].table.weight.add_(1)
    assert torch.equal(model._target(items), before)
    assert model.encoder_features[0].weight is data["item"].x_image  # no copy


def test_target_features_are_the_backbones_unless_named(data):
    text = build(VBPR, data, features=["text"])
    assert Aligned(data, text).features == ["text"]
    assert Aligned(data, text, features=("image",)).features == ["image"]
    with pytest.raises(ValueError, match="'audio' needs to be one of the feature tables"):
        Aligned(data, text, features=["audio"])


def test_items_without_features_take_no_part_in_reg(data):
    data["item"].x_text[1] = 0
    data["item"].mask_text = torch.tensor([False, True, False, False])
    model = Aligned(data, build(VBPR, data, features=["text"]))
    content = model.backbone.representations(data).content_item[[0, 3]]
    f = torch.nn.functional.normalize(data["item"].x_text[[0, 3]])
    expected = torch.linalg.matrix_norm(content @ content.t() - f @ f.t()) / 2
    torch.testing.assert_close(model.loss_terms(data, BATCH)["align_reg"], expected)


def test_hooks_and_reset_are_the_backbones(data, monkeypatch):
    backbone = build(VBPR, data)
    model = Aligned(data, backbone)
    calls = []
    generator = torch.Generator()
    for name in ("on_epoch_start", "on_batch_start", "reset_parameters", "check_fits"):
        monkeypatch.setattr(backbone, name, lambda *args, name=name: calls.append((name, *args)))
    model.on_epoch_start(data, generator)
    model.on_batch_start(generator)
    model.reset_parameters()
    model.check_fits(data, "train")
    assert calls == [
        ("on_epoch_start", data, generator),
        ("on_batch_start", generator),
        ("reset_parameters",),
        ("check_fits", data, "train"),
    ]


@pytest.mark.parametrize("backbone_cls", [BPR, FREEDOM])
def test_other_models_are_refused(toy, backbone_cls):
    with pytest.raises(ValueError, match=r"ContentRecommender \(got (BPR|FREEDOM)\).*VBPR"):
        Aligned(toy, backbone_cls(toy))


def test_backbone_and_data_have_to_belong_together(data):
    backbone = build(VBPR, data)
    other = copy.copy(data)
    other["user"].id = data["user"].id[::-1].copy()
    with pytest.raises(ValueError, match=r"built on 'data' \(other user ids found\)"):
        Aligned(other, backbone)
    anonymous = copy.copy(data)
    del anonymous["user"].id, anonymous["item"].id
    backbone = build(VBPR, anonymous)
    anonymous["user"].num_nodes = 5
    with pytest.raises(ValueError, match="with 5 users and 4 items .got 3 and 4"):
        Aligned(anonymous, backbone)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("temperature", -1.0), ("reg_similarity", "euclid"), ("reg_reduction", "sum")],
)
def test_bad_options_are_named(data, argument, value):
    with pytest.raises(ValueError, match=f"'{argument}' needs to be"):
        Aligned(data, build(VBPR, data), **{argument: value})


@on_every_backbone
def test_saves_and_loads_with_a_new_backbone(backbone_cls, data, tmp_path):
    model = Aligned(data, build(backbone_cls, data), reg_weight=0.4, reg_similarity="cosine")
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    fresh = backbone_cls(data, **{"embedding_dim": 3, **HPARAMS[backbone_cls]})
    loaded = Aligned.from_pretrained(tmp_path, data, fresh)
    assert loaded.backbone is fresh
    assert not loaded.training
    assert loaded.hparams == model.hparams
    assert loaded.description() == model.description()
    assert loaded.reg_weight == 0.4
    for a, b in zip(model(data), loaded(data), strict=True):
        assert torch.equal(a, b)


def test_built_anew_with_a_backbone_of_its_own(data):
    model = Aligned(data, build(VBPR, data), reg_weight=0.4)
    again = model.clone_for(data)
    assert again.description() == model.description()
    assert again.backbone is not model.backbone
    assert again.supports_new_items


def test_loading_refuses_another_backbone_or_another_graph(data, tmp_path):
    Aligned(data, build(MGCN, data)).save_pretrained(tmp_path)
    for other in (build(VBPR, data), build(MGCN, data, cl_weight=0.5)):
        with pytest.raises(CheckpointError, match="another backbone .stored, given.*(VBPR|0.5)"):
            Aligned.from_pretrained(tmp_path, data, other)
    with pytest.raises(ValueError, match="'backbone' needs to be a model built"):
        Aligned.from_pretrained(tmp_path, data)
    with pytest.raises(ValueError, match=r"ContentRecommender \(got BPR\)"):
        Aligned.from_pretrained(tmp_path, data, BPR(data))
    changed = copy.copy(data)
    changed["item"].x_text = data["item"].x_text + 1
    with pytest.raises(CheckpointError, match="trained with other features"):
        Aligned.from_pretrained(tmp_path, changed, build(MGCN, changed))
    regraphed = copy.copy(data)
    regraphed["item", "knn_text", "item"].edge_weight = torch.ones(8)
    with pytest.raises(CheckpointError, match="item graph 'text'"):
        Aligned.from_pretrained(tmp_path, regraphed, build(MGCN, regraphed))
    with pytest.raises(CheckpointError, match="holds a Aligned, not a MGCN"):
        MGCN.from_pretrained(tmp_path, data)


class AlignedMGCN(Aligned):
    """Builds its backbone, so that it is built and loaded as any model."""

    def __init__(self, data, *, cl_weight=0.01, cca_weight=0.5):
        self.cl_weight = cl_weight
        super().__init__(data, MGCN(data, cl_weight=cl_weight), cca_weight=cca_weight)


def test_a_subclass_that_builds_its_backbone_loads_as_any_model(data, tmp_path):
    model = AlignedMGCN(data, cl_weight=0.3)
    assert model.hparams == {"cl_weight": 0.3, "cca_weight": 0.5}
    model.save_pretrained(tmp_path)
    loaded = AlignedMGCN.from_pretrained(tmp_path, data)
    assert loaded.backbone.cl_weight == 0.3
    assert torch.equal(loaded(data)[0], model.eval()(data)[0])
    data["item", "knn_text", "item"].edge_weight = torch.ones(8)
    with pytest.raises(CheckpointError, match="item graph 'text'"):
        AlignedMGCN.from_pretrained(tmp_path, data)


def test_loading_another_model_says_so(data, tmp_path):
    backbone = build(VBPR, data)
    backbone.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a VBPR, not a Aligned"):
        Aligned.from_pretrained(tmp_path, data, backbone)


def test_resuming_notices_another_backbone(data, tmp_path):
    config = TrainConfig(max_epochs=1, ks=(1,), monitor="recall@1")
    fit(Aligned(data, build(VBPR, data)), data, data, config, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"(?s)another run: .*\n  .*backbone"):
        fit(
            Aligned(data, build(VBPR, data, reg_weight=0.5)),
            data,
            data,
            config,
            checkpoint_dir=tmp_path,
        )
