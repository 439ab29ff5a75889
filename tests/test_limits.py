"""Processors and memory as folders of control groups tell them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamgd.limits import memory_bytes, memory_limit_bytes, usable_cores
from streamgd.training.memory import beyond_limit


def groups(tmp_path: Path, lines: str, **files: str) -> dict[str, Path]:
    """A mount with these files, where ``__`` stands for ``/``, in the groups of ``lines``."""
    mount = tmp_path / "mount"
    for name, text in files.items():
        path = mount / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "groups").write_text(lines)
    return {"mount": mount, "groups": tmp_path / "groups"}


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 2), ("50000 100000\n", 1), ("1000 100000", 1),
        ("1600000 100000", 8), ("", 8), ("something else", 8), ("0 0", 8), ("100000", 8),
    ],
)  # fmt: skip
def test_the_quota_of_processors_holds(tmp_path: Path, cpu_max: str, cores: int) -> None:
    assert usable_cores(**groups(tmp_path, "0::/\n", cpu_DOT_max=cpu_max)) == cores


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    limits = {
        "a__cpu_DOT_max": "300000 100000",
        "a__b__cpu_DOT_max": "max 100000",
        "other__cpu_DOT_max": "100000 100000",
    }
    memory = {"a__memory_DOT_max": "400000000\n", "a__b__memory_DOT_max": "max\n"}

    found = groups(tmp_path, "0::/a/b\n", **limits, **memory)

    assert usable_cores(**found) == 3
    assert memory_limit_bytes(**found) == 400_000_000


def test_groups_of_version_1_hold_too(tmp_path: Path) -> None:
    found = groups(
        tmp_path, "4:memory:/x\n2:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n",
        cpu__x__cpu_DOT_cfs_quota_us="250000\n", cpu__x__cpu_DOT_cfs_period_us="100000\n",
        cpu__cpu_DOT_cfs_quota_us="-1\n", cpu__cpu_DOT_cfs_period_us="100000\n",
        memory__x__memory_DOT_limit_in_bytes="300000000\n", memory__memory_DOT_limit_in_bytes="9223372036854771712\n",
    )  # fmt: skip

    assert usable_cores(**found) == 3
    assert memory_limit_bytes(**found) == 300_000_000


def test_a_container_that_sees_only_its_own_group_finds_it_at_the_mount(tmp_path: Path) -> None:
    found = groups(tmp_path, "0::/kubepods/pod1/c1\n", cpu_DOT_max="100000 100000", memory_DOT_max="500000000")

    assert usable_cores(**found) == 1
    assert memory_limit_bytes(**found) == 500_000_000


def test_without_control_groups_the_processors_count(tmp_path: Path) -> None:
    nowhere = {"mount": tmp_path / "mount", "groups": tmp_path / "groups"}

    assert usable_cores(**nowhere) == 8
    assert memory_limit_bytes(**nowhere) is None


def test_the_memory_of_a_container_is_that_of_its_group_or_of_the_machine(tmp_path: Path) -> None:
    of_machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, expected in (("1000000", 1_000_000), (str(2 * of_machine), of_machine), ("max", of_machine)):
        assert memory_bytes(**groups(tmp_path, "0::/\n", memory_DOT_max=limit)) == expected


def test_affinity_counts_where_it_is_tighter_than_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})

    assert usable_cores(**groups(tmp_path, "0::/\n", cpu_DOT_max="400000 100000")) == 1


def test_a_budget_above_the_limit_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamgd.training.memory.memory_limit_bytes", lambda: 400_000_000)

    (warning,) = beyond_limit(512_000_000, 1)

    assert "--memory 512.0 MB is more than the 400.0 MB" in warning
    assert "for each of 2 workers" in beyond_limit(300_000_000, 2)[0]
    assert beyond_limit(400_000_000, 1) == []
    monkeypatch.setattr("streamgd.training.memory.memory_limit_bytes", lambda: None)
    assert beyond_limit(10**15, 8) == []
