from typing import Literal

import pytest

from alignrec_pyg import LATTICE, AlignRec
from alignrec_pyg.cli.options import OptionError
from alignrec_pyg.cli.settings import fitted, model_settings


def test_values_by_the_constructor():
    entries = ["cca_weight=1", "num_layers=3", "mlp_relu=True", "reg_similarity=cosine"]
    assert model_settings(AlignRec, entries) == {
        "cca_weight": 1.0,
        "num_layers": 3,
        "mlp_relu": True,
        "reg_similarity": "cosine",
    }
    assert model_settings(LATTICE, []) == {}


def test_all_mistakes_at_once():
    entries = [
        "cca_wieght=1",
        "temperature=warm",
        "num_layers=2.5",
        "mlp_relu=1",
        "reg_similarity=l2",
        "features=text",
        "cca_weight",
        "uia_weight=1",
        "uia_weight=2",
    ]
    with pytest.raises(OptionError) as caught:
        model_settings(AlignRec, entries)
    lines = caught.value.format_message().splitlines()
    expected = (
        "--set: cca_wieght=1: argument 'cca_wieght' is unknown: did you mean 'cca_weight'?",
        "--set: temperature=warm: needs to be a number (got 'warm')",
        "--set: num_layers=2.5: needs to be an integer (got 2.5)",
        "--set: mlp_relu=1: needs to be True or False (got 1)",
        "--set: reg_similarity=l2: needs to be one of ('dot', 'cosine') (got 'l2')",
        "--set: features=text: 'features' is chosen with --features",
        "--set: cca_weight: needs the form NAME=VALUE",
        "--set: uia_weight=2: 'uia_weight' is given twice",
    )
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    with pytest.raises(OptionError, match="'item_graphs' is built from the features"):
        model_settings(LATTICE, ["item_graphs=x"])


def test_text_as_a_kind():
    assert fitted("1", float) == (1.0, None)
    assert fitted("'dot'", Literal["dot"]) == ("dot", None)
    assert fitted("True", int)[1] == "needs to be an integer (got True)"
