"""Models made by hand, and data for them, whose predictions are worked out here in original units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Scaling
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.model import Model

SHIFT, SCALE = np.array([500.0, -2.0]), np.array([100.0, 0.5])
THETA = np.array([0.8, -0.6, 0.9, -1.1, 0.3, -0.4])  # distance, delay, carrier=AA, carrier=WN, other, intercept
LEVELS = ("UA", "AA", "WN")


def model(
    loss: str = "logistic",
    target: TargetColumn | None = None,
    nulls: str = "impute",
    theta: np.ndarray = THETA,
    **columns: Any,
) -> Model:
    """Predicts ``late`` from distance, delay and carrier."""
    carrier = CategoricalColumn("carrier", "string")
    classes = (0, 1) if loss == "logistic" else None
    made = Columns(
        (NumericColumn("distance", "distance"), NumericColumn("delay", "delay")),
        (carrier,),
        target or TargetColumn("late", classes),
    )
    # The provisional units are others than the final ones, as after training.
    scaling = Scaling(SHIFT - 3.0, SCALE * 2.0, 3.0 / (SCALE * 2.0), np.full(2, 0.5), np.zeros(2))
    encoding = Encoding(
        replace(made, **columns), scaling, (CategoricalEncoding(carrier, 2, pa.array(LEVELS), True, 0),), nulls
    )
    return Model(loss, theta[:, None].copy(), encoding)


def table(rows: int, seed: int = 0) -> pa.Table:
    """Rows with an id, the features, and ``late`` drawn from the model's probabilities."""
    random = np.random.default_rng(seed)
    columns = {
        "id": np.arange(rows) + 1000,
        "distance": random.integers(100, 900, rows),
        "delay": random.normal(-2.0, 0.7, rows),
        "carrier": pa.array(random.choice([*LEVELS, "ZZ"], rows)),
    }
    raw = raw_predictions(pa.table(columns))
    return pa.table(columns | {"late": (random.random(rows) < 1 / (1 + np.exp(-raw))).astype(np.int64)})


def raw_predictions(rows: pa.Table) -> np.ndarray:
    """``X @ coef + intercept`` in original units; a null is the mean of its column."""
    coefficients = THETA[:2] / SCALE
    intercept = THETA[-1] - coefficients @ SHIFT
    of_level = {"UA": 0.0, "AA": THETA[2], "WN": THETA[3]}
    numbers = [
        np.array([mean if value is None or value != value else value for value in rows[name].to_pylist()], float)
        for name, mean in zip(("distance", "delay"), SHIFT, strict=True)
    ]
    levels = np.array([of_level.get(value, THETA[4]) for value in rows["carrier"].to_pylist()])
    return np.stack(numbers, axis=1) @ coefficients + levels + intercept


def write(rows: pa.Table, path: Path, row_group_rows: int = 100) -> str:
    """Write a file, with the folders above it; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, row_group_size=row_group_rows)
    return str(path)


def with_nulls(rows: pa.Table, name: str, every: int) -> pa.Table:
    """The same rows, each ``every``-th value of a column null, from the first on."""
    values = rows[name].to_pylist()
    values[::every] = [None] * len(values[::every])
    return rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, rows.schema.field(name).type))
