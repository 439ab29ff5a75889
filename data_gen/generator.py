"""Draw rows from a linear model whose coefficients are known.

    raw = intercept + sum_j coef_j * x_j + sum_k effect_k[c_k] + sum over i in s of effect_i
    y   = 1 with probability expit(raw) (logistic),  raw + N(0, NOISE_SD^2) (squared)

Every column of every chunk of CHUNK_ROWS rows has a random stream of its own, keyed by (seed, purpose, column, chunk).
So the values of row i depend on the seed and i alone: neither files and row groups nor the number of rows change them
(with `drift`, the number of rows does), and nulls or outliers change nothing but the values they replace. numpy may
change its streams from one release to the next (NEP 19); `truth.json` records the release.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_gen.sparse import Int32Array, draw_effects, draw_numbers, draw_ranks

CHUNK_ROWS = 65_536
SIGNAL_SD = 2.0
"""Standard deviation of raw: base loss - optimum is about 0.23 (logistic) and 2 (squared)."""
NOISE_SD = 1.0
OUTLIER_FACTOR = 1000.0
CALIBRATION_ROWS = 1 << 18
#: Chunks that are drawn while those before them are written: as many as a row group of the usual size has.
CHUNKS_AHEAD = 2

Float64Array = npt.NDArray[np.float64]


class Purpose(IntEnum):
    """What a random stream is for; part of its key, so the numbers must not change."""

    COEFFICIENTS = 0
    LEVEL_EFFECTS = 1
    INTERCEPT = 2
    UNITS = 3
    DRIFT = 4
    CALIBRATION = 5
    NUMERIC = 6
    COMMON_FACTOR = 7
    LEVELS = 8
    TARGET = 9
    OUTLIER_ROW = 10
    OUTLIER_COLUMN = 11
    NULLS = 12
    SPARSE_NUMBERS = 13
    SPARSE_EFFECTS = 14
    SPARSE = 15


def random_stream(seed: int, purpose: Purpose, column: int = 0, chunk: int = 0) -> np.random.Generator:
    """The random stream of one column of one chunk, independent of all others."""
    return np.random.Generator(np.random.SFC64([seed, int(purpose), column, chunk]))


@dataclass(frozen=True)
class Population:
    """All that decides the values of the rows.

    Parameters
    ----------
    rows : int
        Number of rows, at least 1.
    features : int
        Number of numeric columns `x0`, `x1`, …: standard normal, in float64.
    categorical, levels : int
        Number of categorical columns `c0`, `c1`, … and of the levels `l0`, `l1`, … of each; level k has probability
        proportional to 1 / (k + 1) (Zipf's law).
    active, sparse_columns : int
        Entries of each row's list `s`, if not 0, and the number of columns that they are indices of: see
        `data_gen.sparse`.
    loss : {'logistic', 'squared'}
        The target `y`: 0 or 1 (int8), or a real number (float64).
    seed : int
        From 0 to 2^32 - 1.
    sorted : bool
        The same rows, sorted by `y` over the whole data set; rows of equal `y` stay in the order they were drawn in.
    badly_scaled : bool
        Column j is written as offset_j + scale_j * x_j: the scales are powers of ten from 1e-6 to 1e6, and every second
        column, chosen at random, has an offset of 10 to 10,000 times its scale.
    imbalance : float, optional
        Probability of y = 1 in the population (logistic); the intercept is set to give it.
    nulls : float
        Share of nulls in each feature column. They are put in after the target is drawn.
    outliers : float
        Share of rows in which one numeric value is multiplied by 1,000. These are errors of measurement: the target is
        drawn from the value before.
    drift : bool
        The mean of each numeric column moves from -1 to +1 (or from +1 to -1) standard deviations, evenly over the rows
        in the order they are drawn in.
    correlation : float
        Correlation of any two numeric columns, from 0 to below 1, by a common factor.

    Raises
    ------
    ValueError
        A value out of its range, or options that contradict each other.
    """

    rows: int
    features: int
    categorical: int = 0
    levels: int = 10
    active: int = 0
    sparse_columns: int = 1 << 20
    loss: str = "logistic"
    seed: int = 0
    sorted: bool = False
    badly_scaled: bool = False
    imbalance: float | None = None
    nulls: float = 0.0
    outliers: float = 0.0
    drift: bool = False
    correlation: float = 0.0

    def __post_init__(self) -> None:
        for name, smallest in {"rows": 1, "features": 0, "categorical": 0, "levels": 1, "active": 0, "seed": 0}.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, found {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2^32, found {self.seed}")
        if self.features + self.categorical + self.active == 0:
            raise ValueError("no feature columns: features, categorical and active are all 0; ask for at least one")
        if self.active and not self.active <= self.sparse_columns <= 1 << 24:
            raise ValueError(f"sparse_columns must be from active to 2^24, found {self.sparse_columns}")
        if not self.active and self.sparse_columns != Population.sparse_columns:
            raise ValueError("sparse_columns are those that lists name, and rows have none: say how long by active")
        if self.loss not in ("logistic", "squared"):
            raise ValueError(f"loss must be logistic or squared, found {self.loss!r}")
        for name in ("nulls", "outliers"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a fraction from 0 to 1, found {getattr(self, name)}")
        if not 0 <= self.correlation < 1:
            raise ValueError(f"correlation must be from 0 to below 1, found {self.correlation}")
        if self.imbalance is not None and not 0 < self.imbalance < 1:
            raise ValueError(f"imbalance must be a probability above 0 and below 1, found {self.imbalance}")
        if self.imbalance is not None and self.loss != "logistic":
            raise ValueError("imbalance is for the logistic loss: leave it out, or take loss logistic")
        if self.outliers and not self.features:
            raise ValueError("outliers need a numeric column: features is 0")

    @property
    def numeric_columns(self) -> list[str]:
        return [f"x{column}" for column in range(self.features)]

    @property
    def categorical_columns(self) -> list[str]:
        return [f"c{column}" for column in range(self.categorical)]

    @property
    def list_columns(self) -> list[str]:
        return ["s"] if self.active else []

    @property
    def level_names(self) -> list[str]:
        return [f"l{level}" for level in range(self.levels)]

    @property
    def schema(self) -> pa.Schema:
        numeric = [(name, pa.float64()) for name in self.numeric_columns]
        categorical = [(name, pa.dictionary(pa.int32(), pa.string())) for name in self.categorical_columns]
        lists = [(name, pa.list_(pa.int32())) for name in self.list_columns]
        return pa.schema(
            [*numeric, *categorical, *lists, ("y", pa.int8() if self.loss == "logistic" else pa.float64())]
        )


@dataclass(frozen=True)
class LinearModel:
    """The truth, for numeric columns in standard units; `offset + scale * x` is what is written.

    Attributes
    ----------
    coef : float64 array of shape (features,)
    effects : float64 array of shape (categorical, levels)
    intercept : float
    scale, offset : float64 arrays of shape (features,)
        The units of the written columns.
    drift : float64 array of shape (features,)
        Half of the way that the column's mean moves, in standard deviations.
    cumulative : float64 array of shape (levels - 1,)
        Probability of a level up to k, for all but the last.
    numbers : int32 array, sparse_effects : float64 array, of shape (sparse_columns,) or (0,)
        Number and effect of each column that lists name, by its rank.
    """

    coef: Float64Array
    effects: Float64Array
    intercept: float
    scale: Float64Array
    offset: Float64Array
    drift: Float64Array
    cumulative: Float64Array
    numbers: Int32Array
    sparse_effects: Float64Array

    @property
    def coef_in_written_units(self) -> Float64Array:
        return self.coef / self.scale

    @property
    def intercept_in_written_units(self) -> float:
        return float(self.intercept - self.coef_in_written_units @ self.offset)


@dataclass(frozen=True)
class Chunk:
    """Up to CHUNK_ROWS rows as they are written, with the raw prediction of the truth for each."""

    batch: pa.RecordBatch
    raw: Float64Array
    y: Float64Array


def draw_model(population: Population) -> LinearModel:
    """Draw the true model; each feature column has, on average, the same share of the variance SIGNAL_SD^2 of raw."""
    seed, features = population.seed, population.features
    column_variance = SIGNAL_SD**2 / (features + population.categorical + len(population.list_columns))

    coef = random_stream(seed, Purpose.COEFFICIENTS).standard_normal(features)
    if features:
        correlation = population.correlation
        variance = (1 - correlation) * np.square(coef).sum() + correlation * coef.sum() ** 2
        coef *= np.sqrt(column_variance * features / variance)

    probability = 1.0 / np.arange(1, population.levels + 1)
    probability /= probability.sum()
    effects = random_stream(seed, Purpose.LEVEL_EFFECTS).standard_normal((population.categorical, population.levels))
    effects -= (effects @ probability)[:, None]
    if population.levels > 1:
        effects *= np.sqrt(column_variance / (np.square(effects) @ probability))[:, None]

    scale, offset = np.ones(features), np.zeros(features)
    if population.badly_scaled:
        random = random_stream(seed, Purpose.UNITS)
        scale = 10.0 ** random.permutation(np.linspace(-6, 6, features).round())
        size = 10.0 ** random.uniform(1, 4, features) * random.choice([-1.0, 1.0], features)
        offset = np.where(random.permutation(features) % 2 == 0, size * scale, 0.0)

    drift = np.zeros(features)
    if population.drift:
        drift = random_stream(seed, Purpose.DRIFT).choice([-1.0, 1.0], features)

    cumulative = probability.cumsum()[:-1]
    intercept = 0.5 * random_stream(seed, Purpose.INTERCEPT).standard_normal()
    numbers, sparse_effects = np.empty(0, np.int32), np.empty(0)
    if population.active:
        active, columns = population.active, population.sparse_columns
        numbers = draw_numbers(random_stream(seed, Purpose.SPARSE_NUMBERS), columns)
        sparse_effects = draw_effects(random_stream(seed, Purpose.SPARSE_EFFECTS), active, columns, column_variance)
    model = LinearModel(coef, effects, intercept, scale, offset, drift, cumulative, numbers, sparse_effects)
    if population.imbalance is None:
        return model
    return replace(model, intercept=_balanced_intercept(population, model))


def _balanced_intercept(population: Population, model: LinearModel) -> float:
    """The intercept for which the mean probability over a fixed sample of raw predictions is `imbalance`."""
    random = random_stream(population.seed, Purpose.CALIBRATION)
    # The numeric part of raw is exactly normal: there is no need to draw its columns one by one.
    correlation = population.correlation
    variance = (1 - correlation) * np.square(model.coef).sum() + correlation * model.coef.sum() ** 2
    raw = np.sqrt(variance) * random.standard_normal(CALIBRATION_ROWS)
    raw += (model.coef @ model.drift) * np.linspace(-1, 1, CALIBRATION_ROWS)
    for effects in model.effects:
        raw += effects[_draw_levels(model, random, CALIBRATION_ROWS)]
    if population.active:
        ranks = draw_ranks(random, CALIBRATION_ROWS, population.active, population.sparse_columns)
        raw += model.sparse_effects[ranks].sum(axis=1)
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if expit(raw + middle).mean() < population.imbalance:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def expit(raw: Float64Array) -> Float64Array:
    """1 / (1 + exp(-raw)), without overflow."""
    small = np.exp(-np.abs(raw))
    return np.where(raw >= 0, 1.0, small) / (1.0 + small)


def draw_chunks(population: Population, model: LinearModel, chunks: Iterable[int] | None = None) -> Iterator[Chunk]:
    """Draw all rows, in chunks of CHUNK_ROWS, or the chunks of these numbers; each call draws the same rows.

    While the caller has a chunk, those that follow are drawn on a thread.
    """
    dictionary = pa.array(population.level_names, pa.string()) if population.categorical else None
    drawn: deque[Future[Chunk]] = deque()
    thread = ThreadPoolExecutor(1)
    try:
        for chunk in range(-(-population.rows // CHUNK_ROWS)) if chunks is None else chunks:
            drawn.append(thread.submit(_draw_chunk, population, model, dictionary, chunk))
            if len(drawn) > CHUNKS_AHEAD:
                yield drawn.popleft().result()
        while drawn:
            yield drawn.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)  # where the caller takes no more


def _draw_chunk(population: Population, model: LinearModel, dictionary: pa.Array | None, chunk: int) -> Chunk:
    seed, features = population.seed, population.features
    first_row = chunk * CHUNK_ROWS
    n_rows = min(CHUNK_ROWS, population.rows - first_row)
    progress = (2.0 * np.arange(first_row, first_row + n_rows) + 1.0) / population.rows - 1.0
    factor = np.empty(0)
    if population.correlation:
        factor = random_stream(seed, Purpose.COMMON_FACTOR, 0, chunk).standard_normal(n_rows)
        factor *= np.sqrt(population.correlation)

    # Column by column: a column fits the cache, and no sum depends on the threads of a BLAS.
    raw = np.full(n_rows, model.intercept)
    numeric = []
    for column in range(features):
        x = random_stream(seed, Purpose.NUMERIC, column, chunk).standard_normal(n_rows)
        if population.correlation:
            x *= np.sqrt(1 - population.correlation)
            x += factor
        if population.drift:
            x += model.drift[column] * progress
        raw += model.coef[column] * x
        if population.badly_scaled:
            x *= model.scale[column]
            x += model.offset[column]
        numeric.append(x)

    codes = []
    for column, effects in enumerate(model.effects):
        codes.append(_draw_levels(model, random_stream(seed, Purpose.LEVELS, column, chunk), n_rows))
        raw += effects[codes[-1]]

    lists = []
    if population.active:
        random = random_stream(seed, Purpose.SPARSE, 0, chunk)
        ranks = draw_ranks(random, n_rows, population.active, population.sparse_columns)
        raw += model.sparse_effects[ranks].sum(axis=1)
        lists.append(model.numbers[ranks])

    random = random_stream(seed, Purpose.TARGET, 0, chunk)
    if population.loss == "logistic":
        y = (random.random(n_rows) < expit(raw)).astype(np.float64)
    else:
        y = raw + NOISE_SD * random.standard_normal(n_rows)

    if population.outliers:
        rows = np.flatnonzero(random_stream(seed, Purpose.OUTLIER_ROW, 0, chunk).random(n_rows) < population.outliers)
        column_of_row = random_stream(seed, Purpose.OUTLIER_COLUMN, 0, chunk).integers(0, features, n_rows)[rows]
        for column, x in enumerate(numeric):
            x[rows[column_of_row == column]] *= OUTLIER_FACTOR

    def nulls_of(column: int) -> npt.NDArray[np.bool_] | None:
        if not population.nulls:
            return None
        return random_stream(seed, Purpose.NULLS, column, chunk).random(n_rows) < population.nulls

    arrays = [_array(x, nulls_of(column)) for column, x in enumerate(numeric)]
    for column, codes_of_column in enumerate(codes, features):
        array = _array(codes_of_column, nulls_of(column))
        arrays.append(pa.DictionaryArray.from_arrays(array, dictionary))
    arrays += [_lists(values, nulls_of(len(arrays))) for values in lists]
    target = _array(y.astype(np.int8) if population.loss == "logistic" else y)
    return Chunk(pa.record_batch([*arrays, target], schema=population.schema), raw, y)


def _array(values: npt.NDArray[np.number[Any]], mask: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """The numbers as they lie there, null where `mask` says so.

    `pa.array` would first import pandas, where it is installed, to ask whether they are a series: 0.3 s.
    """
    known = None if mask is None else pa.py_buffer(np.packbits(~mask, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [known, pa.py_buffer(values)])


def _lists(values: npt.NDArray[np.int32], mask: npt.NDArray[np.bool_] | None) -> pa.Array:
    """A list a row, null where `mask` says so."""
    n_rows, active = values.shape
    starts = np.arange(0, (n_rows + 1) * active, active, dtype=np.int32)
    kept = None if mask is None else pa.array(mask)
    return pa.ListArray.from_arrays(_array(starts), _array(values.ravel()), mask=kept)


def _draw_levels(model: LinearModel, random: np.random.Generator, n_rows: int) -> npt.NDArray[np.int32]:
    return np.searchsorted(model.cumulative, random.random(n_rows), side="right").astype(np.int32)
