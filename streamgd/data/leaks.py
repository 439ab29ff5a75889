"""Warns of features that alone predict a two-class target: they are usually known only after it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamgd.data.columns import Label
from streamgd.data.kinds import kind_of
from streamgd.data.numbers import as_float64

LEAK_AUC = 0.999
#: A first look takes one row in so many; what it finds below this AUC is no leak.
SCREEN_EVERY = 8
SCREEN_AUC = 0.97
FEWEST_ROWS_PER_CLASS = 100
FEWEST_ROWS_PER_LEVEL = 10


def class_rows(target: pa.Array, classes: tuple[Label, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows of a sampled target have one of the two classes, and which of those rows are positive.

    Returns
    -------
    known : bool array, shape (n_rows,)
    positive : bool array, shape (n_known,)
    """
    if pa.types.is_dictionary(target.type):
        target = target.cast(pa.string())
    elif kind_of(target.type) in ("real", "decimal"):
        target = as_float64(target)
    is_negative, is_positive = (
        np.asarray(pc.equal(target, pa.scalar(label, target.type)).fill_null(False).to_numpy(zero_copy_only=False))
        for label in classes
    )
    known = is_negative | is_positive
    return known, is_positive[known]


def numeric_auc(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve of a feature or of its negative, whichever is larger.

    Parameters
    ----------
    values : float64 array, shape (n_rows,)
        Rows with NaN are passed over.
    positive : bool array, shape (n_rows,)

    Returns
    -------
    float or None
        From 0.5 to 1; None where fewer than 100 rows of either class are left.

    Notes
    -----
    The Mann-Whitney statistic from ranks, ties at their mean rank.
    """
    known = ~np.isnan(values)
    values, positive = values[known], positive[known]
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if min(n_positive, n_negative) < FEWEST_ROWS_PER_CLASS:
        return None
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_ranks[places][positive].sum())
    auc = (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return max(auc, 1.0 - auc)


def screened_auc(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """As :func:`numeric_auc`, from every eighth row alone where that is far from ``LEAK_AUC``: sorting takes time."""
    some = numeric_auc(values[::SCREEN_EVERY], positive[::SCREEN_EVERY])
    return some if some is not None and some < SCREEN_AUC else numeric_auc(values, positive)


def categorical_auc(codes: NDArray[np.int64], positive: NDArray[np.bool_]) -> float | None:
    """As :func:`numeric_auc`, with levels in the order of their share of positives.

    Parameters
    ----------
    codes : int64 array, shape (n_rows,)
        Levels, numbered from 0; -1 (null) is passed over.
    positive : bool array, shape (n_rows,)

    Returns
    -------
    float or None
        None also where there are fewer than 10 rows per level: such shares say nothing.
    """
    known = codes >= 0
    codes, positive = codes[known], positive[known]
    rows = np.bincount(codes)
    if len(codes) < FEWEST_ROWS_PER_LEVEL * np.count_nonzero(rows):
        return None
    shares = np.bincount(codes, weights=positive) / np.maximum(rows, 1)
    return numeric_auc(shares[codes], positive)
