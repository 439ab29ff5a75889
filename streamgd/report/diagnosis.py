"""What one streamed pass over data tells of a model: metrics, calibration, residuals, each feature, the columns.

    slices ── threads: decode, encode, predict, sums of the slice ── in order ──> sums of all slices

The sums take a fixed amount of memory, whatever the number of rows; they are added in the order of the rows, so the
result does not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.data.blocks import Block
from streamgd.data.encoder import EncodedRows
from streamgd.data.kinds import python_values
from streamgd.data.timestamps import timestamp_part
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError
from streamgd.evaluation import Evaluation, add_counts, check_any_left, compared_pieces
from streamgd.model import Model, model_of
from streamgd.objective.metrics import ClassifierMetrics, metrics_of
from streamgd.option_values import parse_sources
from streamgd.report.bins import BINS, Sums, bin_of, merge_equal
from streamgd.training.display import Display

#: Features for which actual and predicted are compared: those with the largest coefficients.
MOST_FEATURES = 24
#: Levels that are told apart, the most frequent ones of training; the rest stand together.
MOST_LEVELS = 31
#: Points of the ROC curve.
ROC_POINTS = 200
#: Residuals are counted in so many bins of equal width …
RESIDUAL_BINS = 320
#: … up to so many times their root mean square in training.
RESIDUAL_REACH = 8.0


@dataclass(frozen=True)
class Along:
    """Means of target and prediction along something, in groups of rows; arrays ``(n_groups,)``.

    ``names`` are those of levels; without them ``value`` is the place. ``squares`` is the mean squared residual.
    ``nulls`` is weight, mean target and mean prediction of the rows without a value, if there are any.
    """

    name: str
    names: tuple[str, ...]
    weight: np.ndarray
    value: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    squares: np.ndarray
    nulls: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class NumberProfile:
    """A numeric column: missing values among the rows, and moments of the others (NaN where there are none)."""

    name: str
    nulls: int
    mean: float
    deviation: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class LevelProfile:
    """A categorical column: missing values, levels of the model, and the share of the most frequent ones.

    ``n_levels`` is None for a hashed column, of which no levels are known. A base level as which the model takes all
    that are not listed has a name such as ``AS, or not listed``.
    """

    name: str
    nulls: int
    n_levels: int | None
    levels: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Diagnosis:
    """What was found; arrays are float64.

    Attributes
    ----------
    along_prediction : Along
        Rows in up to 20 groups by their prediction: the calibration.
    roc : (n, 2), or None
        False and true positive rate, from (0, 0) to (1, 1); of a classifier that saw both classes.
    residuals : (weight (n,), edges (n + 1,)) or None
        Of a regression; ``beyond`` is the share of the weight outside the edges.
    features : tuple of Along
    numbers, levels
        The profiles of the columns.
    """

    data: tuple[str, ...]
    part: str
    where: str | None
    evaluation: Evaluation
    along_prediction: Along
    roc: np.ndarray | None
    residuals: tuple[np.ndarray, np.ndarray] | None
    beyond: float
    features: tuple[Along, ...]
    numbers: tuple[NumberProfile, ...]
    levels: tuple[LevelProfile, ...]


def diagnose(
    model: Model | str | Path,
    data: Sequence[str] | str,
    where: str | None = None,
    part: Any = "all",
    threads: int | None = None,
    display: Display | None = None,
    *,
    filesystem: Any = None,
) -> Diagnosis:
    """Read ``data`` once; parameters and errors as for :func:`streamgd.evaluation.evaluate`."""
    model = model_of(model)
    if model.n_outputs > 1:
        raise ConfigError(
            f"--data: curves of predictions are drawn for numbers and two classes, this model has {model.n_outputs}"
            f" classes. Leave it out, and take streamgd evaluate."
        )
    sources, observer = parse_sources(data), _Observer(model)
    metrics, found = metrics_of(model.loss), observer.nothing()
    dropped: dict[str, int] = {}
    rows = compared_pieces(
        model, sources, where=where, part=part, threads=threads, display=display, observe=observer,
        filesystem=filesystem,
    )  # fmt: skip
    with closing(rows) as pieces:
        for piece in pieces:
            metrics.add(piece.target, piece.prediction, piece.raw, piece.weight, piece.offset)
            add_counts(dropped, piece.dropped)
            if piece.observed is not None:
                found.add(piece.observed)
    check_any_left(metrics.weight, dropped)
    evaluation = Evaluation(metrics.rows, metrics.weight, dropped, metrics.result())
    along, roc = observer.by_prediction(found), None
    if isinstance(metrics, ClassifierMetrics):
        roc = _roc(*metrics.ranks()[:2])
        if model.loss.has_probability:
            along = _along_ranks(model, *metrics.ranks())
    residuals, beyond = observer.residuals(found)
    numbers, levels = observer.profiles(found)
    return Diagnosis(
        tuple(sources),
        part,
        where,
        evaluation,
        along,
        roc,
        residuals,
        beyond,
        observer.features(found),
        numbers,
        levels,
    )


@dataclass
class _Observed:
    """Sums of a slice, or of all slices so far."""

    prediction: Sums
    residuals: np.ndarray
    features: list[Sums]
    levels: np.ndarray
    moments: np.ndarray
    nulls: dict[str, int] = field(default_factory=dict)

    def add(self, other: _Observed) -> None:
        self.prediction.add(other.prediction)
        self.residuals += other.residuals
        for mine, others in zip(self.features, other.features, strict=True):
            mine.add(others)
        self.levels += other.levels
        self.moments = _merged(self.moments, other.moments)
        add_counts(self.nulls, other.nulls)


def _merged(first: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Weight, mean, squared deviations, minimum and maximum (5, n) of both: Chan, Golub, LeVeque (1983), eq. 2.1."""
    weight = first[0] + later[0]
    share = np.divide(later[0], weight, out=np.zeros_like(weight), where=weight > 0.0)
    difference = later[1] - first[1]
    mean = first[1] + difference * share
    squares = first[2] + later[2] + difference**2 * first[0] * share
    return np.stack([weight, mean, squares, np.minimum(first[3], later[3]), np.maximum(first[4], later[4])])


class _Observer:
    """Sums the rows of slices, and tells at the end what the sums mean."""

    def __init__(self, model: Model):
        self._model = model
        encoding = model.encoding
        self._scale, self._shift = encoding.scaling.scale, encoding.scaling.shift
        self._numeric, self._categorical = _chosen_features(model)
        self._centre, self._spread = _prediction_units(model)
        self._residual_unit = _residual_unit(model)

    def nothing(self) -> _Observed:
        n_numeric = self._model.encoding.n_numeric
        moments = np.zeros((5, n_numeric))
        moments[3], moments[4] = np.inf, -np.inf
        return _Observed(
            Sums.empty(),
            np.zeros(RESIDUAL_BINS + 2),
            [Sums.empty(BINS + 1) for _ in self._numeric] + [Sums.empty(MOST_LEVELS + 1) for _ in self._categorical],
            np.zeros((len(self._model.encoding.categorical), MOST_LEVELS + 1)),
            moments,
        )

    def __call__(
        self,
        batch: pa.RecordBatch,
        found: EncodedRows,
        kept: np.ndarray,
        block: Block,
        prediction: np.ndarray,
        weight: np.ndarray,
    ) -> _Observed | None:
        if not block.rows:
            return None
        nulls = self._nulls(batch, found, kept)
        numbers = [self._number(j, block, nulls, prediction, weight) for j in self._numeric]
        slots = [_slots(column, block.codes[:, c]) for c, column in enumerate(self._model.encoding.categorical)]
        categorical = [
            Sums.of(slots[c], MOST_LEVELS + 1, np.zeros(block.rows), block.target, prediction, weight)
            for c in self._categorical
        ]
        counts = [np.bincount(slot, weight, MOST_LEVELS + 1) for slot in slots]
        return _Observed(
            *self._regression(block, prediction, weight),
            numbers + categorical,
            np.reshape(counts, (len(slots), MOST_LEVELS + 1)),
            self._moments(block.features, nulls, weight),
            {name: int(rows.sum()) for name, rows in nulls.items()},
        )

    def _regression(self, block: Block, prediction: np.ndarray, weight: np.ndarray) -> tuple[Sums, np.ndarray]:
        """Sums by prediction and weight by residual; probabilities have the ranks of their metrics instead."""
        if self._model.loss.has_probability:
            return Sums.empty(), np.zeros(RESIDUAL_BINS + 2)
        by_prediction = bin_of((prediction - self._centre) / self._spread)
        residual = (block.target - prediction) / self._residual_unit
        places = np.floor((residual / RESIDUAL_REACH + 1.0) * (RESIDUAL_BINS // 2)) + 1
        places = np.clip(places, 0, RESIDUAL_BINS + 1).astype(np.int64)
        return (
            Sums.of(by_prediction, BINS, prediction, block.target, prediction, weight),
            np.bincount(places, weight, RESIDUAL_BINS + 2),
        )

    def _moments(self, features: np.ndarray, nulls: dict[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
        """Weight, mean, squared deviations, minimum and maximum (5, n_numeric) of the standardised features."""
        known = np.ones(features.shape, np.bool_)
        for j, column in enumerate(self._model.encoding.columns.numeric):
            if column.name in nulls:
                known[:, j] = ~nulls[column.name]
        weights = np.where(known, weight[:, None], 0.0)
        total = weights.sum(axis=0)
        mean = np.divide((weights * features).sum(axis=0), total, out=np.zeros_like(total), where=total > 0.0)
        squares = (weights * (features - mean) ** 2).sum(axis=0)
        low, high = np.where(known, features, np.inf).min(axis=0), np.where(known, features, -np.inf).max(axis=0)
        return np.stack([total, mean, squares, low, high])

    def _nulls(self, batch: pa.RecordBatch, found: EncodedRows, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Which of the rows that are compared are null, for each column that has nulls in this slice."""
        if not found.survey.nulls:
            return {}
        columns = self._model.encoding.columns
        sources = {column.name: (column.source, column.part) for column in columns.numeric}
        sources |= {column.name: (next(iter(column.reads)), None) for column in columns.categorical}
        masks = {}
        for name in sources.keys() & found.survey.nulls.keys():  # lists and maps are told by their entries
            source, part = sources[name]
            array = batch.column(source)
            array = timestamp_part(array, part) if part else array
            mask = np.asarray(pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False))[kept]
            if mask.any():
                masks[name] = mask
        return masks

    def _number(
        self, j: int, block: Block, nulls: dict[str, np.ndarray], prediction: np.ndarray, weight: np.ndarray
    ) -> Sums:
        """Sums along one numeric column, those of its nulls last."""
        values = np.ascontiguousarray(block.features[:, j], np.float64)
        places = bin_of(values)
        mask = nulls.get(self._model.encoding.columns.numeric[j].name)
        if mask is not None:
            places[mask] = BINS
        return Sums.of(places, BINS + 1, values, block.target, prediction, weight)

    def by_prediction(self, found: _Observed) -> Along:
        merged = found.prediction.merged()
        return Along("prediction", (), merged.weight, *merged.means())

    def residuals(self, found: _Observed) -> tuple[tuple[np.ndarray, np.ndarray] | None, float]:
        """Weight and edges of the bins of residuals that hold 99.8 % of the weight, and the share beyond all bins."""
        if self._model.loss.is_classifier:
            return None, 0.0
        weight = found.residuals
        total, inside = weight.sum(), weight[1:-1]
        beyond = float((weight[0] + weight[-1]) / total)
        if inside.sum() == 0.0:
            return None, beyond
        edges = np.linspace(-RESIDUAL_REACH, RESIDUAL_REACH, RESIDUAL_BINS + 1) * self._residual_unit
        below = np.cumsum(inside) / inside.sum()
        first, last = int(np.searchsorted(below, 0.001)), int(np.searchsorted(below, 0.999))
        every = max(1, -(-(last - first + 1) // 40))
        starts = np.arange(first, last + 1, every)
        counted = np.add.reduceat(inside[: last + 1], starts)
        return (counted, np.append(edges[starts], edges[last + 1])), beyond

    def features(self, found: _Observed) -> tuple[Along, ...]:
        """Target and prediction along the features, the one with the largest coefficient first."""
        encoding, theta = self._model.encoding, np.abs(self._model.theta[:, 0])
        made = []
        for j, sums in zip(self._numeric, found.features, strict=False):
            made.append((theta[j], self._along_number(j, sums)))
        for c, sums in zip(self._categorical, found.features[len(self._numeric) :], strict=True):
            column = encoding.categorical[c]
            made.append((_size(column, theta), _along_levels(column, sums)))
        made.sort(key=lambda pair: -pair[0])
        return tuple(along for _, along in made if len(along.weight))

    def _along_number(self, j: int, sums: Sums) -> Along:
        numbers, nulls = Sums(sums.table[:, :BINS]).merged(), Sums(sums.table[:, BINS:])
        value, target, prediction, squares = numbers.means()
        value = self._shift[j] + self._scale[j] * value
        missing = None
        if nulls.weight[0] > 0.0:
            _, of_target, of_prediction, _ = nulls.means()
            missing = (float(nulls.weight[0]), float(of_target[0]), float(of_prediction[0]))
        name = self._model.encoding.columns.numeric[j].name
        return Along(name, (), numbers.weight, value, target, prediction, squares, missing)

    def profiles(self, found: _Observed) -> tuple[tuple[NumberProfile, ...], tuple[LevelProfile, ...]]:
        encoding = self._model.encoding
        numbers = []
        for j, column in enumerate(encoding.columns.numeric):
            weight, mean, squares, low, high = found.moments[:, j].tolist()
            shift, scale = float(self._shift[j]), float(self._scale[j])
            known = [math.nan] * 4
            if weight > 0.0:
                known = [shift + scale * mean, scale * math.sqrt(squares / weight), shift + scale * low]
                known.append(shift + scale * high)
            numbers.append(NumberProfile(column.name, found.nulls.get(column.name, 0), *known))
        levels = []
        for c, categorical in enumerate(encoding.categorical):
            counts, total = found.levels[c], found.levels[c].sum()
            named = zip(_slot_names(categorical), counts.tolist(), strict=True)
            shown = () if categorical.hashed else tuple((name, w / total) for name, w in named if w > 0.0)
            n_levels = None if categorical.hashed else len(categorical.levels)
            name = categorical.column.name
            levels.append(LevelProfile(name, found.nulls.get(name, 0), n_levels, shown))
        return tuple(numbers), tuple(levels)


def _chosen_features(model: Model) -> tuple[list[int], list[int]]:
    """Numeric and categorical columns with the largest coefficients, in their own order; hashed ones have no levels."""
    encoding, theta = model.encoding, np.abs(model.theta[:, 0])
    sizes = [(float(theta[j]), 0, j) for j in range(encoding.n_numeric)]
    sizes += [(_size(column, theta), 1, c) for c, column in enumerate(encoding.categorical) if not column.hashed]
    largest = sorted(sizes, key=lambda size: (-size[0], *size[1:]))[:MOST_FEATURES]
    return sorted(j for _, kind, j in largest if kind == 0), sorted(c for _, kind, c in largest if kind == 1)


def _size(column: CategoricalEncoding, theta: np.ndarray) -> float:
    """The largest coefficient among those of the frequent levels."""
    rows = theta[column.first_row : column.first_row + min(column.n_rows, MOST_LEVELS)]
    return float(rows.max()) if len(rows) else 0.0


def _slots(column: CategoricalEncoding, codes: np.ndarray) -> np.ndarray:
    """Place of each row's level: 0 the base level, then by frequency in training, the last one for all others."""
    return np.where(codes < 0, 0, np.minimum(codes.astype(np.int64) - column.first_row + 1, MOST_LEVELS))


def _slot_names(column: CategoricalEncoding) -> list[str]:
    """The name of each slot; levels that are not listed have the last one, or where there is none the first."""
    names = ["null" if level is None else str(level) for level in python_values(column.levels)]
    base, others = ", or ".join([*names[:1], "not listed"]), names[1:]
    names = [*(names or [""]), "(other)"] if column.other else [base, *others]
    if len(names) > MOST_LEVELS + 1:
        names = [*names[:MOST_LEVELS], f"({len(names) - MOST_LEVELS:,} others)"]
    return names + [""] * (MOST_LEVELS + 1 - len(names))


def _along_levels(column: CategoricalEncoding, sums: Sums) -> Along:
    filled = np.flatnonzero(sums.weight > 0.0)
    names = _slot_names(column)
    kept = Sums(sums.table[:, filled])
    return Along(column.column.name, tuple(names[k] for k in filled), kept.weight, *kept.means())


def _prediction_units(model: Model) -> tuple[float, float]:
    """Where predictions of a regression are, and how far they spread, about."""
    if model.loss.link_name == "log":
        centre = float(model.loss.inverse_link(model.theta[-1])[0])
        return centre, (centre * float(np.linalg.norm(model.theta[:-1, 0]))) or 1.0
    base, train = model.facts.get("base_loss"), model.facts.get("train_loss")
    explained = base - train if isinstance(base, float) and isinstance(train, float) else 0.0
    spread = math.sqrt(2.0 * explained) if explained > 0.0 else float(np.linalg.norm(model.theta[:-1, 0]))
    return float(model.theta[-1, 0]), spread or 1.0


def _residual_unit(model: Model) -> float:
    """Root mean square of the residuals in training, about: from the mean of ``1/2 (raw - y)^2``."""
    if model.loss.link_name == "log":
        return _prediction_units(model)[0] or 1.0
    for name in ("train_loss", "progressive_loss", "base_loss"):
        loss = model.facts.get(name)
        if isinstance(loss, float) and loss > 0.0:
            return math.sqrt(2.0 * loss)
    return 1.0


def _along_ranks(model: Model, negative: np.ndarray, positive: np.ndarray, raw: np.ndarray) -> Along:
    """Groups of rows by probability, from the weight of both classes by rising raw prediction."""
    probability, weight = model.loss.inverse_link(raw), negative + positive
    squares = negative * probability**2 + positive * (1.0 - probability) ** 2
    sums = Sums(np.stack([weight, weight * probability, positive, weight * probability, squares])).merged()
    return Along("probability", (), sums.weight, *sums.means())


def _roc(negative: np.ndarray, positive: np.ndarray) -> np.ndarray | None:
    """The ROC curve from the weight of both classes by rising raw prediction, thinned out."""
    if not (negative.sum() > 0.0 and positive.sum() > 0.0):
        return None
    # From the highest threshold down, so many groups of equal weight.
    both = np.stack([negative / negative.sum(), positive / positive.sum()])
    steps = merge_equal(both, both.sum(axis=0), ROC_POINTS)[:, ::-1]
    return np.concatenate([np.zeros((1, 2)), np.minimum(np.cumsum(steps, axis=1).T, 1.0)])
