"""Parts of dates as places on a circle, in training and in exports."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.data.columns import Columns, NumericColumn
from streamgd.data.transforms.cycle import Cycle
from streamgd.errors import ConfigError
from streamgd.exports.export import export
from streamgd.model import Model
from streamgd.training.train import Result, train

START = datetime(2025, 1, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A target that follows the hour and the month, with moments that are null."""
    folder = tmp_path_factory.mktemp("cycles")
    random = np.random.default_rng(0)
    hours = random.integers(0, 9_000, 2_000)
    y = np.sin(hours % 24 / 24 * 2 * np.pi) + hours / 9_000 + random.normal(size=2_000) / 10
    table = pa.table({"when": pa.array([START + timedelta(hours=int(h)) for h in hours]), "y": y})
    table = table.set_column(0, "when", pa.array(table["when"].to_pylist()[:-100] + [None] * 100))
    pq.write_table(table, folder / "data.parquet", row_group_size=500)
    return train(
        str(folder / "data.parquet"), "y", run=folder / "run", method="batch", dtype="float64",
        timestamps="epoch,hour-cycle,month,month-cycle",
    )  # fmt: skip


def test_names_and_values_are_sine_and_cosine_of_the_part(trained: Result) -> None:
    numeric = trained.model.encoding.columns.numeric
    names = ["when.epoch", "when.hour.sin", "when.hour.cos", "when.month", "when.month.sin", "when.month.cos"]
    assert [column.name for column in numeric] == names
    theta = trained.model.encoding.in_original_units(trained.model.theta)[:, 0]
    expected = dict(zip(names, theta, strict=False))
    intercept = trained.model.coefficients()[-1].value
    moment = datetime(2025, 6, 7, 18)
    angles = {"hour": 18 / 24 * 2 * np.pi, "month": 6 / 12 * 2 * np.pi}

    (found,) = trained.model.predict_batch(pa.record_batch({"when": pa.array([moment])}))

    by_hand = intercept + expected["when.epoch"] * (moment - datetime(1970, 1, 1)).total_seconds()
    by_hand += expected["when.month"] * 6
    for part, angle in angles.items():
        by_hand += expected[f"when.{part}.sin"] * np.sin(angle) + expected[f"when.{part}.cos"] * np.cos(angle)
    assert found == pytest.approx(by_hand, rel=1e-6)


def test_exports_take_the_part_and_make_the_circle(trained: Result) -> None:
    model = trained.model
    moments = [START + timedelta(hours=7 * k) for k in range(300)] + [None]
    parts = {
        "when.epoch": [np.nan if m is None else (m - datetime(1970, 1, 1)).total_seconds() for m in moments],
        "when.hour": [np.nan if m is None else float(m.hour) for m in moments],
        "when.month": [np.nan if m is None else float(m.month) for m in moments],
    }
    expected = model.predict_batch(pa.record_batch({"when": pa.array(moments, pa.timestamp("us"))}))

    session = onnxruntime.InferenceSession(export(model, "onnx").SerializeToString())
    (found,) = session.run(None, {name: np.array(values) for name, values in parts.items()})

    np.testing.assert_allclose(found, expected, rtol=1e-9)
    by_scikit_learn = export(model, "sklearn").predict(pa.table(parts).to_pandas())
    np.testing.assert_allclose(by_scikit_learn, expected, rtol=1e-9)
    again = Model.from_bytes(model.to_bytes(), "the test")
    assert again.theta_sha256 == model.theta_sha256
    assert again.encoding.columns == model.encoding.columns


def test_a_part_that_does_not_come_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--timestamps: no such part 'epoch-cycle'"):
        train(str(tmp_path), "y", timestamps="epoch-cycle")


@pytest.mark.parametrize("period", [0.0, float("inf"), 24])
def test_a_cycle_without_a_period_is_noticed(period: float) -> None:
    with pytest.raises(ValueError, match="period"):
        Columns((NumericColumn("t", "t", "hour", steps=(Cycle(period, False),)),), ()).check()
