"""``GDClassifier`` and ``GDRegressor``: streamgd by the conventions of scikit-learn (extra ``sklearn``).

    arrays, frames ──> checked ──> one table ┐
    paths, streams ──────────────────────────┴─> fitting ──> model_, coef_, …

A thin face: everything is learned by ``training``, everything predicted by ``model_``, a :class:`streamgd.Model`.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from streamgd.data.columns import INDEX_REASON, is_index_level
from streamgd.data.frames import is_frame, is_path, is_stream, table_of
from streamgd.errors import ConfigError
from streamgd.fitting import Fitted, feature_columns, fit, fit_stream, raw_predictions, tables
from streamgd.model import Model

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import (
        _check_sample_weight,
        _check_y,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "sklearn":
        raise
    raise ConfigError(
        "estimators need the package 'scikit-learn'. Install it: pip install 'streamgd[sklearn]'."
    ) from None

__all__ = ["GDClassifier", "GDRegressor"]

#: Classes that are learned from data which hold their target; those of ``y`` are known beforehand.
MOST_CLASSES = 100

#: Arguments that are options of ``TrainConfig``, by the same name.
_OPTIONS = (
    "optimizer", "learning_rate", "batch_size", "epochs", "l1", "l2", "shuffle", "scale", "categorical", "max_levels",
    "null_indicators", "log", "clip", "bins", "spline", "cross", "seed", "memory", "threads",
)  # fmt: skip


class _GradientDescent(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor have in common."""

    _fitted: Fitted

    def __init__(
        self,
        *,
        method: str = "auto",
        optimizer: str = "auto",
        learning_rate: float | str = "auto",
        batch_size: int = 256,
        epochs: int | None = None,
        l1: float = 0.0,
        l2: float = 1e-6,
        features: Sequence[str] | None = None,
        categorical: Sequence[str] | None = None,
        max_levels: int = 65_536,
        null_indicators: bool = False,
        log: Sequence[str] | None = None,
        clip: Mapping[str, Sequence[float | None]] | None = None,
        bins: Mapping[str, Sequence[float]] | None = None,
        spline: Mapping[str, int] | None = None,
        cross: Sequence[str] | None = None,
        scale: str = "standard",
        shuffle: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        memory: int | str = "512MB",
        threads: int | None = None,
    ):
        self.method = method
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.l1 = l1
        self.l2 = l2
        self.features = features
        self.categorical = categorical
        self.max_levels = max_levels
        self.null_indicators = null_indicators
        self.log = log
        self.clip = clip
        self.bins = bins
        self.spline = spline
        self.cross = cross
        self.scale = scale
        self.shuffle = shuffle
        self.dtype = dtype
        self.seed = seed
        self.memory = memory
        self.threads = threads

    # Fit

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, target: str | None = None) -> Self:
        """Learn from scratch.

        Parameters
        ----------
        X : array, frame, path, or stream
            An array has shape (n_rows, n_features). A frame is anything with Arrow's PyCapsule interface: of pandas,
            polars, Arrow, …; its categories are categorical, also those that are numbers. A path, or a list of them,
            names Parquet files as for ``streamgd.train``. A stream (a reader of record batches, an iterator over
            batches or frames) is learned in one pass; in streams and files, categories that are numbers are numbers.
        y : array, shape (n_rows,), optional
            The target of an array or a frame.
        sample_weight : array, shape (n_rows,), or with ``target`` the name of a column, optional
        target : str, optional
            The column to predict, where there is no ``y``. All others are features, but for those that ``train`` takes
            for ids; or those that ``features`` names.

        Raises
        ------
        ValueError
            By scikit-learn's checks of arrays.
        StreamgdError
            One of the tree in ``streamgd.errors``.

        Warns
        -----
        ConvergenceWarning
            More epochs would do better.
        UserWarning
            What else the run would tell on a screen.
        """
        if _holds_target(X, target):
            return self._take(fit(X, self._named_options(X, y, sample_weight, target) | self._class_option()), True)
        return self._take(fit(*self._checked_table(X, y, sample_weight, reset=True)), False)

    def _options(self, by_name: bool) -> dict[str, Any]:
        """The options that the arguments give, for data that hold their target or not."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        options |= {name: getattr(self, name) for name in ("method", "dtype") if getattr(self, name) != "auto"}
        return {name: value for name, value in options.items() if value is not None} | self._loss_options(by_name)

    @abstractmethod
    def _loss_options(self, by_name: bool) -> dict[str, Any]:
        """The options that say which loss it is."""

    def _class_option(self) -> dict[str, Any]:
        """The option of ``TrainConfig`` for weights of classes, if it is wanted."""
        return {}

    def _named_options(self, X: Any, y: Any, sample_weight: Any, target: str | None) -> dict[str, Any]:
        """Options of data that hold their target."""
        if target is not None and y is not None:
            raise ValueError("give y or target=, not both.")
        if target is not None and (hasattr(X, "dtype") or isinstance(X, list | tuple)) and not is_path(X):
            found = type(X).__name__
            raise ValueError(f"target= needs a frame, a path or a stream of frames; found {found}. Give y for arrays.")
        if target is None or y is not None:
            raise ValueError("paths and streams hold the target: name its column with target=, and give no y.")
        if sample_weight is not None and not isinstance(sample_weight, str):
            raise ValueError("with target= the weights are a column as well: give its name as sample_weight.")
        if isinstance(getattr(self, "class_weight", None), dict):
            raise ValueError("class_weight by class needs y. With target=, name a column of weights as sample_weight.")
        return self._options(True) | {"target": target, "weight": sample_weight, "features": self.features}

    # Partial fit

    def _partial_fit(
        self, X: Any, y: Any, sample_weight: Any, target: str | None, classes: np.ndarray | None = None
    ) -> Self:
        before = getattr(self, "_fitted", None)
        if before is not None and before.stream is None:
            warnings.warn(
                "partial_fit begins a new stream: what fit learned from data as a whole is forgotten.",
                stacklevel=3,
            )
            before = None
        if self._class_option():
            raise ValueError("class_weight 'balanced' needs all rows at once. For partial_fit give a dict.")
        if _holds_target(X, target):
            return self._take(
                fit_stream(X, self._named_options(X, y, sample_weight, target), before), True, stacklevel=4
            )
        table, options = self._checked_table(X, y, sample_weight, reset=before is None, classes=classes)
        if options["weight"] is None:  # whether there are weights must not change on the way
            options["weight"] = _fresh_name("sample_weight", table.column_names)
            table = table.append_column(options["weight"], pa.array(np.ones(table.num_rows)))
        return self._take(fit_stream(table, options, before), False, stacklevel=4)

    # Arrays and frames

    def _checked_table(
        self, X: Any, y: Any, sample_weight: Any, reset: bool, classes: np.ndarray | None = None
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Features, target and weights as one table, looked at as scikit-learn does, and the options that name them."""
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        table = self._features_table(X, reset)
        y = np.asarray(y) if hasattr(y, "__arrow_c_stream__") else y
        check_consistent_length(table, y)
        target = self._checked_target(y, reset, classes)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, table, dtype=np.float64, ensure_non_negative=True)
        weight = self._checked_weight(target, weight, reset)
        features = table.column_names if self.features is None else self.features
        options = self._options(False) | self._class_option()
        options |= {"target": _fresh_name("y", table.column_names), "weight": None, "features": features}
        table = table.append_column(options["target"], pa.array(target))
        if weight is not None:
            options["weight"] = _fresh_name("sample_weight", table.column_names)
            table = table.append_column(options["weight"], pa.array(weight))
        return table, options

    def _features_table(self, X: Any, reset: bool) -> pa.Table:
        """The features as an Arrow table; names and number of columns are looked at, and remembered if ``reset``."""
        if is_frame(X) or type(X).__name__ == "LazyFrame":  # which is refused as such
            table = table_of(X)
            if reset and not table.num_rows:
                raise ValueError("X has no rows. Give data that have rows.")
            indices = [name for name in table.column_names if self._is_index(name)]
            if indices and reset:
                warnings.warn(f"{', '.join(indices)}: left out, {INDEX_REASON}.", stacklevel=4)
            table = table.drop_columns(indices)
            # scikit-learn knows the names of few frames, and those of Arrow's tables; names that are no text are none.
            has_names = not hasattr(X, "iloc") or all(isinstance(name, str) for name in X.columns)
            validate_data(self, table if has_names else X, reset=reset, skip_check_array=True)
            return table.rename_columns(self._column_names())
        array = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan")
        return pa.table([pa.array(column) for column in array.T], names=self._column_names())

    def _is_index(self, name: str) -> bool:
        """Whether a column is an index without a name, and nobody asked for it."""
        return is_index_level(name) and name not in (self.features or ()) and name not in (self.categorical or ())

    def _column_names(self) -> list[str]:
        names = getattr(self, "feature_names_in_", None)
        return [f"x{number}" for number in range(self.n_features_in_)] if names is None else list(names)

    @abstractmethod
    def _checked_target(self, y: Any, reset: bool, classes: np.ndarray | None) -> np.ndarray:
        """The target as it is trained on, shape (n_rows,); ``classes`` are those that it may have."""

    @abstractmethod
    def _checked_weight(self, target: np.ndarray, weight: np.ndarray | None, reset: bool) -> np.ndarray | None:
        """The weights as they are trained with, if there are any, float64, shape (n_rows,)."""

    @abstractmethod
    def _take_model(self, model: Model, coef: np.ndarray, intercept: np.ndarray) -> None:
        """Keep what has another shape for a classifier than for a regressor.

        ``coef`` and ``intercept``, in original units, have shapes (n_coefficients, n_outputs) and (n_outputs,).
        """

    # What was learned

    def _take(self, fitted: Fitted, by_name: bool, stacklevel: int = 3) -> Self:
        """Keep what was learned, of data that held their target or not, and warn of what is to be known about it."""
        self._fitted, self.model_, self._by_name = fitted, fitted.model, by_name
        rows, n_outputs = fitted.model.coefficients(), fitted.model.n_outputs
        self.coef_names_ = np.array([each.name for each in rows[:-n_outputs:n_outputs]], dtype=object)
        self.loss_curve_, self.n_iter_ = fitted.loss_curve, fitted.n_iter
        values = np.array([each.value for each in rows]).reshape(-1, n_outputs)
        self._take_model(fitted.model, values[:-1], values[-1])
        if by_name:
            self.feature_names_in_ = np.array(feature_columns(self.model_), dtype=object)
            self.n_features_in_ = len(self.feature_names_in_)
        for text in fitted.warnings:
            warnings.warn(text, ConvergenceWarning if text in fitted.hints else UserWarning, stacklevel=stacklevel)
        return self

    def _raw_prediction(self, X: Any) -> np.ndarray:
        """Of new data of any kind that ``fit`` takes, float64, shape (n_rows,).

        Of more than two classes, shape (n_rows, n_classes).
        """
        check_is_fitted(self)
        by_name = is_path(X) or is_stream(X) or (self._by_name and is_frame(X))
        rows = tables(X, self.model_) if by_name else [self._features_table(X, reset=False)]
        return raw_predictions(self.model_, rows)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _has_probability(estimator: Any) -> bool:
    """Whether the classifier has ``predict_proba``; raises AttributeError where it has not."""
    if estimator.loss != "logistic":
        raise AttributeError(f"probabilities are there with loss='logistic', it is {estimator.loss!r}")
    return True


class GDClassifier(ClassifierMixin, _GradientDescent):  # type: ignore[misc]
    """Logistic regression of two classes, or of more by the softmax, or a support vector machine.

    Parameters
    ----------
    loss : {"logistic", "multinomial", "squared_hinge"}
        With more than two classes in ``y``, ``logistic`` is the multinomial loss; of data that hold their target
        multinomial is to be named. The squared hinge loss is of two classes, and has no probabilities:
        ``predict_proba`` is not there with it.
    method : {"auto", "batch", "minibatch", "sgd"}
        ``auto``: full batch to the optimum below 100,000 rows, unless an optimizer, a learning rate or a shuffle is
        asked for; from there on what ``train`` does by default.
    dtype : {"auto", "float32", "float64"}
        ``auto``: float64 below 100,000 rows.
    features : list of str, optional
        Columns to learn from; columns of arrays are called x0, x1, …
    class_weight : dict, "balanced" or None
        Factors of the weights of the classes; balanced: all have the same total weight.
    others
        Options of ``streamgd.train`` by the same name: see ``streamgd.config.TrainConfig``.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
    coef_ : float64, (1, n_coefficients), or (n_classes, n_coefficients) of more than two classes
        In original units. One for each number, and one for each level of a categorical column but the most frequent;
        ``coef_names_`` has their names.
    intercept_ : float64, (1,) or (n_classes,)
    n_iter_ : int
        Epochs or passes; of a stream its parts.
    loss_curve_ : list of float
        The objective after each pass, or the progressive loss of each epoch or part.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    model_ : streamgd.Model

    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> GDClassifier(l2=0.1).fit(X, ["no", "no", "yes", "yes"]).predict([[0.5], [2.5]])
    array(['no', 'yes'], dtype='<U3')
    """

    def __init__(
        self,
        *,
        loss: str = "logistic",
        method: str = "auto",
        optimizer: str = "auto",
        learning_rate: float | str = "auto",
        batch_size: int = 256,
        epochs: int | None = None,
        l1: float = 0.0,
        l2: float = 1e-6,
        features: Sequence[str] | None = None,
        categorical: Sequence[str] | None = None,
        max_levels: int = 65_536,
        null_indicators: bool = False,
        log: Sequence[str] | None = None,
        clip: Mapping[str, Sequence[float | None]] | None = None,
        bins: Mapping[str, Sequence[float]] | None = None,
        spline: Mapping[str, int] | None = None,
        cross: Sequence[str] | None = None,
        scale: str = "standard",
        shuffle: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        memory: int | str = "512MB",
        threads: int | None = None,
        class_weight: Any = None,
    ):
        super().__init__(
            method=method, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs,
            l1=l1, l2=l2, features=features, categorical=categorical, max_levels=max_levels,
            null_indicators=null_indicators, log=log, clip=clip, bins=bins, spline=spline, cross=cross, scale=scale,
            shuffle=shuffle, dtype=dtype, seed=seed, memory=memory, threads=threads,
        )  # fmt: skip
        self.loss = loss
        self.class_weight = class_weight

    def _loss_options(self, by_name: bool) -> dict[str, Any]:
        n_classes = 2 if by_name else len(self.classes_)
        if n_classes > 2 and self.loss not in ("logistic", "multinomial"):
            raise ValueError(f"loss {self.loss!r} is of two classes, y has {n_classes}. Choose 'logistic'.")
        loss = "multinomial" if n_classes > 2 else self.loss
        return {"loss": loss, "max_classes": max(MOST_CLASSES, n_classes)}

    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None, *, target: str | None = None
    ) -> Self:
        """Go on as one stream with more rows, in one pass over them; see :meth:`fit` for the arguments.

        Units, the optimizer and levels go on: the scaler learns the new rows, and new levels get a coefficient. The
        first rows must be of all classes.

        Parameters
        ----------
        classes : array, shape (n_classes,), optional
            The classes of ``y``: where given, those of the first call are kept, and others are refused.
        """
        if classes is not None and target is not None:
            raise ValueError("classes belong to y: with target= the data have them. Leave classes out.")
        return self._partial_fit(X, y, sample_weight, target, None if classes is None else np.unique(classes))

    def decision_function(self, X: Any) -> np.ndarray:
        """The raw prediction, with the logistic loss the log-odds of ``classes_[1]``, float64, shape (n_rows,).

        Of more than two classes the raw prediction of each, shape (n_rows, n_classes).
        """
        return self._raw_prediction(X)

    @available_if(_has_probability)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, float64, shape (n_rows, n_classes)."""
        raw = self._raw_prediction(X)
        prediction = self.model_.loss.inverse_link(raw)
        return prediction if prediction.ndim > 1 else np.column_stack([1.0 - prediction, prediction])

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row, shape (n_rows,)."""
        raw = self._raw_prediction(X)
        return np.asarray(self.classes_[raw.argmax(axis=1) if raw.ndim > 1 else (raw > 0).astype(int)])

    def _checked_target(self, y: Any, reset: bool, classes: np.ndarray | None) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        try:
            check_classification_targets(y)
            kind = type_of_target(y, input_name="y", raise_unknown=True)
        except TypeError as error:
            raise ValueError(f"y has a null, or classes of several types ({error}). Give each row a class.") from error
        if reset:
            if kind not in ("binary", "multiclass"):
                raise ValueError(f"Only one class of a row is supported. The type of the target is {kind}.")
            found = np.unique(y)
            if len(found) == 1:
                raise ValueError(
                    f"y has one class, {found.tolist()[0]!r}, expected two (in partial_fit the first rows must be"
                    f" of both classes)."
                )
            self.classes_ = found if classes is None else classes
        elif classes is not None and not np.array_equal(classes, self.classes_):
            raise ValueError(f"classes are {classes.tolist()}, those of the first call were {self.classes_.tolist()}.")
        unknown = ~np.isin(y, self.classes_)
        if unknown.any():
            raise ValueError(f"y has the class {y[unknown].tolist()[0]!r}, the classes are {self.classes_.tolist()}.")
        lacking = self.classes_[~np.isin(self.classes_, y)]
        if reset and len(lacking):
            raise ValueError(f"y has no row of class {lacking.tolist()[0]!r}: the first rows must be of all classes.")
        return np.asarray(np.searchsorted(self.classes_, y), np.int32)

    def _checked_weight(self, target: np.ndarray, weight: np.ndarray | None, reset: bool) -> np.ndarray | None:
        if isinstance(self.class_weight, dict):
            unknown = [label for label in self.class_weight if label not in self.classes_.tolist()]
            if unknown:
                raise ValueError(
                    f"class_weight has the class {unknown[0]!r}, the classes are {self.classes_.tolist()}."
                )
            negative = [label for label, factor in self.class_weight.items() if not 0.0 <= factor < np.inf]
            if negative:
                found = self.class_weight[negative[0]]
                raise ValueError(f"class_weight of {negative[0]!r}: expected a finite factor from 0 on, found {found}.")
            factors = [float(self.class_weight.get(label, 1.0)) for label in self.classes_.tolist()]
            weight = np.array(factors)[target] * (1.0 if weight is None else weight)
        used = len(np.unique(target if weight is None else target[weight > 0]))
        if reset and used < len(self.classes_):
            count = "one class" if used == 1 else f"{used} classes"
            raise ValueError(f"all rows of positive weight are of {count}, expected {len(self.classes_)} classes.")
        return weight

    def _class_option(self) -> dict[str, Any]:
        if self.class_weight is None or isinstance(self.class_weight, dict):
            return {}
        if self.class_weight != "balanced":
            raise ValueError(f"class_weight: expected a dict, 'balanced' or None, found {self.class_weight!r}.")
        return {"class_weight": "balanced"}

    def _take_model(self, model: Model, coef: np.ndarray, intercept: np.ndarray) -> None:
        self.coef_, self.intercept_ = np.ascontiguousarray(coef.T), intercept
        if self._by_name:
            self.classes_ = np.array(model.classes)


class GDRegressor(RegressorMixin, _GradientDescent):  # type: ignore[misc]
    """Linear regression of numbers. Parameters and attributes are those of :class:`GDClassifier`, but for these.

    Parameters
    ----------
    loss : {"squared", "huber", "poisson", "gamma", "tweedie"}
        The last three predict ``exp`` of the linear part.
    power : float
        Of the tweedie loss, from 1 (poisson) to 2 (gamma).
    delta : float or "auto"
        Of the huber loss.

    Attributes
    ----------
    coef_ : float64, (n_coefficients,)
    intercept_ : float

    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> GDRegressor(l2=0.0).fit(X, [1.0, 3.0, 5.0]).predict([[3.0]]).round(6)
    array([7.])
    """

    def __init__(
        self,
        *,
        loss: str = "squared",
        power: float = 1.5,
        delta: float | str = "auto",
        method: str = "auto",
        optimizer: str = "auto",
        learning_rate: float | str = "auto",
        batch_size: int = 256,
        epochs: int | None = None,
        l1: float = 0.0,
        l2: float = 1e-6,
        features: Sequence[str] | None = None,
        categorical: Sequence[str] | None = None,
        max_levels: int = 65_536,
        null_indicators: bool = False,
        log: Sequence[str] | None = None,
        clip: Mapping[str, Sequence[float | None]] | None = None,
        bins: Mapping[str, Sequence[float]] | None = None,
        spline: Mapping[str, int] | None = None,
        cross: Sequence[str] | None = None,
        scale: str = "standard",
        shuffle: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        memory: int | str = "512MB",
        threads: int | None = None,
    ):
        super().__init__(
            method=method, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs,
            l1=l1, l2=l2, features=features, categorical=categorical, max_levels=max_levels,
            null_indicators=null_indicators, log=log, clip=clip, bins=bins, spline=spline, cross=cross, scale=scale,
            shuffle=shuffle, dtype=dtype, seed=seed, memory=memory, threads=threads,
        )  # fmt: skip
        self.loss, self.power, self.delta = loss, power, delta

    def _loss_options(self, by_name: bool) -> dict[str, Any]:  # noqa: ARG002
        options: dict[str, Any] = {"loss": self.loss}
        if self.loss == "tweedie":
            options["power"] = self.power
        return options | ({"delta": self.delta} if self.loss == "huber" else {})

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, target: str | None = None) -> Self:
        """Go on as one stream with more rows, in one pass over them; see :meth:`fit` for the arguments.

        Units, the optimizer and levels go on: the scaler learns the new rows, and new levels get a coefficient.
        """
        return self._partial_fit(X, y, sample_weight, target)

    def predict(self, X: Any) -> np.ndarray:
        """The expected value of each row, float64, shape (n_rows,)."""
        raw = self._raw_prediction(X)
        return self.model_.loss.inverse_link(raw)

    def _checked_target(self, y: Any, reset: bool, classes: np.ndarray | None) -> np.ndarray:  # noqa: ARG002
        return np.asarray(_check_y(y, y_numeric=True, estimator=self), np.float64)

    def _checked_weight(self, target: np.ndarray, weight: np.ndarray | None, reset: bool) -> np.ndarray | None:  # noqa: ARG002
        return weight

    def _take_model(self, model: Model, coef: np.ndarray, intercept: np.ndarray) -> None:  # noqa: ARG002
        self.coef_, self.intercept_ = np.ascontiguousarray(coef[:, 0]), float(intercept[0])


def _holds_target(X: Any, target: str | None) -> bool:
    """Whether the target is a column of the data."""
    return target is not None or is_path(X) or is_stream(X)


def _fresh_name(name: str, taken: list[str]) -> str:
    while name in taken:
        name += "_"
    return name
