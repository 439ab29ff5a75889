"""The command line as a process and in this one, the data to go wrong with, and what an error must look like."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner
from processes import command

from streamgd.cli import main

ROOT = Path(__file__).resolve().parents[1]
ROWS = 600


@dataclass(frozen=True)
class Ending:
    """How a command ended: its code, and what it wrote."""

    exit_code: int
    out: str
    err: str


def process(*arguments: str | Path, cwd: Path) -> Ending:
    started = command(*arguments, cwd=cwd)
    out, err = started.communicate(timeout=120)
    return Ending(started.wait(), out, err)


def here(*arguments: str | Path) -> Ending:
    """The same command line in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="streamgd")
    return Ending(result.exit_code, result.stdout, result.stderr)


def message(ending: Ending, exit_code: int, *texts: str) -> str:
    """The one line of a command that failed under ``--quiet --json``; it has these texts."""
    assert ending.exit_code == exit_code, ending.err
    assert re.fullmatch(r"streamgd: [^\n]+\n", ending.err), ending.err
    line = ending.err.removeprefix("streamgd: ").rstrip("\n")
    assert "Traceback" not in line
    assert re.search(r"[.?]$| --|duckdb|Example: ", line)  # a sentence, and something to do or to type
    facts = json.loads(ending.out)
    assert ending.out.count("\n") == 1
    assert (facts["error"]["message"], facts["error"]["exit_code"]) == (line, exit_code)
    for text in texts:
        assert text in line, line
    return line


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Data


def columns() -> dict[str, Any]:
    random = np.random.default_rng(5)
    x = random.normal(size=ROWS)
    late = (random.random(ROWS) < 1 / (1 + np.exp(-2 * x))).astype(np.int8)
    return {"x": x, "z": random.normal(size=ROWS), "carrier": random.choice(["AA", "DL"], ROWS), "late": late}


def changed(values: Any, value: Any, row: int = 450) -> pa.Array:
    """The same values but for one row, which is row 50 of row group 2."""
    listed = list(values)
    listed[row] = value
    return pa.array(listed)


def write(path: Path, table: dict[str, Any] | pa.Table, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, row_group_size=200, **options)


def make_data(folder: Path) -> None:
    good, rows = columns(), np.arange(ROWS)
    x, late = good["x"], good["late"]
    write(folder / "good.parquet", good)
    write(folder / "zero.parquet", pa.table(good).slice(0, 0))
    write(folder / "mixed" / "a.parquet", pa.table(good).slice(0, 0))
    write(folder / "mixed" / "b.parquet", good)
    (folder / "empty").mkdir()
    (folder / "csvs").mkdir()
    for name in ("x.csv", "csvs/x.csv", "text.parquet"):
        (folder / name).write_text("x,late\n1.5,0\n" * 100)
    raw = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(raw[: len(raw) // 2])
    (folder / "nothing.parquet").write_bytes(b"")
    write(folder / "checked.parquet", good, write_page_checksum=True)
    flipped = bytearray((folder / "checked.parquet").read_bytes())
    flipped[1000] ^= 1
    (folder / "flipped.parquet").write_bytes(flipped)
    for name, value in (("inf", np.inf), ("minus_inf", -np.inf), ("nan", np.nan)):
        write(folder / f"{name}.parquet", good | {"x": changed(x, value)})
    write(folder / "differ" / "a.parquet", good)
    write(folder / "differ" / "b.parquet", good | {"z": good["carrier"]})
    write(folder / "lacks" / "a.parquet", good)
    write(folder / "lacks" / "b.parquet", {"x": x, "late": late})
    write(folder / "targets.parquet", {
        "x": x, "late": late, "one": np.ones(ROWS, np.int64), "three": rows % 3, "inf": changed(x, np.inf),
        "texts": np.array(["a", "b", "c"])[rows % 3], "text": ["a"] * ROWS, "words": np.array(["a", "b"])[rows % 2],
        "null": pa.array([None] * ROWS, pa.float64()), "two and a half": np.full(ROWS, 2.5),
    })  # fmt: skip
    weight = np.abs(x)
    write(folder / "weights.parquet", {
        "x": x, "late": late, "negative": changed(weight, -1.0), "null": changed(weight, None), "text": ["a"] * ROWS,
        "nan": changed(weight, np.nan), "inf": changed(weight, np.inf), "zero": np.zeros(ROWS),
    })  # fmt: skip
    write(folder / "types.parquet", {
        "x": x, "late": late, "when": pa.array(rows * 10**9, pa.timestamp("us")), "nested": [{"a": 1}] * ROWS,
        "listed": [[0.5]] * ROWS, "bytes": [b"x"] * ROWS,
    })  # fmt: skip
    write(folder / "odd.parquet", {
        "late": late, "constant": np.full(ROWS, 3.0), "nulls": pa.array([None] * ROWS, pa.float64()), "a b": x,
        "a.b": x**2, "\N{SNOWMAN}": x**3, "": x**4,
    })  # fmt: skip
    twice = pa.Table.from_arrays([pa.array(x), pa.array(x), pa.array(late)], names=["x", "x", "late"])
    write(folder / "twice.parquet", twice)
    third = np.arange(140_000) % 2
    third[-1] = 2
    hidden = pa.table({"x": np.random.default_rng(1).normal(size=140_000), "y": third})
    pq.write_table(hidden, folder / "third.parquet", row_group_size=70_000, write_statistics=False)
    (folder / "key.toml").write_text("epoch = 3\n")
    (folder / "broken.toml").write_text("epochs: 3\n")
    (folder / "value.toml").write_text('epochs = "many"\n')
    (folder / "table.toml").write_text("[train]\nepochs = 3\n")
