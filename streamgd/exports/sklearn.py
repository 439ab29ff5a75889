"""The model as a fitted scikit-learn Pipeline over the columns of a data frame, as they stand in the data.

    numbers   SimpleImputer, StandardScaler ─────┐
    nulls     MissingIndicator, StandardScaler ──┼── LogisticRegression, LinearRegression, PoissonRegressor, …
    texts     OneHotEncoder ─────────────────────┤
    labels    OneHotEncoder, of numbers ─────────┤
    offset    passed through ────────────────────┤
    exposure  its logarithm ─────────────────────┘

A number with transforms is a part of its own: functions of numpy first, then as above, or OneHotEncoder of its bins.
What a transform cannot take, which ``predict`` refuses, has no meaning there.

Nothing is learned from data: each part is fitted to made-up rows that give it its shape, and then told the model's own
numbers. Null is None or NaN, as in the frames of ``table.to_pandas()``, or pandas.NA in pandas' own types of numbers
and truth values; among texts pandas.NA counts as a level that is not listed. A part of a date is a column of its own,
named as the feature (``when.hour``). Other columns of the frame are not looked at.

Labels that are dates, times or decimals in the data are texts to the model, those that Arrow makes of them
(``2026-01-05``, ``1.50``), and a model does not know them from texts. The frame has to have them as text too:
``column.cast(pyarrow.string())``. A date or Decimal counts as a level that is not listed.
"""

from __future__ import annotations

import io
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    TweedieRegressor,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from streamgd.data.columns import IS_NULL
from streamgd.data.kinds import python_values
from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.cross import Cross
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError
from streamgd.exports.labels import check_told_apart
from streamgd.exports.sklearn_transforms import places_of, steps_of
from streamgd.model import Model
from streamgd.objective.losses import LogLinkLoss, Loss, QuantileLoss


def exported(model: Model) -> Pipeline:
    """The pipeline.

    The classes are in the order of the model's: ``predict_proba(frame)[:, 1]`` is the probability of the positive one.

    Raises
    ------
    ConfigError
        A column is hashed, or the model predicts nothing where a feature is null: scikit-learn has no word for that.
        Or a level is an integer that a double does not hold.
    """
    _check(model)
    pipelines = [_of_output(output) for output in model.outputs()]
    regressions = [pipeline.named_steps["model"] for pipeline in pipelines]
    if len(pipelines) > 1:
        regressions[0].coef_ = np.concatenate([each.coef_ for each in regressions])
        regressions[0].intercept_ = np.concatenate([each.intercept_ for each in regressions])
    return pipelines[0]


def _of_output(model: Model) -> Pipeline:
    """The pipeline of a model with one raw prediction."""
    encoding, theta = model.encoding, model.theta[:, 0]
    numeric = encoding.columns.numeric
    imputing, of_nulls = SimpleImputer(keep_empty_features=True), [*_as_numbers(), MissingIndicator(features="all")]
    of_numbers = [*_as_numbers(), imputing]
    groups = {
        "numbers": ([k for k, c in enumerate(numeric) if c.part != IS_NULL and not c.steps], of_numbers),
        "nulls": ([k for k, c in enumerate(numeric) if c.part == IS_NULL], of_nulls),
    }
    # Each has a part of its own, as its steps are told.
    for k, number in enumerate(numeric):
        if number.steps:
            groups[f"number {k}"] = ([k], [*_as_numbers(), *steps_of(number.steps), imputing])
    labels = [column for column in encoding.categorical if len(column.levels)]
    intercept = float(theta[-1]) + sum(column.coefficients(model.theta)[1] for column in encoding.categorical)
    parts: list[tuple[str, object, list[str]]] = []
    coefficients = []
    for name, (places, first) in groups.items():
        if places:
            read = [numeric[k].read_as for k in places]
            parts.append((name, make_pipeline(*first, StandardScaler()), read))
            coefficients.append(theta[places])
    for name, first in (("texts", []), ("labels", _as_numbers())):
        chosen = [column for column in labels if (column.column.values == "string") == (name == "texts")]
        chosen = [column for column in chosen if column.column.made is None]
        if chosen:
            # A level that is not listed gets zeros, so the intercept takes up its coefficient, and all levels are told
            # against it.
            encoder = OneHotEncoder(categories=[_categories(column) for column in chosen], handle_unknown="ignore")
            parts.append((name, make_pipeline(*first, encoder), [column.column.name for column in chosen]))
            coefficients += [_of_categories(column, model) for column in chosen]
    for k, column in enumerate(labels):
        if isinstance(made := column.column.made, Bins):
            parts.append((f"bins {k}", make_pipeline(*_as_numbers(), *places_of(made)), [made.source]))
            coefficients.append(_of_bins(column, made, model))
    if encoding.columns.offset is not None:
        parts.append(("offset", "passthrough", [encoding.columns.offset]))
        coefficients.append(np.ones(1))
    if encoding.columns.exposure is not None:
        logarithm = FunctionTransformer(np.log, feature_names_out="one-to-one")
        parts.append(("exposure", make_pipeline(*_as_numbers(), logarithm), [encoding.columns.exposure]))
        coefficients.append(np.ones(1))
    columns = ColumnTransformer(parts).fit(_made_up_rows(model, labels))
    for name, (places, _) in groups.items():
        if places:
            _tell_scaling(columns.named_transformers_[name], model, places)
    return Pipeline(
        [("columns", columns), ("model", _linear(model, np.concatenate([*coefficients, np.empty(0)]), intercept))]
    )


def to_bytes(pipeline: Pipeline) -> bytes:
    """As joblib writes it: ``joblib.load`` reads it, by the same version of scikit-learn, from those you trust."""
    file = io.BytesIO()
    joblib.dump(pipeline, file)
    return file.getvalue()


def _as_numbers() -> list[Any]:
    """Make float64 of numbers and truth values of any type, None for null among them, as what follows needs it."""
    doubles = FunctionTransformer(np.asarray, kw_args={"dtype": np.float64}, feature_names_out="one-to-one")
    return [StandardScaler(with_mean=False, with_std=False), doubles]  # the first leaves float32 as it is


def _check(model: Model) -> None:
    hashed = [column.column.name for column in model.encoding.categorical if column.hashed]
    if hashed:
        raise ConfigError(
            f"--to sklearn: column '{hashed[0]}' is hashed, and scikit-learn hashes in another way. Choose --to json,"
            f" or train with more --max-levels."
        )
    crossed = [column.column.name for column in model.encoding.categorical if isinstance(column.column.made, Cross)]
    crossed += [column.name for column in model.encoding.columns.numeric if column.at is not None]
    if crossed:
        raise ConfigError(
            f"--to sklearn: the cross '{crossed[0]}' has no transformer there. Choose --to onnx or json, or train"
            f" without it."
        )
    if model.encoding.nulls != "impute":
        raise ConfigError(
            f"--to sklearn: with --nulls {model.encoding.nulls} rows with a null have no prediction, which a Pipeline"
            f" cannot say. Choose --to onnx, or train with --nulls impute."
        )
    for column in model.encoding.categorical:
        check_told_apart("sklearn", column)


def _categories(column: CategoricalEncoding) -> np.ndarray:
    """The levels as scikit-learn takes them: numbers in ascending order; null, in each spelling, last."""
    levels = python_values(column.levels.drop_null())
    has_null = column.levels.null_count > 0
    if column.column.values == "string":
        return np.array([*levels, *([None, np.nan] if has_null else [])], object)
    return np.append(np.sort(np.array(levels, np.float64)), [np.nan] if has_null else [])


def _of_categories(column: CategoricalEncoding, model: Model) -> np.ndarray:
    """The coefficient of each category, against a level that is not listed."""
    coefficients, unseen = column.coefficients(model.theta)
    known = column.levels.is_valid().to_numpy(zero_copy_only=False)
    levels = np.array(python_values(column.levels.drop_null()))
    of_levels = coefficients[known] - unseen
    if column.column.values == "string":
        of_null = np.repeat(coefficients[~known] - unseen, 2)
    else:
        of_levels, of_null = of_levels[np.argsort(levels.astype(np.float64))], coefficients[~known] - unseen
    return np.concatenate([of_levels, of_null])


def _of_bins(column: CategoricalEncoding, bins: Bins, model: Model) -> np.ndarray:
    """The coefficient of each bin and of null, against a level that is not listed."""
    coefficients, unseen = column.coefficients(model.theta)
    known = dict(zip(python_values(column.levels), coefficients.tolist(), strict=True))
    return np.array([known.get(level, unseen) - unseen for level in (*bins.names, None)])


def _made_up_rows(model: Model, labels: list[CategoricalEncoding]) -> pd.DataFrame:
    """Two rows that have every column, of the type that it has in the model."""
    columns = model.encoding.columns
    names = [column.read_as for column in columns.numeric]
    names += [name for column in labels if column.column.made is not None for name in column.column.reads]
    names += [columns.offset] if columns.offset is not None else []
    names += [columns.exposure] if columns.exposure is not None else []
    rows: dict[str, object] = {name: [1.0, 2.0] for name in names}
    for column in (each for each in labels if each.column.made is None):
        level = _categories(column)[0]
        rows[column.column.name] = pd.Series([level] * 2, dtype=object if column.column.values == "string" else float)
    return pd.DataFrame(rows)


def _tell_scaling(numbers: Pipeline, model: Model, places: list[int]) -> None:
    """Give the fitted parts the model's own numbers, those of some of its numeric columns."""
    scaling = model.encoding.scaling
    shift, scale = scaling.shift[places], scaling.scale[places]
    imputer, scaler = numbers[-2], numbers[-1]
    if isinstance(imputer, SimpleImputer):
        imputer.statistics_ = shift + scale * scaling.fill[places]
    scaler.mean_, scaler.scale_, scaler.var_ = shift, scale, scale**2
    scaler.n_samples_seen_ = int(model.facts.get("train_rows", 0))


def _regressor(loss: Loss) -> Any:
    if isinstance(loss, QuantileLoss):
        return QuantileRegressor(quantile=loss.quantile, alpha=0.0)
    if not isinstance(loss, LogLinkLoss):
        return LinearRegression()
    kinds = {"poisson": PoissonRegressor, "gamma": GammaRegressor}
    regression = kinds[loss.name]() if loss.name in kinds else TweedieRegressor(power=loss.power, link="log")
    # What ``predict`` takes the link from; ``fit`` makes it.
    regression._base_loss = regression._get_loss()
    return regression


def _linear(model: Model, coefficients: np.ndarray, intercept: float) -> Any:
    if model.classes is None:
        regression = _regressor(model.loss)
        regression.coef_, regression.intercept_ = coefficients, intercept
    else:
        regression = LogisticRegression() if model.loss.has_probability else LinearSVC(loss=model.loss.name)
        regression.coef_, regression.intercept_ = coefficients[None, :], np.array([intercept])
        regression.classes_, regression.n_iter_ = np.array(model.classes), np.zeros(1, np.int32)
    regression.n_features_in_ = len(coefficients)
    return regression
