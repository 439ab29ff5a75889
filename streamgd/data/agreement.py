"""Whether new data have the columns that a model was trained on, of kinds that mean the same."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from streamgd.data.columns import IS_NULL, Columns, NumericColumn, SparseColumn, TargetColumn
from streamgd.data.kinds import NUMBERS, Kind, kind_of, type_name
from streamgd.data.nested import nested_type
from streamgd.data.source import Manifest
from streamgd.data.timestamps import parts_of
from streamgd.errors import SchemaError, did_you_mean

_LABEL_KINDS: dict[str, frozenset[Kind]] = {
    "string": frozenset({"text", "decimal", "moment"}),
    "int": frozenset({"integer"}),
    "float": frozenset({"integer", "real"}),
    "bool": frozenset({"bool"}),
}
_LABEL_WORDS = {"string": "text", "int": "integers", "float": "numbers", "bool": "true or false"}


def check_columns(columns: Columns, manifest: Manifest) -> None:
    """Refuse files that lack a column of a model, have it in another kind of type, or in several.

    Raises
    ------
    SchemaError
        Names the file, the column and what was expected.
    """
    manifest.check_same(columns.sources)
    check_schema(columns, manifest.schema, manifest.files[0].path)


def check_schema(columns: Columns, schema: pa.Schema, name: str) -> None:
    """Refuse data that lack a column of a model, or have it in another kind of type.

    A column of the null type, which has no value of another kind either, is taken.

    Parameters
    ----------
    schema : pa.Schema
        With the logical type of each column, as a manifest has it.
    name : str
        What the data are called in messages.

    Raises
    ------
    SchemaError
        Names the data, the column and what was expected.
    """
    times = Counter(schema.names)
    missing = [source for source in columns.sources if source not in times]
    if missing:
        names = ", ".join(f"'{source}'" for source in missing)
        needs = "a column that the model needs" if len(missing) == 1 else "columns that the model needs"
        hint = did_you_mean(missing[0], schema.names)
        raise SchemaError(f"{name} lacks {needs}: {names}. {hint} Give data with the columns of the training data.")
    for source in columns.sources:
        if times[source] > 1:
            raise SchemaError(f"{name} has {times[source]} columns '{source}'. Give each column a name of its own.")
    for numeric in columns.numeric:
        _check(schema, name, numeric.source, *_expected_number(schema, numeric))
        if numeric.at is not None:
            part = numeric.at.part
            _check(schema, name, part.source, *_expected_label(schema, part.source, part.values))
    for categorical in columns.categorical:
        for source, values in categorical.reads.items():
            _check(schema, name, source, *_expected_label(schema, source, values))
    for sparse in columns.sparse:
        _check(schema, name, sparse.name, *_expected_entries(schema, sparse))
    if columns.target is not None:
        _check(schema, name, columns.target.name, *_expected_target(schema, columns.target))
    for side in (columns.weight, columns.offset, columns.exposure):
        if side is not None:
            _check(schema, name, side, _kind(schema, side) in NUMBERS, "a number")
    found = telling_types(columns, schema)
    for source, expected in columns.types:
        _check(schema, name, source, found.get(source, expected) == expected, expected)


def telling_types(columns: Columns, schema: pa.Schema) -> dict[str, str]:
    """The types of columns whose values mean something else in another unit, scale, width or time zone, by name.

    These are labels that are compared as texts of moments and decimals, or as fractions, and moments of which local
    parts are taken.
    """
    found = {}
    for name in (name for name, values in columns.label_reads if values != "number"):
        arrow_type = schema.field(name).type
        if kind_of(arrow_type) == "decimal":
            found[name] = f"decimals of scale {arrow_type.scale}"
        elif kind_of(arrow_type) in ("moment", "real"):
            found[name] = str(arrow_type)
    for numeric in columns.numeric:
        arrow_type = schema.field(numeric.source).type
        if numeric.part not in (None, IS_NULL, "epoch") and pa.types.is_timestamp(arrow_type):
            zone = f"in time zone {arrow_type.tz}" if arrow_type.tz else "without a time zone"
            found.setdefault(numeric.source, f"timestamps {zone}")
    return found


def _kind(schema: pa.Schema, name: str) -> Kind:
    return kind_of(schema.field(name).type)


def _expected_number(schema: pa.Schema, column: NumericColumn) -> tuple[bool, str]:
    if column.part in (None, IS_NULL):
        return _kind(schema, column.source) in NUMBERS, "a number"
    fits = column.part in parts_of(schema.field(column.source).type)
    return fits, f"a date or time that has '{column.part}'"


def _expected_label(schema: pa.Schema, name: str, values: str) -> tuple[bool, str]:
    if values == "number":
        return _kind(schema, name) in NUMBERS, "a number"
    return _kind(schema, name) in _LABEL_KINDS[values], f"{_LABEL_WORDS[values]} as labels"


def _expected_entries(schema: pa.Schema, column: SparseColumn) -> tuple[bool, str]:
    found = nested_type(schema.field(column.name).type)
    fits = found is not None and (found.keys, found.has_values) == (column.keys, column.has_values)
    words = {"index": "integers", "string": "texts"}[column.keys]
    return fits, f"pairs of {words} and numbers" if column.has_values else f"lists of {words}"


def _expected_target(schema: pa.Schema, column: TargetColumn) -> tuple[bool, str]:
    if column.classes is not None and isinstance(column.classes[0], str):
        return _kind(schema, column.name) == "text", "text"
    return _kind(schema, column.name) in NUMBERS, "a number"


def _check(schema: pa.Schema, data: str, name: str, fits: bool, expected: str) -> None:
    arrow_type = schema.field(name).type
    if not fits and not pa.types.is_null(arrow_type):
        raise SchemaError(
            f"{data}, column '{name}': found {type_name(arrow_type)}, the model was trained on {expected}. Convert the"
            f" column to the type it had in the training data."
        )
