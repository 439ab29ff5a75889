"""One function for all formats: the model as another program takes it, in memory or in a file."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from streamgd.errors import ConfigError
from streamgd.model import Model
from streamgd.state import write_atomically

#: The formats, each with the packages that it needs; extras have the same names.
FORMATS = {"onnx": ("onnx",), "sklearn": ("sklearn", "pandas"), "json": ()}


def export(model: Model | str | Path, to: str, out: str | Path | None = None) -> Any:
    """The model as another program takes it: see :mod:`streamgd.exports`.

    Parameters
    ----------
    model : Model, or the path of a run or of a model file
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

    >>> export(model, "onnx", "late.onnx")  # doctest: +SKIP
    """
    if to not in FORMATS:
        raise ConfigError(f"--to: expected {', '.join(FORMATS)}, found {to!r}.")
    for package in FORMATS[to]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"--to {to} needs the package '{package}'. Install it: pip install 'streamgd[{to}]'.")
    model = model if isinstance(model, Model) else Model.load(model)
    written_by = importlib.import_module(f"streamgd.exports.{to}")
    exported = written_by.exported(model)
    if out is not None:
        write_atomically(Path(out), written_by.to_bytes(exported))
    return exported
