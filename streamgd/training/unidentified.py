"""Coefficients that the data do not decide: columns that are combinations of others, levels of one class only.

They get a finite value all the same, by l2 or as the shortest solution. The user should know which they are.
"""

from __future__ import annotations

import numpy as np

from streamgd.data.columns import IS_NULL
from streamgd.data.encoding import Encoding
from streamgd.objective.losses import Loss
from streamgd.optim.quadratic import dependent_columns

MOST_NAMES = 5


def collinear_columns(encoding: Encoding, hessian: np.ndarray) -> str:
    """A line about columns that are combinations of others, by the Hessian of the mean loss; empty if none is."""
    names, found = encoding.row_names(), dependent_columns(hessian)
    # A null indicator that is always the same is nothing to leave out: the footers knew of nulls in rows without use.
    indicators = [k for k, column in enumerate(encoding.columns.numeric) if column.part == IS_NULL]
    found = {column: others for column, others in found.items() if others or column not in indicators}
    if not found:
        return ""
    told = [_combination(names[column], [names[k] for k in others]) for column, others in found.items()]
    return (
        f"collinear columns: {_listed(told, '; ')}. Their coefficients are not decided by the data, but predictions"
        f" are. Leave columns out with --exclude."
    )


def _combination(name: str, others: list[str]) -> str:
    if not others:
        return f"{name} is always the same"
    if len(others) == 1:
        return f"{name} repeats {others[0]}"
    return f"{name} is a combination of {_listed(others, ', ')}"


def one_class_levels(encoding: Encoding, loss: Loss, constant: float, gradient: np.ndarray, weight: np.ndarray) -> str:
    """A line about levels whose rows are all of one class; empty if there are none.

    Parameters
    ----------
    constant : float
        The raw prediction of all rows at which the gradient was made.
    gradient, weight : float64, (n_dof,)
        Gradient of the mean loss, without a penalty, and the share of the weight that each level has.
    """
    # With one raw prediction for all, the gradient tells a level's positives.
    positives = weight * float(loss.inverse_link(np.array([constant]))[0]) - gradient
    rounding = 1e-9 * weight
    separated = (weight > 0.0) & ((positives <= rounding) | (positives >= weight - rounding))
    separated[: encoding.n_numeric] = separated[-1] = False
    for column in encoding.sparse:
        separated[column.rows] = False
    if not separated.any():
        return ""
    told = _listed_rows(encoding, separated)
    return f"levels of one class only: {told}. Their best coefficients are infinite; l2, or the last pass, ends them."


def levels_lacking_a_class(
    encoding: Encoding, probabilities: np.ndarray, gradient: np.ndarray, weight: np.ndarray
) -> str:
    """A line about levels that have no row of some class, where there are several; empty if there are none.

    Parameters
    ----------
    probabilities : float64, (n_classes,)
        Those of all rows at which the gradient was made.
    gradient, weight : float64, (n_dof, n_classes) and (n_dof,)
        As for :func:`one_class_levels`.
    """
    of_classes = weight[:, None] * probabilities - gradient
    separated = (weight > 0.0) & (of_classes <= 1e-9 * weight[:, None]).any(axis=1)
    separated[: encoding.n_numeric] = separated[-1] = False
    for column in encoding.sparse:
        separated[column.rows] = False
    if not separated.any():
        return ""
    told = _listed_rows(encoding, separated)
    return (
        f"levels without rows of some class: {told}. Their best coefficients are infinite; l2, or the last pass, ends"
        f" them."
    )


def shares_of_classes(
    shares: np.ndarray, gradient: np.ndarray, probabilities: np.ndarray, class_weights: tuple[float, ...]
) -> np.ndarray:
    """As :func:`shares_by_class`, for several classes.

    The gradient by class k of a level is ``q_k s - c_k m_k``: c the weights of the classes, m the level's shares of the
    weight without them, which sum to ``shares``, and s what is asked for.
    """
    weights = np.array(class_weights)
    return np.asarray((shares + (gradient / weights).sum(axis=1)) / (probabilities / weights).sum())


def shares_by_class(
    shares: np.ndarray, gradient: np.ndarray, prediction: float, class_weights: tuple[float, ...]
) -> np.ndarray:
    """Shares of the weight that classes multiply, from those of the weight that they do not.

    Parameters
    ----------
    shares, gradient : float64, (n_dof,)
        Of each level; the gradient, of the mean loss with ``class_weights``, was made where all rows have the
        ``prediction`` q. It is ``n q (s - p) - m (1 - q) p``: s the share, p that of the positives, n and m the weights
        of the classes.
    """
    negative, positive = class_weights
    of_positives = (negative * prediction * shares - gradient) / (negative * prediction + positive * (1.0 - prediction))
    return np.asarray(negative * (shares - of_positives) + positive * of_positives)


def _listed_rows(encoding: Encoding, chosen: np.ndarray) -> str:
    names = encoding.row_names()
    return _listed([names[row] for row in np.flatnonzero(chosen)], ", ")


def _listed(names: list[str], separator: str) -> str:
    more = len(names) - MOST_NAMES
    return separator.join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
