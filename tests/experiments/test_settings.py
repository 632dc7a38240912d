import sys
from dataclasses import asdict

import pytest

from alignrec_pyg.experiments.settings import (
    BASELINES,
    FROM_DATA,
    PAPER_GRIDS,
    SEARCH_GRIDS,
    TABLE_2,
    TRAIN_ARGUMENTS,
    SettingsError,
    default_settings,
    load_model,
    model_path,
    package_models,
    published_settings,
    resolve,
)
from alignrec_pyg.models import BM3, BPR, EASE, MGCN, AlignRec, ItemKNN, Popularity
from alignrec_pyg.train_config import TrainConfig

MODELS = package_models()
OWN = '''
from alignrec_pyg.models import BPR


class Mine(BPR):
    """A model of somebody's own."""

    def __init__(self, data, *, boost: float = 2.0, **kwargs):
        super().__init__(data, **kwargs)
        self.boost = boost


class Unfinished(BPR):
    """Needs an argument that has no default."""

    def __init__(self, data, *, needed: int):
        super().__init__(data)
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_models", None)  # another test's
    yield "my_models"
    sys.modules.pop("my_models", None)


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_what_the_constructor_and_the_class_say(name, toy):
    model = MODELS[name]
    arguments = {
        argument: parameter.default
        for argument, parameter in model.hparam_parameters().items()
        if argument not in FROM_DATA
    }
    default = default_settings(model, toy)
    assert default.hparams == {**arguments, **model.default_hparams(toy)}
    assert default.config == model.train_config(toy) == TrainConfig()
    published = published_settings(model, "any data")
    assert published.hparams == {**arguments, **model.published_hparams("any data")}
    assert published.config == model.published_train_config()


def test_published_settings_are_those_of_the_papers():
    found = {name: asdict(published_settings(model, "").config) for name, model in MODELS.items()}
    usual = asdict(TrainConfig(lr=1e-3, batch_size=2048, eval_every=1, patience=20, min_steps=0))
    changed = {
        name: {key: value for key, value in config.items() if value != usual[key]}
        for name, config in found.items()
    }
    decay = {"lr_decay": 0.96}
    assert {name: values for name, values in changed.items() if values} == {
        "AlignRec": {"lr": 3e-4, "patience": 30, **decay},
        "WeightedAlignRec": {"lr": 3e-4, "patience": 30, **decay},
        "MGCN": decay,
        "LATTICE": decay,
        "PGL": decay,
        "MENTOR": {"lr": 1e-4},
        "SMORE": decay,
        "SLMRec": {"weight_decay": 1e-4},
    }


def test_settings_are_completed_by_the_data_after_all_changes(toy):
    changed = resolve(["BPR"], "default", "any", ["BPR.patience=3"], data=toy, batch_size=64)[
        "BPR"
    ].completed(toy)
    rule = TrainConfig.for_links(toy["user", "interacts", "item"].edge_index.size(1))
    assert changed.config.lr == rule.lr
    assert changed.config.batch_size == 64
    assert (changed.config.patience, changed.config.patience_steps) == (3, None)
    published = resolve(["BPR"], "published", "any", data=toy)["BPR"].completed(toy).config
    assert (published.lr, published.batch_size, published.patience) == (1e-3, 2048, 20)
    assert (published.eval_steps, published.patience_steps, published.min_steps) == (None, None, 0)


def test_published_settings_of_the_papers_data():
    assert published_settings(BM3, "sports").hparams["reg_weight"] == 0.01
    assert published_settings(BM3, "elec").hparams["num_layers"] == 2
    for name in ("MMGCN", "GRCN", "DualGNN", "LGMRec", "MENTOR"):
        assert published_settings(MODELS[name], "baby").hparams["faithful"] is True
        assert published_settings(MODELS[name], "films").hparams["faithful"] is False


def test_baselines_are_none_of_the_papers():
    assert (Popularity, ItemKNN, EASE) == BASELINES
    assert not set(BASELINES) & set(TABLE_2)


def test_table_2_has_the_models_of_the_paper():
    named = "AlignRec BPR LightGCN VBPR MMGCN GRCN DualGNN BM3 MGCN FREEDOM"
    assert " ".join(model.__name__ for model in TABLE_2) == named


@pytest.mark.parametrize("model", [*PAPER_GRIDS, *SEARCH_GRIDS], ids=lambda model: model.__name__)
def test_grids_name_settings_of_their_models(model):
    settings = published_settings(model, "")
    for grid in (PAPER_GRIDS.get(model, {}), SEARCH_GRIDS[model]):
        points = settings.points(grid)
        size = 1
        for values in grid.values():
            size *= len(values)
        assert len(points) == size
        told = [
            tuple({**point.hparams, **asdict(point.config)}[name] for name in grid)
            for point in points
        ]
        assert len(set(told)) == size
    assert len(settings.points(SEARCH_GRIDS[model])) == (1 if model is Popularity else 4)


def test_changes_reach_constructor_and_training():
    settings = published_settings(MGCN, "").with_changes(cl_weight=0.5, lr=0.1)
    assert settings.hparams["cl_weight"] == 0.5
    assert settings.config.lr == 0.1
    assert settings.differences(published_settings(MGCN, "")) == [
        "cl_weight 0.5 (0.01)",
        "lr 0.1 (0.001)",
    ]
    with pytest.raises(ValueError, match="MGCN has no setting cl_wait"):
        settings.with_changes(cl_wait=1)


def test_a_patience_in_evaluations_replaces_one_counted_in_steps():
    in_steps = {"patience_steps": 300, "eval_steps": 50}
    settings = published_settings(MGCN, "").with_changes(**in_steps)
    changed = settings.with_changes(patience=7).config
    assert (changed.patience, changed.patience_steps, changed.eval_steps) == (7, None, 50)
    changed = settings.with_changes(eval_every=2, lr=0.5).config
    assert (changed.eval_every, changed.eval_steps, changed.patience_steps) == (2, None, 300)
    with pytest.raises(ValueError, match="exclude each other"):
        settings.with_changes(patience=7, patience_steps=400)


def test_values_reach_constructor_and_training():
    resolved = resolve(
        ["AlignRec", "BPR"],
        "published",
        "films",
        [
            "AlignRec.reg_similarity=cosine",
            "AlignRec.reg_weight=0",
            "AlignRec.freeze_features=True",
            "AlignRec.num_layers=3",
            "BPR.lr=1e-2",
        ],
        max_epochs=7,
        lr=0.5,
        patience=None,
    )
    hparams = resolved["AlignRec"].hparams
    assert hparams["reg_similarity"] == "cosine"
    assert hparams["reg_weight"] == 0.0
    assert isinstance(hparams["reg_weight"], float)
    assert hparams["freeze_features"] is True
    assert hparams["num_layers"] == 3
    assert resolved["AlignRec"].config.lr == 0.5
    assert resolved["BPR"].config.lr == 0.01  # one model's own value wins
    assert {settings.config.max_epochs for settings in resolved.values()} == {7}
    assert resolved["AlignRec"].config.patience == 30
    assert list(resolved) == ["AlignRec", "BPR"]


def test_one_models_patience_takes_the_place_of_that_of_all():
    overrides = ["BPR.patience_steps=300", "BPR.eval_steps=40"]
    found = resolve(["BPR", "LightGCN"], "published", "films", overrides, patience=7, eval_every=2)
    bpr, lightgcn = found["BPR"].config, found["LightGCN"].config
    assert (bpr.patience, bpr.patience_steps) == (None, 300)
    assert (bpr.eval_every, bpr.eval_steps) == (None, 40)
    assert (lightgcn.patience, lightgcn.eval_every) == (7, 2)


def test_of_a_single_model_overrides_need_no_name(toy):
    (alone,) = resolve(["BPR"], "default", "films", ["reg_weight=3"], data=toy).values()
    assert alone.hparams["reg_weight"] == 3.0
    with pytest.raises(SettingsError, match="needs the form MODEL.argument=value"):
        resolve(["BPR", "VBPR"], "default", "films", ["reg_weight=3"], data=toy)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("BPR", "needs the form"),
        ("BPR.reg_weight", "needs the form"),
        ("BPR.reg_weight=", "needs the form"),
        ("Bpr.reg_weight=1", "did you mean 'BPR'?"),
        ("VBPR.reg_weight=1", "VBPR is not among the models to run: BPR, AlignRec"),
        ("BPR.reg_wait=1", "did you mean 'reg_weight'?"),
        ("BPR.num_layers=1", "argument 'num_layers' is unknown"),
        ("BPR.seed=1", "counted by --seeds"),
        ("AlignRec.features=text", "chosen with --features"),
        ("AlignRec.item_graph=x", "--neighbors"),
        ("BPR.reg_weight=many", "needs to be a number (got 'many')"),
        ("BPR.reg_weight=True", "needs to be a number (got True)"),
        ("AlignRec.num_layers=1.5", "needs to be an integer (got 1.5)"),
        ("AlignRec.freeze_features=1", "needs to be True or False (got 1)"),
        ("AlignRec.reg_similarity=cos", "needs to be one of ('dot', 'cosine') (got 'cos')"),
        ("BPR.monitor=recall@10", "argument 'monitor' is unknown"),
    ],
)
def test_what_does_not_fit_is_named(override, problem):
    with pytest.raises(SettingsError) as caught:
        resolve(["BPR", "AlignRec"], "published", "films", [override])
    (message,) = caught.value.problems
    assert message.startswith(f"--set {override}: ")
    assert problem in message


def test_all_problems_come_together():
    with pytest.raises(SettingsError) as caught:
        resolve(["BPR", "LightGNC"], "published", "films", ["BPR.x=1", "BPR.y=1"], lr=-1.0)
    problems = caught.value.problems
    assert len(problems) == 4
    assert "did you mean 'LightGCN'?" in problems[0]
    assert problems[3].startswith("BPR: 'lr' needs to be finite and positive")


def test_a_class_of_ones_own_is_found_from_the_current_folder(own_module, toy):
    model = load_model("my_models:Mine")
    assert issubclass(model, BPR)
    assert model_path(model) == "my_models:Mine"
    resolved = resolve(["my_models:Mine", "BPR"], "published", "films", ["Mine.boost=3"])
    assert resolved["Mine"].hparams == {
        "boost": 3.0,
        **published_settings(BPR, "films").hparams,
    }
    built = model(toy, **resolved["Mine"].hparams)
    assert (built.boost, built.embedding_dim) == (3.0, 64)
    assert built.hparams == resolved["Mine"].hparams


def test_models_of_the_package_go_by_their_name():
    assert load_model("AlignRec") is AlignRec
    assert model_path(AlignRec) == "AlignRec"
    assert "Aligned" not in MODELS  # wraps another model: data alone do not build it


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LightGNC", "did you mean 'LightGCN'"),
        ("no_such_module:Model", "No module named 'no_such_module'.*module:Class"),
        ("my_models:Nothing", "no attribute 'Nothing'"),
        ("my_models:Unfinished", "built from data and keyword arguments with defaults"),
        ("alignrec_pyg.models:Recommender", "without abstract methods"),
        ("alignrec_pyg.graph:ITEM", "needs to be a subclass of"),
    ],
)
def test_what_is_no_model_is_refused(own_module, name, message):
    with pytest.raises(ValueError, match=message):
        load_model(name)


def test_settings_of_training_are_fields_of_its_configuration():
    assert set(TRAIN_ARGUMENTS) == set(asdict(TrainConfig())) - {
        "monitor",
        "ks",
        "seed",
        "eval_users",
    }
