"""Which transforms the options ask for: refusals before any row is read, and what a column becomes with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from streamgd.config import TrainConfig, option_name
from streamgd.data.columns import CategoricalColumn, NumericColumn
from streamgd.data.derived import numbers_of, stepped
from streamgd.data.filters import Where
from streamgd.data.kinds import NUMBERS, kind_of, type_name
from streamgd.data.outcomes import Outcome, outcome_by_type
from streamgd.data.sample import Sample, scan_column
from streamgd.data.source import Manifest
from streamgd.data.transforms.at_level import FEWEST, at_levels
from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.clip import Clip
from streamgd.data.transforms.cross import NULL, Cross, Part, met_levels, most_frequent
from streamgd.data.transforms.log import Log
from streamgd.data.transforms.numbers import Steps, description, label
from streamgd.data.transforms.spline import Spline, chosen_knots
from streamgd.errors import ConfigError, did_you_mean
from streamgd.plain import count_noun

#: Into which one number is made by a cross with levels.
MOST_NUMBERS = 500
#: Options that transform numbers, by field, in the order in which they are applied.
_OF_NUMBERS = ("clip", "log", "bins", "spline")


def transformed_names(config: TrainConfig) -> set[str]:
    """The columns that a transform names: nobody takes them for ids."""
    return {name for field in _OF_NUMBERS for name in _named(config, field)}


def check_transforms(manifest: Manifest, config: TrainConfig, candidates: list[str]) -> None:
    """Refuse transforms of columns that do not exist, are no feature, or are no numbers.

    Raises
    ------
    ConfigError
        Names option and column.
    """
    roles = _roles(config)
    for field in _OF_NUMBERS:
        option = option_name(field)
        for name in _named(config, field):
            if name not in manifest.schema.names:
                hint = did_you_mean(name, manifest.schema.names)
                raise ConfigError(f"{option}: the data have no column '{name}'. {hint}")
            if name in roles:
                raise ConfigError(f"{option}: '{name}' is {roles[name]}; features alone are transformed. Leave it out.")
            if name not in candidates and (field == "spline" or name not in config.crossed):
                raise ConfigError(f"{option}: '{name}' is not among the features. Add it, or leave it out there too.")
            arrow_type = manifest.schema.field(name).type
            if name in config.categorical:
                raise ConfigError(
                    f"{option}: '{name}' is categorical, a number is needed. Leave it out of one of them."
                )
            if kind_of(arrow_type) not in NUMBERS:
                found = type_name(arrow_type)
                raise ConfigError(f"{option}: '{name}' is of type {found}, a number is needed. Leave it out.")


def crossed_columns(manifest: Manifest, config: TrainConfig) -> list[str]:
    """The columns that crosses are made of, each once, features or not.

    Raises
    ------
    ConfigError
        One does not exist, is the target, weight or offset, or is of a type that has no levels; or there are several
        numbers, or one with more than one column of levels.
    """
    roles = _roles(config)
    for cross in config.cross or []:
        names, numbers = cross.split(":"), []
        for name in names:
            if name not in manifest.schema.names:
                hint = did_you_mean(name, manifest.schema.names)
                raise ConfigError(f"--cross {cross}: the data have no column '{name}'. {hint}")
            if name in roles:
                raise ConfigError(f"--cross {cross}: '{name}' is {roles[name]}, not a feature. Leave it out.")
            kind = kind_of(manifest.schema.field(name).type)
            if _stays_number(manifest, config, name):
                numbers.append(name)
            if kind not in NUMBERS | {"text"} and name not in config.categorical:
                found = type_name(manifest.schema.field(name).type)
                raise ConfigError(f"--cross {cross}: '{name}' is of type {found}, not of levels. Leave it out.")
        if numbers and len(names) > 2:
            raise ConfigError(
                f"--cross {cross}: '{numbers[0]}' is a number, which is crossed with one column of levels. Name two"
                f" columns, or make levels of it with --bins {numbers[0]}=… or --categorical {numbers[0]}."
            )
        if len(numbers) > 1:
            raise ConfigError(
                f"--cross {cross}: '{numbers[0]}' and '{numbers[1]}' are numbers, and one of them has to have levels."
                f" Make some with --bins {numbers[1]}=… or --categorical {numbers[1]}."
            )
    return config.crossed


def _roles(config: TrainConfig) -> dict[str | None, str]:
    """What the columns are that are no features, for messages."""
    return {
        config.target: "the target", config.weight: "the weight", config.offset: "the offset",
        config.exposure: "the exposure",
    }  # fmt: skip


def crosses(
    manifest: Manifest, config: TrainConfig, where: Where | None, features: Container[str], sample: Sample
) -> list[Outcome]:
    """What crosses become.

    Parameters
    ----------
    features : container of str
        Columns that are learned from themselves; a cross of two of them tells only what they do not.
    """
    found = []
    for name in config.cross or []:
        sources = name.split(":")
        number = next((each for each in sources if _stays_number(manifest, config, each)), None)
        if number is not None:
            (other,) = (each for each in sources if each != number)
            part = _part(manifest, config, other)
            counts = _rows_of_levels(manifest, part, where)
            if config.nulls != "impute":
                counts.pop(NULL, None)
            found.append(_by_level(name, number, _steps(number, config), part, counts, number in features, sample))
            continue
        parts = tuple(_part(manifest, config, each) for each in sources)
        made = Cross(parts)
        if len(parts) == 2 and all(source in features for source in sources):
            made = Cross(parts, tuple(most_frequent(part, sample.rows, numbers_of(sample.rows)) for part in parts))
        column = CategoricalColumn(name, "string", config.encode == "hash", made)
        found.append(Outcome(name, categorical=column, description=f"categorical, {made.description}"))
    return found


def _stays_number(manifest: Manifest, config: TrainConfig, name: str) -> bool:
    is_number = kind_of(manifest.schema.field(name).type) in NUMBERS
    return is_number and name not in [*config.categorical, *(config.bins or {})]


def _rows_of_levels(manifest: Manifest, part: Part, where: Where | None) -> Counter[str]:
    """How many rows have each level of a part; every row is looked at: of sorted data a sample may miss levels."""
    found: Counter[str] = Counter()
    for array in scan_column(manifest, part.source, where):
        rows = pa.record_batch([array], [part.source])
        met = met_levels(part, rows, numbers_of(rows))
        counts = np.bincount(met.places, minlength=len(met.texts))
        found.update(dict(zip(met.texts.to_pylist(), counts.tolist(), strict=True)))
    return +found


def _by_level(
    cross: str, number: str, steps: Steps, part: Part, counts: Mapping[str, int], is_feature: bool, sample: Sample
) -> Outcome:
    """A number for each level of the part, of which ``counts`` tells the rows.

    Raises
    ------
    ConfigError
        There are no levels, or too many.
    """
    met = met_levels(part, sample.rows, numbers_of(sample.rows))
    found = at_levels(part, counts, met, stepped(sample.rows.column(number), steps), is_feature)
    if not found:
        but = " beside the most frequent one" if is_feature else ""
        raise ConfigError(
            f"--cross {cross}: '{part.source}' has no level of {FEWEST:.1%} of the rows{but}, or '{number}' no number"
            f" at them. Leave it out."
        )
    if len(found) > MOST_NUMBERS:
        counted = f"{len(found):,} levels"
        raise ConfigError(
            f"--cross {cross}: '{part.source}' has {counted}, and '{number}' would be as many numbers, more than"
            f" {MOST_NUMBERS:,}. Leave it out, or give the data a column of maps from level to number."
        )
    named = ":".join(label(name, steps) if name == number else name for name in cross.split(":"))
    columns = tuple(NumericColumn(f"{named} {each.text}", number, steps=steps, at=each) for each in found)
    of_number = ", ".join(filter(None, ["number", description(steps)]))
    described = f"{of_number}, {number} at {count_noun(len(columns), 'level')} of {part.source}"
    rare = len(counts) - is_feature - len(columns)
    if rare > 0:
        described += f", not at {rare:,} that have less than {FEWEST:.1%} of the rows"
    return Outcome(cross, columns, description=described)


def _part(manifest: Manifest, config: TrainConfig, name: str) -> Part:
    if name in (config.bins or {}):
        return Part(name, "number", Bins(name, tuple((config.bins or {})[name]), _steps(name, config)))
    outcome = outcome_by_type(manifest.schema.field(name), config)
    assert outcome.categorical is not None
    return Part(name, outcome.categorical.values)


def with_transforms(outcome: Outcome, config: TrainConfig, sample: Sample) -> Outcome:
    """What a column becomes with the transforms that the options name for it.

    Raises
    ------
    ConfigError
        The sample has too few different values for the spline that is asked for.
    """
    name = outcome.name
    if name not in transformed_names(config):
        return outcome
    steps = _steps(name, config)
    named = label(name, steps)
    described = ", ".join(filter(None, [outcome.description, description(steps)]))
    edges = (config.bins or {}).get(name)
    if edges is not None:
        made = Bins(name, tuple(edges), steps)
        column = CategoricalColumn(named, "string", config.encode == "hash", made)
        said = ", ".join(filter(None, ["categorical", description(steps), made.description]))
        return Outcome(name, categorical=column, description=said)
    (number,) = outcome.numeric
    columns = (config.spline or {}).get(name)
    if columns is None:
        return replace(outcome, numeric=(replace(number, name=named, steps=steps),), description=described)
    splines = _splines(name, steps, columns, sample)
    numeric = tuple(replace(number, name=each.label(named), steps=(*steps, each)) for each in splines)
    return replace(outcome, numeric=numeric, description=f"{described}, {splines[0].description}")


def _splines(name: str, steps: Steps, columns: int, sample: Sample) -> list[Spline]:
    """The columns of the spline of a column."""
    values = stepped(sample.rows.column(name), steps)
    knots = chosen_knots(values, columns)
    if knots is None:
        n_values = len(np.unique(values[np.isfinite(values)]))
        looked_at = "it has" if sample.complete else "a sample of it has"
        raise ConfigError(
            f"--spline {name}={columns}: more than {columns} different values are needed, {looked_at} {n_values:,}."
            f" Choose fewer columns, or --bins."
        )
    return [Spline(knots, basis) for basis in range(columns)]


def _steps(name: str, config: TrainConfig) -> Steps:
    steps: Steps = ()
    if name in (config.clip or {}):
        low, high = (config.clip or {})[name]
        steps += (Clip(low, high),)
    return (*steps, Log()) if name in (config.log or []) else steps


def _named(config: TrainConfig, field: str) -> Iterable[str]:
    return getattr(config, field) or ()
