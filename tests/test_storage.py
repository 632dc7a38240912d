from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.storage import (
    CheckpointError,
    clear_replaced,
    file_sha256,
    load_tensors,
    pending,
    read_manifest,
    read_tensors,
    read_with_files,
    remove_cache,
    remove_with_files,
    store_tensors,
    write_array,
    write_manifest,
    write_records,
    write_tensors,
    write_text,
    write_with_files,
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


def test_manifest_keeps_floats_to_the_last_bit(tmp_path):
    path = tmp_path / "m.json"
    manifest = {"loss": 0.1 + 0.2, "tiny": 5e-324, "history": [{"epoch": 1.0}]}
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 200_000, "9" * 9_000])
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
    assert (stored["format_version"], stored["pair"]) == (2, [1, 2])


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
    with pytest.raises(CheckpointError, match="an earlier format than this version"):
        read_manifest(path)


def test_a_manifest_of_something_else_is_named(tmp_path):
    write_manifest(tmp_path / "m.json", {"lr": 1})
    with pytest.raises(CheckpointError, match=r"holds something else \('run' is missing"):
        read_manifest(tmp_path / "m.json", {"lr": int, "run": dict})
    with pytest.raises(CheckpointError, match=r"\('lr' needs to be a dict, got int\)"):
        read_manifest(tmp_path / "m.json", {"lr": dict})


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


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _saved(folder, value, **more):
    path = folder / "state.json"
    write_with_files(
        path, {"value": value}, {"last.safetensors": {"a": torch.tensor(value)}}, **more
    )
    return path


def _value(path):
    manifest, files = read_with_files(path, {"value": int}, ["last.safetensors"])
    assert files["last.safetensors"]["a"].item() == manifest["value"]
    return manifest["value"]


def test_what_belongs_together_comes_back_and_the_old_goes(tmp_path):
    path = tmp_path / "deep" / "state.json"
    text = {"note.txt": lambda file: file.write_text("a note")}
    write_with_files(path, {"lr": 1}, {"last.safetensors": TENSORS, **text})
    manifest, files = read_with_files(path, {"lr": int}, ["last.safetensors", "note.txt"])
    assert manifest["lr"] == 1
    assert torch.equal(files["last.safetensors"]["a"], TENSORS["a"])
    assert files["note.txt"].read_text() == "a note"
    write_with_files(path, {"lr": 2}, {"last.safetensors": CACHED})
    assert read_with_files(path, {}, [])[1].keys() == {"last.safetensors"}
    assert len(_names(path.parent)) == 2
    with pytest.raises(CheckpointError, match="it lists no note.txt"):
        read_with_files(path, {}, ["note.txt"])


def test_what_is_unchanged_is_written_once_unless_it_is_damaged(tmp_path):
    path = tmp_path / "state.json"
    both = {"last.safetensors": TENSORS, "best.safetensors": CACHED}
    write_with_files(path, {}, both)
    (best,) = tmp_path.glob("best-*")
    written = best.stat().st_mtime_ns
    write_with_files(path, {}, both, unchanged=["best.safetensors"])
    assert best.stat().st_mtime_ns == written
    best.write_bytes(b"damaged")
    write_with_files(path, {}, both, unchanged=["best.safetensors"])
    assert read_with_files(path, {})[1].keys() == both.keys()


def test_nothing_foreign_is_removed(tmp_path):
    foreign = ["my_features.safetensors", "last-0123456789abcdef.safetensors", "thesis.part"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    path = _saved(tmp_path, 1)
    _saved(tmp_path, 2)
    remove_with_files_warning = pytest.warns(UserWarning, match="is left: nobody here wrote")
    with remove_with_files_warning:
        remove_with_files(path)
    assert _names(tmp_path) == sorted(foreign)


def test_files_that_were_changed_or_are_links_are_left_and_named(tmp_path):
    path = _saved(tmp_path, 1)
    (old,) = tmp_path.glob("last-*")
    old.write_text("mine now")
    with pytest.warns(UserWarning, match=f"{old} is left: it is not, or no longer, what was saved"):
        _saved(tmp_path, 2)
    (new,) = set(tmp_path.glob("last-*")) - {old}
    new.rename(tmp_path / "elsewhere")
    new.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=f"{new} is left"):
        _saved(tmp_path, 3)
    assert (old.read_text(), new.is_symlink(), _value(path)) == ("mine now", True, 3)


@pytest.mark.parametrize("name", ["../mine", "mine", "last-0123456789abcdef.safetensors", "/mine"])
def test_a_manifest_that_lists_other_names_removes_nothing(tmp_path, name):
    folder = tmp_path / "run"
    path = _saved(folder, 1)
    (tmp_path / "mine").write_text("mine")
    (folder / "mine").write_text("mine")
    sha256 = hashlib.sha256(b"mine").hexdigest()
    manifest = read_manifest(path)
    write_manifest(path, {**manifest, "files": {**manifest["files"], name: sha256}})
    with pytest.raises(CheckpointError, match="it lists the file"):
        read_with_files(path, {})
    if name == "last-0123456789abcdef.safetensors":
        (folder / name).write_text("mine")
    with pytest.warns(UserWarning, match="is left"):
        _saved(folder, 2)
    assert (tmp_path / "mine").exists()
    assert (folder / "mine").exists()


def test_a_damaged_manifest_is_not_replaced_and_nothing_is_removed(tmp_path):
    path = _saved(tmp_path, 1)
    good = path.read_bytes()
    path.write_bytes(good.replace(b"last-", b"lasu-"))
    before = _names(tmp_path)
    with pytest.raises(CheckpointError, match="is damaged or was edited"):
        _saved(tmp_path, 2)
    with pytest.warns(UserWarning, match="(is|are) left: .* is damaged|holds|nobody"):
        remove_with_files(path)
    assert _names(tmp_path) == before
    path.write_text('{"architectures": ["somebody else"]}')
    with pytest.raises(CheckpointError, match="or not its own"):
        _saved(tmp_path, 2)
    path.write_bytes(good)
    assert _value(path) == 1


@pytest.mark.parametrize("files", [{}, [], 5, {"last-0123456789abcdef.safetensors": 5}])
def test_a_manifest_whose_files_are_something_else_is_named(tmp_path, files):
    path = _saved(tmp_path, 1)
    write_manifest(path, {**read_manifest(path), "files": files})
    with pytest.raises(CheckpointError, match="holds something else"):
        _value(path)
    assert len(_names(tmp_path)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("first", [True, False])
def test_killed_at_any_step_it_is_whole_and_the_next_one_leaves_nothing(
    tmp_path, fork, monkeypatch, first
):
    """Killed at the n-th flush or rename or removal, for every n there is."""
    counted = {
        "os.fsync": os.fsync,
        "pathlib.Path.replace": Path.replace,
        "pathlib.Path.unlink": Path.unlink,
    }

    def killed_at(number):
        left = iter(range(number))
        for name, function in counted.items():

            def counting(*args, function=function, **options):
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            monkeypatch.setattr(name, counting)
        _saved(folder, 2)

    number, code = 0, -signal.SIGKILL
    while code:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine.safetensors").write_text("mine")
        if not first:
            _saved(folder, 1)
        (code,) = fork(lambda: killed_at(number))  # noqa: B023
        path = folder / "state.json"
        assert path.exists() or first
        assert not path.exists() or _value(path) in (1, 2)
        clear_replaced(path)
        _saved(folder, 3)
        assert _value(path) == 3
        assert len(_names(folder)) == 3, _names(folder)
        number += 1
    assert number > 8


def test_what_somebody_reads_on_windows_is_removed_later(tmp_path, monkeypatch):
    _saved(tmp_path, 1)
    unlink = Path.unlink

    def in_use(path, **options):
        if path.name.startswith("last-"):
            raise PermissionError(13, "in use", str(path))
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", in_use)
        patch.setattr("alignrec_pyg.atomic._remove_private", shutil.rmtree)
        for value in (2, 3):
            path = _saved(tmp_path, value)
    assert len(_names(tmp_path)) == 5
    _saved(tmp_path, 4)
    assert (_value(path), len(_names(tmp_path))) == (4, 2)


def test_a_reader_meets_either_all_of_the_old_or_of_the_new(tmp_path, monkeypatch):
    path = _saved(tmp_path, 1)
    read, reads = read_manifest, []

    def replaced_meanwhile(*args, **options):
        found = read(*args, **options)
        reads.append(found)
        if len(reads) == 1:
            _saved(tmp_path, 2)
        return found

    monkeypatch.setattr("alignrec_pyg.storage.read_manifest", replaced_meanwhile)
    assert _value(path) == 2


def test_a_full_disk_is_an_oserror_that_names_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = _saved(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        for write in (
            lambda file: write_tensors(file, {"a": torch.zeros(100_000)}),
            lambda file: write_array(file, np.zeros(100_000)),
            lambda file: write_text(file, "a" * 200_000),
        ):
            with pytest.raises(OSError, match=f"{tmp_path / 'full'}"):
                write(tmp_path / "full")
        with pytest.raises(OSError, match="last.safetensors"):
            write_with_files(path, {}, {"last.safetensors": {"a": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _value(path) == 1
    assert len(_names(tmp_path)) == 2


def test_tied_weights_are_stored(tmp_path):
    weight = torch.arange(3.0)
    path = tmp_path / "t.safetensors"
    found = read_tensors(path, write_tensors(path, {"a": weight, "b": weight}))
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight)


def test_a_stored_folder_is_removed_with_all_that_belongs_to_it(tmp_path):
    with folder_lock(tmp_path / "run"):
        path = _saved(tmp_path / "run", 1)
    remove_with_files(path)
    assert not (tmp_path / "run").exists()


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


def test_a_note_without_a_manifest_removes_only_what_was_about_to_be_listed(tmp_path):
    path = _saved(tmp_path, 1)
    (listed,) = read_manifest(path)["files"].items()
    new = tmp_path / f"last-{hashlib.sha256(b'new').hexdigest()[:16]}.safetensors"
    new.write_text("new")
    note = {"old": dict([listed]), "new": {new.name: file_sha256(new)}}
    write_manifest(pending(path), note)
    path.unlink()  # by somebody
    clear_replaced(path)
    assert _names(tmp_path) == [listed[0]]
