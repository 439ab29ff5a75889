"""The data of the benchmark, made once and kept: a folder is whole when its `reference.json` is there.

Rows of doubles come from `data_gen`. What it does not write (float32 columns, text columns of different numbers of
levels) is written here, row group by row group, in constant memory.

A model is judged by a `Reference`. For moderate data that is the optimum over the same rows. Where an optimum would
take too long, or would only show how well the noise was learned (10^6 coefficients), it is the truth that the rows were
drawn from, on fresh rows that nobody trained on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.reference import Reference, mean_loss, optimum
from benchmarks.systems.base import DataFiles
from data_gen import generate
from data_gen.generator import SIGNAL_SD, LinearModel, Population, draw_chunks, draw_model, expit

ROW_GROUP_ROWS = 131_072
FRESH_ROWS = 262_144
SEED = 0
"""That of data_gen's command line, so that the demo of the README makes the same rows."""


@dataclass(frozen=True)
class DataSet:
    """What a data set is made of.

    Parameters
    ----------
    name : str
        How the cases call it.
    numeric : int
        Number of numeric columns.
    levels : tuple of int
        Number of levels of each text column; level k has a probability proportional to 1 / (k + 1) (Zipf's law).
    dtype : {'float64', 'float32'}
        Type of the numeric columns.
    judged_by : {'optimum', 'truth'}
        What the quality of a model refers to.
    active, sparse_columns : int
        Entries of each row's list of indices, if not 0, and what they are indices of, as data_gen draws them.
    """

    name: str
    rows: int
    numeric: int
    levels: tuple[int, ...] = ()
    dtype: str = "float64"
    judged_by: str = "optimum"
    active: int = 0
    sparse_columns: int = 1 << 20

    @property
    def title(self) -> str:
        kind = {"float64": "double", "float32": "float32"}[self.dtype]
        text = f" + {len(self.levels)} text columns" if self.levels else ""
        if self.active:
            return f"{self.rows:,} rows × {self.sparse_columns:,} columns, {self.active} of them active in a row"
        return f"{self.rows:,} rows × {self.numeric} {kind} columns{text}"

    @property
    def data_bytes(self) -> int:
        """About so many bytes on the disk: random numbers do not compress."""
        return self.rows * (self.numeric * np.dtype(self.dtype).itemsize + 3 * len(self.levels) + 4 * self.active + 1)

    @property
    def block_bytes(self) -> int:
        """About so many bytes that streamgd's blocks take."""
        return self.rows * (4 * self.numeric + 4 * len(self.levels) + 12 * self.active + 16)

    def with_rows(self, rows: int) -> Self:
        return type(self)(**{**asdict(self), "rows": rows})

    def files(self, directory: Path) -> DataFiles:
        """Where the data are, or will be."""
        numeric = tuple(f"x{column}" for column in range(self.numeric))
        categorical = tuple(f"c{column}" for column in range(len(self.levels)))
        lists = ("s",) if self.active else ()
        return DataFiles(str(directory / f"{self.name}-{self.rows}"), self.rows, numeric, categorical, lists)

    def make(self, directory: Path) -> tuple[DataFiles, Reference]:
        """Write what is missing; returns the files and what models on them are judged by."""
        files = self.files(directory)
        folder = Path(files.folder)
        about = folder / "reference.json"
        wanted = json.loads(json.dumps({**asdict(self), "seed": SEED}))
        if about.exists() and (known := json.loads(about.read_text()))["data_set"] == wanted:
            reference = Reference.from_json(known["reference"])
            if Path(reference.files.folder).is_dir():
                return files, reference
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.judged_by == "optimum":
            generate(folder, rows=self.rows, features=self.numeric, seed=SEED, overwrite=True)
            reference = optimum(files)
        else:
            reference = self._write(files)
        about.write_text(json.dumps({"data_set": wanted, "reference": reference.to_json()}, indent=1) + "\n")
        return files, reference

    def _write(self, files: DataFiles) -> Reference:
        fresh = replace(files, folder=f"{files.folder}-fresh", rows=FRESH_ROWS)
        shutil.rmtree(fresh.folder, ignore_errors=True)
        Path(fresh.folder).mkdir()
        draw = _mixed_rows if self.levels else _numeric_rows
        first_fresh = -(-self.rows // ROW_GROUP_ROWS)
        _write_groups(files, (draw(self, group)[0] for group in range(first_fresh)))
        raws, targets = [], []

        def fresh_groups() -> Iterator[pa.RecordBatch]:
            for group in range(first_fresh, first_fresh + FRESH_ROWS // ROW_GROUP_ROWS):
                batch, raw = draw(self, group)
                raws.append(raw)
                targets.append(batch.column("y").to_numpy())
                yield batch

        _write_groups(fresh, fresh_groups())
        raw, y = np.concatenate(raws), np.concatenate(targets).astype(np.float64)
        positive = float(y.mean())
        constant = np.full(len(y), np.log(positive / (1.0 - positive)))
        kind = f"the truth, on {FRESH_ROWS:,} fresh rows"
        return Reference(kind, mean_loss(constant, y), mean_loss(raw, y), fresh)


def _write_groups(files: DataFiles, batches: Iterator[pa.RecordBatch]) -> None:
    """One row group a batch, cut to the number of rows; numbers have no repeats worth a dictionary."""
    missing, writer = files.rows, None
    for batch in batches:
        batch = batch.slice(0, missing)
        if writer is None:
            dictionary_columns = [*files.categorical, files.target]
            path = Path(files.folder) / "part-00000.parquet"
            writer = pq.ParquetWriter(path, batch.schema, compression="snappy", use_dictionary=dictionary_columns)
        writer.write_table(pa.Table.from_batches([batch]), row_group_size=batch.num_rows)
        missing -= batch.num_rows
    assert writer is not None
    writer.close()


def _numeric_rows(data_set: DataSet, group: int) -> tuple[pa.RecordBatch, npt.NDArray[np.float64]]:
    """A row group of data_gen's rows in the type asked for, and the truth's raw predictions."""
    # However many rows a population has, its model and its rows are the same.
    population = Population(
        rows=2**40, features=data_set.numeric, active=data_set.active, sparse_columns=data_set.sparse_columns, seed=SEED
    )
    chunks = list(draw_chunks(population, _model(population), [2 * group, 2 * group + 1]))
    table = pa.Table.from_batches([chunk.batch for chunk in chunks]).combine_chunks()
    kind, schema = pa.from_numpy_dtype(np.dtype(data_set.dtype)), population.schema
    for column, name in enumerate(population.numeric_columns):
        schema = schema.set(column, pa.field(name, kind))
    return table.cast(schema, safe=False).to_batches()[0], np.concatenate([chunk.raw for chunk in chunks])


@cache
def _model(population: Population) -> LinearModel:
    return draw_model(population)


def _mixed_rows(data_set: DataSet, group: int) -> tuple[pa.RecordBatch, npt.NDArray[np.float64]]:
    """A row group of numbers and levels, each column with the same share of the variance of raw."""
    n_columns = data_set.numeric + len(data_set.levels)
    share = SIGNAL_SD / np.sqrt(n_columns)
    truth = np.random.Generator(np.random.SFC64([SEED, 0]))
    coef = share * truth.choice([-1.0, 1.0], data_set.numeric)
    random = np.random.Generator(np.random.SFC64([SEED, 1, group]))
    raw = np.zeros(ROW_GROUP_ROWS)
    arrays: dict[str, Any] = {}
    for column in range(data_set.numeric):
        x = random.standard_normal(ROW_GROUP_ROWS)
        raw += coef[column] * x
        arrays[f"x{column}"] = pa.array(x.astype(data_set.dtype))
    for column, levels in enumerate(data_set.levels):
        probability = 1.0 / np.arange(1, levels + 1)
        probability /= probability.sum()
        effects = truth.standard_normal(levels)
        effects -= effects @ probability
        effects *= share / np.sqrt(np.square(effects) @ probability)
        codes = np.searchsorted(probability.cumsum()[:-1], random.random(ROW_GROUP_ROWS), side="right")
        raw += effects[codes]
        # Only the levels that occur: Parquet would write the whole dictionary in each row group.
        used, positions = np.unique(codes, return_inverse=True)
        names = pa.array([f"l{level}" for level in used])
        arrays[f"c{column}"] = pa.DictionaryArray.from_arrays(pa.array(positions.astype(np.int32)), names)
    arrays["y"] = pa.array((random.random(ROW_GROUP_ROWS) < expit(raw)).astype(np.int8))
    return pa.record_batch(arrays), raw


def geometric_levels(columns: int, fewest: int, most: int) -> tuple[int, ...]:
    """Numbers of levels from `fewest` to `most`, each the same factor above the one before.

    >>> geometric_levels(3, 1_000, 100_000)
    (1000, 10000, 100000)
    """
    return tuple(int(levels) for levels in np.geomspace(fewest, most, columns).round())


def data_sets(rows: int) -> dict[str, DataSet]:
    """All data sets by name, for a benchmark of so many rows."""
    levels = geometric_levels(26, 1_000, 100_000)
    return {
        each.name: each
        for each in (
            DataSet("numeric", rows, 28),
            DataSet("float32", rows, 28, dtype="float32", judged_by="truth"),
            DataSet("float32-large", 20 * rows, 28, dtype="float32", judged_by="truth"),
            DataSet("wide", max(1, rows // 5), 500, judged_by="truth"),
            DataSet("categorical", max(1, rows * 2 // 5), 13, levels, judged_by="truth"),
            DataSet("sparse", max(1, rows // 5), 0, judged_by="truth", active=40),
            DataSet("demo", min(rows, 1_000_000), 20),
        )
    }
