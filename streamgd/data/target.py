"""Decides the loss and the classes from the target's values."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamgd.config import CLASSIFIER_LOSSES, NUMBER_LOSSES, TrainConfig
from streamgd.data.columns import Label, TargetColumn
from streamgd.data.derived import doubles
from streamgd.data.filters import Where
from streamgd.data.kinds import NUMBERS, Kind, kind_of, python_values, type_name
from streamgd.data.numbers import as_float64
from streamgd.data.reader import read_batches
from streamgd.data.sample import SAMPLE_ROWS, Sample, scan_column
from streamgd.data.source import Manifest
from streamgd.data.stream import origin_of
from streamgd.errors import ConfigError, TargetError

# More distinct numbers than this are a number to predict, not classes.
MOST_CLASSES = 100
# The deviation of normal numbers, as a multiple of the median and of the mean of the absolute deviations.
OF_MEDIAN, OF_MEAN = 1.482602218505602, 1.2533141373155003
#: What numbers a loss can have, where it cannot have all.
DOMAINS: dict[str, Literal["not negative", "positive"]] = {
    "poisson": "not negative", "tweedie": "not negative", "gamma": "positive",
}  # fmt: skip
_CHOICES = "|".join((*NUMBER_LOSSES, "multinomial", *CLASSIFIER_LOSSES))


def check_target_type(manifest: Manifest, config: TrainConfig) -> None:
    """Refuse a target that no loss can have, before any row is read.

    Raises
    ------
    TargetError
        The type is neither number, bool nor text, or it is text and the loss needs numbers.
    ConfigError
        ``--positive`` with another loss than one of two classes.
    """
    arrow_type = manifest.schema.field(config.target).type
    kind = kind_of(arrow_type)
    if kind not in NUMBERS and kind != "text":
        raise TargetError(
            f"target '{config.target}' is of type {type_name(arrow_type)}; a number, a bool or text is needed."
            " Choose another --target, or convert the column."
        )
    if config.loss in NUMBER_LOSSES and kind == "text":
        raise TargetError(
            f"target '{config.target}' is text; --loss {config.loss} needs numbers. Choose --loss logistic or"
            f" multinomial."
        )
    if config.loss in (*NUMBER_LOSSES, "multinomial") and config.positive is not None:
        raise ConfigError(
            f"--positive has no meaning for --loss {config.loss}. Leave it out, or choose --loss logistic."
        )


def resolve_target(
    manifest: Manifest, config: TrainConfig, where: Where | None, sample: Sample
) -> tuple[str, TargetColumn]:
    """The loss, and the target with its classes, or with the domain of the loss.

    Two values are looked for in the sample, then in the footers' bounds, then in the whole column; whether there is a
    third one that none of these show is found when all rows are encoded. For the multinomial loss the whole column is
    looked at, unless the sample shows all that footers allow. Nulls and NaN do not count.

    Raises
    ------
    TargetError
        The values do not suit the loss, or do not tell which loss is meant.
    ConfigError
        ``--positive`` names neither of the two values.
    """
    name = config.target
    kind = kind_of(manifest.schema.field(name).type)
    values = _labels(sample.rows.column(name), kind)
    bounds = _footer_bounds(manifest, name, kind) if where is None else set()
    if len(values) < 2 and config.loss not in NUMBER_LOSSES and not sample.complete and not _says_all(bounds, kind):
        values |= _scan(manifest, name, where, kind, values)
    values |= bounds
    if any(isinstance(value, float) and math.isinf(value) for value in values):
        raise TargetError(
            f"target '{name}' holds infinite values{_first_infinite(manifest, name, where)}. Correct them, or leave"
            " these rows out with --where."
        )
    if not values:
        raise TargetError(f"target '{name}' holds no value, only nulls. Choose another --target.")

    loss = config.loss if config.loss != "auto" else _choose_loss(name, kind, values, config.positive)
    loss = canonical_loss(loss, config.power)
    if loss in NUMBER_LOSSES:
        return loss, TargetColumn(name, None, DOMAINS.get(loss, "real"))
    if loss == "multinomial":
        if len(values) <= config.max_classes and not sample.complete and not _says_all(bounds, kind, len(values)):
            values = _scan(manifest, name, where, kind, values, config.max_classes + 1)
        return loss, TargetColumn(name, _many_classes(config, values))
    if len(values) != 2:
        raise _not_two_classes(name, kind, values, loss)
    negative, positive = sorted(values)  # type: ignore[type-var]
    if isinstance(negative, int) and isinstance(positive, int):
        _check_apart(name, negative, positive)
    if config.positive is not None and not _spells(config.positive, positive):
        if not _spells(config.positive, negative):
            raise ConfigError(
                f"--positive {config.positive}: target '{name}' has the values {negative!r} and {positive!r}."
                " Name one of them."
            )
        negative, positive = positive, negative
    return loss, TargetColumn(name, (negative, positive))


def _first_infinite(manifest: Manifest, name: str, where: Where | None) -> str:
    """Where the first infinite value of the target stands, as a part of a message."""
    columns = list(dict.fromkeys([name, *(where.columns if where is not None else ())]))
    for row_group in manifest.row_groups:
        start = 0
        for batch in read_batches(manifest, row_group, columns, [], SAMPLE_ROWS):
            infinite = np.isinf(doubles(batch.column(name)))
            if where is not None:
                infinite &= where.mask(batch)
            if infinite.any():
                return f", first in {origin_of(manifest, row_group, start).row(int(infinite.argmax()))}"
            start += batch.num_rows
    return ""


def _check_apart(name: str, negative: int, positive: int) -> None:
    """Refuse classes that float64 or the file of a model cannot tell apart."""
    if float(negative) == float(positive) or not -(2**63) <= negative <= positive < 2**63:
        raise TargetError(
            f"target '{name}' has the values {negative!r} and {positive!r}, which are the same as 64-bit floats or"
            " beyond 64-bit integers. Convert the column to text, or to 0 and 1."
        )


def canonical_loss(loss: str, power: float) -> str:
    """The name of a loss that goes by two: at its ends, Tweedie's is that of Poisson or Gamma."""
    if loss == "tweedie" and power in (1.0, 2.0):
        return "poisson" if power == 1.0 else "gamma"
    return loss


def robust_units(name: str, sample: Sample) -> tuple[float, float]:
    """Where the target lies and how widely it is spread, by its median and the absolute deviations from it.

    Returns
    -------
    shift, scale : float
        Median; 1.4826 times the median of the absolute deviations, which is the standard deviation of normal numbers;
        of their mean, where more than half of them are zero.
    """
    numbers = as_float64(sample.rows.column(name)).to_numpy(zero_copy_only=False)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return 0.0, 1.0
    shift = float(np.median(numbers))
    deviations = np.abs(numbers - shift)
    scale = OF_MEDIAN * float(np.median(deviations)) or OF_MEAN * float(deviations.mean())
    return shift, scale or 1.0


def _labels(values: pa.Array, kind: Kind) -> set[Label]:
    """Distinct plain Python values, without null and NaN."""
    distinct = pc.unique(values)
    if kind in ("integer", "bool", "text"):
        return set(python_values(distinct.drop_null()))
    # Arrow's double of a decimal may differ by one bit from Python's; all comparisons are by Arrow's.
    return {number for number in as_float64(distinct.drop_null()).to_pylist() if not math.isnan(number)}


def _footer_bounds(manifest: Manifest, name: str, kind: Kind) -> set[Label]:
    arrow_type = manifest.schema.field(name).type
    # Half floats come as bytes in the footers' statistics; those of text may be cut short.
    if kind not in NUMBERS or pa.types.is_float16(arrow_type):
        return set()
    return _labels(pa.array(manifest.minimum_maximum(name) or (), arrow_type), kind)


def _says_all(bounds: set[Label], kind: Kind, n_values: int = 2) -> bool:
    """Whether no other value than ``n_values`` that are known can lie between the bounds."""
    if kind in ("integer", "bool"):
        return bool(bounds) and int(max(bounds)) - int(min(bounds)) < n_values
    return len(bounds) == 1


def _scan(
    manifest: Manifest, name: str, where: Where | None, kind: Kind, values: set[Label], enough: int = 2
) -> set[Label]:
    """The values found up to the place in the whole column where there are ``enough``."""
    found = set(values)
    for array in scan_column(manifest, name, where):
        found |= _labels(array, kind)
        if len(found) >= enough:
            break
    return found


def _choose_loss(name: str, kind: Kind, values: set[Label], positive: str | None) -> str:
    if positive is not None or len(values) <= 2:
        return "logistic"
    if kind == "text":
        return "multinomial"
    fractional = any(isinstance(value, float) and not value.is_integer() for value in values)
    if fractional or len(values) > MOST_CLASSES:
        return "squared"
    raise TargetError(
        f"target '{name}' has at least {len(values)} different whole numbers ({_some(values)}): classes or amounts?"
        f" Choose --loss {_CHOICES} ({', '.join(CLASSIFIER_LOSSES)}: first keep two values with --where)."
    )


def _many_classes(config: TrainConfig, values: set[Label]) -> tuple[Label, ...]:
    """The classes of the multinomial loss in the order of their values."""
    name = config.target
    if len(values) > config.max_classes:
        raise TargetError(
            f"target '{name}' has at least {len(values):,} classes ({_some(values)}), --max-classes is"
            f" {config.max_classes:,}. Raise it, keep fewer with --where, or choose another --target."
        )
    if len(values) == 1:
        raise _one_value(name, values, "three")
    if len(values) < 3:
        raise TargetError(
            f"target '{name}' has {len(values)} different values ({_some(values)}); the multinomial loss needs three or"
            f" more. Choose --loss logistic, which for two is the same model."
        )
    inexact = [value for value in values if not isinstance(value, str) and (value % 1 or abs(value) > 2**53)]
    if inexact:
        raise TargetError(
            f"target '{name}' has the value {inexact[0]!r}; the multinomial loss needs text or whole numbers up to"
            f" 2**53. Convert the column, or choose --loss squared."
        )
    return tuple(sorted(values))  # type: ignore[type-var]


def _one_value(name: str, values: set[Label], needed: str) -> TargetError:
    return TargetError(
        f"target '{name}' has only one value, {next(iter(values))!r}, in all rows that are used; {needed} are needed."
        " Choose another --target, or more data."
    )


def _not_two_classes(name: str, kind: Kind, values: set[Label], loss: str) -> TargetError:
    if len(values) == 1:
        return _one_value(name, values, "two")
    otherwise = "or choose --loss multinomial." if kind == "text" else "or choose --loss multinomial or squared."
    return TargetError(
        f"target '{name}' has at least {len(values)} different values ({_some(values)}); the"
        f" {loss.replace('_', ' ')} loss needs two. Keep two of them with --where; {otherwise}"
    )


def _some(values: set[Label]) -> str:
    shown = sorted(values)[:5]  # type: ignore[type-var]
    return ", ".join(map(repr, shown)) + (", …" if len(values) > len(shown) else "")


def _spells(text: str, value: Label) -> bool:
    """Whether a text from the command line means this value."""
    if isinstance(value, str):
        return text == value
    if isinstance(value, bool):
        return text.lower() in (("true", "1") if value else ("false", "0"))
    try:
        # As an integer first: two large ones may be the same double.
        return int(text) == value
    except ValueError:
        pass
    try:
        return math.isclose(float(text), value, rel_tol=1e-12)
    except ValueError:
        return False
