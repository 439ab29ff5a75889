"""`python -m data_gen`: what it writes, its exit codes, and its messages of one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_gen.__main__ import main


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["data_gen", *arguments])
    return main()


def test_every_option_reaches_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--rows 1000 --features 3 --categorical 2 --levels 4 --loss logistic --files 2 --row-group-rows 100 --seed 9"
    )
    options += " --sorted --badly-scaled --imbalance 0.2 --nulls 0.1 --outliers 0.05 --drift --correlation 0.3"
    options += " --active 3 --sparse-columns 50"
    assert run(monkeypatch, ["--out", str(tmp_path / "data"), *options.split()]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{tmp_path / 'data'}: 1,000 rows, 6 features, 2 files, logistic loss ")
    assert printed.err == ""
    assert json.loads((tmp_path / "data" / "truth.json").read_text())["arguments"] == {
        "rows": 1000,
        "features": 3,
        "categorical": 2,
        "levels": 4,
        "active": 3,
        "sparse_columns": 50,
        "loss": "logistic",
        "seed": 9,
        "sorted": True,
        "badly_scaled": True,
        "imbalance": 0.2,
        "nulls": 0.1,
        "outliers": 0.05,
        "drift": True,
        "correlation": 0.3,
        "files": 2,
        "row_group_rows": 100,
    }


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--rows 10", 2, "Missing option '--features'"),
        ("--rows ten --features 1", 2, "'ten' is not a valid integer"),
        ("--rows 10 --features 1 --loss hinge", 2, "'hinge' is not one of"),
        ("--rows 10 --features 1 --sort", 2, "No such option"),
        ("--rows 10 --features 0 --active 9 --sparse-columns 8", 2, "sparse_columns must be from active to 2^24"),
        ("--rows 10 --features 1 --sparse-columns 8", 2, "rows have none: say how long by active"),
        ("--rows 10 --features 1 --nulls 2", 2, "nulls must be a fraction from 0 to 1, found 2.0"),
    ],
)
def test_a_wrong_option_ends_with_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    code: int,
    message: str,
) -> None:
    assert run(monkeypatch, ["--out", str(tmp_path / "data"), *options.split()]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("data_gen: ")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_directory_in_use_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").touch()
    assert run(monkeypatch, ["--out", str(tmp_path), "--rows", "10", "--features", "1"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run(monkeypatch, ["--out", str(tmp_path / "mine.txt"), "--rows", "10", "--features", "1"]) == 2
    assert "is not a directory" in capsys.readouterr().err
    below = str(tmp_path / "mine.txt" / "x")
    assert run(monkeypatch, ["--out", below, "--rows", "10", "--features", "1"]) == 74
    told = capsys.readouterr().err
    assert "writing failed" in told
    assert told.count(below) == 1


def test_a_full_disk_is_told_with_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    assert run(monkeypatch, ["--out", str(tmp_path / "data"), "--rows", "10", "--features", "1"]) == 74
    expected = f"data_gen: writing failed: {tmp_path / 'data'}: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == expected


def test_a_disk_that_the_effects_of_columns_fill_up_has_no_part_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, _: object) -> None:
        path.write_bytes(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    options = ["--rows", "10", "--features", "1", "--active", "2", "--sparse-columns", "9"]
    assert run(monkeypatch, ["--out", str(tmp_path), *options]) == 74
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_sigterm_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_gen", "--out", str(tmp_path), "--rows", "100000000", "--features", "1"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.iterdir()) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert told == "data_gen: stopped by a signal; the data set is not whole\n"
    assert list(tmp_path.iterdir()) == []
