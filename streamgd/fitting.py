"""From data of any kind to a trained model: what the estimators do with what they are given.

    frame ──> one Parquet file in a temporary folder ──> run()    ┐
    path ──────────────────────────────────────────────> run()    ├─> Fitted
    stream ──> parts, each a run that goes on from the one before ┘

A frame is written with row groups of a fixed size, and few rows are read into a frame from whatever files they are in,
if it fits the memory budget: so what is learned does not depend on who held the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd import state as states
from streamgd.config import TrainConfig, make_config
from streamgd.data.agreement import check_columns, check_schema
from streamgd.data.columns import Columns
from streamgd.data.encoder import Origin
from streamgd.data.frames import (
    FRAME_GROUP_ROWS,
    is_path,
    is_stream,
    table_of,
    tables_of,
    tables_of_files,
    type_in_parquet,
    without_categories,
    write_frame,
)
from streamgd.data.kinds import NUMBERS, kind_of
from streamgd.data.origins import RowName, rows_of, rows_of_files, told_as
from streamgd.data.source import Manifest, discover, logical_type
from streamgd.errors import TargetError
from streamgd.model import Model
from streamgd.option_values import parse_names, parse_sources
from streamgd.training.display import Silent
from streamgd.training.interrupt import Interrupt
from streamgd.training.parts import STREAM, learn_parts, stream_config
from streamgd.training.rundir import RunDirectory
from streamgd.training.train import Result, run
from streamgd.wording import in_arguments, with_arguments

#: Below so many rows ``auto`` means full batch in float64; from there on the defaults of ``train``.
FEW_ROWS = 100_000
#: Options that speak of mini-batches: where one is given, few rows are learned as many are.
OF_MINIBATCHES = ("epochs", "optimizer", "learning_rate", "batch_size", "shuffle")

#: What a frame is called in messages.
_FRAME = "X"
_ROWS_OF_FRAME = rows_of(_FRAME)

#: What the state of a stream is called where it is kept.
_STATE = "stream"


@dataclass(frozen=True)
class Fitted:
    """A trained model.

    Attributes
    ----------
    loss_curve : list of float
        The objective after each pass, or the progressive loss of each epoch or part of a stream.
    n_iter : int
        Epochs and passes; of a stream its parts.
    warnings : list of str
        What is to be known of it, with the hints.
    hints : list of str
        How more would have been learned.
    stream : bytes or None
        The state from which a stream goes on.
    columns : tuple of str
        Those of the data, in their order, if they were a frame or files.
    """

    model: Model
    loss_curve: list[float]
    n_iter: int
    warnings: list[str]
    hints: list[str]
    stream: bytes | None = None
    columns: tuple[str, ...] = ()


@in_arguments()
def fit(data: Any, options: dict[str, Any]) -> Fitted:
    """Learn from a frame, files or a stream that holds its target.

    Parameters
    ----------
    options : dict
        Of ``TrainConfig``, by name, but for ``data`` and ``run``.

    Raises
    ------
    StreamgdError
        One of the tree in ``streamgd.errors``.
    """
    if is_stream(data):
        return fit_stream(data, options, None)
    if not is_path(data):
        table = table_of(data)
        return replace(_fit_table(table, _with_categories(table, options)), columns=tuple(table.column_names))
    sources = parse_sources(data)
    manifest = discover(sources)
    with TemporaryDirectory(prefix="streamgd-") as folder:
        config = make_config(data=sources, run=folder, **options)
        names = _names_in_use(config, manifest)
        stored_bytes = sum(manifest.uncompressed_bytes(row_group, names) for row_group in manifest.row_groups)
        if manifest.n_rows >= FEW_ROWS or 2 * stored_bytes > config.memory:
            fitted = _run(sources, Path(folder), manifest.n_rows, options)
            return replace(fitted, columns=tuple(manifest.schema.names))
    # Full batch sums by row groups: from a file of our own the result does not depend on those of the data.
    table = pa.concat_tables(tables_of_files(manifest, names))
    fitted = _fit_table(table, options, ", ".join(map(str, sources)), rows_of_files(manifest))
    return replace(fitted, columns=tuple(manifest.schema.names))


def _names_in_use(config: TrainConfig, manifest: Manifest) -> list[str]:
    """The columns that a run reads; all of them where one is not there, so that the run can tell which it may be."""
    known: list[str] = manifest.schema.names
    if config.features is None:
        return known
    names = [*config.features, *config.crossed, *(name for name in (config.target, config.weight) if name is not None)]
    return list(dict.fromkeys(names)) if set(names) <= set(known) else known


def _fit_table(
    table: pa.Table, options: dict[str, Any], name: str = _FRAME, row_name: RowName = _ROWS_OF_FRAME
) -> Fitted:
    """Learn from a table; ``name`` and ``row_name`` are what it and its rows are called in messages."""
    with TemporaryDirectory(prefix="streamgd-") as folder:
        path = Path(folder) / "data.parquet"
        write_frame(table, path)
        with told_as(path, name, row_name):
            return _run([str(path)], Path(folder), table.num_rows, options)


def _run(data: list[str], folder: Path, n_rows: int, options: dict[str, Any]) -> Fitted:
    if n_rows < FEW_ROWS:
        fields = TrainConfig.model_fields
        given = any(options.get(name, fields[name].default) != fields[name].default for name in OF_MINIBATCHES)
        options = ({} if given else {"method": "batch"}) | {"dtype": "float64"} | options
    config = make_config(data=data, run=str(folder / "run"), **options)
    # Not entered as a context: in a program, signals are left as they are.
    result = run(config, Silent(), interrupt=Interrupt())
    stored = RunDirectory(result.run_dir).require_config()
    told = _told([result.facts], stored["resolved"]["left_out"])
    return Fitted(result.model, _losses(result), int(result.facts["epochs"]), *told)


@in_arguments()
def fit_stream(data: Any, options: dict[str, Any], before: Fitted | None) -> Fitted:
    """Learn from data of any kind in one pass, on from where the stream ``before`` ended.

    Raises
    ------
    NoInputError
        There is no row to learn from.
    TargetError
        A table begins the stream, and its target is a number that does not vary.
    StreamgdError
        As from :func:`fit`.
    """
    if not is_path(data) and not is_stream(data):
        data = table_of(data)
        options = _with_categories(data, options)
        if before is None:
            _check_first_target(data, options)
    curve = list(before.loss_curve) if before is not None else []
    state = states.deserialize(before.stream, _STATE, "the estimator") if before and before.stream else None
    result: Result | None = None
    facts = []
    with TemporaryDirectory(prefix="streamgd-") as folder:
        config = stream_config(run=f"{folder}/run", **options)
        stream, row_names = _stream_of(data, config)
        for result, learned in learn_parts(stream, config, state, Silent(), signals=False, row_names=row_names):
            curve, state = curve + _losses(result), learned
            facts.append(result.facts)
    assert result is not None
    assert state is not None
    told = _told(facts, state["left_out"] if before is None else {})
    return Fitted(result.model, curve, len(curve), *told, states.serialize(state, _STATE))


def _with_categories(table: pa.Table, options: dict[str, Any]) -> dict[str, Any]:
    """The options, but features that a frame holds as categories of numbers are categorical, as those of text are."""
    features = options.get("features")
    others = (options["target"], options.get("weight"))
    named = list(parse_names(options.get("categorical") or []))
    found = [
        each.name
        for each in table.schema
        if pa.types.is_dictionary(each.type) and kind_of(logical_type(each.type)) in NUMBERS
        if each.name not in (*named, *others) and (features is None or each.name in parse_names(features))
    ]
    return options | {"categorical": [*named, *found]}


def _check_first_target(table: pa.Table, options: dict[str, Any]) -> None:
    """Refuse a target without a unit: a stream goes on in that of its first rows."""
    target = options["target"]
    if options["loss"] == "squared" and target in table.column_names:
        values = pc.unique(table[target].drop_null())
        if len(values) == 1:
            raise TargetError(
                f"the target is {values[0].as_py()} in all of the first rows, and its unit is taken from these. Begin"
                f" with rows whose targets vary."
            )


def _stream_of(data: Any, config: TrainConfig) -> tuple[Any, Callable[[int], RowName]]:
    """What can be read once, of any kind of data, and what its rows are called, from a number of rows on."""
    if is_path(data):
        manifest = discover(parse_sources(data))
        return tables_of_files(manifest, _names_in_use(config, manifest)), partial(rows_of_files, manifest)
    return (data, partial(rows_of, STREAM)) if is_stream(data) else (iter([data]), partial(rows_of, _FRAME))


def tables(data: Any, model: Model) -> Iterator[pa.Table]:
    """The rows of data of any kind, as Arrow tables; of files the columns alone that the model reads.

    Raises
    ------
    SchemaError
        Files lack a column of the model, have it in another kind of type, or in several.
    """
    if not is_path(data):
        return tables_of(data if is_stream(data) else iter([data]))
    columns = _columns_read(model)
    manifest = discover(parse_sources(data), texts=columns.text_labels)
    check_columns(columns, manifest)
    return tables_of_files(manifest, columns.sources)


@in_arguments()
def raw_predictions(model: Model, rows: Iterable[pa.Table]) -> np.ndarray:
    """The raw prediction of each row, float64, (n_rows,); (n_rows, n_classes) of more than two classes.

    Raises
    ------
    SchemaError
        A table lacks a column of the model, or has it in another kind of type.
    DataError
        An infinite value, or one that Arrow cannot convert.
    """
    encoder = model.encoder(with_target=False)
    columns = encoder.columns
    found = [np.empty((0, model.n_outputs) if model.n_outputs > 1 else 0)]
    first_row = 0
    for table in rows:
        schema = pa.schema((field.name, type_in_parquet(field.type)) for field in table.schema)
        check_schema(columns, schema, "X")
        chosen = without_categories(table.select(columns.sources))
        for batch in chosen.combine_chunks().to_batches(FRAME_GROUP_ROWS):
            block, _ = encoder.encode(batch, Origin("X", None, first_row, first_row, first_row))
            found.append(model.raw_prediction(block))
            first_row += batch.num_rows
    return np.concatenate(found)


def _columns_read(model: Model) -> Columns:
    """The columns that a prediction is made from."""
    return model.encoder(with_target=False).columns


def _told(facts: list[dict[str, Any]], left_out: dict[str, str]) -> tuple[list[str], list[str]]:
    """Warnings of runs that went on, each once, and the last one's hint, which is a warning as well."""
    hints = dict.fromkeys(with_arguments(each["hint"]) for each in facts[-1:] if each["hint"])
    others = dict.fromkeys(with_arguments(text) for each in facts for text in each["warnings"])
    told = [with_arguments(f"column '{name}' is left out, {reason}") for name, reason in left_out.items()]
    return [*told, *(others | hints)], list(hints)


def _losses(result: Result) -> list[float]:
    """The objective after each pass, or the progressive loss of each epoch."""
    key = {"pass": "objective", "epoch": "progressive_loss"}
    return [line[key[line["event"]]] for line in result.history if line.get("event") in key]
