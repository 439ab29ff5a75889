"""The frozen result of a run: encoding, theta and loss. It predicts, tells its coefficients, and is saved whole."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from streamgd import state as states
from streamgd.data.agreement import check_schema
from streamgd.data.block_encoder import BlockEncoder
from streamgd.data.blocks import Block, EntriesLayout, RecordLayout
from streamgd.data.columns import Label
from streamgd.data.encoder import Origin, RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.kinds import python_values
from streamgd.data.source import logical_type
from streamgd.data.sparse import SparseEncoding
from streamgd.data.transforms.numbers import steps_state
from streamgd.data.transforms.registry import labels_state
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError, NoInputError
from streamgd.inference import ClosingSums, Errors, Inference, infer
from streamgd.markup import details, table
from streamgd.objective.losses import LOSSES, Loss, loss_of
from streamgd.objective.objective import raw_prediction
from streamgd.option_checks import NO_CLOSING_PASS
from streamgd.plain import plain, plain_number

#: Of the model in a run directory.
FILE_NAME = "model.safetensors"
#: Coefficients that a notebook shows.
MOST_SHOWN = 15

_ERROR_COLUMNS = ("estimate", "standard_error", "z", "p_value", "lower", "upper")
COEFFICIENT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("name", "column", "level")]
    + [(name, pa.float64()) for name in ("value", "standardised", *_ERROR_COLUMNS)]
    + [("reason", pa.string())]
)


#: Raw predictions that are made at once, and the fewest rows that have them.
MOST_RAW_PREDICTIONS, FEWEST_ROWS = 250_000, 1_024

#: Entries of a row that the rows made ready at once allow for, where no footer was read.
USUAL_ENTRIES = 100

#: The type of a column of classes, by the type of one.
ARROW_TYPES_OF_LABELS: dict[type, pa.DataType] = {
    bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class Coefficient:
    """One number of theta. ``value`` is in original units: change of the raw prediction by one unit of the column.

    ``label`` is the class whose raw prediction it is, where there are more than two; their mean over classes is zero.
    """

    name: str
    column: str
    level: str | None
    standardised: float
    value: float
    label: Label | None = None


@dataclass(frozen=True, repr=False)
class Model:
    """A trained linear model.

    Attributes
    ----------
    theta : float64, (n_dof, n_outputs)
        Coefficients of the standardised features, the intercept last, in units of the target.
    encoding : Encoding
        How rows become features; the target is not scaled.
    facts : dict
        What is worth knowing of the run: rows, steps, epochs, losses, how it ended.
    closing : ClosingSums or None
        What errors of the coefficients are made from; ``facts["no_errors"]`` says why there is none.
    loss_settings : tuple of float
        Parameters of the loss, as ``Loss.setting_names`` orders them.
    """

    loss_name: str
    theta: np.ndarray
    encoding: Encoding
    facts: dict[str, Any] = field(default_factory=dict)
    closing: ClosingSums | None = None
    loss_settings: tuple[float, ...] = ()

    def __repr__(self) -> str:
        return f"Model({self.loss_name}, {self.theta.size} coefficients, theta_sha256={self.theta_sha256[:12]!r})"

    def _repr_html_(self) -> str:
        """What it predicts and its largest coefficients, for notebooks."""
        every = self.coefficients()
        features, intercepts = every[: -self.n_outputs], every[-self.n_outputs :]
        features.sort(key=lambda coefficient: -abs(coefficient.standardised))
        rows = [
            (each.name if each.label is None else f"{each.name}, {each.label}", each.value, each.standardised)
            for each in [*intercepts, *features[:MOST_SHOWN]]
        ]
        target = self.encoding.columns.target
        about = [
            ("target", target.name if target else None),
            ("loss", self.loss_name),
            ("coefficients", self.theta.size),
        ]
        intercept = "The intercept" if len(intercepts) == 1 else "The intercepts"
        more = f"{intercept} and the {len(rows) - len(intercepts)} largest of {len(features):,} coefficients"
        inner = table(["name", "original units", "standardised"], rows)
        return table(["model", self.theta_sha256[:12]], about) + details(more, inner)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it is saved: what a pickle was made to hold is looked at as a file is."""
        return type(self).from_bytes, (self.to_bytes(), "the pickle")

    @classmethod
    def of_training(
        cls, loss: Loss, theta: np.ndarray, encoding: Encoding, facts: dict[str, Any],
        closing: ClosingSums | None = None,
    ) -> Self:  # fmt: skip
        """The model of a theta that was trained on the standardised target; ``loss`` is that of the original one."""
        theta = theta * encoding.target_scale
        theta[-1] += encoding.target_shift
        closing = closing and closing.for_target(encoding.target_scale)
        encoding = replace(encoding, target_shift=0.0, target_scale=1.0, class_weights=None)
        return cls(loss.name, theta, encoding, facts, closing, tuple(loss.named_settings.values()))

    @property
    def loss(self) -> Loss:
        return loss_of(self.loss_name, self.loss_settings)

    @property
    def classes(self) -> tuple[Label, ...] | None:
        """The values of the target that count as 0, 1, …, for a classifier."""
        target = self.encoding.columns.target
        return target.classes if target else None

    def of_arrays(self, classes: np.ndarray | None) -> Self:
        """The model of an estimator that learned arrays: weights have no column, and classes the values they had."""
        columns = replace(self.encoding.columns, weight=None)
        labels = [] if classes is None else classes.tolist()
        if labels and columns.target is not None and all(isinstance(label, Label) for label in labels):
            columns = replace(columns, target=replace(columns.target, classes=tuple(labels)))
        return replace(self, encoding=replace(self.encoding, columns=columns))

    @property
    def n_outputs(self) -> int:
        """Raw predictions of a row: one, or one for each of more than two classes."""
        return int(self.theta.shape[1])

    def outputs(self) -> list[Self]:
        """A model of each raw prediction by itself, for what knows one: its loss and classes are still those of all."""
        return [replace(self, theta=np.ascontiguousarray(output[:, None])) for output in self.theta.T]

    @property
    def theta_sha256(self) -> str:
        """Digest of theta, shift and scale, from which predictions are made, as little-endian float64."""
        digest, encoding = hashlib.sha256(), self.encoding
        scales = (column.scales for column in encoding.sparse)
        for array in (self.theta, encoding.scaling.shift, encoding.scaling.scale, *scales):
            digest.update(np.ascontiguousarray(array, "<f8").tobytes())
        return digest.hexdigest()

    def encoder(self, with_target: bool, choice: RowChoice | None = None) -> BlockEncoder:
        """An encoder for new data: every row is kept without target, rows without a target are dropped with it."""
        columns = self.encoding.columns
        if not with_target:
            columns = replace(columns, target=None, weight=None)
        layout = RecordLayout(
            len(columns.numeric), len(columns.categorical), "float64",
            columns.weight is not None, columns.has_offset, False,
            EntriesLayout(USUAL_ENTRIES, columns.has_sparse_values) if columns.sparse else None,
        )  # fmt: skip
        return BlockEncoder(replace(self.encoding, columns=columns), layout, choice, every_row=not with_target)

    def slice_rows(self, encoder: BlockEncoder) -> int:
        """Rows that are predicted at once: fewer than a block where each has many raw predictions."""
        return min(encoder.layout.block_rows, max(FEWEST_ROWS, MOST_RAW_PREDICTIONS // self.n_outputs))

    def raw_prediction(self, block: Block) -> np.ndarray:
        """``X @ theta + offset``, float64, shape ``(n_rows,)``; ``(n_rows, n_classes)`` of more than two classes."""
        return raw_prediction(block, self.theta)

    def predict_batch(self, batch: pa.RecordBatch, origin: Origin | None = None) -> np.ndarray:
        """Predictions (probabilities for a classifier that has some) of a record batch, float64, NaN where none can be
        made.

        Shape ``(n_rows,)``; of more than two classes ``(n_rows, n_classes)``.

        Raises
        ------
        SchemaError
            The batch lacks a column of the model, or has it in another kind of type.
        DataError
            A feature is infinite.
        """
        encoder, origin = self.encoder(with_target=False), origin or Origin("the batch", None, 0, 0)
        logical = pa.schema((field.name, logical_type(field.type)) for field in batch.schema)
        check_schema(encoder.columns, logical, str(origin))
        return self.predict_with(encoder, batch, origin)

    def predict_with(self, encoder: BlockEncoder, batch: pa.RecordBatch, origin: Origin) -> np.ndarray:
        """Predictions by an encoder that is used again and again, of rows whose schema was checked."""
        block, rows = encoder.encode(batch, origin)
        prediction = self.loss.inverse_link(self.raw_prediction(block))
        if self.encoding.nulls != "impute":
            prediction[rows.has_null] = np.nan
        return prediction

    def compared_prediction(self, raw: np.ndarray) -> np.ndarray:
        """What is set beside the target, of raw predictions ``(n_rows,)``: 0 or 1 of a classifier without probability.

        Else it is the prediction, ``raw`` through the inverse link. Float64, ``(n_rows,)``.
        """
        if self.loss.is_classifier and not self.loss.has_probability:
            return (raw > 0.0).astype(np.float64)
        return self.loss.inverse_link(raw)

    def coefficients(self) -> list[Coefficient]:
        """Every number of theta by name, in original units, the intercept last; of a row class after class."""
        encoding = self.encoding
        values = encoding.in_original_units(self.theta)
        labels: tuple[Label | None, ...] = (self.classes or ()) if self.n_outputs > 1 else (None,)
        rows: list[tuple[str, str, Any]] = [(column.name, *column.told_as) for column in encoding.columns.numeric]
        for column in encoding.categorical:
            prefix = len(column.column.name) + 1
            rows += [(name, column.column.name, name[prefix:]) for name in column.row_names()]
        for sparse in encoding.sparse:
            named = zip(sparse.row_names(), sparse.labels(), strict=True)
            rows += [(name, sparse.column.name, label) for name, label in named]
        rows.append(("(intercept)", "(intercept)", None))
        return [
            Coefficient(name, source, level, float(standardised), float(value), label)
            for (name, source, level), of_row, in_units in zip(rows, self.theta, values, strict=True)
            for label, standardised, value in zip(labels, of_row, in_units, strict=True)
        ]

    @property
    def no_errors(self) -> str | None:
        """Why the coefficients have no errors; None where they have."""
        if self.closing is not None:
            return None
        reason = self.facts.get("no_errors")
        return reason if isinstance(reason, str) else NO_CLOSING_PASS

    @property
    def has_robust_errors(self) -> bool:
        """Whether the run summed what they are made from."""
        return self.closing is not None and self.closing.meat is not None

    def inference(self, errors: Errors | None = None, level: float = 0.95) -> Inference:
        """Standard errors, tests and intervals of the coefficients, in the order of theta.

        Parameters
        ----------
        errors : "classical" or "robust", optional
            Robust ones need ``--errors robust`` in training, and are the default then.
        level : float
            Of the intervals, between 0 and 1.

        Raises
        ------
        ConfigError
            The run gave no errors, or not these; the message says why.
        """
        if errors not in (None, "classical", "robust"):
            raise ConfigError(f"--errors: expected classical or robust, found {errors!r}.")
        if not 0.0 < level < 1.0:
            meant = f" Did you mean {level / 100:g} or {level:g}%?" if 50.0 <= level < 100.0 else ""
            raise ConfigError(f"--level: expected a number between 0 and 1, such as 0.95, found {level:g}.{meant}")
        if self.closing is None:
            raise ConfigError(f"the coefficients have no errors: {self.no_errors}.")
        if errors == "robust" and not self.has_robust_errors:
            raise ConfigError("the run was not asked for robust errors. Run it again with --errors robust.")
        values = self.encoding.in_original_units(self.theta)
        chosen = errors or ("robust" if self.has_robust_errors else "classical")
        return infer(self.closing, self.encoding, self.loss, values, chosen, level)

    def coefficient_table(self, errors: Errors | None = None, level: float = 0.95) -> pa.Table:
        """The coefficients with their errors, as :meth:`coefficients` orders them.

        Columns ``name``, of more than two classes ``class``, ``column``, ``level``, ``value``, ``standardised``, then
        ``estimate``, ``standard_error``, ``z``, ``p_value``, ``lower``, ``upper``, null where ``reason`` says why.
        Parameters as for :meth:`inference`.

        Raises
        ------
        ConfigError
            ``errors`` were asked for by name, and the run gave none.
        """
        return pa.Table.from_pylist(self.coefficient_rows(errors, level), self._coefficient_schema())

    def _coefficient_schema(self) -> pa.Schema:
        if self.n_outputs == 1:
            return COEFFICIENT_SCHEMA
        return COEFFICIENT_SCHEMA.insert(1, pa.field("class", ARROW_TYPES_OF_LABELS[type(self.classes[0])]))  # type: ignore[index]

    def coefficient_rows(self, errors: Errors | None = None, level: float = 0.95) -> list[dict[str, Any]]:
        """As :meth:`coefficient_table`, as plain values; None for null."""
        return self.rows_with(None if self.closing is None and errors is None else self.inference(errors, level))

    def rows_with(self, inference: Inference | None) -> list[dict[str, Any]]:
        """As :meth:`coefficient_rows`, with what :meth:`inference` gave, or without errors."""
        rows, names = [], self._coefficient_schema().names
        for number, coefficient in enumerate(self.coefficients()):
            errors = dict.fromkeys(_ERROR_COLUMNS) | {"reason": self.no_errors}
            if inference is not None:
                found = {name: float(getattr(inference, name)[number]) for name in _ERROR_COLUMNS}
                errors = {name: None if math.isnan(value) else value for name, value in found.items()}
                errors["reason"] = inference.reasons[number]
            row = vars(coefficient) | {"class": coefficient.label} | errors
            rows.append({name: row[name] for name in names})
        return rows

    def base_levels(self) -> dict[str, Label | None]:
        """The level of each categorical column that has no coefficient."""
        return {c.column.name: python_values(c.levels[:1])[0] for c in self.encoding.categorical if len(c.levels)}

    def to_json(self) -> dict[str, Any]:
        """The model as plain values that JSON can hold, enough to predict by hand.

        The raw prediction is ``intercept``, plus ``coefficient * value`` of each entry of ``numeric`` (its ``null`` in
        place of null and NaN; of a part ``is_null`` the value is 1 where ``source`` is null or NaN, else 0), plus the
        ``coefficient`` of the level of each entry of ``categorical`` (``unseen`` for a level that is not listed, null
        among them), plus the value of column ``offset``, plus the logarithm of that of column ``exposure``. A hashed
        column has ``coefficients`` of buckets: that of a level is FNV-1a (64 bit) of its UTF-8 text, modulo their
        number; null is hashed as U+0000. The prediction is the raw one, or ``1 / (1 + exp(-raw))`` where ``link`` is
        ``logit``, or ``exp(raw)`` where it is ``log``. Where it is ``softmax``, each coefficient is a list with one for
        each of ``classes``, and so is the raw prediction; the probability of a class is ``exp(raw)`` of it over the sum
        of these. Where ``nulls`` is not ``impute``, a row with a null in ``numeric`` or ``categorical`` has none.

        ``format_version`` is 1 for what the first readers know, and 2 where there is an ``exposure``, a ``link`` other
        than ``identity`` and ``logit``, ``sparse``, or a transform: the value of an entry of ``numeric`` with ``steps``
        is what these make of the column ``source``, one after another, and the level of an entry of ``categorical``
        with ``made`` is made of other columns than the one it is named after. For each entry of ``sparse``, every
        element of the row's list or map adds the ``coefficient`` of its level or index (0 where it is not listed),
        times its number if it has one. With ``buckets``, the index is FNV-1a of its text, or of its digits, modulo
        their number.

        ``standardised_intercept`` and ``standardised`` are those of ``(value - shift) / scale``: the same sum, without
        cancellation where values lie far from zero. A coefficient beyond float64 is None.
        """
        encoding, target = self.encoding, self.encoding.columns.target
        values, scaling, n = encoding.in_original_units(self.theta), encoding.scaling, encoding.n_numeric
        null = scaling.shift + scaling.scale * scaling.fill
        each = zip(values[:n], scaling.shift, scaling.scale, self.theta[:n], null, strict=True)
        names = ("coefficient", "shift", "scale", "standardised", "null")
        numeric = [
            {
                "name": column.name,
                "source": column.source,
                "part": column.part,
                **({"steps": steps_state(column.steps)} if column.steps else {}),
                **({"at": column.at.state()} if column.at is not None else {}),
                **{name: _plain_output(number) for name, number in zip(names, numbers, strict=True)},
            }
            for column, numbers in zip(encoding.columns.numeric, each, strict=True)
        ]
        return {
            "format": "streamgd", "format_version": self._rules,
            "loss": self.loss_name,
            "loss_settings": dict(zip(self.loss.setting_names, self.loss_settings, strict=True)),
            "link": self.loss.link_name,
            "target": target.name if target else None, "classes": list(self.classes) if self.classes else None,
            "nulls": encoding.nulls, "offset": encoding.columns.offset,
            "exposure": encoding.columns.exposure,
            "intercept": _plain_output(values[-1]), "standardised_intercept": _plain_output(self.theta[-1]),
            "numeric": numeric, "categorical": [_categorical_json(c, self.theta) for c in encoding.categorical],
            **({"sparse": [_sparse_json(each, values) for each in encoding.sparse]} if encoding.sparse else {}),
            "theta_sha256": self.theta_sha256,
        }  # fmt: skip

    @property
    def _rules(self) -> int:
        """What a reader of JSON has to know: with 2 transforms, exposures and more links, with 3 numbers at levels."""
        columns = self.encoding.columns
        if any(each.at for each in columns.numeric):
            return 3
        transforms = any(each.steps for each in columns.numeric) or any(each.made for each in columns.categorical)
        transforms |= bool(columns.sparse)
        first = not transforms and columns.exposure is None and self.loss.link_name in ("identity", "logit")
        return 1 if first else 2

    def to_bytes(self) -> bytes:
        return states.serialize(
            {
                "loss": self.loss_name, "loss_settings": list(self.loss_settings),
                "theta": self.theta, "encoding": self.encoding.state(), "facts": self.facts,
                "closing": self.closing.state() if self.closing else None,
            },
            "model",
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        state = states.deserialize(data, "model", where)
        with states.no_other_content(where, "model"):
            closing = state["closing"]
            model = cls(
                state["loss"], state["theta"], Encoding.from_state(state["encoding"]), dict(state["facts"]),
                None if closing is None else ClosingSums.from_state(closing), tuple(state.get("loss_settings", ())),
            )  # fmt: skip
            _check(model)
        return model

    def save(self, path: str | Path) -> None:
        """Write the model to one file, atomically."""
        states.write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model file, or the model of a run directory.

        Raises
        ------
        NoInputError
            There is no model.
        CorruptStateError
            The file is damaged.
        """
        file = Path(path)
        if file.is_dir() and file.name != FILE_NAME:
            file = file / FILE_NAME
            if not file.exists():
                raise NoInputError(f"no model in {path} yet. Finish the run with: streamgd resume {path}")
        if not file.exists():
            raise NoInputError(f"no run or model at {path}. Check the path.")
        return cls.from_bytes(states.read_file(file), str(file))


def _plain_output(found: Any) -> Any:
    """A number; of several outputs, which are an array, a list of numbers."""
    numbers = [plain_number(float(number)) for number in np.atleast_1d(found)]
    return numbers[0] if len(numbers) == 1 else numbers


def _categorical_json(column: CategoricalEncoding, theta: np.ndarray) -> dict[str, Any]:
    """A categorical column of :meth:`Model.to_json`."""
    parts = [column.coefficients(output[:, None]) for output in theta.T]
    coefficients, unseen = np.stack([each for each, _ in parts], axis=1), np.array([each for _, each in parts])
    fields: dict[str, Any] = {"name": column.column.name, "values": column.column.values}
    if column.column.made is not None:
        fields["made"] = labels_state(column.column.made)
    if column.hashed:
        return fields | {"coefficients": [_plain_output(each) for each in coefficients]}
    levels = [
        {"level": plain(level), "coefficient": _plain_output(coefficient)}
        for level, coefficient in zip(python_values(column.levels), coefficients, strict=True)
    ]
    return fields | {"levels": levels, "unseen": _plain_output(unseen)}


def _sparse_json(column: SparseEncoding, values: np.ndarray) -> dict[str, Any]:
    """A sparse column of :meth:`Model.to_json`; ``values`` are coefficients in original units."""
    labels = column.labels() if column.by_level else column.indices.tolist()
    kind = "level" if column.by_level else "index"
    coefficients = [
        {kind: label, "coefficient": _plain_output(value)}
        for label, value in zip(labels, values[column.rows], strict=True)
    ]
    fields = {"name": column.column.name, "keys": column.column.keys, "has_values": column.column.has_values}
    return fields | ({"buckets": column.buckets} if column.buckets else {}) | {"coefficients": coefficients}


def _check(model: Model) -> None:
    """Compiled code trusts the shapes of a model; a file may have been made to lie about them."""
    model.encoding.check()
    if model.loss_name not in LOSSES:
        raise ValueError(f"its loss is {model.loss_name!r}")
    settings = model.loss_settings
    n_settings = len(LOSSES[model.loss_name].setting_names)
    if len(settings) != n_settings or not all(isinstance(each, float) and 0.0 < each < math.inf for each in settings):
        raise ValueError(f"its loss has the settings {settings}")
    shape = (model.encoding.n_dof, model.encoding.n_outputs)
    if model.theta.shape != shape or model.theta.dtype != np.float64:
        raise ValueError(f"theta is {model.theta.dtype} {model.theta.shape}, expected float64 {shape}")
    if model.loss.has_many_outputs != (model.encoding.n_outputs > 1):
        raise ValueError(f"{model.encoding.n_outputs} outputs of the {model.loss_name} loss")
    if model.closing is not None:
        model.closing.check(*shape)


def model_of(given: Any) -> Model:
    """The model that is meant: one, the path of a run or of a model file, what ``train`` gave, or an estimator.

    Raises
    ------
    ConfigError
        It is none of these.
    NoInputError, CorruptStateError
        From loading the model.
    """
    found = getattr(given, "model", getattr(given, "model_", given))
    if isinstance(found, Model):
        return found
    if not isinstance(given, str | Path):
        unfitted = ", which is not fitted" if hasattr(given, "get_params") else ""
        raise ConfigError(
            f"expected a Model, what train gave, a fitted estimator, or the path of a run, found"
            f" {type(given).__name__}{unfitted}."
        )
    return Model.load(given)


def load(path: str | Path) -> Model:
    """The model of a run directory or a model file: see :meth:`Model.load`."""
    return Model.load(path)
