import csv

import numpy as np
import pytest

from benchmarks.performance import files_to_index


def test_links_are_distinct_popular_and_within_topics(tmp_path):
    path = tmp_path / "links.csv"
    count = files_to_index.write_links(path, links=20_000, nodes=500, seed=1)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["user", "item"]
    assert len(rows) == len(set(map(tuple, rows))) == count
    item = np.array([int(name.removeprefix("item-")) for _, name in rows])
    degree = np.bincount(item, minlength=500)
    assert degree[:10].mean() > 3 * degree[250:].mean()
    # The topics of items are the first draw of the seed.
    topic = np.random.default_rng(1).integers(files_to_index._TOPICS, size=500)
    user = np.array([name for name, _ in rows])
    share = [
        np.sort(np.bincount(topic[item[user == name]]))[-2:].sum() / (user == name).sum()
        for name in np.unique(user)[:100]
    ]
    assert np.mean(share) > 0.3


def test_each_step_is_a_row(capsys):
    pytest.importorskip("faiss", reason="faiss (extra 'serving') is missing")
    options = ["--links", "2000", "--nodes", "60", "--epochs", "2", "--threads", "1"]
    assert files_to_index.main(options) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "read the csv file",
        "split at random",
        "build LightGCN",
        "2 epochs",
        "test recall@20 of 2,000 users",
        "server with all links",
        "FAISS index, flat",
        "its lists of 60 users",
        "FAISS index, hnsw",
        "its lists of 60 users",
    ]
    assert "recall@20 of the exact lists 1.0000" in lines[9]
