from dataclasses import replace

import pytest

from alignrec_pyg.experiments.description import (
    description,
    deviations,
    header,
    masking_rule,
    split_text,
)
from alignrec_pyg.experiments.settings import published_settings
from alignrec_pyg.models import BPR, LightGCN


@pytest.fixture(scope="module")
def settings():
    bpr, lightgcn = published_settings(BPR, "x"), published_settings(LightGCN, "x")
    return {"BPR": bpr.with_changes(lr=0.5, reg_weight=7.0), "LightGCN": lightgcn}


def test_header_is_four_lines(synthetic, tmp_path):
    assert header(synthetic, tmp_path).splitlines() == [
        "data: synthetic, 800 users, 600 items, 12,000 interactions; features: image, text",
        "split: random, 9,681 training, 1,062 validation, 1,257 test links",
        "ranking: all items but the user's training links; at test time validation links count as "
        "misses; best epoch by validation recall@20",
        f"settings: written with the results in {tmp_path}",
    ]
    bare = replace(synthetic, features=[])
    assert header(bare, tmp_path).splitlines()[0].endswith("features: none")


def test_ranking_may_know_validation_links(synthetic):
    known = replace(synthetic, split=replace(synthetic.split, val_known_at_test=True))
    assert "training and, at test time, validation links" in masking_rule(known)
    assert split_text(known).endswith(masking_rule(known))


def test_known_pairs_that_are_not_ranked_and_drawn_validation_links_are_told(synthetic, tmp_path):
    other = replace(synthetic, exclude_known_pairs=True, val_from_train=0.1, split_rule="labels")
    for text in (header(other, tmp_path), split_text(other)):
        assert "training links and, at test time, known pairs and validation links" in text
        assert "split: labels, validation: 0.1 of the training links" in text


def test_description_has_hashes_split_and_settings(synthetic, settings):
    text = description(synthetic, settings)
    assert synthetic.split.fingerprint in text
    assert all(feature.content_hash in text for feature in synthetic.report.features)
    assert "feature rows: scaled to length 1, for all models" in text
    assert "split: random" in text
    assert "lr 0.5 (0.001)" in text
    assert text.endswith("test links choose nothing")
    assert synthetic.split.fingerprint not in description(synthetic, settings, one_split=False)
    raw = replace(synthetic, scale="raw", item_graphs={"text": "of the texts"})
    assert "feature rows: as they are stored" in description(raw, settings)
    assert "item graph 'text': of the texts" in description(raw, settings)


def test_deviations_from_the_published_settings(settings):
    bpr, lightgcn = deviations(settings, "x")
    assert bpr.startswith("BPR: ")
    assert "reg_weight 7.0 (" in bpr
    assert "lr 0.5 (0.001)" in bpr
    assert lightgcn == "LightGCN: none"
