import json

import pytest
import torch

from benchmarks import speed


def make_folder(folder):
    shape = speed.Shape(num_users=40, num_items=60, train=200, val=44, test=50)
    train, val = speed.generate_links(shape, seed=1)
    rows = ["userID\titemID\tx_label"]
    for label, links in enumerate((train, val)):
        rows += [f"{user}\t{item}\t{label}" for user, item in links.t().tolist()]
    rows.append(f"0\t{shape.num_items - 1}\t2")
    folder.mkdir()
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n")
    return folder


def test_generated_links_have_the_shape_asked_for():
    shape = speed.Shape(num_users=300, num_items=200, train=1500, val=330, test=340)
    train, val = speed.generate_links(shape)
    assert train.shape == (2, 1500)
    assert val.shape == (2, 330)
    pairs = set(map(tuple, torch.cat([train, val], dim=1).t().tolist()))
    assert len(pairs) == 1830
    assert int(train.min()) >= 0
    assert torch.cat([train, val], dim=1).amax(dim=1).tolist() <= [299, 199]
    assert int(torch.bincount(train[0], minlength=300).min()) >= 3
    assert int(torch.bincount(val[0], minlength=300).min()) >= 1
    by_item = torch.bincount(train[1], minlength=200).sort(descending=True).values
    assert int(by_item[:20].sum()) > 2 * 1500 * 20 / 200  # the top tenth has far more than a tenth
    again, _ = speed.generate_links(shape)
    assert torch.equal(again, train)


def test_generated_links_refuse_an_impossible_shape():
    with pytest.raises(ValueError, match="'shape'"):
        speed.generate_links(speed.Shape(num_users=10, num_items=50, train=20, val=10, test=10))
    with pytest.raises(ValueError, match="'shape'"):
        speed.generate_links(speed.Shape(num_users=10, num_items=6, train=50, val=10, test=10))


def test_features_have_low_rank_structure():
    features = speed.generate_features(200)
    assert features.shape == (200, speed.FEATURE_DIM)
    assert features.dtype == torch.float32
    spectrum = torch.linalg.svdvals(features - features.mean(dim=0))
    assert float(spectrum[31] / spectrum[33]) > 2
    assert torch.equal(speed.generate_features(200), features)


def test_memory_grows_with_a_tensor():
    before = speed.resident_memory()
    block = torch.ones(40_000_000)
    assert speed.peak_memory() - before > 100
    assert speed.resident_memory() - before > 100
    assert block.numel() > 0


def test_disagreement_is_found():
    ours = {"loss": {"total": 1.0, "bpr": 0.5}, "metrics": {"recall@10": 0.1}}
    assert speed.disagreements(ours, ours) == []
    other = {"loss": {"total": 1.001, "bpr": 0.5}, "metrics": {"recall@10": 0.1002}}
    lines = speed.disagreements(other, ours)
    assert [line.split(":")[0] for line in lines] == ["loss total", "recall@10"]
    broken = {"loss": {"total": float("nan"), "bpr": 0.5}, "metrics": {"recall@10": 0.1}}
    assert len(speed.disagreements(broken, ours)) == 1


def test_whole_run_agrees_and_is_written(tmp_path, capsys, monkeypatch):
    def in_this_process(command, **kwargs):  # three imports of torch and PyG would take long
        options = command[command.index("benchmarks.speed") + 1 :]
        assert speed.main(options) == 0

    monkeypatch.setattr(speed.subprocess, "run", in_this_process)
    folder = make_folder(tmp_path / "tiny")
    arguments = ["--data", str(folder), "--out", str(tmp_path / "out"), "--profile"]
    assert speed.main([*arguments, "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "reference / ours" in printed
    result = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert result["num_users"] == 40
    assert result["num_items"] == 60
    assert result["num_train"] == 200
    assert speed.disagreements(result["ours"], result["reference"]) == []
    assert result["reference"]["differing_edges"] == 0
    assert result["ours"]["metrics"].keys() >= {"recall@20", "ndcg@20", "precision@20"}
    assert "Self CPU" in result["ours"]["profile"]
    assert {"edge_index", "torch CSR", "prepared Adjacency"} <= result["propagation"].keys()
    assert (tmp_path / "out" / "speed.md").read_text() == speed.report(result)


@pytest.mark.parametrize("option", ["--epochs", "--threads"])
def test_counts_below_one_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        speed.main([option, "0"])
    assert f"'{option}' needs to be 1 or more (got 0)" in capsys.readouterr().err
