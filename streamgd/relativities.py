"""Relativities: by what factor a level, or one more unit of a number, multiplies the prediction of a log link.

A level's is ``exp`` of its coefficient, against the base level of its column, which has 1. Beside it stand the exposure
and the target of its rows, summed over the training data with their weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamgd.data.kinds import python_values
from streamgd.data.transforms.cycle import Cycle
from streamgd.data.transforms.spline import Spline
from streamgd.data.vocabulary import CategoricalEncoding, level_name
from streamgd.errors import ConfigError
from streamgd.inference import Errors, Inference
from streamgd.model import Model, model_of
from streamgd.plain import plain

NAMES = ("name", "column", "level", "is_base", "relativity", "lower", "upper", "exposure", "actual")


def relativities(model: Any, errors: Errors | None = None, level: float = 0.95) -> list[dict[str, Any]]:
    """One row for each number, and for each level of a categorical column, the base level first.

    Splines and cycles are left out: several features are one number there, and one unit of one of them is nothing.
    ``model`` is a model, a run or its path, what ``train`` gave, or an estimator.

    Returns
    -------
    list of dict
        With the names ``NAMES``; ``column`` is that of the data, or the cross. ``relativity`` is ``exp`` of the
        estimate where there is one (see :meth:`Model.inference`), else of the coefficient; ``lower`` and ``upper``
        bound the interval that covers it with probability ``level``. ``exposure`` and ``actual`` are sums over the
        training rows, of levels alone: of weight times exposure, and of weight times target. None where the run has
        made no closing pass; no ``exposure`` beside an offset column, whose part in the sum cannot be told apart.
        Hashed columns have no levels to tell.

    Raises
    ------
    ConfigError
        The model has no log link; or ``errors`` were asked for by name, and the run gave none.
    """
    model = model_of(model)
    if model.loss.link_name != "log":
        raise ConfigError(
            f"relativities are those of the losses poisson, gamma and tweedie, the loss is {model.loss_name}. Look at"
            f" the coefficients."
        )
    inference = None if model.closing is None and errors is None else model.inference(errors, level)
    told = _Told(model, inference)
    rows = [
        told.row(place, each.name, *(each.told_as if each.at is not None else (each.source, None)))
        for place, each in enumerate(model.encoding.columns.numeric)
        if not any(isinstance(step, Spline | Cycle) for step in each.steps)
    ]
    for column in model.encoding.categorical:
        if not column.hashed and len(column.levels):
            rows += told.levels(column)
    return rows


class _Told:
    """What is known of each row of theta."""

    def __init__(self, model: Model, inference: Inference | None):
        self._values = model.encoding.in_original_units(model.theta)[:, 0]
        self._inference = inference
        closing = model.closing
        self._sums = None
        if closing is not None and closing.exposure is not None and closing.actual is not None:
            self._sums = np.hstack([closing.exposure, closing.actual])
        self._has_exposure = model.encoding.columns.offset is None

    def row(self, place: int, name: str, column: str, level: Any) -> dict[str, Any]:
        value, lower, upper = float(self._values[place]), math.nan, math.nan
        if self._inference is not None and not math.isnan(self._inference.standard_error[place]):
            found = self._inference
            value, lower, upper = (float(each[place]) for each in (found.estimate, found.lower, found.upper))
        sums = (None, None) if self._sums is None or level is None else self._told_sums(self._sums[place])
        numbers = [None if math.isnan(each) else _exp(each) for each in (value, lower, upper)]
        return dict(zip(NAMES, (name, column, level, False, *numbers, *sums), strict=True))

    def levels(self, column: CategoricalEncoding) -> list[dict[str, Any]]:
        names, levels = column.row_names(), python_values(column.levels)
        places = range(column.first_row, column.first_row + column.n_rows)
        told = [level_name(each) if each is None or isinstance(each, str) else plain(each) for each in levels]
        others = [*told[1:], "(other)"][: len(names)]
        rows = [self.row(*each) for each in zip(places, names, [column.column.name] * len(names), others, strict=True)]
        name = f"{column.column.name}{column.column.separator}{told[0]}"
        base = dict.fromkeys(NAMES) | {
            "name": name, "column": column.column.name, "level": told[0], "is_base": True, "relativity": 1.0,
        }  # fmt: skip
        if self._sums is not None:
            rest = self._sums[-1] - self._sums[list(places)].sum(axis=0)
            base |= dict(zip(("exposure", "actual"), self._told_sums(rest), strict=True))
        return [base, *rows]

    def _told_sums(self, sums: np.ndarray) -> tuple[float | None, float]:
        """Exposure and target of a level."""
        return float(sums[0]) if self._has_exposure else None, float(sums[1])


def _exp(value: float) -> float:
    return math.exp(value) if value < 709.0 else math.inf
