"""Models by hand with all that a format has to say, and rows that reach every part of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Scaling
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.model import Model

#: The levels of a column of each type, null among them in the second place.
LEVELS = {
    "string": pa.array(["UA", None, "Ü", ""]),
    "int": pa.array([7, None, -3, 2**53]),
    "float": pa.array([0.5, None, 0.0, 1e300]),
    "bool": pa.array([True, None, False]),
}
#: Values of rows, those that no level lists last.
VALUES = {
    "string": [*LEVELS["string"].to_pylist(), "ZZ", "null", "ua"],
    "int": [*LEVELS["int"].to_pylist(), 8, 0],
    "float": [*LEVELS["float"].to_pylist(), -0.0, 0.25],
    "bool": LEVELS["bool"].to_pylist(),
}
ARROW_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def model(
    loss: str = "logistic", nulls: str = "impute", other: bool = True, null_level: bool = True, scaled: bool = True,
    classes: Any = (0, 1), indicator: bool = False, **columns: Any,
) -> Model:  # fmt: skip
    """Two numbers, ``x`` far from zero, and a column of each type of label, named as the type.

    With ``indicator`` the second number is whether ``x`` is null.
    """
    second = NumericColumn("x.is_null", "x", "is_null") if indicator else NumericColumn("k", "k", integer=True)
    numeric = (NumericColumn("x", "x"), second)
    scaling = Scaling(
        np.array([1e9, 4.0]), np.array([10.0, 2.0]), np.array([0.5, -1.0]) * scaled, np.array([0.25, 3.0]),
        np.array([0.0, 0.0]) if scaled else np.array([0.7, -0.4]),
    )  # fmt: skip
    categorical, first_row = [], 2
    for values, levels in LEVELS.items():
        column = CategoricalColumn(values, values)  # type: ignore[arg-type]
        known = levels if null_level else levels.drop_null()
        categorical.append(CategoricalEncoding(column, first_row, known, other, 0))
        first_row += categorical[-1].n_rows
    target = TargetColumn("y", classes if loss == "logistic" else None)
    made = Columns(numeric, tuple(each.column for each in categorical), target, **columns)
    theta = np.random.default_rng(0).normal(size=(first_row + 1, 1))
    return Model(loss, theta, Encoding(made, scaling, tuple(categorical), nulls))


def rows(n_rows: int = 400, seed: int = 0) -> pa.Table:
    """Rows with nulls and unseen levels in every column, and an offset ``o`` without."""
    random = np.random.default_rng(seed)
    labels = {
        name: pa.array([values[place] for place in random.integers(0, len(values), n_rows)], ARROW_TYPES[name])
        for name, values in VALUES.items()
    }
    numbers = {
        "x": pa.array(1e9 + random.normal(size=n_rows) * 5, mask=random.random(n_rows) < 0.2),
        "k": pa.array(random.integers(-9, 9, n_rows), mask=random.random(n_rows) < 0.2),
    }
    return pa.table(numbers | labels | {"o": random.normal(size=n_rows), "more": np.arange(n_rows)})


def predictions(by_model: Model, table: pa.Table) -> np.ndarray:
    """What the model itself predicts."""
    return np.concatenate([by_model.predict_batch(batch) for batch in table.to_batches()])
