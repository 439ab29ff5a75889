"""The softmax of several raw predictions a row, and what is made of it row by row; class after class in memory."""

from __future__ import annotations

import math

import numpy as np
from numba import types

from streamgd.kernels.compile import compiled
from streamgd.kernels.exponential import exp_of_negative

_f8, _i8 = types.float64, types.int64


@compiled(types.void(_f8[:, ::1], _i8, _f8[:, ::1]))
def softmax(raw, count, out):
    """``out = exp(raw) / sum over classes of exp(raw)`` of the first ``count`` rows; ``(n_classes, >= count)``."""
    largest, total = np.empty(count), np.zeros(count)
    for i in range(count):
        largest[i] = raw[0, i]
    for k in range(1, raw.shape[0]):
        for i in range(count):
            largest[i] = raw[k, i] if raw[k, i] > largest[i] else largest[i]
    for k in range(raw.shape[0]):
        here, into = raw[k], out[k]
        for i in range(count):
            into[i] = exp_of_negative(here[i] - largest[i])
            total[i] += into[i]
    for i in range(count):
        total[i] = 1.0 / total[i]
    for k in range(raw.shape[0]):
        into = out[k]
        for i in range(count):
            into[i] *= total[i]


@compiled(types.void(_f8[::1], _f8[:, ::1], _i8, _f8[::1]))
def softmax_losses(y_true, raw, count, out):
    """``out_i = log(sum over classes of exp(raw_ki)) - raw_yi`` of the first ``count`` rows, without overflow.

    Written so that nothing cancels for confident, right predictions.
    """
    for i in range(count):
        top = 0
        for k in range(1, raw.shape[0]):
            top = k if raw[k, i] > raw[top, i] else top
        rest = 0.0
        for k in range(raw.shape[0]):
            rest += exp_of_negative(raw[k, i] - raw[top, i]) if k != top else 0.0
        out[i] = math.log1p(rest)
        if y_true[i] != top:
            out[i] += raw[top, i] - raw[np.int64(y_true[i]), i]


@compiled(types.void(_f8[::1], _f8[:, ::1], _i8, _f8[:, ::1]))
def softmax_residuals(y_true, raw, count, out):
    """First derivative of the loss by each raw prediction: the softmax less 1 for the class that it was."""
    softmax(raw, count, out)
    for i in range(count):
        out[np.int64(y_true[i]), i] -= 1.0


@compiled(types.void(_f8[:, ::1], _f8[:, ::1]))
def log_odds(raw, out):
    """``log(p_k / (1 - p_k))`` of each class, ``(n_classes, n_rows)``: an order of rows where p is rounded to 1 too."""
    n_classes, before = raw.shape[0], np.empty(raw.shape[0])
    for i in range(raw.shape[1]):
        largest = raw[0, i]
        for k in range(1, n_classes):
            largest = raw[k, i] if raw[k, i] > largest else largest
        total = 0.0
        for k in range(n_classes):
            before[k] = total
            total += exp_of_negative(raw[k, i] - largest)
        after = 0.0
        for k in range(n_classes - 1, -1, -1):
            out[k, i] = raw[k, i] - largest - math.log(before[k] + after)
            after += exp_of_negative(raw[k, i] - largest)
