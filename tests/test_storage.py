from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe, get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.storage import (
    CheckpointError,
    LockedError,
    atomic_path,
    check_sha256,
    file_sha256,
    folder_lock,
    load_tensors,
    read_manifest,
    read_tensors,
    remove_partial_files,
    store_tensors,
    write_array,
    write_manifest,
    write_records,
    write_tensors,
    write_text,
)

TENSORS = {"a": torch.arange(300.0).reshape(3, 100), "b": torch.tensor(7)}
CACHED = {"a": torch.tensor([[0, 1, 2], [2, 1, 0]]), "b": torch.tensor([0.5, 0.25, 1.0])}
FACTS = {"failures": [[3, "truncated"]]}


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "deep" / "t.safetensors"
    sha256 = write_tensors(path, TENSORS)
    found = read_tensors(path, sha256)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(found[name], value)


def test_arrays_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.npy"
    write_array(path, np.eye(3, dtype=np.float32))
    assert np.load(path).tolist() == np.eye(3).tolist()
    monkeypatch.setattr("alignrec_pyg.storage.os.fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_array(path, np.zeros(3))
    assert np.load(path).shape == (3, 3)
    assert [found.name for found in path.parent.iterdir()] == ["a.npy"]


def test_parts_of_a_larger_tensor_can_be_stored(tmp_path):
    view = torch.arange(10.0)[::2]
    path = tmp_path / "t.safetensors"
    assert torch.equal(read_tensors(path, write_tensors(path, {"v": view}))["v"], view)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_named(tmp_path, share):
    path = tmp_path / "t.safetensors"
    sha256 = write_tensors(path, TENSORS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"t\.safetensors is damaged"):
        read_tensors(path, sha256)


@pytest.mark.parametrize("position", [0, 9, -1])
def test_one_flipped_byte_is_noticed(tmp_path, position):
    path = tmp_path / "t.safetensors"
    sha256 = write_tensors(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or was replaced"):
        read_tensors(path, sha256)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "t.safetensors"
    path.write_bytes(pickle.dumps(Malicious()))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        read_tensors(path, sha256)
    assert not (tmp_path / "executed").exists()


def test_manifest_keeps_floats_to_the_last_bit(tmp_path):
    path = tmp_path / "m.json"
    manifest = {"loss": 0.1 + 0.2, "tiny": 5e-324, "history": [{"epoch": 1.0}]}
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_damaged_manifest_is_named(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"m\.json is damaged"):
        read_manifest(path)


def test_a_manifest_is_read_as_json_would_be(tmp_path):
    path = tmp_path / "m.json"
    write_manifest(path, {"pair": (1, 2), 10: "ten", 9: "nine", "name": "é"})
    assert read_manifest(path) == {"pair": [1, 2], "10": "ten", "9": "nine", "name": "é"}
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert (stored["format_version"], stored["pair"]) == (1, [1, 2])


def test_any_bit_of_a_manifest_that_means_something_is_checked(tmp_path):
    """White space means nothing; a last digit may, and may not, give another number."""
    path = tmp_path / "m.json"
    write_manifest(path, {"lr": 0.25, "history": [{"recall@20": 0.1875}], "name": "BPR"})
    good = path.read_bytes()
    for at in range(len(good)):
        if good[at : at + 1].strip():
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(CheckpointError, match=r"m\.json is"):
                read_manifest(path)
    path.write_bytes(good.replace(b"0.1875", b"0.1876"))
    with pytest.raises(CheckpointError, match="is damaged or was edited"):
        read_manifest(path)
    path.write_text(json.dumps(json.loads(good)))  # the same, written in one line
    assert read_manifest(path)["lr"] == 0.25


def test_another_format_is_named(tmp_path):
    path = tmp_path / "m.json"
    write_manifest(path, {"lr": 1}, version=3)
    assert read_manifest(path, version=3) == {"lr": 1}
    with pytest.raises(CheckpointError, match="is of format 3, this version .* reads format 4"):
        read_manifest(path, version=4)
    path.write_text('{"lr": 1}')
    with pytest.raises(CheckpointError, match="an earlier format, this version .* reads format 1"):
        read_manifest(path)


def test_a_manifest_of_something_else_is_named(tmp_path):
    write_manifest(tmp_path / "m.json", {"lr": 1})
    with pytest.raises(CheckpointError, match=r"holds something else \(\['run'\] are missing"):
        read_manifest(tmp_path / "m.json", ("lr", "run"))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"m\.json is missing"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(CheckpointError, match=r"t\.safetensors is missing"):
        read_tensors(tmp_path / "t.safetensors", "")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "t.safetensors"
    sha256 = write_tensors(path, TENSORS)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alignrec_pyg.storage.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"a": torch.zeros(1)})
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path / "m.json", {})
    assert torch.equal(read_tensors(path, sha256)["a"], TENSORS["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_records_are_written_one_a_line_and_replaced(tmp_path):
    path = tmp_path / "deep" / "history.jsonl"
    write_records(path, [{"loss": 0.1 + 0.2}, {"loss": 3.0}])
    write_records(path, [{"loss": 0.1 + 0.2}])
    assert path.read_text() == '{"loss": 0.30000000000000004}\n'
    assert [file.name for file in path.parent.iterdir()] == ["history.jsonl"]


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "table"
    with atomic_path(path) as partial:
        partial.write_bytes(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass  # nothing was written
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]
    check_sha256(path, file_sha256(path))
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="damaged or was replaced"):
        check_sha256(path, hashlib.sha256(b"first").hexdigest())


def test_written_beside_under_a_private_name(tmp_path):
    with atomic_path(tmp_path / "table.csv") as one, atomic_path(tmp_path / "table.csv") as two:
        assert one != two  # also in one process
        assert one.name.startswith(f".alignrec-{os.getpid()}-")
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "table.csv").read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="no umask")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o007])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "t.safetensors", TENSORS)
        write_manifest(tmp_path / "m.json", {})
        write_array(tmp_path / "a.npy", np.eye(2))
        write_text(tmp_path / "t.md", "text")
        store_tensors(tmp_path / "cache", "key", CACHED)
        with folder_lock(tmp_path):
            pass
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_killed_writer_leaves_the_old_file_and_a_private_one(tmp_path, fork, monkeypatch):
    path = tmp_path / "m.json"
    write_manifest(path, {"lr": 1})
    monkeypatch.setattr(os, "fsync", lambda file: os.kill(os.getpid(), signal.SIGKILL))
    assert fork(lambda: write_manifest(path, {"lr": 2})) == [-signal.SIGKILL]
    assert read_manifest(path) == {"lr": 1}
    (left,) = (other for other in tmp_path.iterdir() if other != path)
    assert left.name.startswith(".alignrec-")
    remove_partial_files(tmp_path)
    assert left.exists()  # somebody may be writing it
    remove_partial_files(tmp_path, older_than=0)
    assert list(tmp_path.iterdir()) == [path]


def test_only_private_files_are_removed_and_only_in_time(tmp_path):
    remove_partial_files(tmp_path / "not there yet")
    kept = [tmp_path / name for name in ("data.csv.part", ".alignrec", "x.alignrec-1-a.part")]
    old, new = (tmp_path / f".alignrec-1-{name}.part" for name in ("old", "new"))
    for path in (*kept, old, new):
        path.touch()
        os.utime(path, (time.time() - (60 if path == new else 7200),) * 2)
    remove_partial_files(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, new])


def _hold(folder, pipe):
    with folder_lock(folder, "cell"):
        pipe.send("held")
        pipe.recv()


@pytest.fixture
def holder(tmp_path):
    """Another process that has a lock until something is sent to it."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    ours, theirs = Pipe()
    process = get_context("fork").Process(target=_hold, args=(tmp_path, theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python >= 3.12, with threads
        process.start()
    process.pipe = ours
    assert ours.recv() == "held"
    yield process
    ours.send("end")
    process.join()


def test_a_lock_is_one_process_s_until_it_ends(tmp_path, holder):
    told = rf"cell is in use by process {holder.pid} on .*: wait"
    with pytest.raises(LockedError, match=told), folder_lock(tmp_path, "cell", wait=0):
        pytest.fail("two processes have the lock")
    with folder_lock(tmp_path, wait=0), folder_lock(tmp_path, "other", wait=0):
        pass  # something else
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_take, tmp_path)
        time.sleep(0.2)
        assert not waiting.done()
        holder.pipe.send("end")
        assert waiting.result(60) == f"process {os.getpid()}"


def _take(folder):
    with folder_lock(folder, "cell"):
        return (folder / ".cell.holder").read_text().partition(" on ")[0]


def test_a_killed_process_gives_its_lock_back(tmp_path, holder):
    holder.kill()
    holder.join()
    assert (tmp_path / ".cell.holder").exists()
    with folder_lock(tmp_path, "cell", wait=10):
        assert f"process {os.getpid()} on" in (tmp_path / ".cell.holder").read_text()
    assert [path.name for path in tmp_path.iterdir()] == [".cell.lock"]


def test_a_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path):
        1 / 0  # noqa: B018
    with folder_lock(tmp_path, wait=0):
        pass


def test_cached_tensors_and_facts_come_back(tmp_path):
    folder = tmp_path / "deep folder ü"
    assert load_tensors(folder, "key", "it") is None
    store_tensors(folder, "key", CACHED, FACTS)
    tensors, facts = load_tensors(folder, "key", "it")
    assert tensors.keys() == CACHED.keys()
    assert all(torch.equal(tensors[name], CACHED[name]) for name in CACHED)
    assert facts == FACTS
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
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
    path.write_bytes(good)
    assert load_tensors(tmp_path, "key", "the rows") is not None


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
        patch.setattr("alignrec_pyg.storage.write_manifest", killed)
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
