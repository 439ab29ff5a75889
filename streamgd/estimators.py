"""``GDClassifier`` and ``GDRegressor``: streamgd by the conventions of scikit-learn (extra ``sklearn``).

A thin face: everything is learned by ``training``, everything predicted by ``model_``, a :class:`streamgd.Model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from streamgd.config import TrainConfig
from streamgd.estimator_base import GradientDescentEstimator
from streamgd.extra_sklearn import scikit_learn
from streamgd.model import Model

with scikit_learn():
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_y, column_or_1d

__all__ = ["GDClassifier", "GDRegressor"]

#: Of two classes, and without probabilities.
_HINGE_LOSSES = ("squared_hinge", "hinge")


def _has_probability(estimator: Any) -> bool:
    """Whether the classifier has ``predict_proba``; raises AttributeError where it has not."""
    if estimator.loss in _HINGE_LOSSES:
        raise AttributeError(f"loss={estimator.loss!r} has no probabilities; loss='logistic' and 'multinomial' have")
    return True


class GDClassifier(ClassifierMixin, GradientDescentEstimator):  # type: ignore[misc]
    """Logistic regression of two classes, or of more by the softmax, or a support vector machine.

    Parameters
    ----------
    loss : {"logistic", "multinomial", "squared_hinge", "hinge"}
        Of ``y`` with two classes multinomial is the logistic loss, and with more the other way round; of data that hold
        their target multinomial is to be named. The hinge losses are of two classes, and have no probabilities:
        ``predict_proba`` is not there with them.
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
        class_weight: Any = None,
    ):
        super().__init__(
            method=method, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs,
            l1=l1, l2=l2, non_negative=non_negative, features=features, categorical=categorical,
            max_levels=max_levels, index_columns=index_columns, null_indicators=null_indicators, log=log,
            clip=clip, bins=bins, spline=spline, cross=cross, scale=scale, shuffle=shuffle, dtype=dtype, seed=seed,
            memory=memory, threads=threads,
        )  # fmt: skip
        self.loss = loss
        self.class_weight = class_weight

    def _loss_options(self, by_name: bool) -> dict[str, Any]:
        n_classes, loss = 2 if by_name else len(self.classes_), self._loss_of(classes=True)
        if n_classes > 2 and self.loss in _HINGE_LOSSES:
            raise ValueError(
                f"Only binary classification is supported by loss {self.loss!r}, y has {n_classes} classes. Choose"
                f" 'logistic'."
            )
        loss = "multinomial" if n_classes > 2 else loss
        if loss == "multinomial" and n_classes == 2 and not by_name:
            loss = "logistic"  # it is the same model
        # Of y the classes are known, however many; data that hold their target have a limit.
        return {"loss": loss, "max_classes": max(TrainConfig.model_fields["max_classes"].default, n_classes)}

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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self.loss not in _HINGE_LOSSES
        return tags


class GDRegressor(RegressorMixin, GradientDescentEstimator):  # type: ignore[misc]
    """Linear regression of numbers. Parameters and attributes are those of :class:`GDClassifier`, but for these.

    Parameters
    ----------
    loss : {"squared", "huber", "quantile", "poisson", "gamma", "tweedie"}
        The last three predict ``exp`` of the linear part, quantile that of the target.
    power : float
        Of the tweedie loss, from 1 (poisson) to 2 (gamma).
    delta : float or "auto"
        Of the huber loss.
    quantile : float
        Of the quantile loss, between 0 and 1.

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
        quantile: float = 0.5,
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
        super().__init__(
            method=method, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size, epochs=epochs,
            l1=l1, l2=l2, non_negative=non_negative, features=features, categorical=categorical,
            max_levels=max_levels, index_columns=index_columns, null_indicators=null_indicators, log=log,
            clip=clip, bins=bins, spline=spline, cross=cross, scale=scale, shuffle=shuffle, dtype=dtype, seed=seed,
            memory=memory, threads=threads,
        )  # fmt: skip
        self.loss, self.power, self.delta, self.quantile = loss, power, delta, quantile

    def _loss_options(self, by_name: bool) -> dict[str, Any]:  # noqa: ARG002
        options: dict[str, Any] = {"loss": self._loss_of(classes=False)}
        own = {"tweedie": "power", "huber": "delta", "quantile": "quantile"}.get(self.loss)
        return options | ({own: getattr(self, own)} if own else {})

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
