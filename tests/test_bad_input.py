"""Bad input: every mistake ends in one line, a documented exit code, and nothing written over.

What the issues list runs as a process of its own; what stands beside it runs here, through the same command line.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mistakes import Ending, contents, here, message, process

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
    "three texts": (
        "targets.parquet --target texts --features x --loss logistic", 65, ("'texts'", "'a', 'b', 'c'", "--where")
    ),
    "infinite": ("inf.parquet --target late", 65, ("inf.parquet", *INF)),
    "types that differ": ("differ --target late", 65, ("'z'", "double in {folder}/differ/a.parquet",
                                                      "string in {folder}/differ/b.parquet", "one schema")),
    "not Parquet": ("text.parquet --target late", 65, ("{folder}/text.parquet", "not Parquet", "write the file again")),
    "errors with l1": (f"{GOOD} --method batch --l1 1 --errors robust", 78, ("no meaning", "or choose --l1 0.")),
    "errors of no likelihood": (
        f"{GOOD} --method batch --l1 1 --errors robust --loss hinge", 78, ("of no likelihood. Leave it out.",)
    ),
    "errors with l2": (f"{GOOD} --method batch --l2 1 --errors robust", 78, ("--l2 1 is", "or choose --l2 1e-06.")),
    "errors without batch": (f"{GOOD} --method sgd --errors robust", 78, ("closing pass", "or choose --method batch.")),
    "errors of a stream": (
        f"{GOOD} --shuffle window --errors robust", 78, ("closing pass", "or choose --shuffle full."),
    ),
    "average and l1": (f"{GOOD} --average on --l1 0.5", 78, ("--average on contradicts --l1 0.5:",)),
    "average of batch": (f"{GOOD} --average on --method batch", 78, ("--average on is not for --method batch",)),
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
    f"{GOOD} --memory 181MB",
    "differ --target late --exclude z",
    "differ --target late --features x,carrier --method batch",
    "lacks --target late --features x",
    "lacks --target late --exclude z,carrier --shuffle window",
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
    ("targets.parquet --target three --features x", 65, ("'three'", "--loss squared|poisson")),
    ("targets.parquet --target text --features x", 65, ("only one value, 'a'",)),
    ("targets.parquet --target words --features x --loss squared", 65, ("'words' is text", "--loss logistic")),
    ("targets.parquet --target words --features x --positive c", 78, ("--positive c", "'a' and 'b'")),
    ("targets.parquet --target null --features x", 65, ("'null' holds no value", "Choose another --target")),
    ("targets.parquet --target inf --features x", 65, ("row ", "'inf' holds infinite values", "--where")),
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
    (f"{GOOD} --loss hing", 78, ("--loss", "'squared', 'logistic'", "found 'hing'")),
    (f"{GOOD} --optimizer backtracking", 78, ("--optimizer backtracking", "--method batch")),
    (f"{GOOD} --patience 2", 78, ("--patience", "--holdout 0.1")),
    (f"{GOOD} --holdout 0.5 --validation good.parquet", 78, ("--validation and --holdout",)),
    (f"{GOOD} --timestamps century", 78, ("--timestamps", "'century'", "weekday")),
    (f"{GOOD} --checkpoint-every often", 78, ("--checkpoint-every", "10m", "found 'often'")),
    (f"{GOOD} --keep-checkpoints 1", 78, ("--keep-checkpoints", "2")),
    (f"{GOOD} --threads 0", 78, ("--threads", "1")),
    (f"{GOOD} --memory much", 78, ("--memory", "512MB", "found 'much'")),
    (f"{GOOD} --memory 1MB", 78, ("--memory 1MB is too small", "180 MB are needed", "at least --memory 181MB")),
    (f"{GOOD} --blocks-dir x.csv", 78, ("--blocks-dir x.csv: x.csv is not a directory", "Name one")),
    (f"{GOOD} --blocks-dir x.csv/below --method batch", 78, ("--blocks-dir x.csv/below: x.csv is not a directory",)),
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
    options = ["good.parquet", "--target", "late", "--validation", "inf.parquet", "--quiet", "--json"]
    message(here("train", *options, "--run", tmp_path / "run"), 65, "inf.parquet", *INF)


def test_without_quiet_the_message_is_the_last_line_after_progress(inside: Path, tmp_path: Path) -> None:
    ending = here("train", "inf.parquet", "--target", "late", "--run", tmp_path / "run")
    *progress, last = ending.err.splitlines()
    assert last.startswith("streamgd: inf.parquet, row group 2")
    assert progress
    assert not any(line.startswith("streamgd: ") for line in progress)
    assert ending.out == ""


# The real bad files

#: Target, features if some can be named, exit code, and what the message says. 41317 is broken only for readers of
#: other languages, 43605 has no second column, and the malformed dictionary is of a column that cannot be a feature.
BAD_FILES: dict[str, tuple[str, str | None, int, str]] = {
    "ARROW-GH-41317": ("int32", "int8,uint8", 0, ""),
    "ARROW-GH-41321": ("int32", "int8,int64", 65, "row group 0: cannot be decoded (Invalid or corrupted bit_width 254"),
    "ARROW-GH-43605": ("min_fl", None, 78, "no feature is left to learn from"),
    "ARROW-GH-45185": ("x", None, 65, "target 'x' is of type list"),
    "ARROW-GH-47662": ("flba_field", None, 65, "target 'flba_field' is of type fixed_size_binary[4]"),
    "ARROW-RS-GH-6229-DICTHEADER": ("nation_key", "region_key", 65, "row group 0: cannot be decoded (Invalid column"),
    "ARROW-RS-GH-6229-LEVELS": ("outer", None, 65, "target 'outer' is of type list"),
    "PARQUET-1481": ("x", None, 65, "the footer cannot be read (Invalid physical column type: UNKNOWN)"),
    "datapage_v1-corrupt-checksum": ("a", "b", 65, "row group 0: cannot be decoded (could not verify page integrity"),
    "nation.dict-malformed": ("nation_key", "region_key", 0, ""),
    "rle-dict-uncompressed-corrupt-checksum": ("long_field", None, 65, "column 'binary_field': binary has no mapping"),
}
READABLE = {"ARROW-GH-41317", "ARROW-GH-43605", "nation.dict-malformed"}


def test_every_bad_file_is_tried(shared_data: Path) -> None:
    assert {path.stem for path in (shared_data / "bad_parquet").glob("*.parquet")} == set(BAD_FILES)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_ends_in_one_line(name: str, shared_data: Path, tmp_path: Path) -> None:
    target, features, exit_code, says = BAD_FILES[name]
    path, run = shared_data / "bad_parquet" / f"{name}.parquet", tmp_path / "run"
    options = ["--target", target, "--loss", "squared", "--run", run, "--quiet", "--json"]
    if features is not None:
        message(here("train", path, *options), 65)
        options += ["--features", features]
    ending = here("train", path, *options)
    if exit_code:
        message(ending, exit_code, says)
        assert not run.exists()
    else:
        assert (ending.exit_code, ending.err) == (0, "")

    inspected = here("inspect", path, "--json")
    if name in READABLE:
        assert (inspected.exit_code, inspected.err) == (0, "")
    elif inspected.exit_code:
        message(inspected, 65, name)
