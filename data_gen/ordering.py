"""The rows in the order they are written in, and the losses of the truth over them, in constant memory.

As drawn: chunk by chunk. Sorted, logistic: the rows are drawn twice, and each time those of one class are kept. Sorted,
squared: an external sort. Each chunk goes, cut into ranges of the target, to one scratch file of about the size of the
data; then one range after another is gathered from all chunks, sorted and passed on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_gen.generator import CHUNK_ROWS, NOISE_SD, Chunk, Float64Array, LinearModel, Population, draw_chunks, expit

RANGE_ROWS = 131_072
"""Rows sorted in memory at once."""
SAMPLED_CHUNKS = 8
"""Chunks whose targets choose the ranges."""


@dataclass
class Totals:
    """Sums over all rows, before nulls and outliers; in the order drawn, so that sorting changes no bit of them."""

    loss: str
    rows: int = 0
    loss_sum: float = 0.0
    expected_loss_sum: float = 0.0
    y_mean: float = 0.0
    y_squares: float = 0.0
    """Sum of (y - y_mean)^2."""

    def add(self, chunk: Chunk) -> None:
        n_rows, raw, y = len(chunk.y), chunk.raw, chunk.y
        if self.loss == "logistic":
            # log1p(exp(raw)) - y * raw, without overflow; in expectation y is the probability.
            log_partition = np.log1p(np.exp(-np.abs(raw))) + np.maximum(raw, 0.0)
            self.loss_sum += float((log_partition - y * raw).sum())
            self.expected_loss_sum += float((log_partition - expit(raw) * raw).sum())
        else:
            self.loss_sum += 0.5 * float(np.square(y - raw).sum())
            self.expected_loss_sum += 0.5 * NOISE_SD**2 * n_rows
        # Chan's merge of means and squares.
        mean = float(y.mean())
        difference, before = mean - self.y_mean, self.rows
        self.rows += n_rows
        self.y_mean += difference * n_rows / self.rows
        self.y_squares += float(np.square(y - mean).sum()) + difference**2 * before * n_rows / self.rows

    @property
    def loss_at_truth(self) -> float:
        """Mean loss of the true model over these rows and these targets."""
        return self.loss_sum / self.rows

    @property
    def expected_loss(self) -> float:
        """Mean loss of the true model over these rows, and all targets they could have had."""
        return self.expected_loss_sum / self.rows

    @property
    def base_loss(self) -> float:
        """Mean loss of the best constant prediction."""
        if self.loss == "squared":
            return 0.5 * self.y_squares / self.rows
        positive = self.y_mean
        return float(-sum(p * np.log(p) for p in (positive, 1.0 - positive) if p > 0.0))


def ordered_tables(
    population: Population, model: LinearModel, totals: Totals, scratch: Path
) -> Generator[pa.Table, None, None]:
    """All rows in the order they are written in; `totals` is complete when the last row has been given out.

    `scratch` is a file that may be written; it is removed at the end, or when the generator is closed.
    """
    if not population.sorted:
        for chunk in draw_chunks(population, model):
            totals.add(chunk)
            yield pa.Table.from_batches([chunk.batch])
    elif population.loss == "logistic":
        for chunk in draw_chunks(population, model):
            totals.add(chunk)
            yield pa.Table.from_batches([chunk.batch.filter(pa.array(chunk.y == 0))])
        for chunk in draw_chunks(population, model):
            yield pa.Table.from_batches([chunk.batch.filter(pa.array(chunk.y == 1))])
    else:
        try:
            limits = _target_limits(population, model)
            _write_ranges(population, model, totals, limits, scratch)
            yield from _gather_ranges(len(limits) + 1, scratch)
        finally:
            scratch.unlink(missing_ok=True)


def _target_limits(population: Population, model: LinearModel) -> Float64Array:
    """Targets that cut the data into ranges of about RANGE_ROWS rows, judged by chunks spread over all rows."""
    n_chunks = -(-population.rows // CHUNK_ROWS)
    sampled = np.unique(np.linspace(0, n_chunks - 1, SAMPLED_CHUNKS).astype(int))
    targets = np.concatenate([chunk.y for chunk in draw_chunks(population, model, sampled.tolist())])
    n_ranges = -(-population.rows // RANGE_ROWS)
    limits: Float64Array = np.quantile(targets, np.arange(1, n_ranges) / n_ranges)
    return limits


def _write_ranges(
    population: Population, model: LinearModel, totals: Totals, limits: Float64Array, scratch: Path
) -> None:
    """Write each chunk as one batch a range."""
    with pa.ipc.new_file(str(scratch), population.schema) as writer:
        for chunk in draw_chunks(population, model):
            totals.add(chunk)
            order = np.argsort(chunk.y, kind="stable")
            batch = chunk.batch.take(pa.array(order))
            stops = [0, *np.searchsorted(chunk.y[order], limits), batch.num_rows]
            for start, stop in pairwise(stops):
                writer.write_batch(batch.slice(start, stop - start))


def _gather_ranges(n_ranges: int, scratch: Path) -> Iterator[pa.Table]:
    # Read, not mapped: the pages of a mapped file would count as memory of this process.
    with pa.OSFile(str(scratch)) as file:
        reader = pa.ipc.open_file(file)
        for first in range(n_ranges):
            batches = [reader.get_batch(index) for index in range(first, reader.num_record_batches, n_ranges)]
            table = pa.Table.from_batches(batches).combine_chunks()
            del batches
            yield table.take(pa.array(np.argsort(table.column("y").to_numpy(), kind="stable")))
