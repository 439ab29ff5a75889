"""What one column becomes: by its type, and, for ids and long lists of levels, by its sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from streamgd.column_options import MOST_INDICES
from streamgd.config import TrainConfig
from streamgd.data.columns import IS_NULL, CategoricalColumn, NumericColumn, SparseColumn
from streamgd.data.kinds import kind_of, type_name
from streamgd.data.nested import NestedType, nested_type
from streamgd.data.sample import Sample
from streamgd.data.source import Manifest
from streamgd.data.timestamps import parts_of
from streamgd.data.transforms.cycle import SUFFIX, cycle_of

# In fewer rows than this all values may differ by chance.
FEWEST_ROWS_FOR_AN_ID = 20
# So many rows without a repeated level say that it is an id, however long the data set.
ROWS_WITHOUT_REPETITION = 1_000
LARGEST_EXACT_INTEGER = 2**53

_VALUES: dict[str, Literal["string", "int", "float", "bool"]] = {"integer": "int", "real": "float", "bool": "bool"}


@dataclass(frozen=True)
class Outcome:
    """What a column becomes: numbers (several for the parts of a timestamp), a categorical, sparse, or refused for a
    reason.
    """

    name: str
    numeric: tuple[NumericColumn, ...] = ()
    categorical: CategoricalColumn | None = None
    description: str = ""
    refused: str = ""
    sparse: SparseColumn | None = None


def outcome_by_type(field: pa.Field, config: TrainConfig | None) -> Outcome:
    """What a column becomes by its type and the options; without options, by its type alone."""
    name, kind = field.name, kind_of(field.type)
    is_label = config is not None and name in config.categorical
    nested = nested_type(field.type)
    if nested is not None and not is_label:
        return _sparse(name, nested, config)
    if kind == "other":
        if nested is not None:
            return Outcome(name, refused=f"{field.type} has levels of its own: take it out of --categorical")
        return Outcome(name, refused=f"{type_name(field.type)} has no mapping to features")
    if kind == "text" or is_label:
        hashed = config is not None and config.encode == "hash"
        column = CategoricalColumn(name, _VALUES.get(kind, "string"), hashed)
        return Outcome(name, categorical=column, description="categorical, hashed" if hashed else "categorical")
    if kind == "moment":
        return _moment(field, config.timestamps if config is not None else [])
    description = "number" if kind != "decimal" else "number, in float64"
    return Outcome(name, (NumericColumn(name, name, integer=kind == "integer"),), description=description)


def _sparse(name: str, nested: NestedType, config: TrainConfig | None) -> Outcome:
    what = {"index": "indices", "string": "texts"}[nested.keys]
    description = f"sparse: {what} with a number each" if nested.has_values else f"sparse: {what}"
    if config is not None and config.encode == "hash":
        column = SparseColumn(name, nested.keys, nested.has_values, config.hash_buckets, hashed=True)
        return Outcome(name, sparse=column, description=f"{description}, hashed into {column.n_columns:,} buckets")
    n_columns = (config.index_columns or {}).get(name, MOST_INDICES) if config is not None else MOST_INDICES
    column = SparseColumn(name, nested.keys, nested.has_values, n_columns)
    return Outcome(name, sparse=column, description=description)


def _moment(field: pa.Field, parts: list[str]) -> Outcome:
    known = [part for part in dict.fromkeys(parts) if part.removesuffix(SUFFIX) in parts_of(field.type)]
    if not known:
        possible = ",".join(parts_of(field.type))
        return Outcome(field.name, refused=f"{type_name(field.type)} needs a mapping, --timestamps {possible}")
    columns = tuple(column for part in known for column in _of_part(field.name, part))
    return Outcome(field.name, columns, description="numbers: " + ", ".join(column.name for column in columns))


def _of_part(name: str, part: str) -> list[NumericColumn]:
    """One number, or sine and cosine of one."""
    number = NumericColumn(f"{name}.{part.removesuffix(SUFFIX)}", name, part.removesuffix(SUFFIX))
    if not part.endswith(SUFFIX):
        return [number]
    assert number.part is not None
    return [replace(number, name=step.label(number.name), steps=(step,)) for step in cycle_of(number.part)]


def id_reason(outcome: Outcome, manifest: Manifest, sample: Sample) -> str:
    """Why a column is taken for an id, or '' if it is not."""
    values = sample.rows.column(outcome.name)
    if outcome.categorical is not None:
        known = len(values) - values.null_count
        levels = count_levels(values)
        if known >= FEWEST_ROWS_FOR_AN_ID and _nearly_all_differ(known, levels, sample):
            return f"nearly as many levels as rows ({levels:,} in {known:,} looked at)"
    elif any(column.integer for column in outcome.numeric):
        all_differ = len(values) >= FEWEST_ROWS_FOR_AN_ID and count_levels(values) == len(values)
        if all_differ and _all_may_differ(outcome.name, manifest, sample):
            return f"an integer with a different value in every row ({len(values):,} looked at)"
    return ""


def with_null_indicator(outcome: Outcome, manifest: Manifest, sample: Sample, target: str) -> Outcome:
    """The same with a feature for nulls, where the column is a number and has some in rows that have a target.

    A sample of all rows tells; else the footers count too, which do not know the rows.
    """
    if not outcome.numeric or outcome.numeric[0].part is not None or outcome.numeric[0].at is not None:
        return outcome
    is_null = pc.is_null(sample.rows.column(outcome.name), nan_is_null=True)
    in_sample = pc.any(pc.and_(is_null, sample.rows.column(target).is_valid())).as_py()
    bounds = (manifest.bounds(group.file_index, group.index, outcome.name) for group in manifest.row_groups)
    if not in_sample and (sample.complete or not any(bound is not None and bound.null_count for bound in bounds)):
        return outcome
    indicator = NumericColumn(f"{outcome.name}.{IS_NULL}", outcome.name, IS_NULL)
    description = f"{outcome.description}, and whether it is null"
    return replace(outcome, numeric=(*outcome.numeric, indicator), description=description)


def count_levels(values: pa.Array) -> int:
    """Distinct values that occur, without null; of a dictionary by its codes."""
    return int(pc.count_distinct(values.indices if pa.types.is_dictionary(values.type) else values, mode="only_valid"))


def largest_magnitude(values: pa.Array) -> int:
    """The largest absolute value of a column of integers."""
    bounds = pc.min_max(values).as_py()
    return max((abs(bound) for bound in bounds.values() if bound is not None), default=0)


def _nearly_all_differ(known: int, levels: int, sample: Sample) -> bool:
    if sample.complete:
        return levels > 0.9 * known
    repeated = known - levels
    if not repeated and known >= ROWS_WITHOUT_REPETITION:
        return True
    # By the birthday paradox, n draws from L equally frequent levels repeat about n²/2L times.
    estimated_levels = known**2 / (2 * max(repeated, 1))
    return estimated_levels >= 0.5 * sample.n_rows * known / len(sample.rows)


def _all_may_differ(name: str, manifest: Manifest, sample: Sample) -> bool:
    if sample.complete:
        return True
    bounds = manifest.minimum_maximum(name) or tuple(pc.min_max(sample.rows.column(name)).as_py().values())
    return bool(int(bounds[1]) - int(bounds[0]) + 1 >= sample.n_rows)
