"""Penalties on the standardised coefficients; the intercept is never penalised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ElasticNet:
    """``l1 * |beta|_1 + l2 / 2 * |beta|^2``, where beta is theta without its last row, the intercept.

    >>> ElasticNet(l1=1.0, l2=2.0).value(np.array([[3.0], [7.0]]))
    12.0
    """

    l1: float = 0.0
    l2: float = 0.0

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

        Parameters
        ----------
        gradient
            Gradient of all but the l1 part.
        """
        if self.l1 == 0.0:
            return gradient
        at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - self.l1, 0.0)
        smallest = np.where(theta != 0.0, gradient + self.l1 * np.sign(theta), at_zero)
        smallest[-1] = gradient[-1]
        return np.asarray(smallest)

    def proximal_step(self, theta: np.ndarray, rate: float) -> np.ndarray:
        """``argmin_b |b - theta|^2 / (2 rate) + l1 |b|_1``: soft thresholding; the intercept stays."""
        if self.l1 == 0.0:
            return theta
        shrunk = np.sign(theta) * np.maximum(np.abs(theta) - rate * self.l1, 0.0)
        shrunk[-1] = theta[-1]
        return np.asarray(shrunk)
