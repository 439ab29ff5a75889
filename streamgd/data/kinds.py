"""The kinds of Arrow types that streamgd tells apart."""

from __future__ import annotations

import re
from typing import Any, Literal

import pyarrow as pa

Kind = Literal["integer", "real", "decimal", "bool", "text", "moment", "other"]

NUMBERS: frozenset[Kind] = frozenset({"integer", "real", "decimal", "bool"})


def kind_of(arrow_type: pa.DataType) -> Kind:
    """The kind of a logical type (of a manifest's schema).

    ``moment`` is any date, timestamp, time or duration; ``other`` is what can never be a feature: lists, structs,
    maps, binary, the null type, extensions.

    >>> kind_of(pa.uint8()), kind_of(pa.date32())
    ('integer', 'moment')
    """
    types = pa.types
    if types.is_integer(arrow_type):
        return "integer"
    if types.is_floating(arrow_type):
        return "real"
    if types.is_decimal(arrow_type):
        return "decimal"
    if types.is_boolean(arrow_type):
        return "bool"
    if types.is_string(arrow_type):
        return "text"
    if types.is_temporal(arrow_type) and not types.is_interval(arrow_type):
        return "moment"
    return "other"


def python_values(array: pa.Array) -> list[Any]:
    """The values as Python's; of text that is no UTF-8, which Parquet may hold, the wrong bytes are escaped.

    >>> python_values(pa.array([b"a", b"\\xff", None]).view(pa.string()))
    ['a', '\\\\xff', None]
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not pa.types.is_string(array.type):
        return list(array.to_pylist())
    values = array.cast(pa.binary()).to_pylist()
    return [None if value is None else value.decode(errors="backslashreplace") for value in values]


def type_name(arrow_type: pa.DataType) -> str:
    """A type's name for messages: that of a nested type without its fields.

    >>> type_name(pa.struct([("a", pa.int8())]))
    'struct'
    """
    return str(arrow_type).partition("<")[0]


def is_index_level(name: str) -> bool:
    """Whether a column is what Arrow makes of an index without a name.

    >>> is_index_level("__index_level_0__"), is_index_level("level_0")
    (True, False)
    """
    return re.fullmatch(r"__index_level_\d+__", name) is not None
