"""What the tests hold streamgd against: rows read whole, and the optimum by damped Newton, in plain numpy.

Nothing of streamgd is used here. A model comes in as the coefficients that it tells, in original units.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

FLIGHT_FEATURES = "month,day,dep_time,distance,air_time,carrier,origin,dest"


class Coefficient(Protocol):
    """A row of theta, as ``Model.coefficients()`` gives it: ``value`` is in original units."""

    column: str
    level: str | None
    standardised: float
    value: float


@dataclass(frozen=True)
class Rows:
    """All rows with a target, decoded: nulls of numbers are the column's mean.

    Attributes
    ----------
    numbers : dict of float64, (n,)
    codes : dict of int64, (n,)
        Of the categorical columns; 0 is the most frequent level.
    levels : dict of list
        The level of each code.
    target, weight, offset : float64, (n,)
    """

    numbers: dict[str, np.ndarray]
    codes: dict[str, np.ndarray]
    levels: dict[str, list[Any]]
    target: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    @classmethod
    def read(
        cls,
        data: Path | str,
        target: str,
        features: Iterable[str],
        weight: str | None = None,
        offset: str | None = None,
    ) -> Self:
        """The rows of a Parquet file or folder."""
        names = [*features, *(name for name in (weight, offset) if name), target]
        files = sorted(Path(data).glob("*.parquet")) if Path(data).is_dir() else [data]
        table = pa.concat_tables([pq.read_table(file, columns=names) for file in files])
        return cls.of_table(table, target, features, weight, offset)

    @classmethod
    def of_table(
        cls, table: pa.Table, target: str, features: Iterable[str], weight: str | None = None, offset: str | None = None
    ) -> Self:
        has_target = ~np.isnan(_numbers(table[target]))
        table = table.filter(pa.array(has_target))
        numbers, codes, levels = {}, {}, {}
        for name in features:
            column = table[name]
            if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
                codes[name], levels[name] = _codes(column)
            else:
                values = _numbers(column)
                numbers[name] = np.where(np.isnan(values), np.nanmean(values), values)
        rows = table.num_rows
        weights = _numbers(table[weight]) if weight else np.ones(rows)
        offsets = _numbers(table[offset]) if offset else np.zeros(rows)
        return cls(numbers, codes, levels, _numbers(table[target]), weights, offsets)

    @property
    def is_logistic(self) -> bool:
        return bool(np.isin(self.target, (0.0, 1.0)).all())

    def mean_loss(self, raw: np.ndarray) -> float:
        """Weighted mean of the logistic or the half squared loss of raw predictions."""
        y = self.target
        losses = np.logaddexp(0.0, raw) - y * raw if self.is_logistic else 0.5 * (raw - y) ** 2
        return float(self.weight @ losses / self.weight.sum())

    def raw_prediction(self, coefficients: Iterable[Coefficient]) -> np.ndarray:
        """``X @ coefficients + offset`` in original units."""
        raw = self.offset.copy()
        by_level: dict[str, dict[str, float]] = {name: {} for name in self.codes}
        for each in coefficients:
            if each.column in self.numbers:
                raw += each.value * self.numbers[each.column]
            elif each.column in self.codes:
                by_level[each.column][str(each.level)] = each.value
            else:
                assert each.column == "(intercept)"
                raw += each.value
        for name, values in by_level.items():
            names = ["null" if level is None else level for level in self.levels[name]]
            table = np.array([values.get(level, 0.0) for level in names])
            raw += table[self.codes[name]]
        return raw


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    """Codes by descending frequency and the level of each; a null is a level of its own."""
    encoded = column.cast(pa.string()).dictionary_encode(null_encoding="encode").combine_chunks()
    indices = encoded.indices.to_numpy()
    order = np.argsort(-np.bincount(indices, minlength=len(encoded.dictionary)), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[indices], [encoded.dictionary[int(index)].as_py() for index in order]


@dataclass(frozen=True)
class Oracle:
    """J of the best constant and of the best coefficients, with the penalty ``l2`` (0: none)."""

    rows: Rows
    l2: float
    base: float
    optimum: float

    @classmethod
    def of(cls, rows: Rows, l2: float = 0.0) -> Self:
        base = damped_newton(replace(rows, numbers={}, codes={}, levels={}))
        return cls(rows, l2, base, damped_newton(rows, l2))

    def loss(self, model: Any) -> float:
        """Mean loss by the coefficients that the model tells."""
        return self.rows.mean_loss(self.rows.raw_prediction(model.coefficients()))

    def way_closed(self, model: Any) -> float:
        """Share of the way from the best constant to the optimum, by the coefficients that the model tells."""
        squares = sum(each.standardised**2 for each in model.coefficients() if each.column != "(intercept)")
        return (self.base - self.loss(model) - 0.5 * self.l2 * squares) / (self.base - self.optimum)


def damped_newton(rows: Rows, l2: float = 0.0) -> float:
    """The least J that a linear model has on the rows: mean loss + l2/2 |beta|^2 of standardised numbers and levels.

    One-hot columns against the most frequent level are never built: their sums are counted.
    """
    n, scale = len(rows.target), 1.0 / rows.weight.sum()
    numbers = []
    for values in rows.numbers.values():
        centred = values - rows.weight @ values * scale
        numbers.append(centred / (np.sqrt(rows.weight @ centred**2 * scale) or 1.0))
    X = np.stack([*numbers, np.ones(n)], axis=1)
    intercept = X.shape[1] - 1
    codes, sizes = list(rows.codes.values()), [len(levels) for levels in rows.levels.values()]
    starts = np.cumsum([X.shape[1], *(size - 1 for size in sizes)])
    theta, penalty = np.zeros(starts[-1]), np.full(starts[-1], l2)
    penalty[intercept] = 0.0
    share = rows.weight @ rows.target * scale
    theta[intercept] = np.log(share / (1.0 - share)) if rows.is_logistic else share

    def raw_prediction(theta: np.ndarray) -> np.ndarray:
        raw = rows.offset + X @ theta[: X.shape[1]]
        for code, start, end in zip(codes, starts, starts[1:], strict=False):
            raw += np.concatenate([[0.0], theta[start:end]])[code]
        return raw

    def objective(theta: np.ndarray) -> float:
        return rows.mean_loss(raw_prediction(theta)) + 0.5 * float(penalty @ theta**2)

    def gradient_and_hessian(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raw = raw_prediction(theta)
        prediction = expit(raw) if rows.is_logistic else raw
        slope = scale * rows.weight * (prediction - rows.target)
        curve = scale * rows.weight * (prediction * (1.0 - prediction) if rows.is_logistic else 1.0)
        gradient, hessian = np.empty(len(theta)), np.zeros((len(theta), len(theta)))
        dense = slice(0, X.shape[1])
        gradient[dense] = X.T @ slope
        hessian[dense, dense] = X.T @ (X * curve[:, None])
        for i, (code, size) in enumerate(zip(codes, sizes, strict=True)):
            here = slice(starts[i], starts[i + 1])
            gradient[here] = np.bincount(code, slope, size)[1:]
            hessian[here, here] = np.diag(np.bincount(code, curve, size)[1:])
            for j in range(X.shape[1]):
                hessian[here, j] = hessian[j, here] = np.bincount(code, curve * X[:, j], size)[1:]
            for k in range(i):
                there = slice(starts[k], starts[k + 1])
                both = np.bincount(code * sizes[k] + codes[k], curve, size * sizes[k]).reshape(size, sizes[k])[1:, 1:]
                hessian[here, there] = both
                hessian[there, here] = both.T
        # The small ridge keeps the system solvable where columns coincide.
        return gradient + penalty * theta, hessian + np.diag(penalty + 1e-10)

    first = value = objective(theta)
    for _ in range(60):
        gradient, hessian = gradient_and_hessian(theta)
        step = np.linalg.solve(hessian, gradient)
        decrement = float(gradient @ step)
        # Levels with one class only go on for ever, each step for less than the one before.
        if decrement <= 1e-6 * (first - value) + 1e-13 * abs(value):
            return value
        length = 1.0
        while (trial := objective(theta - length * step)) > value - 0.25 * length * decrement:
            length *= 0.5
            assert length > 1e-6, "the line search of the oracle failed"
        theta, value = theta - length * step, trial
    raise AssertionError("the oracle did not converge")
