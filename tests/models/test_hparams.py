import copy
import json
import math

import numpy as np
import pytest

from alignrec_pyg import BPR, FREEDOM, MMGCN, VBPR, AlignRec, LightGCN


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


def test_hyper_parameters_are_plain(toy, tmp_path):
    model = VBPR(toy, features=("text",), embedding_dim=np.int64(4), reg_weight=np.float32(0.5))
    assert model.hparams == json.loads(json.dumps(model.hparams))
    model.save_pretrained(tmp_path)


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
