"""What the control groups of Linux leave to this process: a container may have less than the machine.

cgroup v2    cpu.max "150000 100000" or "max 100000"          memory.max "536870912" or "max"
cgroup v1    cpu.cfs_quota_us, -1: none; cpu.cfs_period_us    memory.limit_in_bytes

A limit holds for all groups below it, so the tightest one on the way up counts. Source: "Control Group v2" and "CFS
Bandwidth Control" of the documentation of the kernel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MOUNT, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
#: Version 1 has no word for "no limit", but a number that is about the largest there is.
_NO_LIMIT_BYTES = 2**60


def usable_cores(mount: Path = _MOUNT, groups: Path = _GROUPS) -> int:
    """Processors that this process may use, at least 1; a share of one counts as one.

    Parameters
    ----------
    mount, groups : Path
        Where the control groups are mounted, and the list of those that this process is in.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders(mount, groups, "cpu"):
        found = _numbers(folder / "cpu.max") or [
            *_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us"),
        ]  # fmt: skip
        if len(found) == 2 and min(found) > 0:
            cores = min(cores, math.ceil(found[0] / found[1]))
    return max(1, cores)


def memory_limit_bytes(mount: Path = _MOUNT, groups: Path = _GROUPS) -> int | None:
    """Memory that this process and those with it may have, in bytes; None where there is no limit.

    Parameters are those of :func:`usable_cores`.
    """
    limits = [
        number
        for folder in _folders(mount, groups, "memory")
        for file in ("memory.max", "memory.limit_in_bytes")
        for number in _numbers(folder / file)
        if number < _NO_LIMIT_BYTES
    ]
    return min(limits, default=None)


def memory_bytes(mount: Path = _MOUNT, groups: Path = _GROUPS) -> int:
    """Memory that this process and those with it may have, in bytes, that of files in it included.

    Parameters are those of :func:`usable_cores`.
    """
    of_machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(of_machine, memory_limit_bytes(mount, groups) or of_machine)


def _folders(mount: Path, groups: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups of this process that may have limits of a controller, up to the mount."""
    for line in _text(groups).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            root = mount
        elif controller in controllers.split(","):
            root = mount / controller
        else:
            continue
        # Inside a container the mount may be the group itself, under a path that is not there.
        folder = root / path.strip("/")
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))


def _numbers(path: Path) -> list[int]:
    """The numbers of a file, none where there is no such file or it has other words."""
    words = _text(path).split()
    return [int(word) for word in words] if words and all(word.isdigit() for word in words) else []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
