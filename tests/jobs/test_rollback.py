"""Going back to a version that is whole, from one that need not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_jobs import job
from test_versions import publish

from streamgd.jobs.config import JobConfig
from streamgd.jobs.operations import rollback
from streamgd.jobs.versions import Versions
from streamgd.state import CorruptStateError

PARTS = ("version.json", "job.safetensors", "model.safetensors")


def job_with_versions(folder: Path, numbers: int) -> JobConfig:
    config = job(folder)
    for number in range(1, numbers + 1):
        publish(Versions(config.published_dir), number)
    return config


def damage(config: JobConfig, number: int, part: str, missing: bool = False) -> None:
    path = config.published_dir / f"{number:06d}" / part
    path.unlink()
    if not missing:
        path.write_bytes(b"x" * 99)


def current_number(config: JobConfig) -> int:
    current = Versions(config.published_dir).current()
    assert current is not None
    return current.number


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("number", [None, 2])
def test_a_damaged_version_is_left(tmp_path: Path, number: int | None, part: str, missing: bool) -> None:
    config = job_with_versions(tmp_path, 3)
    damage(config, 3, part, missing)
    facts = rollback(config, number)
    assert facts["to"] == current_number(config) == 2
    assert facts["files_since"] == (None if part == "job.safetensors" else ["2.parquet"])


def test_files_that_nothing_tells_are_not_put_in_quarantine(tmp_path: Path) -> None:
    config = job_with_versions(tmp_path, 2)
    damage(config, 2, "job.safetensors")
    with pytest.raises(CorruptStateError, match=r"ledger cannot be read.* version 1\. Go back without --quarantine"):
        rollback(config, None, quarantine=True)
    assert current_number(config) == 2


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_version_is_not_published_again(tmp_path: Path, part: str, missing: bool) -> None:
    config = job_with_versions(tmp_path, 3)
    damage(config, 2, part, missing)
    with pytest.raises(CorruptStateError, match=r"version 2 cannot be published again, .* Choose another with --to"):
        rollback(config, 2)
    assert current_number(config) == 3
    assert rollback(config, None)["to"] == current_number(config) == 1


def test_no_whole_version_is_told(tmp_path: Path) -> None:
    config = job_with_versions(tmp_path, 2)
    damage(config, 1, "model.safetensors")
    with pytest.raises(CorruptStateError, match=r"no version before 2 in .* is whole; damaged: 1\. Put one back"):
        rollback(config, None)
