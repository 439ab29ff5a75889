"""Whether new data have the columns that a model was trained on, of kinds that mean the same."""

from __future__ import annotations

from streamgd.data.columns import IS_NULL, CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.kinds import NUMBERS, Kind, kind_of, type_name
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
    """Refuse data that lack a column of a model, have it in another kind of type, or in several.

    Raises
    ------
    SchemaError
        Names the file, the column and what was expected.
    """
    where = manifest.files[0].path
    missing = [name for name in columns.sources if name not in manifest.schema.names]
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        needs = "a column that the model needs" if len(missing) == 1 else "columns that the model needs"
        hint = did_you_mean(missing[0], manifest.schema.names)
        raise SchemaError(f"{where} lacks {needs}: {names}. {hint} Give data with the columns of the training data.")
    manifest.check_same(columns.sources)
    for numeric in columns.numeric:
        _check(manifest, where, numeric.source, *_expected_number(manifest, numeric))
    for categorical in columns.categorical:
        _check(manifest, where, categorical.name, *_expected_label(manifest, categorical))
    if columns.target is not None:
        _check(manifest, where, columns.target.name, *_expected_target(manifest, columns.target))
    for name in (columns.weight, columns.offset):
        if name is not None:
            _check(manifest, where, name, _kind(manifest, name) in NUMBERS, "a number")


def _kind(manifest: Manifest, name: str) -> Kind:
    return kind_of(manifest.schema.field(name).type)


def _expected_number(manifest: Manifest, column: NumericColumn) -> tuple[bool, str]:
    if column.part in (None, IS_NULL):
        return _kind(manifest, column.source) in NUMBERS, "a number"
    fits = column.part in parts_of(manifest.schema.field(column.source).type)
    return fits, f"a date or time that has '{column.part}'"


def _expected_label(manifest: Manifest, column: CategoricalColumn) -> tuple[bool, str]:
    return _kind(manifest, column.name) in _LABEL_KINDS[column.values], f"{_LABEL_WORDS[column.values]} as labels"


def _expected_target(manifest: Manifest, column: TargetColumn) -> tuple[bool, str]:
    if column.classes is not None and isinstance(column.classes[0], str):
        return _kind(manifest, column.name) == "text", "text"
    return _kind(manifest, column.name) in NUMBERS, "a number"


def _check(manifest: Manifest, where: str, name: str, fits: bool, expected: str) -> None:
    if not fits:
        found = type_name(manifest.schema.field(name).type)
        raise SchemaError(
            f"{where}, column '{name}': found {found}, the model was trained on {expected}. Convert the column to the"
            f" type it had in the training data."
        )
