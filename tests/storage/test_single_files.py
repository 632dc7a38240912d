from __future__ import annotations

import hashlib
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.storage import (
    CheckpointError,
    read_manifest,
    read_tensors,
    store_tensors,
    write_array,
    write_manifest,
    write_records,
    write_tensors,
    write_text,
)

TENSORS = {"a": torch.arange(300.0).reshape(3, 100), "b": torch.tensor(7)}
CACHED = {"a": torch.tensor([[0, 1, 2], [2, 1, 0]]), "b": torch.tensor([0.5, 0.25, 1.0])}


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
    monkeypatch.setattr("os.fsync", lambda file: 1 / 0)
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

    monkeypatch.setattr("os.fsync", full)
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
    monkeypatch.undo()
    write_manifest(path, {"lr": 3})
    assert list(tmp_path.iterdir()) == [path]


def test_tied_weights_are_stored(tmp_path):
    weight = torch.arange(3.0)
    path = tmp_path / "t.safetensors"
    found = read_tensors(path, write_tensors(path, {"a": weight, "b": weight}))
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight)
