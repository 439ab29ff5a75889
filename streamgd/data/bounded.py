"""Which features ``--non-negative`` means: numbers, with all that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from streamgd.config import TrainConfig
from streamgd.data.columns import IS_NULL, Columns, NumericColumn
from streamgd.errors import ConfigError, did_you_mean


def with_bounds(columns: Columns, config: TrainConfig, left_out: Mapping[str, str]) -> Columns:
    """The columns with the bounds that the options ask for.

    A name is that of a column of the data, and means all numbers that are made of it, or that of a feature. Whether a
    number is null is no part of the number: such an indicator is bounded by its own name alone.

    Parameters
    ----------
    left_out : mapping
        Columns that were left out, each with its reason.

    Raises
    ------
    ConfigError
        A name is that of no feature, or of one that has levels.
    """
    found: list[str] = []
    for name in config.non_negative:
        _refuse_differences(name, columns)
        meant = [column.name for column in columns.numeric if _is_meant(column, name)]
        if not meant:
            _refuse(name, columns, left_out)
        found += meant
    if found and columns.target is not None and columns.target.n_outputs > 1:
        raise ConfigError(
            f"--non-negative {','.join(config.non_negative)}: of several classes only differences between coefficients"
            f" count, and all of them can be moved above zero. Leave it out."
        )
    return replace(columns, non_negative=tuple(dict.fromkeys(found)))


def _is_meant(column: NumericColumn, name: str) -> bool:
    return column.name == name or (column.part != IS_NULL and name in (column.source, column.read_as))


def _refuse_differences(name: str, columns: Columns) -> None:
    by_level = [column.name for column in columns.numeric if column.at is not None and column.source == name]
    if by_level:
        raise ConfigError(
            f"--non-negative: '{name}' is crossed with levels, and where it is a feature itself, coefficients at levels"
            f" are differences from its own. Name those that are meant, such as '{by_level[0]}', or leave it out."
        )


def _refuse(name: str, columns: Columns, left_out: Mapping[str, str]) -> None:
    if any(name in (column.name, *column.reads) for column in columns.categorical):
        raise ConfigError(
            f"--non-negative: '{name}' has levels, and the coefficient of a level is told against the base level: which"
            f" of them are above zero depends on which that is. Leave it out."
        )
    if any(column.name == name for column in columns.sparse):
        raise ConfigError(
            f"--non-negative: '{name}' names other columns in each row, and numbers are needed. Leave it out."
        )
    if name in left_out:
        raise ConfigError(f"--non-negative: '{name}' is left out, {left_out[name]}")
    hint = did_you_mean(name, [column.name for column in columns.numeric])
    raise ConfigError(f"--non-negative: '{name}' is no numeric feature. {hint}")
