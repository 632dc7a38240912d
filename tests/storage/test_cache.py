from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from alignrec_pyg.storage import (
    load_tensors,
    remove_cache,
    store_tensors,
)

CACHED = {"a": torch.tensor([[0, 1, 2], [2, 1, 0]]), "b": torch.tensor([0.5, 0.25, 1.0])}
FACTS = {"failures": [[3, "truncated"]]}


def test_cached_tensors_and_facts_come_back(tmp_path):
    folder = tmp_path / "deep folder ü"
    assert load_tensors(folder, "key", "it") is None
    store_tensors(folder, "key", CACHED, FACTS)
    tensors, facts = load_tensors(folder, "key", "it")
    assert tensors.keys() == CACHED.keys()
    assert all(torch.equal(tensors[name], CACHED[name]) for name in CACHED)
    assert facts == FACTS
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock", ".safetensors"]
    assert load_tensors(folder, "other", "it") is None


def test_later_content_takes_the_place(tmp_path):
    store_tensors(tmp_path, "key", CACHED)
    store_tensors(tmp_path, "key", {"a": torch.zeros(1)})
    tensors, facts = load_tensors(tmp_path, "key", "it")
    assert tensors["a"].tolist() == [0.0]
    assert facts == {}


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_damage_of_a_cache_is_noticed(tmp_path, suffix):
    """Any bit: only white space of the manifest may change unnoticed, for it means nothing."""
    store_tensors(tmp_path, "key", CACHED, FACTS)
    (path,) = tmp_path.glob(f"*{suffix}")
    good = path.read_bytes()
    step = 1 if suffix == ".json" else 7
    flips = [
        good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        for at in range(0, len(good), step)
        if good[at : at + 1].strip()
    ]
    for bad in [b"", good[:1], good[: len(good) // 2], good[:-2], *flips]:
        path.write_bytes(bad)
        with pytest.warns(UserWarning, match=r"rebuilding the rows: .*key"):
            assert load_tensors(tmp_path, "key", "the rows") is None
    store_tensors(tmp_path, "key", CACHED, FACTS)  # takes the damaged one's place
    assert load_tensors(tmp_path, "key", "the rows")[1] == FACTS
    assert path.read_bytes() == good


def test_lost_tensors_of_a_cache_are_noticed(tmp_path):
    store_tensors(tmp_path, "key", CACHED)
    (path,) = tmp_path.glob("*.safetensors")
    path.unlink()
    with pytest.warns(UserWarning, match="rebuilding it: .* is missing"):
        assert load_tensors(tmp_path, "key", "it") is None


def test_interrupted_write_leaves_what_was_cached(tmp_path, monkeypatch):
    store_tensors(tmp_path, "key", CACHED, FACTS)

    def killed(path, manifest, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alignrec_pyg.storage.listed_files.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            store_tensors(tmp_path, "key", {"a": torch.zeros(1)})
    tensors, facts = load_tensors(tmp_path, "key", "it")
    assert torch.equal(tensors["b"], CACHED["b"])
    assert facts == FACTS


def test_readers_and_writers_at_once(tmp_path):
    """Any warning, and so any half-written file met, is an error."""
    first, second = ({"a": torch.arange(40_000) + shift} for shift in (0, 1))

    def use(number):
        if number % 2:
            store_tensors(tmp_path, "key", first if number % 4 == 1 else second)
            return True
        kept = load_tensors(tmp_path, "key", "it")
        return kept is None or any(torch.equal(kept[0]["a"], t["a"]) for t in (first, second))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(use, range(60)))
    assert not list(tmp_path.glob(".alignrec-*"))


def test_a_cache_is_removed_but_for_what_is_somebody_else_s(tmp_path):
    for key in ("one", "two"):
        store_tensors(tmp_path / "cache", key, CACHED)
    remove_cache(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    store_tensors(tmp_path / "cache", "one", CACHED)
    (tmp_path / "cache" / "mine.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"mine\.json"):
        remove_cache(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").glob("[!.]*")] == ["mine.json"]
