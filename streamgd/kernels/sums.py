"""Sums over the rows of a block, in fixed tiles so that their bits depend on nothing but the block."""

from __future__ import annotations

import numpy as np
from numba import types

from streamgd.kernels.compile import POINTWISE_FUNCTION, compiled

TILE_ROWS = 4096

_f8, _i8, _i4 = types.float64, types.int64, types.int32


def _predict_signature(feature):
    return types.void(feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1], _f8[::1])


@compiled([_predict_signature(types.float32), _predict_signature(_f8)])
def raw_prediction(features, codes, offset, theta, raw):
    """``raw = X @ theta + offset``, written to ``raw`` (n_rows,); ``offset`` may be empty."""
    n_numeric = features.shape[1]
    shifted = offset.shape[0] > 0
    for i in range(features.shape[0]):
        dot = theta[theta.shape[0] - 1]
        for j in range(n_numeric):
            dot += features[i, j] * theta[j]
        for c in range(codes.shape[1]):
            j = codes[i, c]
            if j >= 0:
                dot += theta[j]
        raw[i] = dot + offset[i] if shifted else dot


def _sums_signature(feature):
    return types.void(
        feature[:, ::1], _i4[:, ::1], _f8[::1], _f8[::1], _f8[::1], _f8[::1],
        POINTWISE_FUNCTION, POINTWISE_FUNCTION, _f8[::1], _f8[::1],
    )  # fmt: skip


@compiled([_sums_signature(types.float32), _sums_signature(_f8)])
def loss_and_gradient(features, codes, target, weight, offset, theta, loss_value, loss_derivative, totals, gradient):
    """Sums of weighted loss and gradient over a block.

    ``totals`` (2,) receives the loss and the weight, ``gradient`` (n_dof,) the gradient; both are overwritten.
    """
    n_rows, n_numeric = features.shape
    n_categorical = codes.shape[1]
    intercept = theta.shape[0] - 1
    weighted = weight.shape[0] > 0
    tile_gradient = np.empty(n_numeric)
    residual = np.empty(TILE_ROWS)
    totals[:] = 0.0
    gradient[:] = 0.0
    for start in range(0, n_rows, TILE_ROWS):
        stop = min(start + TILE_ROWS, n_rows)
        # Predict.
        tile = residual[: stop - start]
        raw_prediction(
            features[start:stop], codes[start:stop], offset[start:stop] if offset.shape[0] > 0 else offset, theta, tile
        )
        # Compare.
        tile_loss = 0.0
        tile_weight = 0.0
        tile_residual = 0.0
        for i in range(start, stop):
            row_weight = weight[i] if weighted else 1.0
            raw = residual[i - start]
            tile_loss += row_weight * loss_value(target[i], raw)
            tile_weight += row_weight
            residual[i - start] = row_weight * loss_derivative(target[i], raw)
            tile_residual += residual[i - start]
        # Gradient.
        tile_gradient[:] = 0.0
        for i in range(start, stop):
            row_residual = residual[i - start]
            for j in range(n_numeric):
                tile_gradient[j] += row_residual * features[i, j]
            for c in range(n_categorical):
                j = codes[i, c]
                if j >= 0:
                    gradient[j] += row_residual
        for j in range(n_numeric):
            gradient[j] += tile_gradient[j]
        gradient[intercept] += tile_residual
        totals[0] += tile_loss
        totals[1] += tile_weight


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
