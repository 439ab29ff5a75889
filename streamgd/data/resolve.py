"""Decides, once and before training, what every column becomes, the loss, and provisional scales.

    schema + options ──> outcomes (refusals end here, before any row is read)
    sample ──> ids left out ── loss and classes ── shift and scale ── warnings ──> Resolved

All of it is a pure function of manifest and configuration.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamgd.config import ROBUST_LOSSES, TrainConfig
from streamgd.data.agreement import telling_types
from streamgd.data.bounded import with_bounds
from streamgd.data.columns import (
    INDEX_REASON,
    MOST_SPARSE_COLUMNS,
    CategoricalColumn,
    Columns,
    TargetColumn,
)
from streamgd.data.derived import NumberValues, doubles, level_codes
from streamgd.data.filters import Where
from streamgd.data.kinds import NUMBERS, is_index_level, kind_of, type_name
from streamgd.data.leaks import LEAK_AUC, categorical_auc, class_rows, screened_auc
from streamgd.data.nested import nested_type
from streamgd.data.outcomes import (
    LARGEST_EXACT_INTEGER,
    Outcome,
    count_levels,
    id_reason,
    largest_magnitude,
    outcome_by_type,
    with_null_indicator,
)
from streamgd.data.provisional import shift_and_scale
from streamgd.data.sample import Sample, first_rows, read_sample
from streamgd.data.source import Manifest
from streamgd.data.target import check_target_type, resolve_target, robust_units
from streamgd.data.transformed import (
    check_transforms,
    crossed_columns,
    crosses,
    transformed_names,
    with_transforms,
)
from streamgd.errors import ConfigError, NoInputError, SchemaError, did_you_mean

#: Of so many refused columns the reasons are told; the names of all of them are in the way out.
REFUSALS_SHOWN = 8
#: Values among the first rows from which on they decide the shift of a column, and how far off it may be, in scales: a
#: float32 has bits to spare for that.
FEWEST_FIRST, FARTHEST_SHIFT = 64, 8.0


@dataclass(frozen=True)
class Resolved:
    """What was decided.

    Attributes
    ----------
    columns : Columns
        Features, target, weight and offset.
    loss : str
        Its name in ``LOSSES``.
    target_units : tuple of float
        Shift and scale of the target for a loss that is to know no outliers (huber, quantile); 0 and 1 for others.
    shift, scale : float64 array, shape (n_numeric,)
        Provisional moments of the numeric columns, in original units; finite, scales above zero.
    left_out : tuple of (name, reason)
        Columns that were left out though nobody asked for it.
    became : dict, name -> description
        One line for every column that is used.
    warnings : tuple of str
    """

    columns: Columns
    loss: str
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    left_out: tuple[tuple[str, str], ...]
    became: dict[str, str]
    warnings: tuple[str, ...]
    target_units: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class ColumnDescription:
    """What a column would become: ``number``, ``categorical``, ``sparse``, ``left out`` or ``refused``, and why."""

    name: str
    type: str
    becomes: str
    reason: str


def resolve(manifest: Manifest, config: TrainConfig, where: Where | None = None) -> Resolved:
    """What every column becomes, the loss, and provisional scales.

    Raises
    ------
    ConfigError
        An option names a column that does not exist or cannot be meant, or no feature is left.
    SchemaError
        Columns whose type has no mapping to features, all of them named; weight or offset that is no number.
    TargetError
        A target that does not suit the loss, or does not tell which loss is meant.
    NoInputError
        ``where`` leaves no row.
    """
    _check_names(manifest, config)
    candidates, left_out = _candidates(manifest, config)
    roles = [name for name in (config.target, config.weight, config.offset, config.exposure) if name is not None]
    crossed = crossed_columns(manifest, config)
    manifest.check_same([*candidates, *crossed, *roles, *(where.columns if where is not None else ())])
    _check_roles(manifest, config, candidates)
    check_transforms(manifest, config, candidates)
    outcomes = [outcome_by_type(manifest.schema.field(name), config) for name in candidates]
    _check_refused(manifest, outcomes, config)

    dense = [outcome.name for outcome in outcomes if outcome.sparse is None]
    sample = read_sample(manifest, list(dict.fromkeys([*dense, *crossed, config.target])), where)
    if not len(sample.rows):
        raise NoInputError(f"no row passes --where {config.where!r}. Choose a wider condition.")
    loss, target = resolve_target(manifest, config, where, sample)

    kept: list[Outcome] = []
    for outcome in outcomes:
        is_asked_for = config.features is not None or outcome.name in transformed_names(config)
        reason = "" if is_asked_for or outcome.sparse is not None else id_reason(outcome, manifest, sample)
        if reason:
            left_out.append((outcome.name, f"{reason}: taken for an id. Name it in --features to use it."))
        else:
            kept.append(with_transforms(outcome, config, sample))
    kept += crosses(manifest, config, where, [outcome.name for outcome in kept], sample)
    if not kept:
        others = " All others are left out: " + ", ".join(name for name, _ in left_out) + "." if left_out else ""
        raise ConfigError(f"no feature is left to learn from.{others} Name some with --features.")
    if config.null_indicators:
        kept = [with_null_indicator(outcome, manifest, sample, config.target) for outcome in kept]
    columns = Columns(
        tuple(column for outcome in kept for column in outcome.numeric),
        tuple(outcome.categorical for outcome in kept if outcome.categorical is not None),
        target,
        config.weight,
        config.offset,
        config.exposure,
        sparse=tuple(outcome.sparse for outcome in kept if outcome.sparse is not None),
    )
    _check_feature_names(columns)
    columns = with_bounds(columns, config, dict(left_out))
    columns = replace(columns, types=tuple(telling_types(columns, manifest.schema).items()))
    _check_sparse(columns)
    numbers = NumberValues(sample.rows)
    moments = [(0.0, 1.0)] * len(columns.numeric)
    if config.scale == "standard" and columns.numeric:
        moments = _provisional(manifest, columns, where, sample, numbers)
    warnings = _inexact_integers(columns, sample) + _leaks(columns, target, numbers, sample)
    return Resolved(
        columns,
        loss,
        np.array([shift for shift, _ in moments], dtype=np.float64),
        np.array([scale for _, scale in moments], dtype=np.float64),
        tuple(left_out),
        _became(kept, columns, loss, sample),
        tuple(warnings),
        robust_units(target.name, sample) if loss in ROBUST_LOSSES else (0.0, 1.0),
    )


def describe_columns(manifest: Manifest) -> tuple[ColumnDescription, ...]:
    """What every column would become as a feature without any option; refused columns are no error here."""
    outcomes = [outcome_by_type(field, None) for field in manifest.schema]
    usable = [o.name for o in outcomes if not (o.refused or o.sparse or o.name in manifest.differing)]
    sample = read_sample(manifest, usable) if usable else None
    described = []
    for outcome, field in zip(outcomes, manifest.schema, strict=True):
        refused = manifest.differing.get(field.name) or outcome.refused
        reason = "" if refused or outcome.sparse or sample is None else id_reason(outcome, manifest, sample)
        if is_index_level(field.name):
            becomes, reason = "left out", INDEX_REASON
        elif refused:
            becomes, reason = "refused", refused
        elif reason:
            becomes = "left out"
        else:
            becomes = "sparse" if outcome.sparse else "categorical" if outcome.categorical else "number"
        described.append(ColumnDescription(field.name, str(field.type), becomes, reason))
    return tuple(described)


# Names and roles -----------------------------------------------------------------------------------------------------


def _check_names(manifest: Manifest, config: TrainConfig) -> None:
    """Refuse options that name a column which the data do not have."""
    named = {
        "--target": [config.target],
        "--features": config.features or [],
        "--exclude": config.exclude,
        "--categorical": config.categorical,
        "--weight": [config.weight] if config.weight is not None else [],
        "--offset": [config.offset] if config.offset is not None else [],
        "--exposure": [config.exposure] if config.exposure is not None else [],
        "--index-columns": list(config.index_columns or {}),
    }
    for option, names in named.items():
        for name in names:
            if name not in manifest.schema.names:
                taken = () if option in ("--target", "--weight") else (config.target, config.weight)
                known = [each for each in manifest.schema.names if each not in taken]
                hint = did_you_mean(name, known)
                raise ConfigError(f"{option}: the data have no column '{name}'. {hint}")


def _candidates(manifest: Manifest, config: TrainConfig) -> tuple[list[str], list[tuple[str, str]]]:
    """The columns that may become features; and those that are left out by their names, with the reason."""
    if config.features is not None:
        return config.features, []
    taken = {config.target, config.weight, config.offset, config.exposure, *config.exclude}
    names = [name for name in manifest.schema.names if name not in taken]
    indices = [
        name
        for name in names
        if is_index_level(name) and name not in config.categorical and name not in transformed_names(config)
    ]
    reason = f"{INDEX_REASON}. Name it in --features to use it."
    return [name for name in names if name not in indices], [(name, reason) for name in indices]


def _check_roles(manifest: Manifest, config: TrainConfig, candidates: list[str]) -> None:
    """Refuse columns in two roles that contradict each other, and roles that a type cannot have."""
    sides = (("--weight", config.weight), ("--offset", config.offset), ("--exposure", config.exposure))
    for option, names in (("--features", candidates), *((option, [name] if name else []) for option, name in sides)):
        if config.target in names:
            raise ConfigError(f"'{config.target}' is the target and cannot be in {option} too. Take it out of one.")
    repeated = _repeated(candidates)
    if repeated:
        raise ConfigError(f"--features names '{repeated[0]}' twice. Name each column once.")
    for name in config.categorical:
        if name not in candidates and name not in config.crossed:
            raise ConfigError(f"--categorical: '{name}' is not among the features. Add it, or take it out there too.")
    for name in config.index_columns or {}:
        nested = nested_type(manifest.schema.field(name).type)
        if name not in candidates:
            raise ConfigError(f"--index-columns: '{name}' is not among the features. Leave it out there too.")
        if nested is None or nested.keys != "index" or config.encode == "hash":
            what = "hashed" if nested is not None and nested.keys == "index" else "no column of indices"
            raise ConfigError(f"--index-columns: '{name}' is {what}. Leave it out there.")
    check_target_type(manifest, config)
    for option, role in sides:
        if role is not None and kind_of(manifest.schema.field(role).type) not in NUMBERS:
            found = type_name(manifest.schema.field(role).type)
            raise SchemaError(f"{option}: column '{role}' is of type {found}; a number is needed. Choose another one.")


def _check_refused(manifest: Manifest, outcomes: list[Outcome], config: TrainConfig) -> None:
    """Refuse columns without a mapping, all in one message with the way out."""
    refused = [outcome for outcome in outcomes if outcome.refused]
    if not refused:
        return
    names = ",".join(outcome.name for outcome in refused)
    shown = [f"column '{outcome.name}': {outcome.refused}" for outcome in refused[:REFUSALS_SHOWN]]
    if len(refused) > REFUSALS_SHOWN:
        shown.append(f"and {len(refused) - REFUSALS_SHOWN} columns more")
    reasons = "; ".join(shown)
    way_out = f"leave out with --exclude {names}" if config.features is None else f"take {names} out of --features"
    if any(kind_of(manifest.schema.field(outcome.name).type) == "moment" for outcome in refused):
        way_out = f"say what dates and times become with --timestamps epoch,hour,weekday, or {way_out}"
    raise SchemaError(f"{reasons}. {way_out[0].upper()}{way_out[1:]}.")


def _check_feature_names(columns: Columns) -> None:
    repeated = _repeated(columns.feature_names)
    if repeated:
        raise ConfigError(f"two features would be called '{repeated[0]}'. Leave one of them out with --exclude.")


def _check_sparse(columns: Columns) -> None:
    if len(columns.sparse) > MOST_SPARSE_COLUMNS:
        names = ",".join(column.name for column in columns.sparse[MOST_SPARSE_COLUMNS:])
        raise SchemaError(
            f"{len(columns.sparse)} columns of lists and maps are more than {MOST_SPARSE_COLUMNS}. Leave some out with"
            f" --exclude {names}."
        )


def _repeated(names: list[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


# What the sample says ------------------------------------------------------------------------------------------------


def _description(outcome: Outcome, sample: Sample) -> str:
    if outcome.categorical is None:
        return outcome.description
    levels = count_levels(level_codes(sample.rows, outcome.categorical))
    noun = "level" if levels == 1 else "levels"
    return f"{outcome.description}, {levels:,} {noun}" + ("" if sample.complete else " in a sample")


def _provisional(
    manifest: Manifest, columns: Columns, where: Where | None, sample: Sample, numbers: NumberValues
) -> list[tuple[float, float]]:
    """Shift and scale of each numeric column: the shift by the first rows, unless the sample says that it is far off.

    So neither depends on files and row groups: of the scale, a power of two, no bit of the result does.
    """
    sources = list(dict.fromkeys(name for column in columns.numeric for name in column.reads))
    rows = first_rows(manifest, sources, where, sample)
    found = []
    of_first = NumberValues(rows)
    for column in columns.numeric:
        values = numbers.of(column)
        shift, scale = shift_and_scale(values)
        first = of_first.of(column)
        first_shift = shift_and_scale(first)[0]
        enough = np.isfinite(first).sum() >= min(FEWEST_FIRST, np.isfinite(values).sum())
        if enough and abs(first_shift / scale - shift / scale) <= FARTHEST_SHIFT:
            shift = first_shift
        found.append((shift, scale))
    return found


def _codes(column: CategoricalColumn, sample: Sample) -> NDArray[np.int64]:
    """The sampled levels of a feature, numbered from 0; -1 for null."""
    codes = level_codes(sample.rows, column).indices.fill_null(-1)
    return np.asarray(codes.to_numpy(zero_copy_only=False), dtype=np.int64)


def _inexact_integers(columns: Columns, sample: Sample) -> list[str]:
    """A warning for each integer column that float64 cannot hold exactly."""
    return [
        f"column '{column.name}' holds integers beyond 2^53; as numbers they are rounded."
        for column in columns.numeric
        if column.integer and largest_magnitude(sample.rows.column(column.source)) > LARGEST_EXACT_INTEGER
    ]


def _leaks(columns: Columns, target: TargetColumn, numbers: NumberValues, sample: Sample) -> list[str]:
    """A warning for each feature that alone predicts a two-class target."""
    if target.classes is None or len(target.classes) > 2:
        return []
    known, positive = class_rows(sample.rows.column(target.name), target.classes)
    aucs = [
        (column.name, screened_auc(numbers.of(column)[known], positive))
        for column in columns.numeric
        if not column.steps or column.part
    ]
    # A transform may hide what the column tells.
    raw = dict.fromkeys(column.source for column in columns.numeric if column.steps and column.part is None)
    aucs += [(name, screened_auc(doubles(sample.rows.column(name))[known], positive)) for name in raw]
    aucs += [(c.name, categorical_auc(_codes(c, sample)[known], positive)) for c in columns.categorical]
    return [
        f"feature '{name}' alone predicts the target '{target.name}' (AUC {auc:.4f} on a sample)."
        f" If it is known only after the target, leave it out (--exclude {name})."
        for name, auc in aucs
        if auc is not None and auc > LEAK_AUC
    ]


def _became(kept: list[Outcome], columns: Columns, loss: str, sample: Sample) -> dict[str, str]:
    """One line for every column that is used."""
    became = {outcome.name: _description(outcome, sample) for outcome in kept}
    target = columns.target
    if target is not None:
        against = ""
        if target.classes:
            two = len(target.classes) == 2
            against = f": {target.classes[1]!r} against {target.classes[0]!r}" if two else f": {target.listed()}"
        became[target.name] = f"target of the {loss} loss{against}"
    for name, role in ((columns.weight, "weight"), (columns.offset, "offset"), (columns.exposure, "exposure")):
        if name is not None:
            became[name] = f"{became[name]}, and {role}" if name in became else role
    return became
