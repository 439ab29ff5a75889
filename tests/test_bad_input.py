"""Bad input: every mistake ends in one line, a documented exit code, and nothing written over.

What the issues list runs as a process of its own; what stands beside it runs here, through the same command line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import Generated
from filelock import FileLock

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
    command = [sys.executable, "-m", "streamgd", *map(str, arguments)]
    found = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Ending(found.returncode, found.stdout, found.stderr)


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
    assert line.endswith((".", "?")) or " --" in line or "duckdb" in line  # a sentence, or a command to type
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
        "listed": [[1]] * ROWS, "bytes": [b"x"] * ROWS,
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data; commands run in it, with run directories below ``runs``."""
    made = tmp_path_factory.mktemp("bad_input")
    make_data(made)
    return made


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


# What the issue lists, each in a process of its own

GOOD = "good.parquet --target late"
CSV = "COPY (FROM '{folder}/x.csv') TO '{folder}/x.parquet'"
INF = ("row group 2", "row 50", "column 'x'", "inf", "--exclude", "--where")
REFUSED = ("column 'when'", "timestamp", "column 'nested'", "struct", "'listed'", "list", "'bytes'", "binary")

LISTED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "no such file": ("nowhere.parquet --target late", 66, ("{folder}/nowhere.parquet", "Check the path")),
    "no Parquet in the directory": ("empty --target late", 66, ("{folder}/empty", "no Parquet file", "Name the files")),
    "empty data set": ("zero.parquet --target late", 66, ("no rows", "zero.parquet", "Give data that have rows")),
    "CSV": ("x.csv --target late", 66, ("duckdb -c", CSV)),
    "unknown target": ("good.parquet --target lat", 78, ("--target", "'lat'", "Did you mean 'late'?")),
    "unknown feature": (f"{GOOD} --features x,carier", 78, ("--features", "'carier'", "Did you mean 'carrier'?")),
    "unknown option": (f"{GOOD} --epoch 3", 2, ("--epoch", "--epochs", "streamgd train --help")),
    "one class": ("targets.parquet --target one --features x", 65, ("'one'", "only one value, 1", "Choose another")),
    "three classes": (
        "targets.parquet --target three --features x --loss logistic", 65, ("'three'", "0, 1, 2", "needs two", "where")
    ),
    "three texts": ("targets.parquet --target texts --features x", 65, ("'texts'", "'a', 'b', 'c'", "--where")),
    "infinite": ("inf.parquet --target late", 65, ("inf.parquet", *INF)),
    "types that differ": ("differ --target late", 65, ("'z'", "double in {folder}/differ/a.parquet",
                                                      "string in {folder}/differ/b.parquet", "one schema")),
    "not Parquet": ("text.parquet --target late", 65, ("{folder}/text.parquet", "not Parquet", "write the file again")),
    "cut short": ("cut.parquet --target late", 65, ("{folder}/cut.parquet", "cut short", "write the file again")),
    "types without a mapping": (
        "types.parquet --target late", 65, (*REFUSED, "--timestamps", "--exclude when,nested,listed,bytes")
    ),
    "learning rate 0": (f"{GOOD} --learning-rate 0", 78, ("--learning-rate", "positive number", "found 0.0")),
    "learning rate -1": (f"{GOOD} --learning-rate -1", 78, ("--learning-rate", "positive number", "found -1.0")),
    "learning rate nan": (f"{GOOD} --learning-rate nan", 78, ("--learning-rate", "positive number", "found nan")),
}  # fmt: skip


@pytest.fixture(scope="module")
def endings(folder: Path) -> dict[str, Ending]:
    """How each of ``LISTED`` ends, two at a time."""

    def end(name: str) -> Ending:
        run = f"runs/{name.replace(' ', '-')}"
        return process("train", *LISTED[name][0].split(), "--run", run, "--quiet", "--json", cwd=folder)

    with ThreadPoolExecutor(2) as threads:
        return dict(zip(LISTED, threads.map(end, LISTED), strict=True))


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_mistake_ends_in_one_line_with_its_code(name: str, endings: dict[str, Ending], folder: Path) -> None:
    _, exit_code, texts = LISTED[name]
    message(endings[name], exit_code, *(text.replace("{folder}", str(folder)) for text in texts))


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_mistake_leaves_no_run_directory(name: str, endings: dict[str, Ending], folder: Path) -> None:
    """So that the same command, mended, begins anew."""
    assert not (folder / "runs" / name.replace(" ", "-")).exists()


# The way out that a message names

WAYS_OUT = [
    "mixed --target late",
    "inf.parquet --target late --exclude x",
    "inf.parquet --target late --where x<1e300",
    "inf.parquet --target late --where x<1e300 --method batch",
    "nan.parquet --target late --nulls drop",
    "types.parquet --target late --exclude when,nested,listed,bytes",
    "types.parquet --target late --exclude nested,listed,bytes --timestamps epoch,hour,weekday",
    "targets.parquet --target three --features x --loss squared",
    "targets.parquet --target three --features x --where three!=2",
    "targets.parquet --target texts --features x --where texts!='c' --positive a",
    "targets.parquet --target one --features x --loss squared",
    "weights.parquet --target late --features x --weight negative --where negative>=0",
    f"{GOOD} --memory 131MB",
    "checked.parquet --target late",
]


@pytest.mark.parametrize("arguments", WAYS_OUT)
def test_the_way_out_works(arguments: str, inside: Path, tmp_path: Path) -> None:
    ending = here("train", *arguments.split(), "--run", tmp_path / "run", "--quiet", "--json", "--epochs", "1")
    assert ending.exit_code == 0, ending.err
    assert ending.err == ""
    assert json.loads(ending.out)["stopped_by"] in ("epochs", "tol_gradient", "precision")


@pytest.mark.parametrize("features", ["constant", "nulls", "constant,nulls", "a b,a.b,\N{SNOWMAN}"])
@pytest.mark.parametrize("method", ["minibatch", "sgd", "batch"])
def test_odd_columns_and_names_are_no_mistake(features: str, method: str, inside: Path, tmp_path: Path) -> None:
    ending = here(
        "train", "odd.parquet", "--target", "late", "--features", features, "--method", method, "--run",
        tmp_path / "run", "--quiet", "--json",
    )  # fmt: skip
    assert (ending.exit_code, ending.err) == (0, "")
    assert np.isfinite(json.loads(ending.out)["train_loss"])


@pytest.mark.parametrize(("mistake", "mended"), [
    ("inf.parquet --target late", "inf.parquet --target late --exclude x"),
    ("inf.parquet --target late", "inf.parquet --target late --where x<1e300"),
    ("weights.parquet --target late --features x --weight null", "weights.parquet --target late --features x"),
    (f"{GOOD} --sample 1e-9", GOOD),
])  # fmt: skip
def test_after_a_mistake_the_mended_command_begins_in_the_same_directory(
    mistake: str, mended: str, inside: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert here("train", *mistake.split(), "--run", run, "--quiet").exit_code in (65, 66)
    ending = here("train", *mended.split(), "--run", run, "--quiet", "--epochs", "1")
    assert ending.exit_code == 0, ending.err


# Beside what is listed

NEIGHBOURS: list[tuple[str, int, tuple[str, ...]]] = [
    ("csvs --target late", 66, ("duckdb -c", "/csvs/*.csv'", "/csvs.parquet'")),
    ("third.parquet --target y", 65, ("third.parquet, row group 1, row 69999, target 'y'", "found 2", "--where")),
    ("minus_inf.parquet --target late", 65, ("minus_inf.parquet", "found -inf", *INF)),
    ("inf.parquet --target late --method batch", 65, INF),
    ("inf.parquet --target late --method sgd", 65, INF),
    ("inf.parquet --target late --shuffle window", 65, INF),
    ("inf.parquet --target late --shuffle none", 65, INF),
    ("inf.parquet --target late --nulls drop", 65, INF),
    ("inf.parquet --target late --holdout 0.999999", 65, INF),
    ("inf.parquet --target late --holdout 0.999999 --shuffle window", 65, INF),
    ("lacks --target late", 65, ("'z'", "lacks/a.parquet", "missing in", "lacks/b.parquet")),
    ("nothing.parquet --target late", 65, ("nothing.parquet (0 bytes)", "cut short")),
    ("flipped.parquet --target late", 65, ("flipped.parquet, row group 0", "CRC", "Write the file")),
    ("*.nope --target late", 66, ("no file matches", "Check the pattern")),
    ("good.parquet nowhere --target late", 66, ("nowhere", "Check the path")),
    ("foo://bar --target late", 78, ("foo://bar", "s3://bucket/folder")),
    ("good.parquet/x.parquet --target late", 66, ("good.parquet/x.parquet",)),
    ("/dev/null --target late", 66, ("/dev/null is not a regular file",)),
    ("good.parquet", 2, ("missing --target",)),
    ("--target late", 2, ("missing DATA",)),
    ("twice.parquet --target late", 65, ("twice.parquet", "more than one column 'x'", "Rewrite it")),
    ("good.parquet --target=", 78, ("--target", "Known: x, z, carrier, late")),
    (f"{GOOD} --exclude zz", 78, ("--exclude", "'zz'", "Did you mean 'z'?")),
    (f"{GOOD} --categorical nope", 78, ("--categorical", "'nope'")),
    (f"{GOOD} --features late,x", 78, ("'late' is the target", "--features")),
    (f"{GOOD} --features x,x", 78, ("--features names 'x' twice",)),
    (f"{GOOD} --exclude x,z,carrier", 78, ("no feature is left", "--features")),
    ("types.parquet --target late --features x,when", 65, ("'when'", "--timestamps", "take when out of --features")),
    ("types.parquet --target when --features x", 65, ("target 'when'", "timestamp", "Choose another --target")),
    ("targets.parquet --target three --features x", 65, ("'three'", "--loss squared|logistic")),
    ("targets.parquet --target text --features x", 65, ("only one value, 'a'",)),
    ("targets.parquet --target words --features x --loss squared", 65, ("'words' is text", "--loss logistic")),
    ("targets.parquet --target words --features x --positive c", 78, ("--positive c", "'a' and 'b'")),
    ("targets.parquet --target null --features x", 65, ("'null' holds no value", "Choose another --target")),
    ("targets.parquet --target inf --features x", 65, ("'inf' holds infinite values", "--where")),
    ("nan.parquet --target late --nulls error", 65, ("row group 2, row 50, column 'x'", "--nulls impute")),
    ("odd.parquet --target late --features nulls --nulls drop", 66, ("600 null feature", "--nulls")),
    ("weights.parquet --target late --features x --weight negative", 65, ("row 50, column 'negative'", "-1.0", ">= 0")),
    ("weights.parquet --target late --features x --weight null", 65, ("row group 2, row 50, column 'null'", "None")),
    ("weights.parquet --target late --features x --weight nan", 65, ("row group 2, row 50, column 'nan'", "nan")),
    ("weights.parquet --target late --features x --weight inf", 65, ("row group 2, row 50, column 'inf'", "inf")),
    ("weights.parquet --target late --features x --weight zero", 66, ("600 zero weight",)),
    ("weights.parquet --target late --features x --weight text", 65, ("--weight", "'text'", "string")),
    ("weights.parquet --target late --features x --weight nope", 78, ("--weight", "'nope'")),
    ("weights.parquet --target late --features x --weight late", 78, ("'late' is the target", "--weight")),
    ("weights.parquet --target late --features x --offset null", 65, ("row 50, column 'null'", "finite number")),
    (f"{GOOD} --where y>3", 78, ("--where", "'y'", "Known: x, z, carrier, late")),
    (f"{GOOD} --where x>", 78, ("--where", "cannot be read", "Example")),
    (f"{GOOD} --where carrier>3", 78, ("--where", "'carrier'", "is a text", "'3' is a number")),
    (f"{GOOD} --where __import__('os')", 78, ("--where", "is not allowed")),
    (f"{GOOD} --where x>1e9", 66, ("no row passes --where", "wider")),
    (f"{GOOD} --sample 1e-9", 66, ("600 sample", "--sample")),
    (f"{GOOD} --learning-rate fast", 78, ("--learning-rate", "'auto'", "found 'fast'")),
    (f"{GOOD} --learning-rate inf", 78, ("--learning-rate", "found inf")),
    (f"{GOOD} --batch-size 0", 78, ("--batch-size", "greater than or equal to 1", "found '0'")),
    (f"{GOOD} --batch-size 65537", 78, ("--batch-size", "65536", "found '65537'")),
    (f"{GOOD} --epochs 0", 78, ("--epochs", "greater than or equal to 1", "found '0'")),
    (f"{GOOD} --epochs 1.5", 78, ("--epochs", "valid integer", "found '1.5'")),
    (f"{GOOD} --holdout 100%", 78, ("--holdout", "less than 1", "found 1.0")),
    (f"{GOOD} --sample 0", 78, ("--sample", "greater than 0")),
    (f"{GOOD} --seed -1", 78, ("--seed", "found '-1'")),
    (f"{GOOD} --l2 nan", 78, ("--l2", "finite number")),
    (f"{GOOD} --loss hinge", 78, ("--loss", "'squared' or 'logistic'", "found 'hinge'")),
    (f"{GOOD} --optimizer backtracking", 78, ("--optimizer backtracking", "--method batch")),
    (f"{GOOD} --patience 2", 78, ("--patience", "--holdout 0.1")),
    (f"{GOOD} --holdout 0.5 --validation good.parquet", 78, ("--validation and --holdout",)),
    (f"{GOOD} --timestamps century", 78, ("--timestamps", "'century'", "weekday")),
    (f"{GOOD} --checkpoint-every often", 78, ("--checkpoint-every", "10m", "found 'often'")),
    (f"{GOOD} --keep-checkpoints 1", 78, ("--keep-checkpoints", "2")),
    (f"{GOOD} --threads 0", 78, ("--threads", "1")),
    (f"{GOOD} --memory much", 78, ("--memory", "512MB", "found 'much'")),
    (f"{GOOD} --memory 1MB", 78, ("--memory 1MB is too small", "130 MB are needed", "at least --memory 131MB")),
    (f"{GOOD} --config none.toml", 66, ("none.toml", "Check the path")),
    (f"{GOOD} --config empty", 78, ("empty", "directory", "Name another path")),
    (f"{GOOD} --config key.toml", 78, ("key.toml", "epoch", "Did you mean 'epochs'?")),
    (f"{GOOD} --config broken.toml", 78, ("broken.toml is not TOML", "line 1", "option = value")),
    (f"{GOOD} --config value.toml", 78, ("--epochs", "found 'many'")),
    (f"{GOOD} --config table.toml", 78, ("table.toml", "no such option: train")),
    (f"{GOOD} --validation nowhere", 66, ("nowhere", "Check the path")),
    (f"{GOOD} --validation zero.parquet", 66, ("no rows", "zero.parquet")),
    (f"{GOOD} --validation lacks/b.parquet", 65, ("lacks/b.parquet", "'z', 'carrier'")),
]


@pytest.mark.parametrize(("arguments", "exit_code", "texts"), NEIGHBOURS, ids=[case[0] for case in NEIGHBOURS])
def test_a_mistake_ends_in_one_line_and_leaves_nothing(
    arguments: str, exit_code: int, texts: tuple[str, ...], inside: Path, tmp_path: Path
) -> None:
    before = {name: value for name, value in contents(inside).items() if not name.startswith("runs/")}
    run = tmp_path / "run"
    message(here("train", *arguments.split(), "--run", run, "--quiet", "--json"), exit_code, *texts)
    assert not run.exists()
    assert {name: value for name, value in contents(inside).items() if not name.startswith("runs/")} == before


def test_an_infinite_value_in_validation_data_is_named(inside: Path, tmp_path: Path) -> None:
    options = "good.parquet --target late --validation inf.parquet --quiet --json".split()
    message(here("train", *options, "--run", tmp_path / "run"), 65, "inf.parquet", *INF)


def test_without_quiet_the_message_is_the_last_line_after_progress(inside: Path, tmp_path: Path) -> None:
    ending = here("train", "inf.parquet", "--target", "late", "--run", tmp_path / "run")
    *progress, last = ending.err.splitlines()
    assert last.startswith("streamgd: inf.parquet, row group 2")
    assert progress
    assert not any(line.startswith("streamgd: ") for line in progress)
    assert ending.out == ""


# The real bad files

BAD_FILES = {
    "ARROW-GH-41317": ("int32", "int8,uint8"),
    "ARROW-GH-41321": ("int32", "int8,int64"),
    "ARROW-GH-43605": ("min_fl", None),
    "ARROW-GH-45185": ("x", None),
    "ARROW-GH-47662": ("flba_field", None),
    "ARROW-RS-GH-6229-DICTHEADER": ("nation_key", "region_key"),
    "ARROW-RS-GH-6229-LEVELS": ("outer", None),
    "PARQUET-1481": ("x", None),
    "datapage_v1-corrupt-checksum": ("a", "b"),
    "nation.dict-malformed": ("nation_key", "region_key"),
    "rle-dict-uncompressed-corrupt-checksum": ("long_field", None),
}
# Columns of these can be read. 41317 is broken only for readers of other languages, 43605 has no second column.
READABLE = {"ARROW-GH-41317", "ARROW-GH-43605", "nation.dict-malformed"}


def test_every_bad_file_is_tried(shared_data: Path) -> None:
    assert {path.stem for path in (shared_data / "bad_parquet").glob("*.parquet")} == set(BAD_FILES)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_ends_in_one_line(name: str, shared_data: Path, tmp_path: Path) -> None:
    target, features = BAD_FILES[name]
    path, run = shared_data / "bad_parquet" / f"{name}.parquet", tmp_path / "run"
    options = ("--target", target, "--loss", "squared", "--run", run, "--quiet", "--json")
    message(here("train", path, *options), 78 if name == "ARROW-GH-43605" else 65)
    assert not run.exists()
    if features is not None:
        ending = here("train", path, *options, "--features", features)
        if name in READABLE:
            assert (ending.exit_code, ending.err) == (0, "")
        else:
            message(ending, 65)
            assert not run.exists()

    inspected = here("inspect", path, "--json")
    if name in READABLE:
        assert (inspected.exit_code, inspected.err) == (0, "")
    elif inspected.exit_code:
        message(inspected, 65, name)


# A run directory


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A finished run over four epochs; not to be changed."""
    run = folder / "trained"
    ending = process(*command(folder, run), "--epochs", "4", cwd=folder)
    assert ending.exit_code == 0, ending.err
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def command(folder: Path, run: Path) -> list[str]:
    return ["train", str(folder / "good.parquet"), "--target", "late", "--run", str(run), "--quiet", "--json"]


@pytest.mark.parametrize(("options", "listed"), [
    ("--seed 1 --learning-rate 0.1 --features x",
     ("--features was not given, now x", "--seed was 0, now 1", "--learning-rate was auto, now 0.1")),
    ("--method batch", ("--method was minibatch, now batch",)),
    ("--exclude z", ("--exclude was none, now z",)),
])  # fmt: skip
def test_a_run_of_another_configuration_is_refused_and_unchanged(
    options: str, listed: tuple[str, ...], folder: Path, run: Path
) -> None:
    before = contents(run)
    ending = process(*command(folder, run), *options.split(), cwd=folder)
    message(ending, 78, str(run), *listed, "another --run", "--restart")
    assert contents(run) == before


@pytest.mark.parametrize("mistake", [
    "--target lat", "--learning-rate 0", "--where x>1e9", "--exclude nope", "--memory 1MB", "--epoch 9",
    "--restart --target lat", "--restart --memory 1MB",
])  # fmt: skip
def test_a_mistake_changes_no_byte_of_a_run_that_was_there(mistake: str, folder: Path, run: Path) -> None:
    before = contents(run)
    message(here(*command(folder, run), *mistake.split()), here(*command(folder, run), *mistake.split()).exit_code)
    assert contents(run) == before


def test_other_data_are_refused_and_the_run_is_unchanged(folder: Path, run: Path) -> None:
    before = contents(run)
    other = here("train", folder / "mixed", "--target", "late", "--run", run, "--quiet", "--json")
    message(other, 78, "holds a run on other data", "a.parquet", "b.parquet", "--restart")
    assert contents(run) == before


def test_a_run_in_use_is_left_alone_within_a_second(folder: Path, run: Path) -> None:
    before = contents(run)
    with FileLock(run / "lock"):
        started_s = time.monotonic()
        ending = here(*command(folder, run), "--epochs", "9")
        assert time.monotonic() - started_s < 1.0
        message(ending, 4, str(run), "another --run")
        message(process(*command(folder, run), "--epochs", "9", cwd=folder), 4, str(run))
        assert contents(run) == before
    assert here(*command(folder, run), "--epochs", "5").exit_code == 0


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(folder: Path, run: Path, tmp_path: Path) -> None:
    straight = json.loads(here(*command(folder, tmp_path / "straight"), "--epochs", "6").out)
    *_, newest = sorted((run / "checkpoints").iterdir())
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    ending = here(*command(folder, run), "--epochs", "6")
    assert (ending.exit_code, ending.err) == (0, "")
    facts = json.loads(ending.out)
    assert len(facts["warnings"]) == 1
    assert newest.name in facts["warnings"][0]
    assert "checksum" in facts["warnings"][0]
    assert facts["theta_sha256"] == straight["theta_sha256"]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_can_be_restarted(folder: Path, run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    before = contents(run)
    message(here(*command(folder, run), "--epochs", "6"), 65, "all checkpoints", str(run), "--restart")
    assert contents(run) == before
    assert here(*command(folder, run), "--epochs", "1", "--restart").exit_code == 0


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b"\xff", b'{"config": {}}'])
def test_a_damaged_configuration_is_named(text: bytes, folder: Path, run: Path) -> None:
    (run / "config.json").write_bytes(text)
    before = contents(run)
    for arguments in (command(folder, run), ["resume", str(run), "--quiet", "--json"], ["show", str(run), "--json"]):
        message(here(*arguments), 78, "config.json", "damaged", "--restart")
    assert contents(run) == before


@pytest.mark.parametrize("damage", [b"", b"x", b"x" * 5_000])
def test_a_damaged_model_is_named(damage: bytes, folder: Path, run: Path, tmp_path: Path) -> None:
    (run / "model.safetensors").write_bytes(damage)
    data = str(folder / "good.parquet")
    for arguments in (["predict", str(run), data, "--out", str(tmp_path / "out")], ["evaluate", str(run), data]):
        message(here(*arguments, "--json"), 65, "model.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("path", "exit_code"), [
    ("good.parquet", 78), ("good.parquet/run", 78), ("/dev/null", 78), ("/proc/no/run", 66),
    ("x" * 300, 78),
])  # fmt: skip
def test_a_run_directory_that_cannot_be_made_is_named(path: str, exit_code: int, inside: Path) -> None:
    ending = here("train", "good.parquet", "--target", "late", "--run", path, "--quiet", "--json")
    message(ending, exit_code, path)


# Permissions


@pytest.fixture
def open_folder(folder: Path) -> Iterator[Path]:
    """A folder that every user can enter, with data of which some are closed to all but root."""
    made = Path(tempfile.mkdtemp(prefix="streamgd-test-"))
    made.chmod(0o755)
    try:
        shutil.copy(folder / "good.parquet", made)
        (made / "good.parquet").chmod(0o644)
        shutil.copy(made / "good.parquet", made / "closed.parquet")
        (made / "closed.parquet").chmod(0)
        (made / "locked").mkdir(mode=0o500)
        yield made
    finally:
        shutil.rmtree(made)


@pytest.mark.parametrize(("arguments", "texts"), [
    ("closed.parquet --run here/run", ("closed.parquet", "Permission denied")),
    ("good.parquet --run locked/run", ("locked/run", "Permission denied")),
])  # fmt: skip
def test_refused_permission_is_77(arguments: str, texts: tuple[str, ...], open_folder: Path) -> None:
    (open_folder / "locked").chmod(0o500)
    # Nothing is refused to root: it becomes a user who owns nothing, once all is imported.
    code = (
        "import os, sys, streamgd.training.train, streamgd.options, streamgd.failures\n"
        "if os.geteuid() == 0: os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "from streamgd.cli import main; main(sys.argv[1:])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "train", *arguments.split(), "--target", "late", "--quiet", "--json"],
        cwd=open_folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    ending = Ending(found.returncode, found.stdout, found.stderr)
    message(ending, 77, *texts, "Grant access")


# Signals


@pytest.fixture(scope="module")
def larger(generated: Generated) -> Path:
    return generated(rows=200_000, features=10, files=2)


def start(larger: Path, run: Path, *options: str) -> subprocess.Popen[str]:
    """A run that goes on for minutes, waited for until it trains."""
    started = subprocess.Popen(
        [sys.executable, "-m", "streamgd", "train", str(larger), "--target", "y", "--run", str(run), "--json",
         "--epochs", "100000", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while not (run / "checkpoints").is_dir() or not list((run / "checkpoints").glob("*.safetensors")):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return started


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_at_a_checkpoint_from_which_the_same_command_goes_on(
    number: int, exit_code: int, larger: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    training = start(larger, run)
    second = here("train", larger, "--target", "y", "--run", run, "--quiet", "--json", "--epochs", "100000")
    message(second, 4, str(run))
    training.send_signal(number)
    sent_s = time.monotonic()
    out, err = training.communicate(timeout=60)
    assert time.monotonic() - sent_s < 5.0
    last = err.splitlines()[-1]
    assert training.returncode == exit_code, err
    assert re.fullmatch(r"streamgd: [^\n]+ The same command goes on from the last checkpoint\.", last)
    assert "Traceback" not in err
    assert json.loads(out)["error"]["exit_code"] == exit_code

    before = json.loads(here("show", run, "--json").out)
    # --max-time ends the rest of the 100,000 epochs with a model.
    ending = here("train", larger, "--target", "y", "--run", run, "--quiet", "--json", "--epochs", "100000",
                  "--max-time", "0.3s")  # fmt: skip
    assert ending.exit_code == 0, ending.err
    after = json.loads(ending.out)
    assert after["stopped_by"] == "max_time"
    assert after["steps"] > before["steps"] > 0
