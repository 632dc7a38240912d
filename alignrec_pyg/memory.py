"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

import psutil

# Limit and use of a group of processes, and what of the use the kernel gives back when asked.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),  # cgroup v2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # cgroup v1
)


def available_memory(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Bytes that the machine has free, or less where a container's limit leaves less.

    Args:
        cgroups: Where Linux tells the groups of processes and their limits.
        own: The file that names this process's groups.
    """
    free = int(psutil.virtual_memory().available)
    for group in _groups(cgroups, own):
        for limit, used, cache in _FILES:
            try:
                left = int((group / limit).read_text()) - int((group / used).read_text())
                for line in (group / "memory.stat").read_text().splitlines():
                    name, _, value = line.partition(" ")
                    left += int(value) if name == cache else 0
            except (OSError, ValueError):  # no such group, or "max": it has no limit
                continue
            free = min(free, left)
    return max(free, 0)


def _groups(cgroups: Path, own: Path) -> list[Path]:
    """The groups of this process and those around them; within a container the first is its own."""
    found = [cgroups, cgroups / "memory"]
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = cgroups / controllers
            group = top / path.lstrip("/")
            found += [group, *(outer for outer in group.parents if top in outer.parents)]
    return found
