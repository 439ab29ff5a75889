"""Penalties and bounds on the standardised coefficients; the intercept has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ElasticNet:
    """``l1 * |beta|_1 + l2 / 2 * |beta|^2``, where beta is theta without its last row, the intercept.

    The rows ``non_negative`` of theta are held at zero or above: there the penalty is infinite below zero, which
    :meth:`value` is never asked for.

    >>> ElasticNet(l1=1.0, l2=2.0).value(np.array([[3.0], [7.0]]))
    12.0
    """

    l1: float = 0.0
    l2: float = 0.0
    non_negative: tuple[int, ...] = ()

    @property
    def is_smooth(self) -> bool:
        """Whether J has a gradient wherever it is looked at: no l1, no bounds."""
        return self.l1 == 0.0 and not self.non_negative

    def bounded(self, n_dof: int, n_outputs: int = 1) -> np.ndarray:
        """Which coefficients are held at zero or above, theta taken row by row, bool, ``(n_dof * n_outputs,)``."""
        bounded = np.zeros((n_dof, n_outputs), np.bool_)
        bounded[list(self.non_negative)] = True
        return bounded.ravel()

    def allowed(self, theta: np.ndarray) -> np.ndarray:
        """The theta nearest to ``theta``, ``(n_dof, n_outputs)``, that keeps the bounds."""
        if not self.non_negative:
            return theta
        rows, allowed = list(self.non_negative), theta.copy()
        allowed[rows] = np.maximum(allowed[rows], 0.0)
        return allowed

    def value(self, theta: np.ndarray) -> float:
        """The penalty of ``theta``, shape ``(n_dof, n_outputs)``."""
        beta = theta[:-1]
        return float(self.l1 * np.abs(beta).sum() + self.l2 / 2.0 * (beta * beta).sum())

    def smooth_gradient(self, theta: np.ndarray) -> np.ndarray:
        """Gradient of the l2 part, shape of ``theta``."""
        gradient = self.l2 * theta
        gradient[-1] = 0.0
        return gradient

    def curvature(self, n_dof: int, n_outputs: int = 1) -> np.ndarray:
        """Second derivative of the l2 part by each coefficient, theta taken row by row, ``(n_dof * n_outputs,)``."""
        curvature = np.full(n_dof * n_outputs, self.l2)
        curvature[-n_outputs:] = 0.0
        return curvature

    def centred(self, theta: np.ndarray) -> np.ndarray:
        """Theta ``(n_dof, n_outputs)`` of the least penalty among those of which the softmax is the same.

        Adding a number to the coefficients of all classes changes no probability: the mean over classes becomes zero,
        with l1 that of the intercepts alone, since others may be exact zeros. One output stays as it is.
        """
        if theta.shape[1] == 1:
            return theta
        moved, rows = theta.copy(), slice(-1 if self.l1 > 0.0 else 0, None)
        moved[rows] -= moved[rows].mean(axis=1, keepdims=True)
        return moved

    def subgradient(self, theta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The smallest subgradient of J at ``theta``, zero at the optimum alone; shape of ``theta``.

        Of a coefficient at its bound it is zero where J grows from there on.

        Parameters
        ----------
        gradient
            Gradient of all but the l1 part.
        """
        if self.is_smooth:
            return gradient
        at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - self.l1, 0.0)
        smallest = np.where(theta != 0.0, gradient + self.l1 * np.sign(theta), at_zero)
        smallest[-1] = gradient[-1]
        rows = list(self.non_negative)
        above = gradient[rows] + self.l1
        smallest[rows] = np.where(theta[rows] > 0.0, above, np.minimum(above, 0.0))
        return np.asarray(smallest)

    def proximal_step(self, theta: np.ndarray, rate: float) -> np.ndarray:
        """``argmin_b |b - theta|^2 / (2 rate) + l1 |b|_1`` within bounds: soft thresholding; the intercept stays."""
        if self.is_smooth:
            return theta
        shrunk = np.sign(theta) * np.maximum(np.abs(theta) - rate * self.l1, 0.0)
        shrunk[-1] = theta[-1]
        return self.allowed(shrunk)
