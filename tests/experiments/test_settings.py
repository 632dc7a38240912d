import pytest

from alignrec_pyg.experiments.settings import PAPER, SettingsError, resolve


def test_values_reach_constructor_and_training():
    resolved = resolve(
        ["AlignRec", "BPR"],
        PAPER,
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
    hparams = resolved["AlignRec"].hparams()
    assert hparams["reg_similarity"] == "cosine"
    assert hparams["reg_weight"] == 0.0
    assert isinstance(hparams["reg_weight"], float)
    assert hparams["freeze_features"] is True
    assert hparams["num_layers"] == 3
    assert resolved["AlignRec"].train.lr == 0.5
    assert resolved["BPR"].train.lr == 0.01  # one model's own value wins
    assert {settings.config.max_epochs for settings in resolved.values()} == {7}
    assert resolved["AlignRec"].train.patience == 30
    assert list(resolved) == ["AlignRec", "BPR"]


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
        resolve(["BPR", "AlignRec"], PAPER, [override])
    (message,) = caught.value.problems
    assert message.startswith(f"--set {override}: ")
    assert problem in message


def test_all_problems_come_together():
    with pytest.raises(SettingsError) as caught:
        resolve(["BPR", "LightGNC"], PAPER, ["BPR.x=1", "BPR.y=1"], lr=-1.0)
    problems = caught.value.problems
    assert len(problems) == 4
    assert "did you mean 'LightGCN'?" in problems[0]
    assert problems[3].startswith("BPR: 'lr' needs to be finite and positive")
