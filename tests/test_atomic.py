from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe, get_context

import psutil
import pytest

from alignrec_pyg.atomic import (
    _HOST,
    LockedError,
    atomic_folder,
    atomic_path,
    folder_lock,
    remove_empty,
    remove_partial_files,
    set_aside,
)


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


def test_written_beside_under_a_private_name(tmp_path):
    with atomic_path(tmp_path / "table.csv") as one, atomic_path(tmp_path / "table.csv") as two:
        assert one != two  # also in one process
        assert f"-{os.getpid()}-" in one.parent.name
        assert one.parent.name.startswith(".alignrec-")
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "table.csv").read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 1


def _private(folder, host, process, *, minutes):
    """What a process of a host would have left so many minutes ago."""
    made = folder / f".alignrec-{host}-{process}-0123abcd.part"
    made.mkdir()
    (made / "table.csv").write_text("half")
    for path in (made / "table.csv", made):
        os.utime(path, (time.time() - 60 * minutes,) * 2)
    return made


@pytest.fixture
def ended():
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_ended_processes_left_is_removed_at_once(tmp_path, ended):
    _private(tmp_path, _HOST, ended, minutes=0)
    remove_partial_files(tmp_path)
    assert not list(tmp_path.iterdir())
    _private(tmp_path, _HOST, ended, minutes=0)
    with atomic_path(tmp_path / "table.csv") as path:  # as does the next write
        path.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_what_may_still_be_written_stays(tmp_path):
    _private(tmp_path, _HOST, os.getpid(), minutes=0)
    remove_partial_files(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    old = _private(tmp_path, "01234567", 1, minutes=100)  # of another host
    new = _private(tmp_path, "01234567", 2, minutes=10)
    busy = _private(tmp_path, "01234567", 3, minutes=100)
    (busy / "table.csv").write_text("it goes on")
    remove_partial_files(tmp_path)
    assert (old.exists(), new.exists(), busy.exists()) == (False, True, True)


def test_the_number_of_an_ended_process_may_be_another_s_by_now(tmp_path):
    began = psutil.Process().create_time()
    left = _private(tmp_path, _HOST, os.getpid(), minutes=(time.time() - began) / 60 + 5)
    remove_partial_files(tmp_path)
    assert not left.exists()


def test_only_private_folders_are_removed(tmp_path, ended):
    remove_partial_files(tmp_path / "not there yet")
    left = f".alignrec-{_HOST}-{ended}-0123abcd.part"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("mine")
    for name in ("thesis.part", ".alignrec", f"x{left}", f"{left}.part", left.replace("0", "x")):
        (tmp_path / name).mkdir()
    (tmp_path / left).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = sorted(tmp_path.rglob("*"))
    remove_partial_files(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / left).unlink()
    (tmp_path / left).write_text("a file")
    remove_partial_files(tmp_path)
    assert (tmp_path / left).read_text() == "a file"


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    for folder in (tmp_path / "new", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        with pytest.raises(ZeroDivisionError), atomic_folder(folder) as made:
            (made / "one").write_text(f"{1 / 0}")
        with atomic_folder(folder) as made:
            (made / "one").write_text("1")
            (made / "two").write_text("2")
            assert not folder.exists() or not list(folder.glob("[!.]*"))
        assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]
        with pytest.raises(ValueError, match="'folder' needs to be new or empty"):
            atomic_folder(folder).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


def test_a_killed_process_s_half_folder_blocks_none(tmp_path, ended):
    _private(tmp_path, _HOST, ended, minutes=0)
    with atomic_folder(tmp_path) as made:
        (made / "one").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def _fail(path, error):
    with atomic_path(path) as file:
        error.filename = error.filename and str(file)
        raise error


def test_errors_name_the_file_that_was_to_be_written(tmp_path):
    path = tmp_path / "table.csv"
    full = OSError(28, "No space left on device")
    for error in (full, OSError(28, "No space left on device", ".alignrec-x.part/table.csv")):
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            _fail(path, error)
    with pytest.raises(OSError, match=f"{path} could not be written .it broke"), atomic_path(path):
        raise OSError("it broke")
    with pytest.raises(FileNotFoundError, match="ratings.csv"), atomic_path(path):
        (tmp_path / "ratings.csv").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), atomic_path(tmp_path / "file" / "table.csv"):
        pytest.fail("a file is no folder")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def read_only(path, *args, **options):
        if path != tmp_path:
            raise OSError(30, "Read-only file system", str(path))

    for name in ("mkdir", "unlink"):
        monkeypatch.setattr(f"pathlib.Path.{name}", read_only)
    with pytest.raises(OSError, match=f"system: '{tmp_path}/table.csv'"):
        atomic_path(tmp_path / "table.csv").__enter__()


def test_a_full_disk_does_not_keep_from_locking(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pathlib.Path.write_text", lambda *_, **__: _fail(tmp_path, OSError(28, "full"))
    )
    with folder_lock(tmp_path, "cell"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".alignrec-cell.lock"]


def test_set_aside_under_a_name_that_is_free(tmp_path):
    for number, content in enumerate("ab", 1):
        (tmp_path / "x").write_text(content)
        assert set_aside(tmp_path / "x") == tmp_path / f"x.kept-{number}"
    assert (tmp_path / "x.kept-1").read_text() == "a"


def test_only_an_empty_folder_is_removed(tmp_path):
    folder = tmp_path / "run"
    with folder_lock(folder, "cell"):
        pass
    (folder / "mine.lock").touch()
    with pytest.warns(UserWarning, match=r"run is left: nobody here wrote \['mine.lock'\]"):
        remove_empty(folder)
    (folder / "mine.lock").unlink()
    remove_empty(folder)
    assert not folder.exists()


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
        return (folder / ".alignrec-cell.holder").read_text().partition(" on ")[0]


def test_a_killed_process_gives_its_lock_back(tmp_path, holder):
    holder.kill()
    holder.join()
    assert (tmp_path / ".alignrec-cell.holder").exists()
    with folder_lock(tmp_path, "cell", wait=10):
        assert f"process {os.getpid()} on" in (tmp_path / ".alignrec-cell.holder").read_text()
    assert [path.name for path in tmp_path.iterdir()] == [".alignrec-cell.lock"]


def test_a_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path):
        1 / 0  # noqa: B018
    with folder_lock(tmp_path, wait=0):
        pass
