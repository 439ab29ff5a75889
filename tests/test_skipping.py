"""``--on-bad-data skip`` for whole files, validation data, and what it is not for: predictions and evaluations."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Generated
from mistakes import here, message

SKIP = ["--on-bad-data", "skip"]
BASICS = ["--target", "y", "--epochs", "2", "--quiet", "--json"]


@pytest.fixture
def data(generated: Generated, tmp_path: Path) -> Path:
    """4,000 rows in four files of one row group, which a test may change."""
    made = generated(rows=4_000, features=4, files=4, row_group_rows=1_000, seed=3)
    return Path(shutil.copytree(made, tmp_path / "data"))


def spoil_footer(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def spoil_pages(path: Path) -> None:
    """Flip a byte of the data, which a page checksum notices."""
    pq.write_table(pq.read_table(path), path, write_page_checksum=True)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


def files_of(data: Path) -> list[Path]:
    return sorted(data.glob("*.parquet"))


@pytest.mark.parametrize("way", [[], ["--shuffle", "window"], ["--method", "batch"]], ids=str)
def test_a_file_whose_footer_cannot_be_read_is_skipped_as_a_whole(way: list[str], data: Path, tmp_path: Path) -> None:
    without = Path(shutil.copytree(data, tmp_path / "without"))
    bad, run = files_of(data)[1], tmp_path / "run"
    files_of(without)[1].unlink()
    spoil_footer(bad)
    command = ["train", data, "--run", run, *BASICS, *way]
    message(here(*command), 65, bad.name, "--on-bad-data skip")

    facts = json.loads(here(*command, *SKIP).out)
    expected = json.loads(here("train", without, "--run", tmp_path / "expected", *BASICS, *way).out)
    assert facts["theta_sha256"] == expected["theta_sha256"]
    assert (facts["skipped_files"], facts["skipped_row_groups"], facts["rows"]) == (1, 0, 3_000)
    told = [line["text"] for line in facts["history"] if line["event"] == "skipped"]
    assert len(told) == 1
    assert told[0].startswith("a file is skipped: ")
    assert bad.name in told[0]
    assert json.loads(here(*command, *SKIP).out)["already_finished"]


def test_a_file_that_was_skipped_and_is_whole_again_is_new(data: Path, tmp_path: Path) -> None:
    bad, command = files_of(data)[1], ["train", data, "--run", tmp_path / "run", *BASICS, *SKIP]
    whole = bad.read_bytes()
    spoil_footer(bad)
    assert here(*command).exit_code == 0
    bad.write_bytes(whole)
    message(here(*command), 78, "new files", bad.name)


def test_a_file_that_becomes_unreadable_has_changed(data: Path, tmp_path: Path) -> None:
    bad, command = files_of(data)[1], ["train", data, "--run", tmp_path / "run", *BASICS, *SKIP]
    assert here(*command).exit_code == 0
    spoil_footer(bad)
    message(here(*command), 65, f"changed: {bad.name}", "--accept-data-change")


def test_where_no_file_can_be_read_nothing_is_skipped(data: Path, tmp_path: Path) -> None:
    for path in files_of(data):
        spoil_footer(path)
    message(here("train", data, "--run", tmp_path / "run", *BASICS, *SKIP), 65, files_of(data)[0].name)


@pytest.mark.parametrize("way", [[], ["--method", "batch"]], ids=str)
def test_validation_data_are_skipped_counted_and_listed_too(
    way: list[str], generated: Generated, data: Path, tmp_path: Path
) -> None:
    train_on = generated(rows=2_000, features=4, files=1, seed=4)
    without = Path(shutil.copytree(data, tmp_path / "without"))
    for path in files_of(without)[1:3]:
        path.unlink()
    spoil_pages(files_of(data)[1])
    spoil_footer(files_of(data)[2])
    command = ["train", train_on, *BASICS, *way]
    ending = here(*command, "--run", tmp_path / "run", "--validation", data, *SKIP)
    assert ending.exit_code == 0, ending.err
    facts = json.loads(ending.out)
    expected = json.loads(here(*command, "--run", tmp_path / "expected", "--validation", without).out)
    assert facts["holdout_loss"] == expected["holdout_loss"]
    told = [line["text"] for line in facts["history"] if line["event"] == "skipped"]
    assert [text.partition(" skipped")[0] for text in told] == [
        "--validation: a file is", "--validation: 1,000 rows are",
    ]  # fmt: skip


@pytest.mark.parametrize("spoil", [spoil_footer, spoil_pages])
def test_predictions_and_evaluations_leave_no_row_out(
    spoil: Callable[[Path], None], data: Path, tmp_path: Path
) -> None:
    assert here("train", data, "--run", tmp_path / "run", *BASICS).exit_code == 0
    spoil(files_of(data)[1])
    message(
        here("predict", tmp_path / "run", data, "--out", tmp_path / "out", "--quiet", "--json"), 65,
        files_of(data)[1].name,
    )  # fmt: skip
    assert {path.name for path in (tmp_path / "out").glob("*")} <= {files_of(data)[0].name}
    ending = here("evaluate", tmp_path / "run", data, "--json")
    assert ending.exit_code == 65
    assert files_of(data)[1].name in json.loads(ending.out)["error"]["message"]
