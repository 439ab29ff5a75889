"""What a run of mini-batches or single rows makes of its rows before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.data import blocks
from streamgd.training.train import train

ROWS, L2 = 300, 1e-3


@pytest.mark.parametrize("row", [7, 150, 291])
def test_plain_steps_are_safe_for_the_largest_row_wherever_it_is(
    row: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 40)
    rng = np.random.default_rng(row)
    x = rng.normal(size=ROWS)
    x[row] = 30.0
    pq.write_table(pa.table({"x": x, "y": rng.integers(0, 2, ROWS)}), tmp_path / "data.parquet")
    result = train(
        tmp_path / "data.parquet", "y", run=tmp_path / "run", method="sgd", epochs=1, shuffle="full", l2=L2,
        batch_size=32, dtype="float64",
    )  # fmt: skip
    norms = 1.0 + ((x - x.mean()) / x.std()) ** 2

    # Half of what the logistic loss allows, whose curvature is at most 1/4.
    assert result.facts["learning_rate"] == pytest.approx(0.5 / (0.25 * norms.max() + L2), rel=1e-9)
