"""The options of the command line, made from ``TrainConfig``: an option that is added there exists here.

Values stay text: ``make_config`` alone says what is valid, so that all three faces give the same messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from streamgd import completion
from streamgd.column_options import parse_bins, parse_clips, parse_crosses, parse_index_columns, parse_splines
from streamgd.config import TrainConfig, identity_fields, load_toml, option_name
from streamgd.errors import ConfigError, did_you_mean
from streamgd.option_values import (
    parse_bytes,
    parse_duration_s,
    parse_fraction,
    parse_names,
    parse_path,
    parse_rate,
    parse_sources,
)

_METAVARS: dict[Any, str] = {
    parse_bytes: "SIZE",
    parse_clips: "COL=LOW:HIGH",
    parse_bins: "COL=EDGES",
    parse_splines: "COL=N",
    parse_index_columns: "COL=N",
    parse_crosses: "A:B",
    parse_duration_s: "TIME",
    parse_fraction: "FRACTION",
    parse_names: "A,B",
    parse_rate: "auto|F",
    parse_sources: "DATA",
    int: "N",
    float: "F",
}

#: What reads several values from one text.
_LISTS = {parse_names, parse_sources, parse_clips, parse_bins, parse_splines, parse_index_columns, parse_crosses}


@cache  # click compares parameters by identity
def train_parameters() -> list[click.Parameter]:
    """DATA and every option of ``TrainConfig``, in its order."""
    data = click.Argument(["data"], nargs=-1, metavar="DATA...", shell_complete=completion.paths)
    return [data, *(_option(name) for name in TrainConfig.model_fields if name != "data")]


@cache
def resume_parameters() -> list[click.Parameter]:
    """The options that may change between the starts of one run."""
    fixed = {"run", *identity_fields()}
    return [_option(name) for name in TrainConfig.model_fields if name not in fixed]


@cache
def inspect_parameters() -> list[click.Parameter]:
    """The options of ``TrainConfig`` that decide what of the data is looked at."""
    return [_option("on_bad_data")]


def given_options(values: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as ``make_config`` takes it.

    Parameters
    ----------
    values : dict
        Values by field as click parsed them: None or an empty tuple where an option was not given.
    """
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    for name, value in given.items():
        if isinstance(value, tuple):
            given[name] = list(value) if _takes_sources(name) else ",".join(value)
    return given


def file_options(path: str) -> dict[str, Any]:
    """The options in a TOML file.

    Raises
    ------
    ConfigError
        The file is not TOML or has a key that is no option.
    NoInputError
        There is no such file.
    """
    options, known = load_toml(path), list(TrainConfig.model_fields)
    for name in options:
        if name not in known:
            raise ConfigError(f"{path}: no such option: {name}. {did_you_mean(name, known)}")
    return options


def _option(name: str) -> click.Option:
    field = TrainConfig.model_fields[name]
    extra = field.json_schema_extra
    hidden = isinstance(extra, dict) and bool(extra.get("hidden"))
    help_text = (field.description or "") + _default_text(field)
    flag = option_name(name)
    if field.annotation is bool:
        return click.Option([name, f"{flag}/--no-{flag[2:]}"], default=None, help=help_text, hidden=hidden)
    # A list takes one comma-separated value; given twice, both count rather than the last alone.
    several = bool(_LISTS & set(_traits(field)))
    return click.Option(
        [name, flag],
        type=str,
        metavar=_metavar(name),
        multiple=several,
        help=help_text,
        hidden=hidden,
        shell_complete=_completion(field),
    )


def _completion(field: FieldInfo) -> completion.Completion | None:
    if get_origin(field.annotation) is Literal:
        return completion.one_of(get_args(field.annotation))
    return completion.paths if {parse_path, parse_sources} & set(_traits(field)) else None


def _takes_sources(name: str) -> bool:
    return parse_sources in _traits(TrainConfig.model_fields[name])


def _traits(field: FieldInfo) -> list[Any]:
    """The types in a field's annotation and the functions that parse its text."""

    def parts(annotation: Any) -> Iterator[Any]:
        yield annotation
        for inner in get_args(annotation) if get_origin(annotation) is not Literal else ():
            yield from parts(inner)

    found = [*parts(field.annotation), *field.metadata]
    return [getattr(part, "func", part) for part in found]


def _metavar(name: str) -> str:
    field = TrainConfig.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    traits = _traits(field)
    return next((metavar for trait, metavar in _METAVARS.items() if trait in traits), "TEXT")


def _default_text(field: FieldInfo) -> str:
    """The default as the user would write it; none where the description tells it or there is nothing to tell."""
    value, traits = field.default, _traits(field)
    if field.is_required() or value is None or value == [] or value is False or "[" in (field.description or ""):
        return ""
    if parse_bytes in traits:
        for unit, size_bytes in (("GB", 10**9), ("MB", 10**6)):
            if value % size_bytes == 0:
                return f" [default: {value // size_bytes}{unit}]"
    if parse_duration_s in traits:
        return f" [default: {value:g}s]"
    return f" [default: {value:g}]" if isinstance(value, float) else f" [default: {value}]"
