import json
import subprocess

import pytest

from benchmarks.performance import generated, speed, speed_report


def make_folder(folder):
    shape = generated.Shape(num_users=40, num_items=60, train=200, val=44, test=50)
    train, val, _ = generated.generate_links(shape, seed=1)
    rows = ["userID\titemID\tx_label"]
    for label, links in enumerate((train, val)):
        rows += [f"{user}\t{item}\t{label}" for user, item in links.t().tolist()]
    rows.append(f"0\t{shape.num_items - 1}\t2")
    folder.mkdir()
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n")
    return folder


def test_whole_run_agrees_and_is_written(tmp_path, capsys, monkeypatch):
    run = subprocess.run

    def in_this_process(command, **kwargs):  # three imports of torch and PyG would take long
        if "benchmarks.performance.speed" not in command:
            return run(command, **kwargs)
        options = command[command.index("benchmarks.performance.speed") + 1 :]
        assert speed.main(options) == 0
        return None

    monkeypatch.setattr(subprocess, "run", in_this_process)
    folder = make_folder(tmp_path / "tiny")
    arguments = ["--data", str(folder), "--out", str(tmp_path / "out"), "--profile"]
    assert speed.main([*arguments, "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "reference / ours" in printed
    result = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert result["num_users"] == 40
    assert result["num_items"] == 60
    assert result["num_train"] == 200
    assert speed_report.disagreements(result["ours"], result["reference"]) == []
    assert result["reference"]["differing_edges"] == 0
    assert result["ours"]["metrics"].keys() >= {"recall@20", "ndcg@20", "precision@20"}
    assert "Self CPU" in result["ours"]["profile"]
    assert {"edge_index", "torch CSR", "prepared Adjacency"} <= result["propagation"].keys()
    assert (tmp_path / "out" / "speed.md").read_text() == speed_report.report(result)


@pytest.mark.parametrize("option", ["--epochs", "--threads"])
def test_counts_below_one_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        speed.main([option, "0"])
    assert f"'{option}' needs to be 1 or more (got 0)" in capsys.readouterr().err
