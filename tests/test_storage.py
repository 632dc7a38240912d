import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.storage import (
    CheckpointError,
    atomic_path,
    check_sha256,
    file_sha256,
    read_manifest,
    read_tensors,
    write_array,
    write_manifest,
    write_records,
    write_tensors,
)

TENSORS = {"a": torch.arange(300.0).reshape(3, 100), "b": torch.tensor(7)}


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

    import hashlib

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
