"""Moments of rows by plain numpy."""

from __future__ import annotations

import numpy as np

from streamgd.data.scaler import Moments


def moments_of(values: np.ndarray, weight: np.ndarray) -> Moments:
    """Moments of ``values`` (n_rows, n_columns) with ``weight`` (n_rows,); rows of weight zero do not count."""
    values, weight = values[weight > 0], weight[weight > 0]
    total = weight.sum()
    if total == 0:
        return Moments.empty(values.shape[1])
    origin = values[0]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = origin + weight @ (values - origin) / total
        squares = weight @ (values - mean) ** 2
    return Moments(np.full(values.shape[1], total), mean, squares, np.abs(values).max(axis=0))
