"""Columns that stand in the names of folders, as Hive writes them: ``store=12/part.parquet``."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote

import pyarrow as pa

from streamgd.errors import SchemaError

PartitionValue = str | int | None

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def partitions_of(
    paths: dict[str, str], file_columns: Collection[str], texts: Collection[str]
) -> tuple[dict[str, dict[str, PartitionValue]], list[pa.Field]]:
    """The partition values of each file and the fields of the partition columns.

    A column is int64 where all its folders have integers, else text.

    Parameters
    ----------
    paths : dict
        Of the files, by relative path.
    file_columns : collection of str
        Columns that the files have themselves; these win.
    texts : collection of str
        Columns that are text whatever the folders have.

    Raises
    ------
    SchemaError
        Not all files lie below folders of the same columns.
    """
    relatives, folders = sorted(paths), []
    for relative in relatives:
        pairs = [folder.split("=", 1) for folder in relative.split("/")[:-1] if "=" in folder]
        folders.append({unquote(key): unquote(value) for key, value in pairs if key})
        if folders[-1].keys() != folders[0].keys():
            differing = sorted(folders[-1].keys() ^ folders[0].keys())[0]
            raise SchemaError(
                f"partition folders differ: one of {paths[relatives[0]]} and {paths[relative]} lies below a folder"
                f" '{differing}=…', the other does not. Give files that lie equally deep."
            )
    partitions: list[dict[str, PartitionValue]] = [{} for _ in relatives]
    fields = []
    for key in (key for key in folders[0] if key not in file_columns):
        values = [None if folder[key] == _HIVE_NULL else folder[key] for folder in folders]
        known = [value for value in values if value is not None]
        integers = bool(known) and key not in texts and all(_INTEGER.fullmatch(value) for value in known)
        for partition, value in zip(partitions, values, strict=True):
            partition[key] = int(value) if integers and value is not None else value
        fields.append(pa.field(key, pa.int64() if integers else pa.string()))
    return dict(zip(relatives, partitions, strict=True)), fields
