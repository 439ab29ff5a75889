"""``--null-indicators``: a feature more for each number with nulls, and scikit-learn's optimum with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from streamgd.errors import ConfigError
from streamgd.evaluation import evaluate
from streamgd.training.train import Result, train

ROWS, L2 = 3000, 1e-3


@pytest.fixture
def data(tmp_path: Path) -> str:
    """``x`` has nulls, ``z`` NaN, ``k`` neither; whether they are there matters to ``y``."""
    random = np.random.default_rng(0)
    x, z, k = random.normal(2.0, 3.0, ROWS), random.normal(size=ROWS), random.integers(0, 9, ROWS)
    no_x, no_z = random.random(ROWS) < 0.2, random.random(ROWS) < 0.1
    y = x - z + 0.5 * k + 3.0 * no_x - 2.0 * no_z + random.normal(size=ROWS)
    columns = {
        "x": pa.array(x, mask=no_x), "z": np.where(no_z, np.nan, z), "k": k,
        "t": pa.array(random.choice(["a", "b", None], ROWS)), "y": y,
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "data.parquet", row_group_size=700)
    return str(tmp_path / "data.parquet")


def fit(data: str, run: str = "run", **options: Any) -> Result:
    defaults: dict[str, Any] = {"method": "batch", "dtype": "float64", "l2": L2, "null_indicators": True}
    return train(data, "y", run=Path(data).parent / run, **{**defaults, **options})


def test_only_numbers_with_nulls_get_one(data: str) -> None:
    result = fit(data)

    names = [column.name for column in result.model.encoding.columns.numeric]
    assert names == ["x", "x.is_null", "z", "z.is_null", "k"]
    assert "x.is_null" in {coefficient.name for coefficient in result.model.coefficients()}
    assert len(fit(data, "without", null_indicators=False).model.encoding.columns.numeric) == 3


def test_the_optimum_is_that_of_scikit_learn(data: str) -> None:
    table = pq.read_table(data)
    numbers = np.stack([table[name].to_numpy() for name in ("x", "z", "k")], axis=1)
    imputed = make_pipeline(StandardScaler(), SimpleImputer())  # streamgd's moments are those of what is there
    indicators = make_pipeline(MissingIndicator(), StandardScaler())
    features = make_union(imputed, indicators).fit_transform(numbers)
    target = table["y"].to_numpy()
    ridge = Ridge(alpha=ROWS * L2, tol=1e-12).fit(features, target)

    result = fit(data, features="x,z,k")

    theta = result.model.theta[[0, 2, 4, 1, 3], 0]  # x, z, k and then the indicators
    np.testing.assert_allclose(theta, ridge.coef_, rtol=1e-6)


def test_nulls_that_only_footers_tell_of_are_enough(tmp_path: Path) -> None:
    x = np.arange(200_000) % 97 / 7.0
    mask = np.zeros(len(x), bool)
    mask[123_456] = True
    table = pa.table({"x": pa.array(x, mask=mask), "y": np.sin(x)})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=20_000)

    result = fit(str(tmp_path / "data.parquet"))

    assert [column.name for column in result.model.encoding.columns.numeric] == ["x", "x.is_null"]


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_mini_batches_and_evaluation_know_them(shuffle: str, data: str) -> None:
    result = fit(data, method="minibatch", epochs=20, shuffle=shuffle)

    exact = evaluate(fit(data, "exact").model, data).metrics["rmse"]
    assert evaluate(result.model, data).metrics["rmse"] == pytest.approx(exact, rel=0.01)


def test_a_name_that_is_taken_is_refused(data: str) -> None:
    table = pq.read_table(data)
    pq.write_table(table.append_column("x.is_null", table["k"]), data)

    with pytest.raises(ConfigError, match=r"two features would be called 'x\.is_null'"):
        fit(data)


def test_without_rows_that_have_nulls_they_have_no_meaning(data: str) -> None:
    with pytest.raises(ConfigError, match="--null-indicators: with --nulls drop no row with a null is used"):
        fit(data, nulls="drop")


@pytest.mark.parametrize("where", [None, "k >= 0"])
def test_nulls_of_rows_without_a_target_make_none(where: str | None, data: str) -> None:
    table = pq.read_table(data)
    without = pc.or_(pc.is_null(table["x"]), pc.is_nan(table["z"]))
    table = table.set_column(4, "y", pc.if_else(without, pa.scalar(None, pa.float64()), table["y"]))
    pq.write_table(table, data, row_group_size=700)
    result = fit(data, where=where)
    assert [column.name for column in result.model.encoding.columns.numeric] == ["x", "z", "k"]
    assert result.facts["warnings"] == []
