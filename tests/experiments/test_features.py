import pytest
import torch

from alignrec_pyg import item_cf, zero_shot
from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.experiments.features import (
    ITEM_CF,
    ZERO_SHOT,
    FeatureSet,
    Protocols,
    feature_sets,
    protocol_data,
    replacement_tables,
)
from alignrec_pyg.experiments.prepare import prepare_graph
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.report import describe


@pytest.fixture
def timed(timed_folder):
    return MMRecFolder(timed_folder).data


def test_tables_are_scaled_as_models_read_them(timed):
    timed["item"].x_text = timed["item"].x_text * torch.arange(1, 31).unsqueeze(1)
    sets = {"image+text": ["image", "text"], "text": ["text"]}
    seen = protocol_data(timed)
    blocks = Protocols().evaluate(seen, sets, {}, "cpu")
    with pytest.warns(UserWarning, match="rows of 'text' are .* times as long as those of 'image'"):
        raw = Protocols(feature_scale="raw").evaluate(seen, sets, {}, "cpu")
    prepared = prepare_graph(timed.clone(), describe(timed), name="some").known
    for name, parts in sets.items():
        for block, protocol in ((ZERO_SHOT, zero_shot), (ITEM_CF, item_cf)):
            rank = protocol(prepared, parts, normalize_parts=False).rank
            assert torch.equal(blocks[block][name].rank, rank)
            assert not torch.equal(raw[block][name].rank, rank) or parts == ["text"]
    assert not torch.equal(raw[ZERO_SHOT]["text"].rank, blocks[ZERO_SHOT]["text"].rank)


def test_links_are_those_of_the_paper_by_default(timed):
    seen = protocol_data(timed)
    assert (seen.links, seen.held_out) == (timed, None)
    assert seen.about["to find in zero-shot"].endswith("of each user (of all links)")
    seen = protocol_data(timed, targets="test", links="train")
    assert seen.held_out is not None
    assert seen.links[INTERACTS].edge_index.size(1) < timed[INTERACTS].edge_index.size(1)
    assert seen.about == {
        "to find in zero-shot": "the test links of the split 'labels', with the train links as "
        "history",
        "links of item-CF": "train links",
    }


def test_without_times_the_validation_links_are_found(tiny_folder):
    data = MMRecFolder(tiny_folder).data
    seen = protocol_data(data)
    assert seen.held_out is not None
    with pytest.raises(SettingsError, match="--targets time: the data has no times"):
        protocol_data(data, targets="time")


def test_protocols_run_on_every_set(timed, capsys):
    protocols = Protocols(ks=(3, 7), similarity="dot")
    sets = {"text": ["text"], "image+text": ["image", "text"]}
    blocks = protocols.evaluate(protocol_data(timed), sets, {}, "cpu")
    assert list(blocks) == [
        *(ZERO_SHOT, "mask 50 % image", "mask 50 % text"),
        *(ITEM_CF, f"{ITEM_CF}, any tied"),
    ]
    expected = zero_shot(timed, "text", ks=(3, 7), similarity="dot").recall
    assert blocks[ZERO_SHOT]["text"].recall == expected
    assert f"zero-shot on text: recall@7 {expected[7]:.4f} (" in capsys.readouterr().err
    assert "similarity dot, history candidates" in str(protocols)


def test_a_set_is_described(timed):
    both = FeatureSet.of(timed, ["image", "text"], normalize_parts=True)
    assert both.width == timed["item"].x_image.size(1) + timed["item"].x_text.size(1)
    assert both.cosine != FeatureSet.of(timed, ["image", "text"], normalize_parts=False).cosine


def test_sets_and_replacements_by_name():
    problems: list[str] = []
    names = ["mm", "mm_of_text", "text"]
    replaced = replacement_tables(["mm:image=mm_of_text"], names, problems)
    assert replaced == {("mm", "image"): "mm_of_text"}
    assert feature_sets([], names, replaced, problems) == {
        "mm": ["mm"],
        "text": ["text"],
        "mm+text": ["mm", "text"],
    }
    assert feature_sets(["text+mm"], names, {}, problems) == {"text+mm": ["text", "mm"]}
    assert problems == []
    replacement_tables(["mm=text", "mm+text:image=mm"], names, problems)
    feature_sets(["txt", "mm+mm"], names, replaced, problems)
    rules = ("SET:MODALITY=TABLE", "a set of one table", "'txt' is unknown", "a table twice")
    for problem, rule in zip(problems, (*rules, "mm is not among the sets"), strict=True):
        assert rule in problem
