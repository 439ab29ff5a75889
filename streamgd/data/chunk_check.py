"""Looks at the column chunks in a footer before pyarrow's objects for them are made.

pyarrow checks a chunk when ``row_group(i).column(j)`` or its ``statistics`` are asked for, and a chunk that fails the
check throws a C++ exception that Python does not catch: it ends the process. Everything that those checks look at is
looked at here first, by reading the footer's Thrift itself. What a whole footer never has is refused: a field twice or
out of order, of another type, or cut short.

Thrift's compact protocol: a field is a byte with the step to its number and its type; whole numbers are varints.
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = range(1, 14)
_INTEGERS = (_I16, _I32, _I64)
_DEEPEST = 32

_PHYSICAL_TYPES = ("BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")

# The fields that are read, by number: name and type; of a struct its fields, of a list those of its items.
_SIZES = {1: ("unencoded_bytes", _I64, None), 2: ("repetition", _LIST, _I64), 3: ("definition", _LIST, _I64)}
_CHUNK_METADATA = {
    1: ("type", _I32, None), 5: ("num_values", _I64, None), 6: ("uncompressed_bytes", _I64, None),
    7: ("compressed_bytes", _I64, None), 16: ("sizes", _STRUCT, _SIZES),
}  # fmt: skip
_CHUNK = {3: ("metadata", _STRUCT, _CHUNK_METADATA), 8: ("crypto", _STRUCT, {})}
_ROW_GROUP = {1: ("columns", _LIST, _CHUNK)}
_FILE = {4: ("row_groups", _LIST, _ROW_GROUP)}


class BrokenFooterError(ValueError):
    """The footer is not as Parquet writers make it; the text says what was found."""


def check_chunks(footer: bytes, metadata: pq.FileMetaData) -> None:
    """Refuse a footer of which a column chunk cannot be looked at safely.

    Raises
    ------
    BrokenFooterError
    """
    leaves = [metadata.schema.column(leaf) for leaf in range(metadata.num_columns)]
    expected = [
        (_PHYSICAL_TYPES.index(leaf.physical_type), leaf.max_repetition_level + 1, leaf.max_definition_level + 1)
        for leaf in leaves
    ]
    try:
        row_groups = _Thrift(footer).struct(_FILE, 0).get("row_groups", [])
    except IndexError:
        raise BrokenFooterError("it ends in the middle of a value") from None
    if len(row_groups) != metadata.num_row_groups:
        raise BrokenFooterError(f"it has {len(row_groups)} row groups, not {metadata.num_row_groups}")
    for index, row_group in enumerate(row_groups):
        chunks = row_group.get("columns", [])
        if len(chunks) != len(leaves):
            raise BrokenFooterError(f"row group {index} has {len(chunks)} column chunks for {len(leaves)} columns")
        for leaf, chunk, (physical_type, repetition, definition) in zip(leaves, chunks, expected, strict=True):
            problem = _problem(chunk, physical_type, repetition, definition)
            if problem:
                raise BrokenFooterError(f"row group {index}, column '{leaf.path}' {problem}")


def _problem(chunk: dict[str, Any], physical_type: int, repetition_levels: int, definition_levels: int) -> str:
    """What is wrong with a column chunk, or an empty text."""
    if "crypto" in chunk:
        return "is encrypted, which cannot be read here"
    found = chunk.get("metadata", {})
    if found.get("type") != physical_type:
        return f"is of physical type {found.get('type')}, the schema says {physical_type}"
    if min(found.get(name, -1) for name in ("num_values", "uncompressed_bytes", "compressed_bytes")) < 0:
        return "has no size, or a negative one"
    sizes = found.get("sizes", {})
    levels = (("repetition", repetition_levels), ("definition", definition_levels))
    if any(len(sizes.get(name) or [0] * count) != count for name, count in levels):
        return "has counts of levels that do not suit its schema"
    if "unencoded_bytes" in sizes and _PHYSICAL_TYPES[physical_type] != "BYTE_ARRAY":
        return "has a size of text and is none"
    return ""


class _Thrift:
    """Reads structs of the compact protocol, front to back; IndexError where the bytes end too early."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def struct(self, fields: dict[int, tuple[str, int, Any]], depth: int) -> dict[str, Any]:
        """The ``fields`` of the struct that begins here, by name; all others are passed over."""
        if depth > _DEEPEST:
            raise BrokenFooterError(f"it is nested more than {_DEEPEST} deep")
        data, number = self._data, 0
        found: dict[str, Any] = {}
        while True:
            byte = data[self._at]
            self._at += 1
            if byte == 0:
                return found
            kind, before = byte & 15, number
            number = number + (byte >> 4) if byte > 15 else self._zigzag()
            if number <= before:
                raise BrokenFooterError(f"field {number} comes after field {before}")
            wanted = fields.get(number)
            if wanted is None:
                if kind in _INTEGERS:  # by far the most frequent
                    while data[self._at] > 127:
                        self._at += 1
                    self._at += 1
                elif kind > _FALSE:  # of a truth value the type is all there is
                    self._skip(kind, depth)
                continue
            name, expected, inner = wanted
            if kind != expected:
                raise BrokenFooterError(f"{name} is of Thrift type {kind}, not {expected}")
            if kind == _STRUCT:
                found[name] = self.struct(inner, depth + 1)
            elif kind == _LIST:
                found[name] = self._list(name, inner, depth)
            else:
                found[name] = self._zigzag()

    def _list(self, name: str, inner: Any, depth: int) -> list[Any]:
        """Of structs with the fields ``inner``, or of numbers."""
        count, kind = self._list_head()
        of_structs = isinstance(inner, dict)
        if count and kind != (_STRUCT if of_structs else inner):
            raise BrokenFooterError(f"{name} has items of Thrift type {kind}")
        if of_structs:
            return [self.struct(inner, depth + 1) for _ in range(count)]
        return [self._zigzag() for _ in range(count)]

    def _list_head(self) -> tuple[int, int]:
        byte = self._data[self._at]
        self._at += 1
        count = byte >> 4
        if count == 15:
            count = self._varint()
        if count > len(self._data) - self._at:  # an item takes at least a byte
            raise IndexError
        return count, byte & 15

    def _varint(self) -> int:
        data, at = self._data, self._at
        byte = data[at]
        at += 1
        if byte < 128:
            self._at = at
            return byte
        value, shift = byte & 127, 7
        while byte > 127:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if shift > 70:
                raise BrokenFooterError("it has a number of more than 64 bits")
        self._at = at
        return value

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int, depth: int) -> None:
        if kind in _INTEGERS:
            self._varint()
        elif kind == _BINARY:
            self._move(self._varint())
        elif kind == _STRUCT:
            self.struct({}, depth + 1)
        elif kind in (_LIST, _SET):
            count, item = self._list_head()
            for _ in range(count):
                self._skip(item, depth + 1)
        elif kind == _MAP:
            count = self._varint()
            if count:
                kinds = self._data[self._at]
                self._at += 1
                for _ in range(min(count, len(self._data))):
                    self._skip(kinds >> 4, depth + 1)
                    self._skip(kinds & 15, depth + 1)
        elif kind in (_TRUE, _FALSE, _BYTE):
            self._move(1)
        elif kind in (_DOUBLE, _UUID):
            self._move(8 if kind == _DOUBLE else 16)
        else:
            raise BrokenFooterError(f"it has a value of the unknown Thrift type {kind}")
        if depth > _DEEPEST:
            raise BrokenFooterError(f"it is nested more than {_DEEPEST} deep")

    def _move(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise IndexError
