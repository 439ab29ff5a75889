"""What ``GDClassifier`` and ``GDRegressor`` have in common: arguments, rows in, predictions out.

arrays, frames ──> checked ──> one table ┐
paths, streams ──────────────────────────┴─> fitting ──> model_, coef_, …
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from streamgd.data.columns import INDEX_REASON
from streamgd.data.frames import is_frame, is_path, is_stream, table_of
from streamgd.data.kinds import is_index_level
from streamgd.extra_sklearn import scikit_learn
from streamgd.fitting import Fitted, fit, fit_stream, raw_predictions, tables
from streamgd.model import Model
from streamgd.objective.losses import LOSSES
from streamgd.option_values import parse_names

with scikit_learn():
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data

#: Arguments that are options of ``TrainConfig``, by the same name.
_OPTIONS = (
    "optimizer", "learning_rate", "batch_size", "epochs", "l1", "l2", "non_negative", "shuffle", "scale", "categorical",
    "max_levels", "index_columns", "null_indicators", "log", "clip", "bins", "spline", "cross", "seed", "memory",
    "threads",
)  # fmt: skip


class GradientDescentEstimator(BaseEstimator):  # type: ignore[misc]
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
        non_negative: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        categorical: Sequence[str] | None = None,
        max_levels: int = 65_536,
        index_columns: Mapping[str, int] | None = None,
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
        self.non_negative = non_negative
        self.features = features
        self.categorical = categorical
        self.max_levels = max_levels
        self.index_columns = index_columns
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickled state; arguments that the build which wrote it did not have are at their defaults."""
        super().__setstate__(type(self)().get_params(deep=False) | state)

    def _options(self, by_name: bool) -> dict[str, Any]:
        """The options that the arguments give, for data that hold their target or not."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        options |= {name: getattr(self, name) for name in ("method", "dtype") if getattr(self, name) != "auto"}
        return {name: value for name, value in options.items() if value is not None} | self._loss_options(by_name)

    @abstractmethod
    def _loss_options(self, by_name: bool) -> dict[str, Any]:
        """The options that say which loss it is."""

    def _loss_of(self, classes: bool) -> str:
        """The name of the loss, which must be one of classes or one of numbers."""
        name: str = self.loss  # type: ignore[attr-defined]
        if name in LOSSES and LOSSES[name].is_classifier != classes:
            kinds = ("classes", "numbers") if classes else ("numbers", "classes")
            fitting = ", ".join(repr(each) for each, loss in LOSSES.items() if loss.is_classifier == classes)
            raise ValueError(f"loss={name!r} is one of {kinds[1]}, this learns {kinds[0]}. Choose one of {fitting}.")
        return name

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
        self._fitted, self._by_name = fitted, by_name
        self.model_ = fitted.model if by_name else fitted.model.of_arrays(getattr(self, "classes_", None))
        rows, n_outputs = fitted.model.coefficients(), fitted.model.n_outputs
        self.coef_names_ = np.array([each.name for each in rows[:-n_outputs:n_outputs]], dtype=object)
        self.loss_curve_, self.n_iter_ = fitted.loss_curve, fitted.n_iter
        values = np.array([each.value for each in rows]).reshape(-1, n_outputs)
        self._take_model(fitted.model, values[:-1], values[-1])
        if by_name:
            names = self.model_.encoding.columns.feature_sources
            ordered = [*parse_names(self.features or ()), *fitted.columns, *names]
            self.feature_names_in_ = np.array([name for name in dict.fromkeys(ordered) if name in names], dtype=object)
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


def _holds_target(X: Any, target: str | None) -> bool:
    """Whether the target is a column of the data."""
    return target is not None or is_path(X) or is_stream(X)


def _fresh_name(name: str, taken: list[str]) -> str:
    while name in taken:
        name += "_"
    return name
