from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from alignrec_pyg.transforms.tensor_cache import load_tensors, remove_strays, store_tensors

TENSORS = {"a": torch.tensor([[0, 1, 2], [2, 1, 0]]), "b": torch.tensor([0.5, 0.25, 1.0])}
FACTS = {"failures": [[3, "truncated"]]}


def test_round_trip(tmp_path):
    folder = tmp_path / "deep folder ü"
    assert load_tensors(folder, "key", "it") is None
    store_tensors(folder, "key", TENSORS, FACTS)
    tensors, facts = load_tensors(folder, "key", "it")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert facts == FACTS
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
    assert load_tensors(folder, "other", "it") is None


def test_later_content_takes_the_place(tmp_path):
    store_tensors(tmp_path, "key", TENSORS)
    store_tensors(tmp_path, "key", {"a": torch.zeros(1)})
    tensors, facts = load_tensors(tmp_path, "key", "it")
    assert tensors["a"].tolist() == [0.0]
    assert facts == {}


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_damage_is_noticed(tmp_path, suffix):
    """Any bit: only white space of the manifest may change unnoticed, for it means nothing."""
    store_tensors(tmp_path, "key", TENSORS, FACTS)
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
    path.write_bytes(good)
    assert load_tensors(tmp_path, "key", "the rows") is not None


def test_lost_tensors_are_noticed(tmp_path):
    store_tensors(tmp_path, "key", TENSORS)
    (path,) = tmp_path.glob("*.safetensors")
    path.unlink()
    with pytest.warns(UserWarning, match="rebuilding it: .* is missing"):
        assert load_tensors(tmp_path, "key", "it") is None


def test_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    store_tensors(tmp_path, "key", TENSORS, FACTS)

    def killed(path, manifest):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alignrec_pyg.transforms.tensor_cache.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            store_tensors(tmp_path, "key", {"a": torch.zeros(1)})
    tensors, facts = load_tensors(tmp_path, "key", "it")
    assert torch.equal(tensors["b"], TENSORS["b"])
    assert facts == FACTS


def test_what_killed_processes_left_is_removed_in_time(tmp_path):
    remove_strays(tmp_path / "not there yet")
    store_tensors(tmp_path, "key", TENSORS)
    kept = sorted(tmp_path.iterdir())
    for name, age in (("old", 7200), ("being written", 60)):
        path = tmp_path / f"{name}.safetensors.1.part"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    os.utime(kept[0], (0, 0))
    remove_strays(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, path])


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
    assert not list(tmp_path.glob("*.part"))
