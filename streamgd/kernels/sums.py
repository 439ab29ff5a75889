"""Raw predictions of rows, and the gradient summed over them."""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import POINTWISE_FUNCTION, compiled

_f8, _i8, _i4 = types.float64, types.int64, types.int32


def _predict_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1], _f8[::1])


@compiled([_predict_signature(types.float32), _predict_signature(_f8)])
def raw_prediction(features, codes, offset, theta, raw):
    """``raw = X @ theta + offset``, written to ``raw`` (n_rows,); ``offset`` may be empty."""
    n_numeric = features.shape[1]
    for i in range(features.shape[0]):
        dot = theta[theta.shape[0] - 1]
        for j in range(n_numeric):
            dot += features[i, j] * theta[j]
        raw[i] = dot
    for i in range(features.shape[0] if codes.shape[1] > 0 else 0):
        for c in range(codes.shape[1]):
            j = codes[i, c]
            if j >= 0:
                raw[i] += theta[j]
    for i in range(offset.shape[0]):
        raw[i] += offset[i]


def _gradient_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1])


@compiled([_gradient_signature(types.float32), _gradient_signature(_f8)])
def add_gradient(features, codes, residual, gradient):
    """``gradient += X' @ residual``: residual (n_rows,), gradient (n_dof,); four rows of features at a time."""
    n_rows, n_numeric = features.shape
    by_four = n_rows - n_rows % 4
    for i in range(0, by_four, 4):
        a, b, c, d = residual[i], residual[i + 1], residual[i + 2], residual[i + 3]
        for j in range(n_numeric):
            gradient[j] += a * features[i, j] + b * features[i + 1, j] + c * features[i + 2, j] + d * features[i + 3, j]
    for i in range(by_four, n_rows):
        for j in range(n_numeric):
            gradient[j] += residual[i] * features[i, j]
    for i in range(n_rows if codes.shape[1] > 0 else 0):
        for c in range(codes.shape[1]):
            j = codes[i, c]
            if j >= 0:
                gradient[j] += residual[i]
    gradient[gradient.shape[0] - 1] += residual.sum()


@compiled(types.void(POINTWISE_FUNCTION, _f8[::1], _f8[::1], _f8[::1]))
def map_pointwise(function, y_true, raw, out):
    """``out[i] = function(y_true[i], raw[i])``."""
    for i in range(out.shape[0]):
        out[i] = function(y_true[i], raw[i])


def _norm_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1])


@compiled([_norm_signature(types.float32), _norm_signature(_f8)])
def row_norms(features, codes, weight, norms):
    """``norms`` (2,) is updated: the largest squared norm of a row times its weight, and the sum of these."""
    weighted = weight.shape[0] > 0
    for i in range(features.shape[0]):
        square = 1.0
        for j in range(features.shape[1]):
            square += np.float64(features[i, j]) * features[i, j]
        for c in range(codes.shape[1]):
            square += 1.0 if codes[i, c] >= 0 else 0.0
        if weighted:
            square *= weight[i]
        norms[0] = max(norms[0], square)
        norms[1] += square
