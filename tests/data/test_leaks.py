"""Areas under the curve, against scikit-learn."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from streamgd.data.leaks import FEWEST_ROWS_PER_CLASS, categorical_auc, class_rows, numeric_auc


@given(st.integers(0, 2**32 - 1), st.integers(1, 1000))
def test_numeric_auc_is_that_of_scikit_learn_ties_included(seed: int, distinct: int) -> None:
    random = np.random.default_rng(seed)
    positive = random.random(400) < 0.5
    values = random.integers(0, distinct, 400) + 0.3 * distinct * positive.astype(float)
    expected = roc_auc_score(positive, values)

    assert numeric_auc(values, positive) == pytest.approx(max(expected, 1 - expected), rel=1e-12)


def test_nulls_are_passed_over() -> None:
    positive = np.arange(400) % 2 == 0
    values = np.where(positive, 1.0, 0.0)
    values[::5] = np.nan

    assert numeric_auc(values, positive) == 1.0


def test_few_rows_of_a_class_say_nothing() -> None:
    positive = np.arange(1000) < FEWEST_ROWS_PER_CLASS
    assert numeric_auc(positive.astype(float), positive) == 1.0
    positive[0] = False
    assert numeric_auc(positive.astype(float), positive) is None


def test_levels_are_ranked_by_their_share_of_positives() -> None:
    codes = np.tile(np.arange(40), 25)
    odd = codes % 2 == 1

    assert categorical_auc(codes, odd) == 1.0
    assert categorical_auc(np.tile(np.arange(200), 5), odd) is None, "five rows a level predict themselves"


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (pa.array([0, 1, None, 2], pa.int8()), (0, 1)),
        (pa.array([False, True, None]), (False, True)),
        (pa.array(["n", "y", None]).dictionary_encode(), ("n", "y")),
        (pa.array([Decimal("0.5"), Decimal("1.5"), None], pa.decimal128(3, 1)), (0.5, 1.5)),
        (pa.array([np.float16(0.5), np.float16(2), None], pa.float16()), (0.5, 2.0)),
    ],
    ids=["int", "bool", "text", "decimal", "half"],
)
def test_class_rows_of_every_type_of_target(target: pa.Array, classes: tuple) -> None:  # type: ignore[type-arg]
    known, positive = class_rows(target, classes)

    assert known.tolist() == [True, True] + [False] * (len(target) - 2)
    assert positive.tolist() == [False, True]
