"""Today's way: `StandardScaler.partial_fit` and `SGDClassifier.partial_fit`, record batch by record batch.

The best of what was tried counts: 16,384 rows a batch (4,096, 65,536 and 131,072 are slower), a constant step of 0.01
and the averaged iterate (the default schedule ends far above the base loss with so small a penalty), a matrix filled
column by column, scaled in place. The scaler learns in the first epoch only.

As a process: `python -m benchmarks.systems.scikit_learn_loop FOLDER ROWS COLUMNS EPOCHS ACCESS OUT.npz`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from benchmarks.systems.base import L2, DataFiles, matrix

BATCH_ROWS = 16_384
SETTINGS = (
    f"StandardScaler + SGDClassifier(loss='log_loss', alpha={L2:g}, learning_rate='constant', eta0=0.01, average=True),"
    f" batches of {BATCH_ROWS:,} rows"
)


def new_classifier() -> Any:
    return SGDClassifier(loss="log_loss", alpha=L2, learning_rate="constant", eta0=0.01, average=True)


def record_batches(data: DataFiles, access: str) -> Iterator[pa.RecordBatch]:
    """All rows, by one of the two ways that pyarrow offers."""
    if access == "to_batches":
        yield from ds.dataset(data.paths).to_batches(columns=data.columns, batch_size=BATCH_ROWS)
        return
    for path in data.paths:
        yield from pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=data.columns)


def train(data: DataFiles, epochs: int, access: str) -> tuple[Any, Any, list[float]]:
    """Scaler, classifier, and the seconds of each epoch."""
    scaler, classifier, seconds = StandardScaler(), new_classifier(), []
    for epoch in range(epochs):
        started_s = time.perf_counter()
        for batch in record_batches(data, access):
            X, y = matrix(batch, data.numeric), batch.column(data.target).to_numpy()
            if epoch == 0:
                scaler.partial_fit(X)
            classifier.partial_fit(scaler.transform(X, copy=False), y, classes=[0, 1])
        seconds.append(time.perf_counter() - started_s)
    return scaler, classifier, seconds


def in_original_units(scaler: Any, classifier: Any) -> tuple[Any, float]:
    """Coefficients and intercept for columns that are not scaled."""
    coef = classifier.coef_[0] / scaler.scale_
    return coef, float(classifier.intercept_[0] - coef @ scaler.mean_)


def main(folder: str, rows: str, columns: str, epochs: str, access: str, out: str) -> None:
    """Train, and write the coefficients to `out`."""
    scaler, classifier, _ = train(DataFiles(folder, int(rows), tuple(columns.split(",")), ()), int(epochs), access)
    coef, intercept = in_original_units(scaler, classifier)
    np.savez(out, coef=coef, intercept=intercept)


if __name__ == "__main__":
    main(*sys.argv[1:])
