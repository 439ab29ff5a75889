"""Errors, tests and intervals of coefficients are those of statsmodels; without a meaning, they have a reason."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Scaling
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError
from streamgd.inference import ClosingSums, Inference, infer
from streamgd.model import Model
from streamgd.objective.losses import LOSSES
from streamgd.state import CorruptStateError


@dataclass
class Sample:
    """Rows with two numbers and a column of three levels; ``X`` in original units, the ones of the intercept last."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    loss: str

    @classmethod
    def draw(cls, loss: str, rows: int = 3_000, seed: int = 1) -> Sample:
        rng = np.random.default_rng(seed)
        a, b, level = rng.normal(3.0, 2.0, rows), rng.exponential(100.0, rows), rng.choice(3, rows, p=[0.6, 0.3, 0.1])
        X = np.column_stack([a, b, level == 1, level == 2, np.ones(rows)]).astype(np.float64)
        raw = X @ [0.7, -0.01, 0.5, -0.6, -1.0]
        noise = rng.normal(size=rows) * np.hypot(1.0, a)  # of another size in every row
        y = (rng.random(rows) < expit(raw)).astype(np.float64) if loss == "logistic" else raw + noise
        return cls(X, y, rng.integers(1, 4, rows).astype(np.float64), loss)

    def fit(self, cov_type: str = "nonrobust") -> Any:
        family = sm.families.Binomial() if self.loss == "logistic" else sm.families.Gaussian()
        model = sm.GLM(self.y, self.X, family=family, freq_weights=self.weight)
        return model.fit(cov_type=cov_type, tol=1e-14, maxiter=100)

    def sums(self, encoding: Encoding, values: np.ndarray) -> ClosingSums:
        """In the coordinates of ``encoding``, at coefficients in original units."""
        raw = self.X @ values
        prediction = expit(raw) if self.loss == "logistic" else raw
        curvature = prediction * (1.0 - prediction) if self.loss == "logistic" else np.ones(len(raw))
        rate = np.full(len(raw), self.weight @ self.y / self.weight.sum())
        base = np.log(rate / (1.0 - rate)) if self.loss == "logistic" else rate
        Z, residual = standardised(self.X, encoding), prediction - self.y
        return ClosingSums(
            Z.T @ (Z * (self.weight * curvature)[:, None]), Z.T @ (Z * (self.weight * residual**2)[:, None]),
            (Z.T @ (self.weight * residual))[:, None], float(self.weight.sum()), self.summed_loss(raw),
            self.summed_loss(base),
        )  # fmt: skip

    def summed_loss(self, raw: np.ndarray) -> float:
        losses = np.logaddexp(0.0, raw) - self.y * raw if self.loss == "logistic" else 0.5 * (raw - self.y) ** 2
        return float(self.weight @ losses)

    def infer(self, values: np.ndarray | None = None, errors: Any = "classical", level: float = 0.95) -> Inference:
        encoding = encoding_of(self.X)
        values = np.asarray(self.fit().params) if values is None else values
        return infer(self.sums(encoding, values), encoding, LOSSES[self.loss], values, errors, level)


def encoding_of(X: np.ndarray, shift: np.ndarray | None = None, scale: np.ndarray | None = None) -> Encoding:
    """Numbers ``x0 …`` but for the last three columns: those are levels y and z of ``level``, and the intercept."""
    n = X.shape[1] - 3
    shift = X[:, :n].mean(axis=0) if shift is None else shift
    scale = np.where(X[:, :n].std(axis=0) > 0.0, X[:, :n].std(axis=0), 1.0) if scale is None else scale
    column = CategoricalColumn("level", "string")
    numbers = tuple(NumericColumn(f"x{i}", f"x{i}") for i in range(n))
    return Encoding(
        Columns(numbers, (column,), TargetColumn("y")), Scaling(shift, scale, np.zeros(n), np.ones(n), np.zeros(n)),
        (CategoricalEncoding(column, n, pa.array(["x", "y", "z"]), False, 0),), "impute",
    )  # fmt: skip


def standardised(X: np.ndarray, encoding: Encoding) -> np.ndarray:
    n, Z = encoding.n_numeric, X.copy()
    Z[:, :n] = (Z[:, :n] - encoding.scaling.shift) / encoding.scaling.scale
    return Z


class TestAgainstStatsmodels:
    @pytest.mark.parametrize("loss", ["squared", "logistic"])
    @pytest.mark.parametrize(("errors", "cov_type"), [("classical", "nonrobust"), ("robust", "HC0")])
    def test_errors_tests_and_intervals_of_weighted_rows(self, loss: str, errors: str, cov_type: str) -> None:
        sample = Sample.draw(loss)
        expected, found = sample.fit(cov_type), sample.infer(errors=errors)
        np.testing.assert_allclose(found.standard_error, expected.bse, rtol=1e-9)
        np.testing.assert_allclose(found.covariance, expected.cov_params(), rtol=1e-7)
        np.testing.assert_allclose(found.z, expected.tvalues, rtol=1e-9)
        np.testing.assert_allclose(found.p_value, expected.pvalues, rtol=1e-6, atol=1e-300)
        np.testing.assert_allclose(np.stack([found.lower, found.upper], axis=1), expected.conf_int(), rtol=1e-8)
        assert found.reasons == [None] * 5

    @pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
    def test_intervals_of_any_level(self, level: float) -> None:
        sample = Sample.draw("logistic")
        found = sample.infer(level=level)
        expected = sample.fit().conf_int(alpha=1.0 - level)
        np.testing.assert_allclose(np.stack([found.lower, found.upper], axis=1), expected, rtol=1e-8)

    @pytest.mark.parametrize("loss", ["squared", "logistic"])
    def test_how_well_it_fits(self, loss: str) -> None:
        sample = Sample.draw(loss)
        expected, found = sample.fit(), sample.infer().fit
        assert found.rank == 5
        assert found.least_deviance == pytest.approx(expected.deviance, rel=1e-12)
        for name, value in {
            "observations": sample.weight.sum(), "dispersion": expected.scale, "deviance": expected.deviance,
            "null_deviance": expected.null_deviance, "log_likelihood": expected.llf, "aic": expected.aic,
        }.items():  # fmt: skip
            assert getattr(found, name) == pytest.approx(value, rel=1e-12), name

    def test_the_aic_of_a_squared_loss_is_that_of_ordinary_least_squares(self) -> None:
        sample = replace(Sample.draw("squared"), weight=np.ones(3_000))
        assert sample.infer().fit.aic == pytest.approx(sm.OLS(sample.y, sample.X).fit().aic, rel=1e-12)


class TestInvariance:
    @settings(max_examples=20)
    @given(
        st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=2)
    )
    def test_errors_do_not_depend_on_the_coordinates_of_theta(self, shift: list[float], scale: list[float]) -> None:
        sample = Sample.draw("squared", rows=300)
        values = np.asarray(sample.fit().params)
        other = encoding_of(sample.X, np.array(shift), np.array(scale))
        found = infer(sample.sums(other, values), other, LOSSES["squared"], values, "robust")
        np.testing.assert_allclose(found.standard_error, sample.infer(errors="robust").standard_error, rtol=1e-4)

    @pytest.mark.parametrize("errors", ["classical", "robust"])
    def test_a_weight_of_two_is_the_row_twice(self, errors: str) -> None:
        weighted = Sample.draw("logistic")
        again = np.repeat(np.arange(3_000), weighted.weight.astype(int))
        repeated = Sample(weighted.X[again], weighted.y[again], np.ones(len(again)), "logistic")
        found, expected = weighted.infer(errors=errors), repeated.infer(errors=errors)
        np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=1e-9)
        assert found.fit.aic == pytest.approx(expected.fit.aic, rel=1e-12)

    def test_the_unit_of_the_target_is_that_of_the_errors(self) -> None:
        sample = Sample.draw("squared")
        in_cents = replace(sample, y=sample.y * 100.0)
        for errors in ("classical", "robust"):
            np.testing.assert_allclose(
                in_cents.infer(errors=errors).standard_error, sample.infer(errors=errors).standard_error * 100.0
            )
        values = np.asarray(sample.fit().params)
        encoding = encoding_of(sample.X)
        moved = sample.sums(encoding, values).for_target(100.0)
        expected = in_cents.sums(encoding, values * 100.0)
        for name, value in expected.state().items():
            if value is None:
                continue
            np.testing.assert_allclose(getattr(moved, name), value, rtol=1e-9, atol=1e-6, err_msg=name)


class TestAwayFromTheMaximum:
    def held(self, sample: Sample, l2: float) -> np.ndarray:
        """The coefficients that minimise the mean loss and the penalty of the standardised features."""
        encoding, total = encoding_of(sample.X), sample.weight.sum()
        theta, penalty = np.zeros(5), np.array([l2] * 4 + [0.0])
        for _ in range(30):
            sums = sample.sums(encoding, encoding.in_original_units(theta[:, None])[:, 0])
            gradient, hessian = sums.gradient[:, 0] / total + penalty * theta, sums.information / total
            theta -= np.linalg.solve(hessian + np.diag(penalty), gradient)
        return encoding.in_original_units(theta[:, None])[:, 0]

    @pytest.mark.parametrize(("loss", "l2", "missed"), [("squared", 0.03, 1e-9), ("logistic", 0.003, 0.05)])
    def test_estimates_and_fit_are_those_without_the_penalty(self, loss: str, l2: float, missed: float) -> None:
        sample = Sample.draw(loss)
        values, fit = self.held(sample, l2), sample.fit()
        found = sample.infer(values)
        assert (np.abs(values - fit.params) / fit.bse).max() > 0.5
        assert (np.abs(found.estimate - fit.params) / fit.bse).max() < missed
        np.testing.assert_allclose(found.standard_error, fit.bse, rtol=1e-9 if loss == "squared" else 0.03)
        assert found.fit.deviance > fit.deviance + 0.1
        assert found.fit.aic == pytest.approx(fit.aic, abs=1e-6 if loss == "squared" else 0.1)

    def test_a_level_of_one_class_has_no_errors_once_they_would_mislead(self) -> None:
        """Where l2 alone keeps a coefficient finite, it looks more significant the larger it is."""
        sample = Sample.draw("logistic")
        sample.y[sample.X[:, 3] == 1] = 0.0
        found = sample.infer(self.held(sample, 1e-3))
        assert str(found.reasons[3]).startswith(
            "far from the maximum of the likelihood: nearly collinear with others, or"
        )
        assert "(--l2 0 gives errors)" in str(found.reasons[3])
        assert [reason is None for reason in found.reasons] == [True, True, True, False, True]

    def test_a_run_that_is_far_from_its_end_has_neither_errors_nor_likelihood(self) -> None:
        found = Sample.draw("logistic").infer(np.array([0.0, 0.0, 0.0, 0.0, -1.0]))
        assert all(found.reasons)
        assert (found.fit.least_deviance, found.fit.aic) == (None, None)


class TestWithoutMeaning:
    def with_column(self, column: np.ndarray, loss: str = "squared") -> tuple[Inference, Any]:
        """What is found for the sample with another number ``x2``, and statsmodels without that number."""
        sample = Sample.draw(loss)
        fit = sample.fit()
        wider = replace(sample, X=np.insert(sample.X, 2, column, axis=1))
        return wider.infer(np.insert(np.asarray(fit.params), 2, 0.0)), fit

    @pytest.mark.parametrize("loss", ["squared", "logistic"])
    def test_collinear_columns_have_no_errors_and_the_others_keep_theirs(self, loss: str) -> None:
        found, fit = self.with_column(3.0 * Sample.draw(loss).X[:, 1] + 5.0, loss)
        assert [reason is None for reason in found.reasons] == [True, False, False, True, True, False]
        assert found.reasons[1] == "collinear with x2, (intercept)"
        np.testing.assert_allclose(found.standard_error[[0, 3, 4]], np.asarray(fit.bse)[[0, 2, 3]], rtol=1e-6)
        assert np.isnan(found.standard_error[[1, 2, 5]]).all()
        assert np.isnan(found.covariance[1]).all()
        assert found.fit.rank == 5
        assert found.fit.aic == pytest.approx(fit.aic)

    def test_a_column_that_is_another_in_float32_is_collinear(self) -> None:
        twice = (2.0 * Sample.draw("squared").X[:, 0]).astype(np.float32) / np.float32(3.0)
        found, _ = self.with_column(twice.astype(np.float64))
        assert [reason is None for reason in found.reasons[:4]] == [False, True, False, True]

    def test_a_column_that_is_nearly_another_is_not(self) -> None:
        sample = Sample.draw("squared")
        near = sample.X[:, 0] + 1e-4 * np.random.default_rng(0).normal(size=3_000)
        wider = replace(sample, X=np.insert(sample.X, 2, near, axis=1))
        found = wider.infer()
        assert found.reasons == [None] * 6
        np.testing.assert_allclose(found.standard_error, wider.fit().bse, rtol=1e-4)

    def test_a_constant_column_counts_as_left_out(self) -> None:
        found, fit = self.with_column(np.full(3_000, 7.0))
        assert found.reasons[2] == "no training row tells it: constant, or a level without rows"
        np.testing.assert_allclose(np.delete(found.standard_error, 2), fit.bse, rtol=1e-9)

    def test_as_many_coefficients_as_rows_leave_nothing_to_tell_errors_by(self) -> None:
        sample = Sample.draw("squared", rows=30)
        levels = (sample.X[:, 2] + sample.X[:, 3] == 0, sample.X[:, 2] == 1, sample.X[:, 3] == 1)
        few = np.concatenate([np.flatnonzero(rows)[:n] for rows, n in zip(levels, (2, 2, 1), strict=True)])
        exact = replace(sample, X=sample.X[few], y=sample.y[few], weight=np.ones(5))
        for errors in ("classical", "robust"):
            found = exact.infer(np.linalg.solve(exact.X, exact.y), errors)
            assert found.fit.dispersion is None
            assert np.isnan(found.standard_error).all()
            assert set(found.reasons) == {"no residuals to tell it by"}

    def test_a_perfect_fit_has_neither_errors_nor_likelihood(self) -> None:
        sample = Sample.draw("squared")
        values = np.array([1.0, 0.0, 2.0, -1.0, 0.0])
        perfect = replace(sample, X=np.round(sample.X), y=np.round(sample.X) @ values)
        encoding = encoding_of(perfect.X)
        sums = replace(perfect.sums(encoding, values), loss=0.0)
        found = infer(sums, encoding, LOSSES["squared"], values, "classical")
        assert set(found.reasons) == {"no residuals to tell it by"}
        assert (found.fit.log_likelihood, found.fit.aic) == (None, None)

    @pytest.mark.parametrize("scale", [1e-310, 1e300])
    def test_units_beyond_all_measure_give_no_nan_without_a_reason(self, scale: float) -> None:
        sample = Sample.draw("squared")
        encoding = encoding_of(sample.X)
        sums = sample.sums(encoding, np.asarray(sample.fit().params))
        deviation = np.array([scale, 1.0])
        encoding = encoding.with_scaling(replace(encoding.scaling, deviation=deviation))
        values = encoding.in_original_units(np.ones((5, 1)))[:, 0]
        found = infer(sums, encoding, LOSSES["squared"], values, "classical")
        assert [math.isnan(each) for each in found.standard_error] == [reason is not None for reason in found.reasons]


class TestModel:
    def model(self, **facts: Any) -> Model:
        sample = Sample.draw("logistic")
        encoding, values = encoding_of(sample.X), np.asarray(sample.fit().params)
        theta = values.copy()
        theta[:2] *= encoding.scaling.scale
        theta[-1] += encoding.scaling.shift @ values[:2]
        return Model("logistic", theta[:, None], encoding, facts, sample.sums(encoding, values))

    def test_the_table_has_every_coefficient_with_its_errors(self) -> None:
        model, fit = self.model(), Sample.draw("logistic").fit("HC0")
        table = model.coefficient_table()
        assert table.column_names == [
            "name", "column", "level", "value", "standardised", "estimate", "standard_error", "z",
            "p_value", "lower", "upper", "reason",
        ]  # fmt: skip
        assert table["name"].to_pylist() == ["x0", "x1", "level=y", "level=z", "(intercept)"]
        np.testing.assert_allclose(table["value"], fit.params, rtol=1e-9)
        np.testing.assert_allclose(table["standard_error"], fit.bse, rtol=1e-9)  # robust, where they are there
        assert table["reason"].null_count == 5

    def test_errors_of_either_kind_can_be_asked_for(self) -> None:
        model = self.model()
        for errors, cov_type in (("classical", "nonrobust"), ("robust", "HC0")):
            table = model.coefficient_table(errors)  # type: ignore[arg-type]
            np.testing.assert_allclose(table["standard_error"], Sample.draw("logistic").fit(cov_type).bse, rtol=1e-9)

    def test_what_is_not_there_is_refused_with_the_reason(self) -> None:
        model = self.model(no_errors="l1 is 0.1")
        classical = replace(model, closing=replace(model.closing, meat=None))
        assert classical.inference().errors == "classical"
        with pytest.raises(ConfigError, match="Run it again with --errors robust"):
            classical.inference("robust")
        without = replace(model, closing=None)
        with pytest.raises(ConfigError, match=r"the coefficients have no errors: l1 is 0\.1"):
            without.inference()
        table = without.coefficient_table()
        assert table["standard_error"].null_count == 5
        assert set(table["reason"].to_pylist()) == {"l1 is 0.1"}
        with pytest.raises(ConfigError, match="expected classical or robust, found 'HC3'"):
            model.inference("HC3")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="--level: expected a number between 0 and 1"):
            model.inference(level=95.0)

    def test_a_file_keeps_the_sums_and_may_have_none(self) -> None:
        model = self.model()
        again = Model.from_bytes(model.to_bytes(), "the file")
        assert again.coefficient_table() == model.coefficient_table()
        without = Model.from_bytes(replace(model, closing=None).to_bytes(), "the file")
        assert without.no_errors == "they come from the closing pass of --method batch"

    @pytest.mark.parametrize(
        "change",
        [
            {"information": np.zeros((4, 4))}, {"information": np.full((5, 5), np.nan)}, {"meat": np.zeros(5)},
            {"gradient": np.zeros((5, 1), np.float32)}, {"weight": float("nan")}, {"loss": 3},
        ],
    )  # fmt: skip
    def test_sums_of_another_model_are_damage(self, change: dict[str, Any]) -> None:
        model = self.model()
        other = replace(model, closing=replace(model.closing, **change))
        with pytest.raises(CorruptStateError, match="the file: damaged"):
            Model.from_bytes(other.to_bytes(), "the file")

    def test_nulls_of_the_table_are_nulls_in_json(self) -> None:
        model = self.model()
        constant = replace(model.closing, information=model.closing.information * [[1], [0], [1], [1], [1]])
        constant.information[:, 1] = 0.0
        rows = replace(model, closing=constant).coefficient_rows()
        assert rows[1]["standard_error"] is None
        assert rows[1]["reason"]
        json.dumps(rows, allow_nan=False)
