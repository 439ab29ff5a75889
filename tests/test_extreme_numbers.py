"""Columns at the ends of what a float64 holds: a finite theta that predicts, or one line; and never a warning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamgd
from streamgd.errors import DataError, TargetError
from streamgd.training.train import Result, train

ROWS = 6_000
NOISE = np.random.default_rng(9).normal(size=ROWS)
SIGN = np.where(np.arange(ROWS) % 2 == 0, 1.0, -1.0)
FIRST = np.arange(ROWS) < 2_000

COLUMNS = {
    "1e300": NOISE * 1e300,
    "1e-300": NOISE * 1e-300,
    "subnormal": NOISE * 1e-310,
    "1e15 plus or minus 1": 1e15 + SIGN,
    "constant": np.full(ROWS, 3.0),
    "constant 1e300": np.full(ROWS, 1e300),
    "zeros then 1e300": np.where(FIRST, 0.0, 1e300 * NOISE),
    "1e300 then zeros": np.where(FIRST, 1e300 * NOISE, 0.0),
    "two values": np.where(SIGN > 0, -1.0, 1e9),
    "one huge outlier": np.where(np.arange(ROWS) == 4_321, 1e18, NOISE),
    "one outlier of 1e300": np.where(np.arange(ROWS) == 4_321, 1e300, NOISE),
    "the ends of float64": np.where(SIGN > 0, 1.0, -1.0) * np.finfo(np.float64).max,
}
WAYS = {
    "blocks": {}, "window": {"shuffle": "window"}, "sgd": {"method": "sgd"}, "batch": {"method": "batch", "epochs": 30},
    "auto": {"epochs": None}, "auto unscaled": {"epochs": None, "scale": "none"},
    "float64": {"dtype": "float64"}, "unscaled": {"scale": "none"},
}  # fmt: skip
#: All of them, two but seldom.
USUAL_WAYS = [pytest.param(way, marks=pytest.mark.slow if way in ("auto unscaled", "float64") else ()) for way in WAYS]


def write(folder: Path, odd: np.ndarray, target: np.ndarray) -> Path:
    path = folder / "data.parquet"
    pq.write_table(pa.table({"odd": odd, "usual": NOISE, "y": target}), path, row_group_size=1_000)
    return path


def trained(path: Path, run: Path, **options: Any) -> Result | DataError:
    """The result or the refusal; no warning either way."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            return train(path, "y", run=run, **{"epochs": 2, **options})
        except DataError as error:
            return error
        finally:
            assert not told, [str(each.message) for each in told]


@pytest.mark.parametrize("way", USUAL_WAYS)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_feature_of_any_size_gives_a_finite_theta_or_a_refusal(name: str, way: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    probability = 1.0 / (1.0 + np.exp(-NOISE))
    path = write(tmp_path, COLUMNS[name], (random.random(ROWS) < probability).astype(np.int8))
    result = trained(path, tmp_path / "run", **WAYS[way])
    if isinstance(result, DataError):
        assert "'odd'" in str(result)
        assert "\n" not in str(result)
        assert way == "window" or "unscaled" in way or name == "the ends of float64"
        return
    batch = pq.read_table(path).to_batches()[0]
    predicted = result.model.predict_batch(batch)
    assert np.isfinite(result.model.theta).all()
    assert np.isfinite(predicted).all()
    assert all(np.isfinite(c.standardised) for c in result.model.coefficients())
    assert streamgd.load(tmp_path / "run").predict_batch(batch).tobytes() == predicted.tobytes()
    if "unscaled" not in way:
        # The column beside it is learnt as ever.
        usual = next(c for c in result.model.coefficients() if c.name == "usual")
        assert 0.3 < usual.standardised < 1.5


@pytest.mark.parametrize("way", USUAL_WAYS)
@pytest.mark.parametrize("unit", [1e-300, 1e-140, 1e-15, 1e15, 1e140, 1e300])
def test_a_target_of_any_size_gives_a_finite_theta_or_a_refusal(unit: float, way: str, tmp_path: Path) -> None:
    path = write(tmp_path, SIGN, (NOISE + 0.1 * SIGN) * unit)
    # Tolerances are in units of the target.
    never = {"tol_gradient": 0.0} if WAYS[way].get("method") == "batch" else {}
    result = trained(path, tmp_path / "run", loss="squared", **never, **WAYS[way])
    if unit in (1e-300, 1e300):
        assert isinstance(result, TargetError)
        assert "target 'y': its largest value is" in str(result)
        return
    if "unscaled" in way:
        assert isinstance(result, DataError) or np.isfinite(result.model.theta).all()
        return
    assert isinstance(result, Result), result
    usual = next(c for c in result.model.coefficients() if c.name == "usual")
    assert usual.standardised / unit == pytest.approx(1.0, abs=0.1)
