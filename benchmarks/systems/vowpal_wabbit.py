"""Vowpal Wabbit: one pass from text, and one pass over the cache that it wrote."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.systems.base import L2, DataFiles, Float64Array, System, matrix

OPTIONS = f"--loss_function logistic --l2 {L2:g} --holdout_off --quiet"
"""Its default updates (adaptive, normalised, invariant) and rate: other rates and plain steps close no more of the way.
l2 is per example in Vowpal Wabbit, as in the mean."""
WRITE_ROWS = 65_536


def write_text(data: DataFiles, path: Path) -> None:
    """The rows as Vowpal Wabbit wants them: `-1 | x0:0.5 x1:…`, with the digits of a float32, or `-1 | 17 3 …`.

    A feature that is a number has its weight at that place, without hashing.
    """
    with path.open("wb") as file:
        for batch in data.batches(WRITE_ROWS):
            label = pc.if_else(pc.equal(batch.column(data.target), 1), "1 |", "-1 |")
            words = [label]
            for name in data.numeric:
                number = batch.column(name).cast(pa.float32(), safe=False).cast(pa.string())
                words.append(pc.binary_join_element_wise(pa.scalar(name), number, ":"))
            indices = (batch.column(name).cast(pa.list_(pa.string())) for name in data.lists)
            words.extend(pc.binary_join(texts, " ") for texts in indices)
            lines = pc.binary_join_element_wise(*words, " ").to_pylist()
            file.write(("\n".join(lines) + "\n").encode())


class _Trained:
    """One pass of a workspace, and the weights that are read out of it when they are asked for."""

    def __init__(self, arguments: str, data: DataFiles) -> None:
        import vowpalwabbit

        self._workspace = vowpalwabbit.Workspace(f"{arguments} {OPTIONS}")
        self._workspace.run_parser()
        self._data = data

    @cached_property
    def _intercept(self) -> float:
        return float(self._workspace.get_weight_from_name("Constant"))

    @cached_property
    def _coef(self) -> Float64Array:
        return np.array([self._workspace.get_weight_from_name(name) for name in self._data.numeric])

    @cached_property
    def _of_indices(self) -> Float64Array:
        return np.array([self._workspace.get_weight(index) for index in range(self._workspace.num_weights())])

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        raw = np.full(batch.num_rows, self._intercept)
        if self._data.numeric:
            raw += matrix(batch, self._data.numeric) @ self._coef
        for name in self._data.lists:
            row_of = pc.list_parent_indices(batch.column(name)).to_numpy()
            weights = self._of_indices[pc.list_flatten(batch.column(name)).to_numpy()]
            raw += np.bincount(row_of, weights, batch.num_rows)
        return raw


class VowpalWabbitText(System):
    """One pass over text, which is what it reads; writing the text is not timed.

    Options: `bits`, how many weights there are, as a power of two.
    """

    packages: ClassVar[tuple[str, ...]] = ("vowpalwabbit",)

    @property
    def settings(self) -> str:
        return f"vw -d rows.txt {self._more}{OPTIONS}, one pass"

    @property
    def _more(self) -> str:
        return f"-b {self.options['bits']} " if "bits" in self.options else ""

    def prepare(self, data: DataFiles) -> None:
        import vowpalwabbit  # noqa: F401 - imported before the clock runs

        self._data, self._path = data, self.scratch / "rows.txt"
        write_text(data, self._path)

    def run(self) -> None:
        self._trained = _Trained(f"-d {self._path} {self._more}", self._data)

    def measures(self) -> dict[str, float]:
        return {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return self._trained.raw_prediction(batch)


class VowpalWabbitCache(System):
    """One pass over the cache; text and cache are written before the clock runs."""

    packages: ClassVar[tuple[str, ...]] = ("vowpalwabbit",)

    @property
    def settings(self) -> str:
        return f"vw --cache_file rows.cache {OPTIONS}, one pass"

    def prepare(self, data: DataFiles) -> None:
        import vowpalwabbit

        self._data = data
        text, self._cache = self.scratch / "rows.txt", self.scratch / "rows.cache"
        self._cache.unlink(missing_ok=True)
        write_text(data, text)
        workspace = vowpalwabbit.Workspace(f"-d {text} --cache_file {self._cache} {OPTIONS}")
        workspace.run_parser()
        workspace.finish()
        text.unlink()

    def run(self) -> None:
        self._trained = _Trained(f"--cache_file {self._cache}", self._data)

    def measures(self) -> dict[str, float]:
        return {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return self._trained.raw_prediction(batch)
