"""One pass over data: what numpy and scikit-learn say of the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit
from sklearn import metrics as oracle
from small_models import THETA, model, raw_predictions, table, with_nulls, write

import streamgd
from streamgd.data.columns import TargetColumn
from streamgd.errors import NoInputError
from streamgd.evaluation import evaluate
from streamgd.model import Model
from streamgd.report import diagnosis as module
from streamgd.report.diagnosis import Diagnosis, diagnose

ROWS = 3000


def regression() -> tuple[Model, pa.Table]:
    """A model of the squared loss and rows whose residuals have a spread of 2."""
    rows = table(ROWS)
    noise = np.random.default_rng(3).normal(0.0, 2.0, ROWS)
    rows = rows.append_column("cost", pa.array(raw_predictions(rows) + noise))
    by_model = model("squared", TargetColumn("cost"))
    by_model.facts.update(train_loss=2.0, base_loss=3.0)
    return by_model, rows


def diagnosed(folder: Path, rows: pa.Table, by_model: Model | None = None, **options: Any) -> Diagnosis:
    return diagnose(by_model or model(), [write(rows, folder / "data.parquet")], **options)


def test_the_metrics_are_those_of_evaluate(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, table(ROWS))
    assert found.evaluation == evaluate(model(), str(tmp_path / "data.parquet"))


def test_model_and_data_may_be_given_by_their_paths(tmp_path: Path) -> None:
    data = write(table(300), tmp_path / "data.parquet")
    model().save(tmp_path / "model.safetensors")
    found = diagnose(tmp_path / "model.safetensors", data)
    assert found.data == (data,)
    assert found.evaluation.rows == 300


def test_threads_change_nothing(tmp_path: Path) -> None:
    rows = with_nulls(table(ROWS), "delay", 7)
    one, four = (diagnosed(tmp_path, rows, threads=threads) for threads in (1, 4))
    assert one.numbers == four.numbers
    assert one.levels == four.levels
    np.testing.assert_array_equal(one.roc, four.roc)
    for first, other in zip(one.features, four.features, strict=True):
        np.testing.assert_array_equal(first.target, other.target)


def test_the_area_under_the_roc_curve_is_the_auc(tmp_path: Path) -> None:
    rows = table(ROWS)
    roc = diagnosed(tmp_path, rows).roc
    assert roc is not None
    exact = oracle.roc_auc_score(rows["late"].to_numpy(), raw_predictions(rows))
    assert oracle.auc(roc[:, 0], roc[:, 1]) == pytest.approx(exact, abs=1e-3)
    assert roc[0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(roc[-1], 1.0)
    assert (np.diff(roc, axis=0) >= 0.0).all()


def test_calibration_groups_hold_the_rows_in_the_order_of_their_probability(tmp_path: Path) -> None:
    rows = table(ROWS)
    along = diagnosed(tmp_path, rows).along_prediction
    late, probability = rows["late"].to_numpy().astype(float), expit(raw_predictions(rows))
    order = np.argsort(probability, kind="stable")
    ends = np.cumsum(along.weight).astype(int)
    for group, target, predicted in zip(np.split(order, ends[:-1]), along.target, along.prediction, strict=True):
        assert predicted == pytest.approx(probability[group].mean(), abs=1e-4)
        assert target == pytest.approx(late[group].mean(), abs=0.02)  # neighbours in one bin may change places
    assert along.weight.sum() == ROWS


def test_the_profile_of_a_number_is_that_of_its_known_values(tmp_path: Path) -> None:
    rows = with_nulls(table(ROWS), "delay", 5)
    found = {each.name: each for each in diagnosed(tmp_path, rows).numbers}
    for name, nulls in (("delay", ROWS // 5), ("distance", 0)):
        values = np.array([value for value in rows[name].to_pylist() if value is not None])
        profile = found[name]
        assert profile.nulls == nulls
        assert profile.mean == pytest.approx(values.mean())
        assert profile.deviation == pytest.approx(values.std())
        assert (profile.minimum, profile.maximum) == (pytest.approx(values.min()), pytest.approx(values.max()))


def test_a_number_without_any_value_has_no_moments(tmp_path: Path) -> None:
    found = {each.name: each for each in diagnosed(tmp_path, with_nulls(table(200), "delay", 1)).numbers}
    assert found["delay"].nulls == 200
    assert np.isnan([found["delay"].mean, found["delay"].deviation, found["delay"].minimum]).all()


def test_the_shares_of_levels_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = table(ROWS)
    (profile,) = diagnosed(tmp_path, rows).levels
    carriers = np.array(rows["carrier"].to_pylist())
    expected = {name: (carriers == name).mean() for name in ("UA", "AA", "WN")}
    assert dict(profile.levels) == pytest.approx(expected | {"(other)": (carriers == "ZZ").mean()})
    assert (profile.n_levels, profile.nulls) == (3, 0)


def test_actual_and_predicted_of_levels_are_their_means(tmp_path: Path) -> None:
    rows = table(ROWS)
    along = next(each for each in diagnosed(tmp_path, rows).features if each.name == "carrier")
    assert along.names == ("UA", "AA", "WN", "(other)")
    carriers, probability = np.array(rows["carrier"].to_pylist()), expit(raw_predictions(rows))
    late = rows["late"].to_numpy()
    for k, name in enumerate(("UA", "AA", "WN", "ZZ")):
        assert along.target[k] == pytest.approx(late[carriers == name].mean())
        assert along.prediction[k] == pytest.approx(probability[carriers == name].mean())


def with_carriers(levels: list[str], other: bool) -> Model:
    """The model with these levels of the carrier."""
    known = model().encoding
    carrier = replace(known.categorical[0], levels=pa.array(levels, pa.string()), other=other)
    theta = np.append(THETA[: 2 + carrier.n_rows], THETA[-1])
    made = Model("logistic", theta[:, None], replace(known, categorical=(carrier,)))
    made.encoding.check()
    return made


@pytest.mark.parametrize(
    ("levels", "other", "names"),
    [
        (["UA", "AA", "WN"], False, ("UA, or not listed", "AA", "WN")),
        (["UA"], False, ("UA, or not listed",)),
        ([], False, ("not listed",)),
        ([], True, ("(other)",)),
    ],
)
def test_rows_of_levels_that_are_not_listed_are_named_where_they_count(
    levels: list[str], other: bool, names: tuple[str, ...], tmp_path: Path
) -> None:
    rows = table(ROWS)
    found = diagnosed(tmp_path, rows, with_carriers(levels, other))
    (profile,) = found.levels
    along = next(each for each in found.features if each.name == "carrier")
    assert along.names == tuple(name for name, _ in profile.levels) == names
    carriers = np.array(rows["carrier"].to_pylist())
    assert along.weight[0] == (~np.isin(carriers, levels[1:])).sum()


def test_actual_and_predicted_along_a_number_are_means_of_neighbours_and_nulls_stand_apart(tmp_path: Path) -> None:
    rows = with_nulls(table(ROWS), "distance", 4)
    along = next(each for each in diagnosed(tmp_path, rows).features if each.name == "distance")
    known = [value is not None for value in rows["distance"].to_pylist()]
    late, probability = rows["late"].to_numpy(), expit(raw_predictions(rows))
    assert along.weight.sum() == sum(known)
    assert along.value @ along.weight / along.weight.sum() == pytest.approx(
        np.mean([value for value in rows["distance"].to_pylist() if value is not None])
    )
    assert (np.diff(along.value) > 0.0).all()
    assert along.target @ along.weight == pytest.approx(late[known].sum())
    assert along.nulls == pytest.approx((ROWS / 4, late[np.invert(known)].mean(), probability[np.invert(known)].mean()))


def test_features_come_by_the_size_of_their_coefficients_and_no_more_than_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [each.name for each in diagnosed(tmp_path, table(300)).features]
    assert names == ["carrier", "distance", "delay"]
    assert abs(THETA[:2]).argmax() == 0
    monkeypatch.setattr(module, "MOST_FEATURES", 2)
    assert [each.name for each in diagnosed(tmp_path, table(300)).features] == ["carrier", "distance"]


def test_residuals_are_counted_as_numpy_does(tmp_path: Path) -> None:
    by_model, rows = regression()
    found = diagnosed(tmp_path, rows, by_model)
    assert found.roc is None
    assert found.residuals is not None
    weight, edges = found.residuals
    residual = rows["cost"].to_numpy() - raw_predictions(rows)
    expected = np.histogram(residual, edges)[0]
    np.testing.assert_allclose(weight, expected, atol=1.0)  # one at an edge may fall on either side
    assert weight.sum() >= 0.995 * ROWS
    assert found.beyond == 0.0


def test_residuals_farther_out_than_the_bins_are_told(tmp_path: Path) -> None:
    by_model, rows = regression()
    by_model.facts["train_loss"] = 2.0 / 100**2  # the residuals were a hundredth in training
    found = diagnosed(tmp_path, rows, by_model)
    residual = rows["cost"].to_numpy() - raw_predictions(rows)
    assert found.beyond == pytest.approx((np.abs(residual) > 0.16).mean(), abs=1e-3)


def test_the_spread_along_the_prediction_is_that_of_the_residuals(tmp_path: Path) -> None:
    by_model, rows = regression()
    along = diagnosed(tmp_path, rows, by_model).along_prediction
    residual = rows["cost"].to_numpy() - raw_predictions(rows)
    assert along.squares @ along.weight == pytest.approx((residual**2).sum())
    assert (np.diff(along.prediction) > 0.0).all()


def test_the_rest_of_many_levels_stands_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LEVELS", 1)
    rows = table(600)
    found = diagnosed(tmp_path, rows)
    along = next(each for each in found.features if each.name == "carrier")
    assert along.names == ("UA", "(3 others)")
    carriers = np.array(rows["carrier"].to_pylist())
    assert along.weight.tolist() == [(carriers == "UA").sum(), (carriers != "UA").sum()]


def test_the_memory_does_not_grow_with_the_rows() -> None:
    found = module._Observer(model()).nothing()
    assert sum(sums.table.nbytes for sums in found.features) < 100_000


def test_no_row_left_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no row is left to evaluate on"):
        diagnosed(tmp_path, table(100), where="distance > 100000")


def test_lists_with_nulls_are_passed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    tags = [None if k % 7 == 0 else ["a", "b"][: k % 3] for k in range(600)]
    rows = pa.table({"tags": pa.array(tags, pa.list_(pa.string())), "x": rng.normal(size=600)})
    rows = rows.append_column("y", pa.array((np.arange(600) % 3 + rows["x"].to_numpy() > 1.0).astype(int)))
    write(rows, tmp_path / "data.parquet")
    result = streamgd.train(tmp_path / "data.parquet", "y", run=tmp_path / "run")
    assert diagnose(result, tmp_path / "data.parquet").evaluation.rows == 600
