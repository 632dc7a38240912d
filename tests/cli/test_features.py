import contextlib
import csv
import io
import json

import numpy as np
import pytest
import torch

from alignrec_pyg.cli import main
from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.experiments import features_report
from alignrec_pyg.experiments import paper as paper_results
from alignrec_pyg.experiments.features import ANY_TIED, ITEM_CF, ZERO_SHOT, Protocols
from alignrec_pyg.feature_eval import item_cf, mask_modality, zero_shot
from alignrec_pyg.graph import content_hash
from alignrec_pyg.transforms import SplitInteractions

ALL = "audio+image+text"
MASKS = [f"mask 50 % {name}" for name in ("audio", "image", "text")]


@pytest.fixture
def run(tmp_path):
    """Runs the script; gives status, output, errors and what the JSON file holds."""

    def run(*arguments):
        arguments = ("--threads", "1", "--device", "cpu", "--out", tmp_path / "out", *arguments)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["features", *map(str, arguments)])
        path = tmp_path / "out" / "features.json"
        return (
            status,
            out.getvalue(),
            err.getvalue(),
            path.exists() and json.loads(path.read_text()),
        )

    return run


@pytest.fixture
def no_maps(monkeypatch):
    """No t-SNE, which takes longer than the rest."""
    monkeypatch.setattr(features_report, "feature_maps", lambda *_: {})


def told(saved, block, name):
    """Recall by cut-off."""
    return {int(k): entry["mean"] for k, entry in saved["protocols"][block][name]["recall"].items()}


def test_every_set_goes_through_every_protocol(timed_folder, run, tmp_path, no_maps):
    status, out, err, saved = run("--data", timed_folder)
    assert status == 0, err
    data = MMRecFolder(timed_folder).data
    assert list(saved["protocols"]) == [ZERO_SHOT, *MASKS, ITEM_CF, ANY_TIED]
    for name in ("audio", "image", "text", ALL):
        parts = name.split("+")
        expected = zero_shot(data, parts)
        assert told(saved, ZERO_SHOT, name) == pytest.approx(expected.recall)
        found = item_cf(data, parts)
        assert told(saved, ITEM_CF, name) == pytest.approx(found.recall)
        assert told(saved, ANY_TIED, name) == pytest.approx(found.any_tied.recall)
        entry = saved["sets"][name]
        tables = [data["item"][f"x_{part}"] for part in parts]
        assert entry["content_hash"] == content_hash(*tables)
        assert entry["width"] == sum(table.size(1) for table in tables)
    for block in MASKS:
        assert list(saved["protocols"][block]) == [ALL]
        masked = mask_modality(data, ALL.split("+"), block.split()[-1])
        assert told(saved, block, ALL) == pytest.approx(masked.recall)
    scale = zero_shot(data, "text")
    for name, values in (("popularity", scale.popularity), ("random", scale.random)):
        cells = " ".join(f"{value:.4f}" for value in values.values())
        assert f"{ZERO_SHOT} ({name}) {cells} " in " ".join(out.split())
        entry = saved["protocols"][ZERO_SHOT]["text"][name]
        assert list(entry.values()) == pytest.approx(list(values.values()))
    assert "to find in zero-shot: the latest link in time of each user (of all links)" in out
    assert f"best set by {ZERO_SHOT} recall@20: " in out
    assert saved["best"] in out
    markdown = (tmp_path / "out" / "features.md").read_text()
    assert markdown.count(f"| {ZERO_SHOT} | ") == out.count(f"\n{ZERO_SHOT}  ") == 6
    with (tmp_path / "out" / "features.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = (r for r in rows if (r["protocol"], r["features"]) == (ITEM_CF, "text"))
    assert float(row["recall@50"]) == pytest.approx(told(saved, ITEM_CF, "text")[50])
    assert float(row["recall@10 low"]) <= float(row["recall@10"]) <= float(row["recall@10 high"])


def test_the_picture_is_drawn_after_the_files_and_can_be_left_out(
    timed_folder, run, tmp_path, monkeypatch
):
    def stop(*_):
        assert (tmp_path / "out" / "features.csv").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(features_report, "feature_maps", stop)
    arguments = ("--data", timed_folder, "--sets", "text")
    status, out, _, saved = run(*arguments)
    assert status == 130
    assert saved["protocols"]
    assert f"{tmp_path / 'out' / 'features.md'}" in out
    status, out, err, saved = run(*arguments, "--no-map")
    assert status == 0, err
    assert set(saved["files"]) == {"features.csv", "features.md"}


@pytest.mark.parametrize(
    ("scale", "consequence"), [("rows", "and scaled here"), ("raw", "which they outweigh")]
)
def test_rows_ten_times_as_long_are_told(
    timed_folder, run, tmp_path, no_maps, recwarn, scale, consequence
):
    table = MMRecFolder(timed_folder).data["item"].x_text
    np.save(tmp_path / "long.npy", 20 * torch.nn.functional.normalize(table).numpy())
    np.save(tmp_path / "short.npy", torch.nn.functional.normalize(table).numpy())
    tables = [f"{name}={tmp_path / f'{name}.npy'}" for name in ("long", "short")]
    arguments = ("--tables", *tables, "--sets", "long+short", "--feature-scale", scale)
    status, out, err, saved = run("--data", timed_folder, *arguments)
    assert status == 0, err
    told = f"rows of 'long' are 20 times as long as those of 'short' as stored, {consequence}"
    assert saved["ATTENTION"].startswith(told)
    assert f"ATTENTION: {told}" in out
    assert bool(recwarn.list) == (scale == "raw")


def test_the_picture_is_written(timed_folder, run, tmp_path):
    status, out, err, _ = run("--data", timed_folder, "--sets", "text")
    assert status == 0, err
    assert (tmp_path / "out" / "features.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "out" / "features.png") in out


def test_options_reach_the_protocols(timed_folder, run, no_maps):
    status, out, err, saved = run(
        *("--data", timed_folder, "--sets", "text", "audio+text", "--similarity", "dot"),
        *("--exclude-history", "--ties", "max_id", "--normalize-items"),
        *("--score", "iuf", "--min-common", "2", "--mask-ratio", "0.3", "--seed", "5"),
    )
    assert status == 0, err
    data = MMRecFolder(timed_folder).data
    options = {"similarity": "dot"}
    of_users = {**options, "exclude_history": True, "ties": "max_id", "normalize_items": True}

    def protocol(data, names):
        return zero_shot(data, names, **of_users)

    both = ["audio", "text"]
    assert told(saved, ZERO_SHOT, "audio+text") == pytest.approx(protocol(data, both).recall)
    masked = mask_modality(data, both, "audio", ratio=0.3, seed=5, protocol=protocol)
    assert told(saved, "mask 30 % audio", "audio+text") == pytest.approx(masked.recall)
    found = item_cf(data, both, score="iuf", min_common=2, **options)
    assert told(saved, ITEM_CF, "audio+text") == pytest.approx(found.recall)
    assert list(saved["sets"]) == ["text", "audio+text"]
    assert "similarity dot, history no candidates, equal times max_id" in out


@pytest.mark.parametrize("arguments", [(), ("--targets", "test"), ("--links", "train")])
def test_without_times_links_of_the_split_are_found(tiny_folder, run, no_maps, arguments):
    status, out, err, saved = run("--data", tiny_folder, "--sets", "text", *arguments)
    assert status == 0, err
    data = MMRecFolder(tiny_folder).data
    train, val, test = SplitInteractions("labels")(data)
    part, name = (test, "test") if "test" in arguments else (val, "val")
    expected = zero_shot(part, "text", targets="labels")
    assert told(saved, ZERO_SHOT, "text") == pytest.approx(expected.recall)
    expected = item_cf(train if "train" in arguments else data, "text")
    assert told(saved, ITEM_CF, "text") == pytest.approx(expected.recall)
    assert f"the {name} links of the split 'labels', with the train links as history" in out


def test_train_links_alone_may_be_seen(timed_folder, run, no_maps):
    arguments = ("--links", "train", "--split", "leave_last_out")
    status, out, err, saved = run("--data", timed_folder, "--sets", "text", *arguments)
    assert status == 0, err
    train, _, _ = SplitInteractions("leave_last_out")(MMRecFolder(timed_folder).data)
    assert told(saved, ZERO_SHOT, "text") == pytest.approx(zero_shot(train, "text").recall)
    assert told(saved, ITEM_CF, "text") == pytest.approx(item_cf(train, "text").recall)
    assert "(of train links)" in out


def test_a_fused_set_takes_the_rows_its_encoder_gives(timed_folder, run, tmp_path, no_maps):
    generator = np.random.default_rng(0)
    for name in ("mm", "mm_of_text"):
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(30, 5)).astype(np.float32))
    tables = [f"{name}={tmp_path / f'{name}.npy'}" for name in ("mm", "mm_of_text")]
    arguments = ("--tables", *tables, "--replace", "mm:image=mm_of_text")
    status, _, err, saved = run("--data", timed_folder, *arguments)
    assert status == 0, err
    assert list(saved["sets"]) == ["audio", "image", "mm", "text", "audio+image+mm+text"]
    block = saved["protocols"]["mask 50 % image"]
    assert list(block) == ["mm", "audio+image+mm+text"]
    data = MMRecFolder(timed_folder).data
    for name in ("mm", "mm_of_text"):
        data["item"][f"x_{name}"] = torch.from_numpy(np.load(tmp_path / f"{name}.npy"))
    expected = mask_modality(data, "mm", "mm", replacement="mm_of_text")
    assert told(saved, "mask 50 % image", "mm") == pytest.approx(expected.recall)
    assert list(saved["protocols"]["mask 50 % mm"]) == ["audio+image+mm+text"]


def test_the_embedded_data_is_the_default(run, no_maps):
    status, out, err, saved = run()
    assert status == 0, err
    assert list(saved["sets"]) == ["image", "text", "image+text"]
    assert saved["protocols"][ZERO_SHOT]["text"]["queries"] == 800
    recall = {name: told(saved, ITEM_CF, name)[20] for name in saved["sets"]}
    assert min(recall.values()) > 5 * saved["protocols"][ITEM_CF]["text"]["random"]["20"]
    assert "best set by zero-shot recall@20: text; against image+text, the second: +" in out


@pytest.mark.parametrize(("times", "shown"), [(True, 12), (False, 3)])
def test_papers_figures_stand_beside_comparable_protocols(
    times, shown, write_folder, tmp_path, run, no_maps, monkeypatch
):
    folder = write_folder(tmp_path / "baby", times=times)
    status, out, err, _ = run("--data", folder)
    assert status == 0, err
    assert paper_results.PAPER_LABEL not in out
    monkeypatch.setitem(paper_results._SIZES, "baby", (24, 30, 24 * 8))
    status, out, err, saved = run("--data", folder)
    rows = [line for line in out.splitlines() if paper_results.PAPER_LABEL in line]
    assert len(rows) == shown
    row = f"{ITEM_CF} {paper_results.PAPER_LABEL}: AlignRec's features 0.0782 0.1005 "
    assert any(" ".join(line.split()).startswith(row) for line in rows)
    assert len(saved["paper"]["protocols"]) == shown // 3
    _, out, _, _ = run("--data", folder, "--links", "train")
    assert paper_results.PAPER_LABEL not in out


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (
            ["--sets", "txt", "image+image"],
            ["did you mean 'text'?", "image+image: names a table tw"],
        ),
        (["--targets", "time"], ["--targets time: the data has no times (val and test need none)"]),
        (["--score", "pearson"], ["--score pearson: the data has no ratings"]),
        (["--split", "leave_last_out", "--targets", "val"], ["--split: 'time' needs to be known"]),
        (["--tables", "a"], ["--tables a: needs the form NAME=FILE.npy"]),
        (["--tables", "a=none.npy"], ["--tables a: ", "none.npy"]),
        (["--replace", "text=image"], ["--replace text=image: needs the form SET:MODALITY=TABLE"]),
        (["--replace", "a+b:image=text"], ["needs a set of one table"]),
        (["--replace", "text:x=none"], ["feature 'none' is unknown"]),
        (["--sets", "image", "--replace", "text:x=image"], ["text is not among the sets"]),
        (["--replace", "text:x=image"], ["mask 50 % x on text: 'replacement' needs the shape"]),
        (["--min-common", "999"], ["item-CF on image: --data needs two items with common users"]),
        (["--data", "nowhere"], ["error: nowhere: "]),
        (["--out", __file__], ["needs to be a folder"]),
    ],
)
def test_unfit_arguments_exit_with_2_and_say_why(
    tiny_folder, run, no_maps, arguments, problems, tmp_path
):
    status, _, err, saved = run("--data", tiny_folder, *arguments)
    assert status == 2
    assert "error: " in err
    for problem in problems:
        assert problem in err
    assert not saved


def test_data_without_tables_is_told(bare_folder, run, no_maps):
    status, _, err, _ = run("--data", bare_folder)
    assert status == 2
    assert "it has no feature table (<name>.npy); alignrec encode makes some" in err


@pytest.mark.parametrize("arguments", [["--mask-ratio", "1.5"], ["--set", "text"], ["--ties", "x"]])
def test_options_are_checked_when_read(arguments, capsys):
    assert main(["features", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err


def test_interrupts_and_full_disks_are_told(tiny_folder, run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Protocols, "evaluate", stop)
    assert run("--data", tiny_folder)[0] == 130

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Protocols, "evaluate", full)
    status, _, err, _ = run("--data", tiny_folder)
    assert status == 1
    assert "No space left" in err


def test_cut_offs_are_chosen(encoded, run, no_maps):
    status, out, err, saved = run(encoded, "--k", "10", "5")
    assert status == 0, err
    assert "recall@5  " in out
    assert "recall@50" not in out
    data = MMRecFolder(encoded).data
    recall = zero_shot(data, "tfidf", ks=(5, 10)).recall
    assert told(saved, ZERO_SHOT, "tfidf") == pytest.approx(recall)
