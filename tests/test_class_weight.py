"""``--class-weight balanced``: scikit-learn's weights, and its optimum; what is measured afterwards is not weighted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from streamgd.data import blocks
from streamgd.errors import ConfigError, PausedError
from streamgd.evaluation import evaluate
from streamgd.training.train import Result, train

ROWS, L2 = 4000, 1e-3


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One row in twelve or so is positive; weights are 1 to 3; blocks have 400 rows."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 400)
    random = np.random.default_rng(0)
    x, z = random.normal(3.0, 2.0, ROWS), random.normal(size=ROWS)
    y = random.random(ROWS) < 1 / (1 + np.exp(5.0 - 0.7 * x - z))
    assert 0.05 < y.mean() < 0.15
    columns = {"x": x, "z": z, "w": random.integers(1, 4, ROWS), "y": np.where(y, "yes", "no")}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet", row_group_size=500)
    return str(tmp_path / "data.parquet")


def fit(data: str, run: str = "run", **options: Any) -> Result:
    defaults: dict[str, Any] = {"features": "x,z", "method": "batch", "dtype": "float64", "class_weight": "balanced"}
    path = Path(data).parent / run
    return train(data, "y", run=path, **{**defaults, "l2": L2, "epochs": 50, **options})


def columns_of(data: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = pq.read_table(data)
    features = np.stack([table["x"].to_numpy(), table["z"].to_numpy()], axis=1)
    return features, table["y"].to_numpy() == "yes", table["w"].to_numpy()


def optimum(data: str, sample_weight: np.ndarray, **options: Any) -> np.ndarray:
    """Coefficients of standardised features, the intercept last, by scikit-learn."""
    features, positive, _ = columns_of(data)
    scaled = StandardScaler().fit(features, sample_weight=options.pop("scaler_weight", None)).transform(features)
    regression = LogisticRegression(C=1.0 / (L2 * sample_weight.sum()), solver="newton-cholesky", tol=1e-12, **options)
    regression.fit(scaled, positive, sample_weight)
    return np.append(regression.coef_, regression.intercept_)


def test_the_optimum_is_that_of_scikit_learn(data: str) -> None:
    result = fit(data)

    expected = optimum(data, np.ones(ROWS), class_weight="balanced")
    np.testing.assert_allclose(result.model.theta[:, 0], expected, rtol=1e-6)


def test_the_weights_are_told(data: str) -> None:
    _, positive, _ = columns_of(data)

    facts = fit(data).facts

    no, yes = compute_class_weight("balanced", classes=np.array([False, True]), y=positive)
    assert facts["class_weights"] == pytest.approx({"no": no, "yes": yes})
    assert facts["base_loss"] == pytest.approx(np.log(2.0))
    assert facts["no_errors"].startswith("with --class-weight balanced rows count by their class")
    assert "class_weights" not in fit(data, "none", class_weight="none").facts


def test_they_multiply_the_weights_of_rows(data: str) -> None:
    _, positive, weight = columns_of(data)
    total = np.array([weight[~positive].sum(), weight[positive].sum()])
    of_class = total.sum() / (2 * total)

    result = fit(data, weight="w")

    expected = optimum(data, weight * of_class[positive.astype(int)], scaler_weight=weight)
    np.testing.assert_allclose(result.model.theta[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("weight", [None, "w"])
@pytest.mark.parametrize(
    "way", [{"method": "minibatch"}, {"method": "minibatch", "shuffle": "window"}, {"method": "sgd"}]
)
def test_every_method_goes_there(way: dict[str, Any], weight: str | None, data: str) -> None:
    exact = fit(data, "exact", weight=weight).model.theta[:, 0]

    result = fit(data, weight=weight, batch_size=16, **{**way, "epochs": 20})

    np.testing.assert_allclose(result.model.theta[:, 0], exact, atol=0.1)
    unweighted = fit(data, "unweighted", class_weight="none", weight=weight).model.theta[:, 0]
    assert abs(unweighted - exact).max() > 1.0


def test_the_holdout_loss_is_weighted_as_training_is(data: str) -> None:
    facts = fit(data, holdout=0.3, method="minibatch", epochs=10).facts

    assert abs(facts["holdout_loss"] - facts["train_loss"]) < 0.1
    assert facts["train_loss"] > 0.3


@pytest.mark.parametrize("weight", [None, "w"])
def test_evaluation_is_not_weighted_by_class(data: str, weight: str | None) -> None:
    _, positive, weights = columns_of(data)
    weights = np.ones(ROWS) if weight is None else weights

    found = evaluate(fit(data, weight=weight).model, data)

    assert found.weight == weights.sum()
    assert found.metrics["positive_rate"] == pytest.approx(weights[positive].sum() / weights.sum())


@pytest.mark.parametrize("way", [{"method": "minibatch"}, {"method": "minibatch", "shuffle": "window"}, {}])
def test_a_run_that_goes_on_ends_the_same(way: dict[str, Any], data: str) -> None:
    options: dict[str, Any] = {"epochs": 3, **way}
    undisturbed = fit(data, "undisturbed", **options)
    phase = "epoch 2" if way else "pass 2"
    with pytest.raises(PausedError):
        fit(data, display=Listener(phase, lambda: os.kill(os.getpid(), signal.SIGTERM)), **options)

    assert fit(data, **options).model.theta_sha256 == undisturbed.model.theta_sha256


@pytest.mark.parametrize("way", [{"method": "auto", "epochs": None}, {"method": "batch"}])
def test_levels_of_one_class_alone_are_named(way: dict[str, Any], data: str) -> None:
    table = pq.read_table(data)
    random = np.random.default_rng(1)
    level = random.choice(["a", "b", "c"], ROWS).astype(object)
    positive = table["y"].to_numpy() == "yes"
    level[~positive & (random.random(ROWS) < 0.3)] = "only no"
    level[positive & (random.random(ROWS) < 0.3)] = "only yes"
    pq.write_table(table.append_column("level", pa.array(level)), data, row_group_size=500)
    display = Listener()

    result = fit(data, features="x,z,level", display=display, **way)

    (warning,) = [text for text in display.warnings if text.startswith("levels of one class only: ")]
    assert "level=only yes" in warning
    assert not any(f"level={name}" in warning for name in "abc")
    assert result.facts["method"] == way["method"]


def test_the_default_method_comes_to_the_optimum(data: str) -> None:
    result = fit(data, method="auto", epochs=None)

    expected = optimum(data, np.ones(ROWS), class_weight="balanced")
    np.testing.assert_allclose(result.model.theta[:, 0], expected, rtol=1e-6)


def test_it_is_for_two_classes(data: str) -> None:
    with pytest.raises(ConfigError, match="--class-weight is for classes, the loss is squared"):
        train(data, "x", run=Path(data).parent / "run", features="z", class_weight="balanced")
    with pytest.raises(ConfigError, match="--errors robust"):
        fit(data, errors="robust")
