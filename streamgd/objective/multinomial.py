"""Sums over the rows of a block for a loss with one raw prediction for each class; see ``objective.objective``.

Matrices of second derivatives are of theta ``(n_dof, n_classes)`` taken row by row: the entry of coefficient j of class
k stands in row ``j * n_classes + k``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from streamgd.data.blocks import Block
from streamgd.kernels import multinomial as kernels
from streamgd.kernels import sums

#: ``sum_i row_weight_i x_i x_i'``, (n_dof, n_dof), of row weights (n_rows,) that are not negative.
Products = Callable[[np.ndarray], np.ndarray]


def add_sums(
    theta: np.ndarray, block: Block, gradient: np.ndarray, probabilities: np.ndarray, residuals: np.ndarray
) -> tuple[float, float]:
    """The weighted sum of the losses and of the weights; see ``kernels.multinomial.add_sums``.

    Parameters
    ----------
    theta : float64, (n_dof, n_classes)
    gradient : float64, (n_classes, n_dof) or (0, 0)
        Incremented.
    probabilities, residuals : float64, (n_classes, n_rows) or (0, 0)
        Written.
    """
    loss, weight = kernels.add_sums(
        block.features, block.codes, *block.entries.arrays(), block.target, block.weight,
        np.ascontiguousarray(theta.T), gradient, probabilities, residuals,
    )  # fmt: skip
    return float(loss), float(weight)


def raw_prediction(block: Block, theta: np.ndarray) -> np.ndarray:
    """``X @ theta`` of the rows of a block, float64, ``(n_rows, n_classes)``."""
    raw = np.empty((theta.shape[1], block.rows))
    for of_class, into in zip(theta.T, raw, strict=True):
        sums.raw_prediction(
            block.features, block.codes, *block.entries.arrays(), np.empty(0), np.ascontiguousarray(of_class), into
        )
    return np.ascontiguousarray(raw.T)


def hessian(probabilities: np.ndarray, weight: np.ndarray, products: Products) -> np.ndarray:
    """``sum_i w_i (diag(p_i) - p_i p_i') (x) x_i x_i'``, float64, (n_dof * n_classes)².

    Since ``p_k (1 - p_k)`` is the sum of ``p_k p_l`` over the other classes, only products of two classes are summed,
    and nothing cancels.
    """
    n_classes = len(probabilities)
    found: np.ndarray | None = None
    for k, other in combinations(range(n_classes), 2):
        both = products(_weighted(probabilities[k] * probabilities[other], weight))
        if found is None:
            found = np.zeros((len(both), n_classes, len(both), n_classes))
        found[:, k, :, other] = found[:, other, :, k] = -both
        found[:, k, :, k] += both
        found[:, other, :, other] += both
    assert found is not None
    return found.reshape(found.shape[0] * n_classes, -1)


def meat(residuals: np.ndarray, weight: np.ndarray, products: Products) -> np.ndarray:
    """``sum_i w_i r_i r_i' (x) x_i x_i'``, r the derivatives by the raw predictions; float64, (n_dof * n_classes)²."""
    n_classes = len(residuals)
    own = [products(_weighted(residual**2, weight)) for residual in residuals]
    found = np.zeros((len(own[0]), n_classes, len(own[0]), n_classes))
    for k in range(n_classes):
        found[:, k, :, k] = own[k]
    for k, other in combinations(range(n_classes), 2):
        both = products(_weighted((residuals[k] + residuals[other]) ** 2, weight))
        found[:, k, :, other] = found[:, other, :, k] = 0.5 * (both - own[k] - own[other])
    return found.reshape(found.shape[0] * n_classes, -1)


def _weighted(of_rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return of_rows * weight if len(weight) else of_rows
