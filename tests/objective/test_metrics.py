"""Metrics against scikit-learn, whatever the portions in which the rows are added."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as oracle

from streamgd.objective.losses import LOSSES, QuantileLoss
from streamgd.objective.metrics import Metrics, metrics_of


def added(loss: str, target: np.ndarray, raw: np.ndarray, weight: np.ndarray | None, cuts: Any = ()) -> Metrics:
    """Metrics of rows that are added in portions, cut at the given places."""
    metrics = metrics_of(LOSSES[loss])
    prediction = LOSSES[loss].inverse_link(raw)
    bounds = [0, *sorted(cuts), len(target)]
    for start, stop in pairwise(bounds):
        part = slice(start, stop)
        metrics.add(target[part], prediction[part], raw[part], None if weight is None else weight[part])
    return metrics


def classified(seed: int, rows: int, spread: float, weighted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    random = np.random.default_rng(seed)
    raw = spread * random.normal(size=rows) - 1.0
    target = (random.random(rows) < expit(raw)).astype(float)
    target[:2] = 0.0, 1.0
    return target, raw, random.exponential(size=rows) if weighted else None


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 500),
    spread=st.sampled_from([1e-6, 0.01, 1.0, 5.0, 1e3]),
    weighted=st.booleans(),
    decimals=st.integers(0, 8),
    cuts=st.lists(st.integers(0, 500), max_size=4),
)
def test_a_classifier_is_judged_as_by_scikit_learn(
    seed: int, rows: int, spread: float, weighted: bool, decimals: int, cuts: list[int]
) -> None:
    target, raw, weight = classified(seed, rows, spread, weighted)
    raw = np.round(raw, decimals)  # some are tied
    probability = expit(raw)

    metrics = added("logistic", target, raw, weight, [cut for cut in cuts if cut <= rows])
    found: dict[str, Any] = metrics.result()

    assert metrics.rows == rows
    assert metrics.weight == pytest.approx(rows if weight is None else weight.sum(), rel=1e-12)
    near = {"rel": 1e-11, "abs": 1e-12}
    assert found["log_loss"] == pytest.approx(oracle.log_loss(target, probability, sample_weight=weight), **near)
    assert found["brier"] == pytest.approx(oracle.brier_score_loss(target, probability, sample_weight=weight), **near)
    right = oracle.accuracy_score(target, probability > 0.5, sample_weight=weight)
    assert found["accuracy"] == pytest.approx(right, **near)
    assert found["positive_rate"] == pytest.approx(np.average(target, weights=weight), **near)
    assert found["mean_prediction"] == pytest.approx(np.average(probability, weights=weight), **near)
    auc = oracle.roc_auc_score(target, raw, sample_weight=weight)
    assert abs(found["auc"] - auc) <= found["auc_error_bound"] + 1e-12
    # The mean of the loss as it is trained on, of which the log loss is a clipped form.
    assert found["loss"] == pytest.approx(np.average(np.logaddexp(0, raw) - target * raw, weights=weight), **near)

    base = np.full(rows, np.average(target, weights=weight))
    assert found["base_log_loss"] == pytest.approx(oracle.log_loss(target, base, sample_weight=weight), **near)
    assert found["base_loss"] == found["base_log_loss"]
    assert found["base_brier"] == pytest.approx(oracle.brier_score_loss(target, base, sample_weight=weight), **near)
    assert found["base_accuracy"] == pytest.approx(max(base[0], 1 - base[0]), **near)
    assert found["base_auc"] == oracle.roc_auc_score(target, base, sample_weight=weight)


@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0, 10.0])
def test_the_error_bound_of_the_auc_is_small(spread: float) -> None:
    target, raw, weight = classified(0, 20_000, spread, True)

    found: dict[str, Any] = added("logistic", target, raw, weight).result()

    assert 0.0 < found["auc_error_bound"] < 1e-3
    assert abs(found["auc"] - oracle.roc_auc_score(target, raw, sample_weight=weight)) < found["auc_error_bound"]


def test_ties_make_the_auc_no_less_certain() -> None:
    target, raw, weight = classified(1, 5_000, 1.0, True)
    raw = np.round(raw * 2)

    found: dict[str, Any] = added("logistic", target, raw, weight).result()

    assert found["auc_error_bound"] == 0.0
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(target, raw, sample_weight=weight), abs=1e-12)


def test_the_bound_is_reached_when_close_predictions_are_all_in_the_wrong_order() -> None:
    target = np.array([0.0, 1.0])

    found: dict[str, Any] = added("logistic", target, np.array([1e-9, 0.5e-9]), None).result()

    assert found["auc"] == 0.5
    assert found["auc_error_bound"] == 0.5
    assert oracle.roc_auc_score(target, [1e-9, 0.5e-9]) == 0.0


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=30))
def test_bins_never_fall_as_predictions_rise(values: list[float]) -> None:
    raw = np.array(sorted(values) * 2)
    target = np.repeat([0.0, 1.0], len(values))
    metrics: Any = added("logistic", target, raw, None)

    lowest, highest = metrics._bins[2:]
    filled = lowest <= highest
    assert (highest[filled][:-1] < lowest[filled][1:]).all()
    assert metrics._bins[0].sum() == metrics._bins[1].sum() == len(values)


def test_one_class_has_no_auc() -> None:
    found = added("logistic", np.zeros(3), np.array([-1.0, 0.0, 1.0]), None).result()

    assert found["auc"] is None
    assert found["auc_error_bound"] is None
    assert found["base_log_loss"] == 0.0


def test_predictions_that_are_no_numbers_have_no_auc_and_no_loss() -> None:
    found: dict[str, Any] = added("logistic", np.array([0.0, 1.0]), np.array([np.nan, 1.0]), None).result()

    assert np.isnan(found["loss"])
    assert found["auc"] is None


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 300),
    mean=st.sampled_from([0.0, 3.0, -1e6]),
    weighted=st.booleans(),
    cuts=st.lists(st.integers(0, 300), max_size=4),
)
def test_a_regression_is_judged_as_by_scikit_learn(
    seed: int, rows: int, mean: float, weighted: bool, cuts: list[int]
) -> None:
    random = np.random.default_rng(seed)
    target = mean + random.normal(size=rows)
    raw = target + random.normal(size=rows)
    weight = random.exponential(size=rows) if weighted else None

    found: dict[str, Any] = added("squared", target, raw, weight, [cut for cut in cuts if cut <= rows]).result()

    near = {"rel": 1e-9}
    squared = oracle.mean_squared_error(target, raw, sample_weight=weight)
    assert found["loss"] == pytest.approx(squared / 2, **near)
    assert found["rmse"] == pytest.approx(np.sqrt(squared), **near)
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(target, raw, sample_weight=weight), **near)
    assert found["r2"] == pytest.approx(oracle.r2_score(target, raw, sample_weight=weight), rel=1e-6)
    base = np.full(rows, np.average(target, weights=weight))
    base_squared = oracle.mean_squared_error(target, base, sample_weight=weight)
    assert found["base_rmse"] == pytest.approx(np.sqrt(base_squared), **near)
    assert found["base_loss"] == pytest.approx(base_squared / 2, **near)
    assert found["mean_target"] == pytest.approx(base[0], **near)
    assert found["mean_prediction"] == pytest.approx(np.average(raw, weights=weight), **near)


def test_a_constant_target_has_no_r2() -> None:
    found = added("squared", np.full(3, 7.0), np.array([6.0, 7.0, 8.0]), None).result()

    assert found["r2"] is None
    assert found["base_rmse"] == 0.0


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"multinomial"}))
def test_a_weight_of_two_is_the_row_twice_and_zero_its_absence(loss: str) -> None:
    target, raw, _ = classified(4, 300, 1.0, False)
    target = target if LOSSES[loss].is_classifier else target + 0.5
    weight = np.random.default_rng(0).integers(0, 3, 300)

    weighted = added(loss, target, raw, weight.astype(float)).result()
    repeated = added(loss, np.repeat(target, weight), np.repeat(raw, weight), None).result()

    told = {name: value for name, value in repeated.items() if value is not None}
    assert weighted.keys() == repeated.keys()
    assert {name: weighted[name] for name in told} == pytest.approx(told, rel=1e-12)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"multinomial"}))
def test_no_rows_give_no_metrics(loss: str) -> None:
    assert metrics_of(LOSSES[loss]).result() == {}
    assert added(loss, np.empty(0), np.empty(0), None).result() == {}


GLMS = {"poisson": 1.0, "gamma": 2.0, "tweedie": 1.5}


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("loss", GLMS)
def test_amounts_are_judged_as_by_scikit_learn(loss: str, with_offset: bool) -> None:
    random = np.random.default_rng(3)
    rows = 5_000
    exposure = random.uniform(0.2, 2.0, rows) if with_offset else np.ones(rows)
    rate, weight = np.exp(random.normal(0.0, 0.6, rows)), random.choice([0.5, 1.0, 3.0], rows)
    target = exposure * random.gamma(2.0, 0.5 * rate) if loss == "gamma" else random.poisson(exposure * rate) * 1.0
    raw = 0.7 * np.log(rate) + np.log(exposure)
    metrics = metrics_of(LOSSES[loss])
    for part in (slice(0, 700), slice(700, 701), slice(701, rows)):
        metrics.add(target[part], np.exp(raw[part]), raw[part], weight[part], np.log(exposure[part]))
    found = metrics.result()
    power = GLMS[loss]

    assert found["deviance"] == pytest.approx(
        oracle.mean_tweedie_deviance(target, np.exp(raw), power=power, sample_weight=weight), rel=1e-10
    )
    best = (weight * target * exposure ** (1 - power)).sum() / (weight * exposure ** (2 - power)).sum() * exposure
    base = oracle.mean_tweedie_deviance(target, best, power=power, sample_weight=weight)
    assert found["base_deviance"] == pytest.approx(base, rel=1e-10)
    if not with_offset:
        d2 = oracle.d2_tweedie_score(target, np.exp(raw), power=power, sample_weight=weight)
        assert found["d2"] == pytest.approx(d2, rel=1e-9)
    assert found["mae"] == pytest.approx(
        oracle.mean_absolute_error(target, np.exp(raw), sample_weight=weight), rel=1e-12
    )

    # The curve of Lorenz as in scikit-learn's example on claims.
    order = np.argsort(raw - np.log(exposure))
    share = np.append(0.0, np.cumsum((weight * target)[order]) / (weight * target).sum())
    along = np.append(0.0, np.cumsum((weight * exposure)[order]) / (weight * exposure).sum())
    bound = found["gini_error_bound"]
    assert bound is not None
    assert bound < 1e-4
    assert found["gini"] == pytest.approx(1.0 - 2.0 * oracle.auc(along, share), abs=bound + 1e-12)
    ends = np.interp([0.1, 0.9], along, share)
    assert found["top_decile_lift"] == pytest.approx(10.0 * (1.0 - ends[1]), rel=1e-3)
    assert found["bottom_decile_lift"] == pytest.approx(10.0 * ends[0], rel=1e-3)


def test_amounts_that_are_all_zero_have_no_base() -> None:
    found = added("poisson", np.zeros(4), np.zeros(4), None).result()

    assert found["base_deviance"] is None
    assert found["d2"] is None
    assert found["gini"] is None


@pytest.mark.parametrize(("loss", "expected"), [("squared_hinge", (1.5**2 + 1.5**2) / 4.0), ("hinge", 3.0 / 4.0)])
def test_a_margin_has_no_metrics_of_probabilities(loss: str, expected: float) -> None:
    target, raw = np.array([0.0, 0.0, 1.0, 1.0]), np.array([-2.0, 0.5, -0.5, 3.0])
    metrics = metrics_of(LOSSES[loss])
    metrics.add(target, (raw > 0.0).astype(float), raw, None)
    found = metrics.result()

    assert found["loss"] == pytest.approx(expected)
    assert found["base_loss"] == pytest.approx(1.0)
    assert found["accuracy"] == 0.5
    assert found["auc"] == 0.75
    assert not {"log_loss", "brier", "mean_prediction"} & set(found)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.83])
@pytest.mark.parametrize("centre", [0.0, 1e6])
def test_metrics_of_a_quantile_are_those_of_scikit_learn(quantile: float, weighted: bool, centre: float) -> None:
    rng, metrics = np.random.default_rng(2), metrics_of(QuantileLoss(quantile))
    target, away = centre + 7.0 * rng.standard_t(3.0, 5_000), rng.normal(size=5_000)
    prediction, weight = target + 3.0 * away, rng.integers(1, 4, 5_000).astype(float) if weighted else None
    for rows in np.array_split(np.arange(5_000), 7):
        metrics.add(target[rows], prediction[rows], prediction[rows], None if weight is None else weight[rows])
    found = metrics.result()

    options: dict[str, Any] = {"alpha": quantile, "sample_weight": weight}
    assert found["loss"] == pytest.approx(oracle.mean_pinball_loss(target, prediction, **options), rel=1e-12)
    assert found["d2"] == pytest.approx(oracle.d2_pinball_score(target, prediction, **options), abs=1e-6)
    assert found["coverage"] == pytest.approx(np.average(target < prediction, weights=weight), rel=1e-12)


def test_a_quantile_of_targets_that_are_all_alike_has_no_base() -> None:
    metrics = metrics_of(QuantileLoss(0.5))
    metrics.add(np.full(3, 2.0), np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 4.0]), None)
    found = metrics.result()

    assert found["base_loss"] == 0.0
    assert found["d2"] is None
    assert found["coverage"] == pytest.approx(1 / 3)
