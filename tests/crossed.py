"""Data and runs of the tests of crosses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamgd.training.train import Result, train


def written(rows: pa.Table, path: Path) -> str:
    pq.write_table(rows, path, row_group_size=300)
    return str(path)


def fit(data: str, run: str, **options: Any) -> Result:
    return train(data, "y", **{"dtype": "float64", "run": Path(data).parent / run, "l2": 1e-3, **options})
