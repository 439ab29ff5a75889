"""dask-ml: `LogisticRegression` by L-BFGS over chunks of rows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa

from benchmarks.systems.base import L2, DataFiles, Float64Array, System, cores, matrix


class DaskMlLbfgs(System):
    """A chunk of rows for each 131,072, kept in memory: read anew in each iteration it would take many times longer."""

    packages: ClassVar[tuple[str, ...]] = ("dask_ml",)

    @property
    def settings(self) -> str:
        return f"chunks in memory, LogisticRegression(solver='lbfgs', C={L2:g} rows, max_iter=100), {cores()} threads"

    def prepare(self, data: DataFiles) -> None:
        import dask_ml.linear_model  # noqa: F401 - imported before the clock runs

        self._data = data

    def run(self) -> None:
        import dask
        import dask.array as da
        from dask_ml.linear_model import LogisticRegression

        pieces, targets = [], []
        for batch in self._data.batches(131_072):
            pieces.append(da.from_array(matrix(batch, self._data.numeric), chunks=-1))
            targets.append(da.from_array(batch.column(self._data.target).to_numpy(), chunks=-1))
        # dask-ml's C multiplies the penalty, which stands beside the sum of the losses.
        model = LogisticRegression(solver="lbfgs", C=L2 * self._data.rows, max_iter=100)
        with dask.config.set(scheduler="threads", num_workers=cores()):
            model.fit(da.concatenate(pieces), da.concatenate(targets))
        self._coef, self._intercept = np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])

    def measures(self) -> dict[str, float]:
        return {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        return np.asarray(matrix(batch, self._data.numeric) @ self._coef + self._intercept)
