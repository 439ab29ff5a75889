"""The commands of the job, from an example file to a model: what each one prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from streamgd.cli import main


def job(command: str, *arguments: str, exit_code: int = 0) -> str:
    """What a command prints on standard output, of the job of the working directory."""
    result = CliRunner().invoke(main, ["job", command, "late.toml", *arguments], prog_name="streamgd")
    assert result.exit_code == exit_code, result.stderr
    return result.stdout


def facts_of(command: str, *arguments: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(job(command, *arguments, "--json"))
    return facts


def write(day: int) -> None:
    rng = np.random.default_rng(day)
    x = rng.normal(size=2000)
    late = rng.random(2000) < 1.0 / (1.0 + np.exp(-x))
    pq.write_table(pa.table({"x": x, "late": late}), f"incoming/day-{day}.parquet")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an example of a job."""
    monkeypatch.chdir(tmp_path)
    text = job("init")
    assert f"put Parquet files into {tmp_path / 'incoming'}" in text
    assert "streamgd job check late.toml" in text
    return tmp_path


def test_from_an_example_to_a_published_model(example: Path) -> None:
    assert "would learn" not in job("check")
    assert job("run", "--quiet") == ""
    write(1)
    text = job("check")
    assert "day-1.parquet" in text
    assert "rows" in text
    text = job("run")
    assert "published" in text
    assert "held-out rows of day-1.parquet" in text
    assert (example / "state" / "published" / "current" / "model.safetensors").is_file()
    text = job("status")
    assert "exit_code" in text
    assert "None" not in text
    assert "  -\n" not in text
    newest = facts_of("status")["newest_data"]
    assert newest.endswith("+00:00")
    assert newest in text


def test_files_are_passed_over_and_taken_back(example: Path) -> None:
    for day in (1, 2):
        write(day)
    assert "day-2.parquet" in job("quarantine", "day-2.parquet")
    assert "put there by hand (since 2" in job("status")
    assert facts_of("run")["files"] == ["day-1.parquet"]
    assert "in quarantine" in CliRunner().invoke(main, ["job", "run", "late.toml"], prog_name="streamgd").stderr
    assert facts_of("release", "all")["released"] == ["day-2.parquet"]
    assert facts_of("run")["files"] == ["day-2.parquet"]
    facts = facts_of("rollback", "--quarantine")
    assert (facts["from"], facts["to"], facts["files_since"]) == (2, 1, ["day-2.parquet"])
    assert list(facts_of("check")["quarantined"]) == ["day-2.parquet"]
    assert "learned by version 2, which was taken back" in job("status")


@pytest.mark.parametrize("command", ["quarantine", "release"])
def test_a_file_that_is_not_there_is_told(example: Path, command: str) -> None:
    job(command, "day-9.parquet", exit_code=66)
