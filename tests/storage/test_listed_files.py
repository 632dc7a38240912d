from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.storage import (
    CheckpointError,
    clear_replaced,
    file_sha256,
    pending,
    read_manifest,
    read_with_files,
    remove_with_files,
    write_array,
    write_manifest,
    write_tensors,
    write_text,
    write_with_files,
)

TENSORS = {"a": torch.arange(300.0).reshape(3, 100), "b": torch.tensor(7)}
CACHED = {"a": torch.tensor([[0, 1, 2], [2, 1, 0]]), "b": torch.tensor([0.5, 0.25, 1.0])}


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

    monkeypatch.setattr("alignrec_pyg.storage.listed_files.read_manifest", replaced_meanwhile)
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


def test_a_stored_folder_is_removed_with_all_that_belongs_to_it(tmp_path):
    with folder_lock(tmp_path / "run"):
        path = _saved(tmp_path / "run", 1)
    remove_with_files(path)
    assert not (tmp_path / "run").exists()


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
