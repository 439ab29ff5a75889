"""Errors, tests and intervals of coefficients, from sums over all rows at the optimum of the loss.

Sums are in the coordinates of theta (standardised features, the intercept last); everything told is in original
units, by the linear map ``Encoding.in_original_units``. Coefficients of levels are contrasts to the base level.

Of more than two classes, only differences between the coefficients of classes are decided by the data. They are told as
differences to the mean over all classes, so that they sum to zero, and so are their errors; those against one class
follow from the covariance.

Even a small penalty may hold coefficients more than a standard error away from the maximum of the likelihood, where
columns are nearly collinear and rows are many. Estimates, tests and intervals are therefore those of the maximum, one
Newton step away: exact for the squared loss, as good as the maximum itself where the step is short (the one-step
estimator: van der Vaart (1998), "Asymptotic Statistics", section 5.7).

Coefficients at their bound are told no errors, and those of the others are as if these columns had been left out: which
coefficients end at their bound is taken as given.

A weight of 2 counts as the row twice in all of it (frequency weights), as it does in the objective.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np
from threadpoolctl import threadpool_limits

from streamgd.data.blocks import Block
from streamgd.data.encoding import Encoding
from streamgd.objective.losses import LogLinkLoss, Loss
from streamgd.objective.objective import ChunkSums, column_sums, outer_products, raw_prediction
from streamgd.optim.quadratic import SINGULAR

Errors = Literal["classical", "robust"]

#: A coefficient is concerned by a collinearity if so much of its squared direction lies in the null space.
CONCERNED = 1e-10
#: Where the loss is no quadratic, a step may miss the maximum by so many standard errors.
MOST_MISSED = 0.1
#: A log-likelihood is told where theta is so near its maximum, as a part of the null deviance.
NEARBY = 1e-3

#: Why a coefficient that ``--non-negative`` holds at zero has no errors.
AT_BOUND = "at its bound, 0 (--non-negative)"

_MOST_NAMES = 3


@dataclass(frozen=True)
class ClosingSums:
    """Sums over all training rows at theta.

    Attributes
    ----------
    information : float64, (theta.size, theta.size)
        ``sum w_i loss''_i x_i x_i'``: the Hessian of the summed loss, without the penalty.
    meat : float64, (theta.size, theta.size), or None
        ``sum w_i (loss'_i)^2 x_i x_i'``, for robust errors.
    gradient : float64, (n_dof, n_outputs)
        ``sum w_i loss'_i x_i``; nothing but the penalty and rounding keeps it from zero at the optimum.
    weight, loss, base_loss : float
        ``sum w_i``, ``sum w_i loss_i``, and the latter of the best constant.
    pearson : float or None
        ``sum w_i (y_i - mu_i)^2 / mu_i^power`` of a loss with the log link.
    expected : float64, (n_dof, n_dof), or None
        What the information is expected to be, ``sum w_i mu_i^(2 - power) x_i x_i'``, where it depends on the targets.
    exposure, actual : float64, (n_dof, 1), or None
        ``sum w_i e_i x_i``, ``e_i`` being the exposure times ``exp`` of the offset column, and ``sum w_i y_i x_i``, of
        a loss with the log link: of a level those of its rows.
    """

    information: np.ndarray
    meat: np.ndarray | None
    gradient: np.ndarray
    weight: float
    loss: float
    base_loss: float
    pearson: float | None = None
    expected: np.ndarray | None = None
    exposure: np.ndarray | None = None
    actual: np.ndarray | None = None

    def for_target(self, scale: float) -> Self:
        """The sums for theta and target in units that are ``1 / scale`` as large.

        The loss goes with the square of the unit, as that of squared and huber does; of others ``scale`` must be 1.
        """
        unit = scale * scale
        return replace(
            self, meat=None if self.meat is None else self.meat * unit, gradient=self.gradient * scale,
            loss=self.loss * unit, base_loss=self.base_loss * unit,
        )  # fmt: skip

    def check(self, n_dof: int, n_outputs: int) -> None:
        """Raise ValueError where the parts are not those of a theta ``(n_dof, n_outputs)``."""
        square = (n_dof * n_outputs, n_dof * n_outputs)
        arrays = [("information", self.information, square), ("gradient", self.gradient, (n_dof, n_outputs))]
        if self.meat is not None:
            arrays.append(("meat", self.meat, square))
        if self.expected is not None:
            arrays.append(("expected information", self.expected, square))
        columns = (("exposure", self.exposure), ("targets", self.actual))
        arrays += [(name, array, (n_dof, 1)) for name, array in columns if array is not None]
        for name, array, shape in arrays:
            if array.shape != shape or array.dtype != np.float64:
                raise ValueError(f"{name} of {array.dtype} {array.shape} for {n_dof} coefficients")
        if any(type(number) is not float for number in (self.weight, self.loss, self.base_loss, self.pearson or 0.0)):
            raise ValueError("sums over rows that are no numbers")
        if not self.is_finite or self.weight <= 0.0:
            raise ValueError("sums over rows that are not finite, or over none")

    def without(self, rows: np.ndarray) -> Self:
        """The sums with zeros for what concerns the ``rows`` of theta, of one output: as if the columns were zero."""

        def cleared(matrix: np.ndarray | None) -> np.ndarray | None:
            if matrix is None:
                return None
            matrix = matrix.copy()
            matrix[rows], matrix[:, rows] = 0.0, 0.0
            return matrix

        gradient, information = self.gradient.copy(), cleared(self.information)
        assert information is not None
        gradient[rows] = 0.0
        return replace(
            self, information=information, gradient=gradient, meat=cleared(self.meat), expected=cleared(self.expected)
        )

    @property
    def is_finite(self) -> bool:
        """Whether errors can be made from them."""
        return all(np.isfinite(part).all() for part in self.state().values() if part is not None)

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(**state)


def expected_sums(loss: LogLinkLoss, theta: np.ndarray, block: Block) -> ChunkSums:
    """Sums of ``ClosingSums`` over the rows of a block: ``pearson`` as the loss, ``exposure`` and ``actual`` as the two
    columns of the gradient, and ``expected`` as the Hessian, where the loss has a dispersion."""
    prediction, n_dof = loss.inverse_link(raw_prediction(block, theta)), len(theta)
    weight = block.weight if len(block.weight) else np.ones(block.rows)
    pearson = float(weight @ ((block.target - prediction) ** 2 / prediction**loss.power))
    expected = outer_products(block, weight * prediction ** (2.0 - loss.power), n_dof) if loss.has_dispersion else None
    exposure = column_sums(block, weight * np.exp(block.offset) if len(block.offset) else weight, n_dof)
    of_both = np.hstack([exposure, column_sums(block, weight * block.target, n_dof)])
    return ChunkSums(pearson, of_both, float(weight.sum()), block.rows, expected)


@dataclass(frozen=True)
class Fit:
    """How well the model fits, as statsmodels defines it (GLM; AIC of a squared loss as OLS).

    Attributes
    ----------
    observations : float
        Total weight.
    rank : int
        Coefficients that the data tell apart, the intercept included.
    deviance, null_deviance : float
        Twice the summed loss at theta; that of the best constant (beside the offset).
    least_deviance : float or None
        The deviance at the maximum of the likelihood, by a Newton step; None where that is too far away.
    dispersion : float or None
        Squared loss: ``least_deviance / (observations - rank)``, the variance of the residuals. Gamma and tweedie:
        ``pearson / (observations - rank)``. Logistic and poisson: 1, and huber, whose errors need none.
    log_likelihood, aic : float or None
        The maximum, and ``2 rank - 2 log_likelihood``. The likelihood is the Bernoulli one of the logistic loss, that
        of the classes of the multinomial one; of the squared loss the normal one at its best variance, which counts for
        no coefficient. None for other losses.
    pearson : float or None
        Pearson's chi-squared of a loss with the log link: the summed squares of the residuals, each divided by the
        variance that the prediction implies. Beside ``observations - rank`` it tells of overdispersion.
    """

    observations: float
    rank: int
    deviance: float
    null_deviance: float
    least_deviance: float | None
    dispersion: float | None
    log_likelihood: float | None
    aic: float | None
    pearson: float | None = None


@dataclass(frozen=True)
class Inference:
    """Errors of all coefficients in original units, in the order of theta, NaN where refused.

    Float64, ``(theta.size,)``.

    Attributes
    ----------
    errors : "classical" or "robust"
        Classical: ``dispersion * information^-1``, the expected information where the log link is not the canonical
        one (gamma, tweedie: as statsmodels has it). Robust: the sandwich ``information^-1 meat information^-1`` (HC0).
    estimate : float64
        The coefficients that maximise the likelihood; without a penalty, those of the model.
    covariance : float64, (theta.size, theta.size)
        Of the estimates, NaN in rows and columns of those that are refused.
    z, p_value : float64
        ``estimate / standard_error``, and how likely a normal number is to be at least as far from zero.
    lower, upper : float64
        The interval that covers the true coefficient with probability ``level``.
    reasons : list of str or None
        Why a coefficient has no errors.
    """

    errors: Errors
    level: float
    fit: Fit
    estimate: np.ndarray
    covariance: np.ndarray
    standard_error: np.ndarray
    z: np.ndarray
    p_value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    reasons: list[str | None]


def infer(
    sums: ClosingSums, encoding: Encoding, loss: Loss, values: np.ndarray, errors: Errors, level: float = 0.95
) -> Inference:
    """Errors of coefficients ``values``, in original units, of the shape of theta.

    Parameters
    ----------
    sums : ClosingSums
        With the meat, for robust errors.
    encoding : Encoding
        Its target is not scaled.
    """
    at_bound = encoding.at_bound(np.reshape(values, (encoding.n_dof, -1)))
    if len(at_bound):
        sums = sums.without(at_bound)
    # The number of BLAS threads changes bits. What is not finite has its reason told.
    with threadpool_limits(1, "blas"), np.errstate(all="ignore"):
        solved = _Solved(sums, encoding)
        fit = _fit(sums, solved, loss)
        covariance = _covariance(sums, encoding, solved, fit, errors)
        deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        if not fit.dispersion:  # there are no more observations than coefficients, or the model fits them all
            deviation[:] = 0.0
        reasons = _reasons(solved, deviation, loss, _names(encoding))
        for row in at_bound:
            reasons[row] = AT_BOUND
        refused = np.array([reason is not None for reason in reasons])
        covariance[refused], covariance[:, refused] = np.nan, np.nan
        deviation = np.where(refused, np.nan, deviation)
        estimate = np.where(refused, np.nan, np.ravel(values) + solved.step)
        z, margin = estimate / deviation, deviation * NormalDist().inv_cdf(0.5 + 0.5 * level)
    p_value = np.array([math.erfc(abs(each) / math.sqrt(2.0)) for each in z])
    return Inference(
        errors, level, fit, estimate, covariance, deviation, z, p_value, estimate - margin, estimate + margin, reasons
    )


def _names(encoding: Encoding) -> list[str]:
    """A name for each number of theta."""
    target, names = encoding.columns.target, encoding.row_names()
    if encoding.n_outputs == 1 or target is None or target.classes is None:
        return names
    return [f"{name} ({label})" for name in names for label in target.classes]


def _covariance(sums: ClosingSums, encoding: Encoding, solved: _Solved, fit: Fit, errors: Errors) -> np.ndarray:
    if errors == "robust":
        assert sums.meat is not None
        spread = (solved.directions / solved.eigenvalues) @ solved.vectors.T
        return np.asarray(spread @ solved.contrasts.of_matrix(sums.meat) @ spread.T)
    if sums.expected is not None:
        solved = _Solved(replace(sums, information=sums.expected), encoding)
    return np.asarray((solved.directions / solved.eigenvalues) @ solved.directions.T * (fit.dispersion or 0.0))


class _Solved:
    """The information taken apart: its eigenvectors as directions in original units, and its null space.

    With d the square roots of the diagonal, ``information = d R d`` and ``R = Q diag(lambda) Q'``, the inverse (or,
    where columns are collinear, a generalised one) is ``S diag(1 / lambda) S'`` with ``S = d^-1 Q``. Of several outputs
    it is that of their contrasts.
    """

    def __init__(self, sums: ClosingSums, encoding: Encoding):
        contrasts = self.contrasts = _Contrasts(encoding)
        information, gradient = contrasts.of_matrix(sums.information), contrasts.of_gradient(sums.gradient)
        diagonal = np.diagonal(information)
        untold = diagonal <= 0.0
        #: What no row tells is as if it were left out.
        self.untold = contrasts.of_each_output(untold)
        scale = np.divide(1.0, np.sqrt(diagonal), out=np.zeros_like(diagonal), where=~untold)
        eigenvalues, vectors = np.linalg.eigh(information * scale[:, None] * scale)
        vectors *= scale[:, None]
        found = eigenvalues > SINGULAR
        self.rank = int(found.sum())
        self.eigenvalues = eigenvalues[found]
        #: S without the null space, of contrasts, and the same in original units, (theta.size, rank).
        self.vectors, original = vectors[:, found], contrasts.in_original_units(vectors)
        self.directions = original[:, found]
        #: Share of each coefficient in the null space, by unit vectors in original units, (theta.size, …).
        self.null_space = np.nan_to_num(original[:, ~found] / np.linalg.norm(original, axis=1, keepdims=True))
        along = self.vectors.T @ gradient
        #: Newton's step to the maximum of the likelihood, in coordinates of theta and in original units, (n_dof,).
        self.theta_step = contrasts.of_theta(-self.vectors @ (along / self.eigenvalues))
        self.step = -self.directions @ (along / self.eigenvalues)
        #: How much the step lowers the deviance.
        self.gain = float(along @ (along / self.eigenvalues))


class _Contrasts:
    """Coordinates for what the data decide of theta: itself, or contrasts between the outputs where there are several.

    The contrasts phi ``(n_dof, n_outputs - 1)`` are those of Helmert, an orthonormal basis B of what sums to zero:
    ``theta = phi B'``. Vectors and matrices are taken row by row, as theta is.
    """

    def __init__(self, encoding: Encoding):
        self._encoding, n = encoding, encoding.n_outputs
        basis = np.zeros((n, max(n - 1, 1)))
        for k in range(1, n):
            basis[:k, k - 1], basis[k, k - 1] = 1.0, -float(k)
        self._basis = basis / np.linalg.norm(basis, axis=0) if n > 1 else np.ones((1, 1))

    def of_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """Second derivatives, or sums of products of gradients."""
        n_dof, n = self._encoding.n_dof, self._encoding.n_outputs
        if n == 1:
            return matrix
        by_outputs = matrix.reshape(n_dof, n, n_dof, n)
        found = np.einsum("jkil,ka,lb->jaib", by_outputs, self._basis, self._basis, optimize=True)
        return np.asarray(found.reshape(n_dof * (n - 1), -1))

    def of_gradient(self, gradient: np.ndarray) -> np.ndarray:
        """A gradient by theta ``(n_dof, n_outputs)``."""
        return np.asarray((gradient @ self._basis).ravel())

    def of_theta(self, vector: np.ndarray) -> np.ndarray:
        """The step of theta of a step of the contrasts."""
        return np.asarray((vector.reshape(self._encoding.n_dof, -1) @ self._basis.T).ravel())

    def of_each_output(self, of_contrasts: np.ndarray) -> np.ndarray:
        """For each number of theta, whether it holds of all contrasts of its row."""
        rows = of_contrasts.reshape(self._encoding.n_dof, -1).all(axis=1)
        return np.repeat(rows, self._encoding.n_outputs)

    def in_original_units(self, vectors: np.ndarray) -> np.ndarray:
        """Columns of ``vectors`` as changes of the coefficients in original units, ``(theta.size, any)``."""
        if self._encoding.n_outputs == 1:
            return self._encoding.in_original_units(vectors)
        parts = vectors.reshape(self._encoding.n_dof, self._basis.shape[1], -1)
        moved = [self._encoding.in_original_units(np.ascontiguousarray(part)) for part in parts.transpose(1, 0, 2)]
        return np.asarray(np.einsum("ajm,ka->jkm", np.array(moved), self._basis).reshape(-1, vectors.shape[1]))


def _fit(sums: ClosingSums, solved: _Solved, loss: Loss) -> Fit:
    deviance, null_deviance = 2.0 * sums.loss, 2.0 * sums.base_loss
    least = max(deviance - solved.gain, 0.0)
    if not loss.is_quadratic and solved.gain > NEARBY * null_deviance:
        least = math.nan
    dispersion, likelihood = 1.0, -0.5 * least if loss.has_probability else math.nan
    freedom, variance = sums.weight - solved.rank, least / sums.weight
    if isinstance(loss, LogLinkLoss) and loss.has_dispersion:
        dispersion = (sums.pearson or 0.0) / freedom if freedom > 0.0 else math.nan
    if loss.name == "squared":
        dispersion = least / freedom if freedom > 0.0 else math.nan
        likelihood = -0.5 * sums.weight * (math.log(2.0 * math.pi * variance) + 1.0) if variance > 0.0 else math.nan
    return Fit(
        sums.weight, solved.rank, deviance, null_deviance, _finite(least), _finite(dispersion),
        _finite(likelihood), _finite(2.0 * solved.rank - 2.0 * likelihood), sums.pearson,
    )  # fmt: skip


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _reasons(solved: _Solved, deviation: np.ndarray, loss: Loss, names: list[str]) -> list[str | None]:
    """Why a coefficient has no errors, None where it has."""
    # The curvature changes by about as much of itself as theta_step, and the step with it.
    missed = np.zeros(len(names)) if loss.is_quadratic else np.abs(0.5 * solved.theta_step * solved.step)
    reasons: list[str | None] = []
    for row, error in enumerate(deviation.tolist()):
        share = solved.null_space[row]
        if solved.untold[row]:
            reasons.append("no training row tells it: constant, or a level without rows")
        elif share @ share > CONCERNED:
            reasons.append(f"collinear with {_others(solved, row, names)}")
        elif not 0.0 < error < math.inf:
            reasons.append("no residuals to tell it by" if error == 0.0 else "beyond float64")
        elif missed[row] > MOST_MISSED * error:
            reasons.append(
                "far from the maximum of the likelihood: nearly collinear with others, or a level with few rows, held"
                " by the penalty (--l2 0 gives errors), rows of one class only, or too few passes"
            )
        else:
            reasons.append(None)
    return reasons


def _others(solved: _Solved, row: int, names: list[str]) -> str:
    """The coefficients that one cannot be told apart from."""
    together = np.abs(solved.null_space @ solved.null_space[row])
    together[row] = 0.0
    others = np.flatnonzero(together > math.sqrt(CONCERNED))
    listed = [names[i] for i in others[np.argsort(-together[others], kind="stable")][:_MOST_NAMES]]
    return ", ".join(listed) + (", …" if len(others) > _MOST_NAMES else "")
