"""Predictions for Parquet data of any size: every input row has one output row, in the same order.

    row groups ── threads: decode, encode, predict ── in order ──> out/<relative path of the input>, file by file

No row is dropped. What cannot be predicted is null.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from streamgd.data.agreement import check_columns
from streamgd.data.ahead import in_order
from streamgd.data.numbers import as_float64
from streamgd.data.reader import read_batches
from streamgd.data.source import Manifest, RowGroup, check_identity, discover
from streamgd.data.stream import origin_of
from streamgd.errors import ConfigError, did_you_mean
from streamgd.limits import usable_cores
from streamgd.model import ARROW_TYPES_OF_LABELS, Model, model_of
from streamgd.notebook import notebook_display
from streamgd.option_values import parse_names, parse_sources
from streamgd.parquet_output import ParquetOutput, remove_leftovers
from streamgd.training.display import Display, Silent

# A slice of very wide kept columns has fewer rows.
_SLICE_BYTES = 8_000_000
_FEWEST_ROWS = 1_024


def predict(
    model: Model | str | Path,
    data: Sequence[str] | str,
    out: str | Path,
    keep: Sequence[str] = (),
    threads: int | None = None,
    check: Callable[[], None] = lambda: None,
    display: Display | None = None,
    *,
    filesystem: Any = None,
) -> dict[str, Any]:
    """Predict every row of ``data`` and write Parquet files below ``out``.

    For each input file there is one output file, under the input's relative path: first the columns ``keep``, as they
    are in the input; for a classifier ``probability`` (of the positive class) and ``prediction`` (the class: the
    positive one where the probability is above one half), or ``raw_prediction`` where the loss has no probabilities; of
    more than two classes ``probability_CLASS`` of each and ``prediction`` (the most probable one); with an exposure
    ``rate`` (for an exposure of 1) and ``count``; else ``prediction``. All are null where a row cannot be predicted.
    Each file is whole or absent; one that is there is replaced.

    Parameters
    ----------
    model : Model, what ``train`` gave, a fitted estimator, or the path of a run or of a model file
    data : str or sequence of str
        Files, directories, globs or URIs.
    out : str
        A local folder, made if it is not there.
    keep : sequence of str
        Columns of ``data`` to carry through, of any type.
    threads : int, optional
        One for each core if not given; the output does not depend on it.
    check : callable
        Called between slices; what it raises ends the work. Files that are whole by then stay.
    display : Display, optional
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, optional
        Where ``data`` are; the output is local.

    Returns
    -------
    dict
        ``rows``, ``files``, ``seconds``, and ``rows_not_predicted``.

    Raises
    ------
    NoInputError, CorruptFileError, DataChangedError
        From finding and reading the data.
    SchemaError
        The data lack a column of the model, or have it in another kind of type.
    DataError
        A feature is infinite.
    ConfigError
        A column to keep does not exist, or would stand under a name that is written; ``out`` would overwrite an input.
    StorageError, AccessError
        Writing failed.

    Examples
    --------
    >>> predict(model, "new.parquet", "predictions", keep=["id"])  # doctest: +SKIP
    {'rows': 1000, 'files': 1, 'seconds': 0.1, 'rows_not_predicted': 0}
    """
    started_s = time.monotonic()
    display = display or notebook_display() or Silent()
    model = model_of(model)
    manifest = discover(parse_sources(data), filesystem, texts=model.encoding.columns.text_labels)
    keep = _kept_names(manifest, keep, model)
    paths = _output_paths(manifest, out)
    predictor = _Predictor(model, manifest, keep)
    remove_leftovers(paths)

    threads = max(1, min(threads or usable_cores(), len(manifest.row_groups)))
    row_groups = {k: list(groups) for k, groups in groupby(manifest.row_groups, lambda group: group.file_index)}
    rows = rows_not_predicted = 0
    with closing(in_order(manifest.row_groups, predictor.batches, threads)) as predicted:
        for file_index, path in enumerate(paths):
            with ParquetOutput(path, predictor.schemas[file_index]) as output:
                for row_group in row_groups.get(file_index, []):
                    left = row_group.rows
                    while left > 0:
                        check()
                        _, batch = next(predicted)
                        output.add(batch)
                        left -= batch.num_rows
                        rows += batch.num_rows
                        rows_not_predicted += batch.column(batch.num_columns - 1).null_count
                        display.progress("predict", rows, manifest.n_rows, None)
                    output.end_row_group()
                check_identity(manifest, file_index)
    display.close()
    return {
        "rows": rows,
        "files": len(paths),
        "seconds": time.monotonic() - started_s,
        "rows_not_predicted": rows_not_predicted,
    }


class _Predictor:
    """Makes the rows of the output from those of the input."""

    def __init__(self, model: Model, manifest: Manifest, keep: list[str]):
        self._model = model
        self._manifest = manifest
        self._keep = keep
        self._encoder = model.encoder(with_target=False)
        check_columns(self._encoder.columns, manifest)
        manifest.check_same(keep)
        self._columns = list(dict.fromkeys([*self._encoder.read_columns, *keep]))
        # A kept column is read as it is stored, so that it is written as it was.
        self._dictionary_columns = [name for name in self._encoder.dictionary_columns if name not in keep]
        self._slice_rows = _slice_rows(manifest, model.slice_rows(self._encoder), keep)
        self.schemas = [self._schema(file_index) for file_index in range(len(manifest.files))]

    def _schema(self, file_index: int) -> pa.Schema:
        file = self._manifest.files[file_index]
        stored = file.metadata.schema.to_arrow_schema()
        fields = [
            pa.field(name, (self._manifest.schema if name in file.partition else stored).field(name).type)
            for name in self._keep
        ]
        written, classes = _written_names(self._model), self._model.classes
        types = [pa.float64()] * len(written)
        if classes is not None:
            types[-1] = ARROW_TYPES_OF_LABELS[type(classes[1])]
        return pa.schema([*fields, *map(pa.field, written, types)])

    def batches(self, row_group: RowGroup) -> Iterator[pa.RecordBatch]:
        """The output rows of one row group, slice by slice."""
        start, slice_rows = 0, self._rows_at_once(row_group)
        for batch in read_batches(self._manifest, row_group, self._columns, self._dictionary_columns, slice_rows):
            origin = origin_of(self._manifest, row_group, start)
            prediction = self._model.predict_with(self._encoder, batch, origin)
            columns = [batch.column(name) for name in self._keep] + _written(prediction, self._model, batch)
            yield pa.RecordBatch.from_arrays(columns, schema=self.schemas[row_group.file_index])
            start += batch.num_rows

    def _rows_at_once(self, row_group: RowGroup) -> int:
        """Fewer where the first rows tell that kept texts take more than the file does, which has each of them once."""
        schema = self.schemas[row_group.file_index]
        texts = [name for name in self._keep if not pa.types.is_primitive(schema.field(name).type)]
        if not texts:
            return self._slice_rows
        with closing(read_batches(self._manifest, row_group, texts, [], _FEWEST_ROWS)) as batches:
            first = next(batches, None)
        if first is None or not first.num_rows:
            return self._slice_rows
        return min(self._slice_rows, max(_FEWEST_ROWS, int(_SLICE_BYTES * first.num_rows / max(1, first.nbytes))))


def _written_names(model: Model) -> list[str]:
    if model.encoding.columns.exposure is not None:
        return ["rate", "count"]
    if model.classes is None:
        return ["prediction"]
    if model.n_outputs > 1:
        return [*(f"probability_{label}" for label in model.classes), "prediction"]
    return ["probability" if model.loss.has_probability else "raw_prediction", "prediction"]


def _written(prediction: np.ndarray, model: Model, batch: pa.RecordBatch) -> list[pa.Array]:
    outputs, classes = prediction.reshape(len(prediction), -1), model.classes
    unknown = np.isnan(outputs[:, 0])
    values = [pa.array(np.ascontiguousarray(output), mask=unknown) for output in outputs.T]
    exposure = model.encoding.columns.exposure
    if exposure is not None:
        exposed = as_float64(batch.column(exposure)).to_numpy(zero_copy_only=False)
        return [
            pa.array(np.divide(prediction, exposed, out=np.zeros_like(prediction), where=~unknown), mask=unknown),
            *values,
        ]
    if classes is None:
        return values
    labels = pa.array(classes, ARROW_TYPES_OF_LABELS[type(classes[1])])
    threshold = 0.5 if model.loss.has_probability else 0.0
    chosen = outputs.argmax(axis=1) if model.n_outputs > 1 else prediction > threshold
    return [*values, labels.take(pa.array(chosen.astype(np.int64), mask=unknown))]


def _kept_names(manifest: Manifest, keep: Sequence[str], model: Model) -> list[str]:
    names = list(dict.fromkeys(parse_names(keep)))
    for name in names:
        if name not in manifest.schema.names:
            raise ConfigError(f"--keep: the data have no column '{name}'. {did_you_mean(name, manifest.schema.names)}")
        if name in _written_names(model):
            raise ConfigError(f"--keep {name}: the output has a column of that name. Rename it in the data first.")
    return names


def _output_paths(manifest: Manifest, out: str | Path) -> list[Path]:
    """The output file of each input file; refuses to write over an input."""
    folder, out = Path(out), os.fspath(out)
    if "://" in out:
        raise ConfigError(f"--out {out}: predictions are written to a local folder. Name one, and copy it from there.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {out} is a file. Name a folder.")
    paths = [folder / file.relative for file in manifest.files]
    inputs = set()
    if isinstance(manifest.filesystem, fs.LocalFileSystem):
        inputs = {_file_number(Path(file.path)) for file in manifest.files}
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"--out {out}: a folder stands where {path} is to be written. Choose another one.")
        if path.exists() and _file_number(path) in inputs:
            raise ConfigError(f"--out {out}: {path} is an input and would be overwritten. Choose another folder.")
    return paths


def _file_number(path: Path) -> tuple[int, int]:
    """What tells files apart, however their paths are written."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _slice_rows(manifest: Manifest, most: int, keep: list[str]) -> int:
    row_bytes = max(manifest.uncompressed_bytes(group, keep) / group.rows for group in manifest.row_groups)
    fitting = int(_SLICE_BYTES / row_bytes) if row_bytes else most
    return min(most, max(_FEWEST_ROWS, fitting))
