"""Write a data set: `part-00000.parquet`, …, and `truth.json`, which comes last: where it is, the data are whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.generator import NOISE_SD, LinearModel, Population, draw_model
from data_gen.ordering import Totals, ordered_tables

VERSION = "data_gen 1"
"""Rises when the same arguments would give other values."""
DEFAULT_ROW_GROUP_ROWS = 131_072


def generate(
    out: str | os.PathLike[str],
    *,
    rows: int,
    features: int,
    files: int = 1,
    row_group_rows: int = DEFAULT_ROW_GROUP_ROWS,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write a data set with known truth to the directory `out`, in constant memory.

    Parameters
    ----------
    out : path
        Directory; made if it does not exist.
    rows, features : int
        Number of rows and of numeric columns.
    files, row_group_rows : int
        Number of Parquet files, of nearly equal numbers of rows, and rows of a row group. They change no value.
    overwrite : bool
        Replace the data set in `out`: its files, whole or left over from a killed run, are removed first; other files
        are left alone.
    **options
        The other options of `data_gen.generator.Population`, described there.

    Returns
    -------
    dict
        What `truth.json` holds. `coefficients`, `level_effects` (of raw, by column and level) and `intercept` are in
        units of the written columns; `sparse_effects` is the number of those in the file `sparse_effects.npy` beside,
        float64, of the columns that lists name. `loss_at_truth` is the mean loss of the true model over the rows
        written, as they were before nulls and outliers; `expected_loss` is its expectation over the noise of the
        target; `base_loss` is that of the best constant. Losses are log loss, and half the squared error.

    Raises
    ------
    ValueError
        A value out of its range.
    FileExistsError
        `out` is not empty and `overwrite` is False, or it is not a directory.

    Examples
    --------
    >>> import tempfile
    >>> truth = generate(tempfile.mkdtemp(), rows=1000, features=2, categorical=1, levels=3)
    >>> truth["columns"]
    ['x0', 'x1', 'c0', 'y']
    """
    population = Population(rows=rows, features=features, **options)
    if row_group_rows < 1:
        raise ValueError(f"row_group_rows must be at least 1, found {row_group_rows}")
    if not 1 <= files <= rows:
        raise ValueError(f"files must be from 1 to the number of rows ({rows}), found {files}")
    directory = Path(out)
    _make_room(directory, overwrite)

    model, totals = draw_model(population), Totals(population.loss)
    tables = ordered_tables(population, model, totals, directory / "_sorting.arrow")
    limits = [rows * file // files for file in range(files + 1)]
    names = [f"part-{file:05d}.parquet" for file in range(files)]
    with closing(tables):
        remaining = _Rows(tables)
        for name, (start, stop) in zip(names, pairwise(limits), strict=True):
            _write_file(directory / name, population, remaining, stop - start, row_group_rows)

    arguments = {**asdict(population), "files": files, "row_group_rows": row_group_rows}
    truth = _describe(population, model, totals, arguments, names)
    if population.active:
        effects = np.empty(population.sparse_columns)
        effects[model.numbers] = model.sparse_effects
        with _whole(directory / "sparse_effects.npy") as temporary:
            np.save(temporary, effects)
    with _whole(directory / "truth.json") as temporary:
        temporary.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return truth


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """The name to write a file under, which gets its own when it is whole, and is removed if that fails."""
    temporary = path.with_name("_" + path.name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_room(directory: Path, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is not a directory: name another --out")
    directory.mkdir(parents=True, exist_ok=True)
    if not overwrite and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty: name another --out, or replace its data with --overwrite")
    # The truth goes first: without it nobody takes the rest for whole.
    for pattern in (
        "truth.json",
        "_truth.json",
        "_sorting.arrow",
        "sparse_effects.npy",
        "_sparse_effects.npy",
        "part-*.parquet",
        "_part-*.parquet",
    ):
        for old in directory.glob(pattern):
            old.unlink()


class _Rows:
    """Rows of tables of any size, taken as many at a time as asked for."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._rest: pa.Table | None = None

    def take(self, n_rows: int) -> pa.Table:
        pieces, missing = [], n_rows
        while missing:
            if self._rest is None or self._rest.num_rows == 0:
                self._rest = next(self._tables)
            pieces.append(self._rest.slice(0, missing))
            self._rest = self._rest.slice(pieces[-1].num_rows)
            missing -= pieces[-1].num_rows
        return pa.concat_tables(pieces)


def _write_file(path: Path, population: Population, source: _Rows, n_rows: int, row_group_rows: int) -> None:
    # Random doubles have no repeats: a dictionary of them would cost time and save nothing.
    dictionary_columns = population.categorical_columns + (["y"] if population.loss == "logistic" else [])
    with (
        _whole(path) as temporary,
        pq.ParquetWriter(
            temporary, population.schema, compression="snappy", use_dictionary=dictionary_columns
        ) as writer,
    ):
        for start in range(0, n_rows, row_group_rows):
            table = source.take(min(row_group_rows, n_rows - start))
            writer.write_table(table, row_group_size=table.num_rows)


def _describe(
    population: Population, model: LinearModel, totals: Totals, arguments: dict[str, Any], names: list[str]
) -> dict[str, Any]:
    return {
        "generator": f"{VERSION}, numpy {np.__version__}",
        "arguments": arguments,
        "rows": totals.rows,
        "files": names,
        "columns": population.schema.names,
        "target": "y",
        "loss": population.loss,
        "intercept": model.intercept_in_written_units,
        "coefficients": dict(zip(population.numeric_columns, model.coef_in_written_units.tolist(), strict=True)),
        "level_effects": {
            column: dict(zip(population.level_names, effects.tolist(), strict=True))
            for column, effects in zip(population.categorical_columns, model.effects, strict=True)
        },
        "sparse_effects": len(model.sparse_effects),
        "noise_sd": NOISE_SD if population.loss == "squared" else None,
        "positive_rate": totals.y_mean if population.loss == "logistic" else None,
        "loss_at_truth": totals.loss_at_truth,
        "expected_loss": totals.expected_loss,
        "base_loss": totals.base_loss,
    }
