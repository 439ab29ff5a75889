"""Metrics of several classes, held against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from streamgd.objective.losses import LOSSES
from streamgd.objective.metrics import ClassifierMetrics
from streamgd.objective.multiclass import MulticlassMetrics, metrics_for

LOSS = LOSSES["multinomial"]
N_CLASSES = 4


def rows(n: int = 3_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, raw predictions that tell something of them, and weights."""
    rng = np.random.default_rng(1)
    target = rng.choice(N_CLASSES, n, p=[0.5, 0.3, 0.15, 0.05]).astype(float)
    raw = rng.normal(size=(n, N_CLASSES)) + 1.5 * np.eye(N_CLASSES)[target.astype(int)]
    return target, raw, rng.choice([0.5, 1.0, 3.0], n)


def tallied(target: np.ndarray, raw: np.ndarray, weight: np.ndarray | None, portions: int = 1) -> MulticlassMetrics:
    found = MulticlassMetrics(LOSS, raw.shape[1])
    for part in np.array_split(np.arange(len(target)), portions):
        found.add(target[part], LOSS.inverse_link(raw[part]), raw[part], None if weight is None else weight[part])
    return found


@pytest.mark.parametrize("weighted", [True, False])
def test_metrics_are_those_of_scikit_learn(weighted: bool) -> None:
    target, raw, weight = rows()
    sample_weight = weight if weighted else None
    found = tallied(target, raw, sample_weight)
    result, p = found.result(), LOSS.inverse_link(raw)
    predicted, options = p.argmax(axis=1), {"sample_weight": sample_weight}

    assert result["log_loss"] == pytest.approx(oracle.log_loss(target, p, **options), rel=1e-12)
    assert result["loss"] == pytest.approx(result["log_loss"], rel=1e-12)
    assert result["accuracy"] == pytest.approx(oracle.accuracy_score(target, predicted, **options), rel=1e-12)
    assert result["macro_recall"] == pytest.approx(oracle.balanced_accuracy_score(target, predicted, **options))
    assert result["macro_f1"] == pytest.approx(oracle.f1_score(target, predicted, average="macro", **options))
    np.testing.assert_allclose(found.confusion, oracle.confusion_matrix(target, predicted, **options), rtol=1e-12)
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(target, predicted, **options)
    aucs = []
    for number, of_class in enumerate(found.of_classes()):
        expected = oracle.roc_auc_score(target == number, p[:, number], **options)
        assert of_class.auc_error_bound is not None
        assert of_class.auc_error_bound < 1e-3
        assert of_class.auc == pytest.approx(expected, abs=of_class.auc_error_bound + 1e-12)
        assert (of_class.precision, of_class.recall) == (
            pytest.approx(precision[number]),
            pytest.approx(recall[number]),
        )
        assert of_class.f1 == pytest.approx(f1[number])
        aucs.append(of_class.auc)
    assert result["macro_auc"] == pytest.approx(np.mean(aucs))


def test_the_base_is_the_best_constant() -> None:
    target, raw, weight = rows()
    result = tallied(target, raw, weight).result()
    shares = np.bincount(target.astype(int), weight) / weight.sum()
    constant = tallied(target, np.tile(LOSS.link(shares), (len(target), 1)), weight).result()

    for name in ("loss", "log_loss", "accuracy", "macro_recall", "macro_f1", "macro_auc"):
        assert result[f"base_{name}"] == pytest.approx(constant[name], rel=1e-12)


def test_portions_add_up() -> None:
    target, raw, weight = rows()
    whole, parts = tallied(target, raw, weight).result(), tallied(target, raw, weight, portions=7).result()
    assert parts == pytest.approx(whole, rel=1e-12)


def test_a_class_without_rows_does_not_count_in_the_means() -> None:
    target, raw, _ = rows()
    kept = target != 3.0
    found = tallied(target[kept], raw[kept], None)
    (last,) = found.of_classes()[3:]

    assert (last.actual, last.recall, last.auc) == (0.0, None, None)
    assert found.result()["macro_recall"] == pytest.approx(
        np.mean([each.recall for each in found.of_classes()[:3] if each.recall is not None])
    )
    assert MulticlassMetrics(LOSS, N_CLASSES).result() == {}


def test_an_order_is_kept_where_probabilities_are_rounded_to_one() -> None:
    raw = np.array([[90.0, 0.0, 0.0], [80.0, 0.0, 0.0], [70.0, 0.0, 0.0], [0.0, 90.0, 0.0]])
    found = tallied(np.array([0.0, 0.0, 1.0, 1.0]), raw, None).of_classes()[0]
    assert (found.auc, found.auc_error_bound) == (1.0, 0.0)


def test_other_losses_have_their_own_metrics() -> None:
    assert isinstance(metrics_for(LOSSES["logistic"], 1), ClassifierMetrics)
