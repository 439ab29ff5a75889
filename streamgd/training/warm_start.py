"""A run that starts where another one ended: the model it takes theta from, and what of that has a place in it.

Theta is carried over as to data that changed (``training.carry``), by the names of columns and levels. Nothing else of
the earlier run counts: columns, units, optimizer and clock are those of the new one.
"""

from __future__ import annotations

from streamgd.data.encoding import Encoding
from streamgd.data.resolve import Resolved
from streamgd.errors import ConfigError
from streamgd.model import Model

_MOST_NAMES = 5


def model_to_start_from(path: str, resolved: Resolved) -> Model:
    """The model of ``--from``, a run directory or a model file, for a run whose columns are ``resolved``.

    Raises
    ------
    NoInputError, CorruptStateError
        There is no model, or it is damaged.
    ConfigError
        It has another loss or other classes, whose coefficients mean something else.
    """
    model = Model.load(path)
    if model.loss_name != resolved.loss:
        raise ConfigError(
            f"--from {path}: its loss is {model.loss_name}, that of this run is {resolved.loss}. Start from another"
            f" run, or choose --loss {model.loss_name}."
        )
    target = resolved.columns.target
    classes = target.classes if target is not None else None
    if model.classes != classes:
        raise ConfigError(
            f"--from {path}: its classes (negative, positive) are {model.classes}, those of this run are {classes}."
            f" Start from another run, or choose the positive class with --positive."
        )
    return model


def what_is_carried(before: Encoding, after: Encoding) -> str:
    """How many coefficients of ``after`` start at what they were in ``before``, and which are new."""
    known = set(_coefficients(before.with_base_rows()))
    references = (column.at_reference for column in before.columns.numeric)
    known |= {(column.name, column.meaning) for column in references if column is not None}
    rows = _coefficients(after)
    new = [row[0] for row in rows if row not in known]
    names = ", ".join(new[:_MOST_NAMES]) + (", …" if len(new) > _MOST_NAMES else "")
    carried = f"{len(rows) - len(new):,} of {len(rows):,} coefficients are carried over"
    return f"{carried}; new: {names}" if new else carried


def _coefficients(encoding: Encoding) -> list[tuple[str, object]]:
    """Name of each coefficient but the intercept, with what makes it another one in ``training.carry``."""
    numeric: list[tuple[str, object]] = [(column.name, column.meaning) for column in encoding.columns.numeric]
    levels = [
        (name, (each.column.values, each.column.made, each.buckets))
        for each in encoding.categorical
        for name in each.row_names()
    ]
    entries = [(name, (each.column.keys, each.buckets)) for each in encoding.sparse for name in each.row_names()]
    return numeric + levels + entries
