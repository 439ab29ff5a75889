"""One function for all formats: the model as another program takes it, in memory or in a file."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

from streamgd.errors import ConfigError
from streamgd.exports.labels import remarks_on_labels
from streamgd.model import Model, model_of
from streamgd.state import write_atomically

#: The formats, each with the packages that it needs; extras have the same names.
FORMATS = {"onnx": ("onnx",), "sklearn": ("sklearn", "pandas"), "json": ()}


def export(model: Model | str | Path, to: str, out: str | Path | None = None) -> Any:
    """The model as another program takes it: see :mod:`streamgd.exports`.

    Parameters
    ----------
    model : Model, what ``train`` gave, a fitted estimator, or the path of a run or of a model file
    to : {"onnx", "sklearn", "json"}
    out : str or Path, optional
        Where it is written as well: ONNX, a joblib file, JSON. A file that is there is replaced, whole or not at all.

    Returns
    -------
    onnx.ModelProto, sklearn.pipeline.Pipeline or dict

    Raises
    ------
    ConfigError
        There is no such format, its package is not installed, or it has no words for what the model does.
    NoInputError, CorruptStateError
        From loading the model.
    StorageError, AccessError
        Writing failed.

    Warns
    -----
    UserWarning
        Labels that may be dates, times or decimals in the data: to ``onnx`` and ``sklearn`` they are texts.

    Notes
    -----
    Inputs are the columns of the data as they stand. With ``--timestamps`` the parts of a date are inputs of their own
    instead, named as the features: ``COL.epoch`` in seconds since 1970 (UTC where the column has a time zone),
    ``COL.hour`` from 0 to 23, ``COL.weekday`` from 0 (Monday) to 6, ``COL.month`` from 1, ``COL.yearday`` from 1.

    >>> export(model, "onnx", "late.onnx")  # doctest: +SKIP
    """
    model = model_of(model)
    exported = exported_model(model, to)
    for text in remarks(model, to):
        warnings.warn(text, stacklevel=2)
    if out is not None:
        write_atomically(Path(out), _written_by(to).to_bytes(exported))
    return exported


def exported_bytes(model: Model, to: str) -> bytes:
    """What :func:`export` writes."""
    return bytes(_written_by(to).to_bytes(exported_model(model, to)))


def exported_model(model: Model, to: str) -> Any:
    """The model in a format.

    Raises
    ------
    ConfigError
        The format has no place for what it is made of, or its package is missing.
    """
    written_by = _written_by(to)
    if to != "json" and model.encoding.sparse:
        raise ConfigError(
            f"--to {to}: column '{model.encoding.sparse[0].column.name}' holds lists or maps, which have no place"
            f" there. Choose --to json, or train without it."
        )
    return written_by.exported(model)


def remarks(model: Model, to: str) -> list[str]:
    """What users of the exported model have to see to, which it cannot know."""
    return [] if to == "json" else remarks_on_labels(model, to)


def _written_by(to: str) -> Any:
    """The module of a format."""
    if to not in FORMATS:
        raise ConfigError(f"--to: expected {', '.join(FORMATS)}, found {to!r}.")
    for package in FORMATS[to]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"--to {to} needs the package '{package}'. Install it: pip install 'streamgd[{to}]'.")
    return importlib.import_module(f"streamgd.exports.{to}")
