import psutil
import pytest

from alignrec_pyg.memory import available_memory


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 1,000 bytes free, and a function that tells what is available there."""

    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)

    def available(groups):
        (tmp_path / "own").write_text(groups)
        return available_memory(tmp_path, tmp_path / "own")

    return available


def test_a_container_of_cgroup_2(machine, tmp_path):
    write(tmp_path, memory__max=500, memory__current=200, memory__stat="anon 90\ninactive_file 40")
    assert machine("0::/\n") == 340
    write(tmp_path, memory__max="max")
    assert machine("0::/\n") == 1000
    write(tmp_path, memory__max=10**12)
    assert machine("0::/\n") == 1000
    write(tmp_path, memory__max=100)
    assert machine("0::/\n") == 0


def test_the_narrowest_group_around_the_process_counts(machine, tmp_path):
    write(tmp_path / "a", memory__max=700, memory__current=100, memory__stat="")
    write(tmp_path / "a" / "b", memory__max="max", memory__current=90, memory__stat="")
    write(tmp_path / "other", memory__max=1, memory__current=0, memory__stat="")
    assert machine("0::/a/b\n") == 600


def test_a_container_of_cgroup_1(machine, tmp_path):
    files = {"memory__limit_in_bytes": 500, "memory__usage_in_bytes": 200}
    write(tmp_path / "memory", **files, memory__stat="inactive_file 7\ntotal_inactive_file 30")
    assert machine("5:cpu,cpuacct:/x\n4:memory:/docker/1\n") == 330


def test_without_groups(machine, tmp_path):
    assert machine("0::/\n") == 1000
    assert available_memory(tmp_path, tmp_path / "none") == 1000
