"""Values of options, of one kind or another: from the text of a command line, from TOML, and as Python has them."""

from __future__ import annotations

import math
import os
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from streamgd.credentials import take_credentials

_DURATION_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BINARY_UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_duration_s(value: Any) -> Any:
    """Seconds from ``60``, ``"0.5s"``, ``"10m"``, ``"2h"``.

    >>> parse_duration_s("2h")
    7200.0
    """
    if not isinstance(value, str):
        return value
    match = _NUMBER_AND_UNIT.fullmatch(value)
    unit = (match.group(2).lower() or "s") if match else ""
    if not match or unit not in _DURATION_UNITS_S:
        raise ValueError(f"expected a duration such as 0.5s, 10m or 2h, found {value!r}")
    return float(match.group(1)) * _DURATION_UNITS_S[unit]


def parse_bytes(value: Any) -> Any:
    """Bytes from ``1024``, ``"512MB"`` (10^6) or ``"1GiB"`` (2^30).

    >>> parse_bytes("512MB")
    512000000
    """
    if not isinstance(value, str):
        return value
    match = _NUMBER_AND_UNIT.fullmatch(value)
    units = {"": 1} | _BYTE_UNITS | _BINARY_UNITS
    if not match or match.group(2).lower() not in units:
        raise ValueError(f"expected a size such as 512MB or 2GiB, found {value!r}")
    return int(float(match.group(1)) * units[match.group(2).lower()])


def parse_fraction(value: Any) -> Any:
    """A fraction from ``0.01`` or ``"1%"``.

    >>> parse_fraction("1%")
    0.01
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
        except ValueError:
            raise ValueError(f"expected a fraction such as 0.01 or 1%, found {value!r}") from None
    return value


def parse_names(value: Any) -> Any:
    """A list of names from ``"a,b"`` or from a list; ``None`` stays ``None``."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def parse_rate(value: Any) -> Any:
    """A learning rate: a positive number, or ``"auto"``."""
    if isinstance(value, str) and value != "auto":
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"expected a positive number or 'auto', found {value!r}") from None
    if value != "auto" and not (isinstance(value, int | float) and 0.0 < value < math.inf):
        raise ValueError(f"expected a positive number or 'auto', found {value!r}")
    return value


def parse_sources(value: Any) -> Any:
    """A list of files, directories, globs or URIs from one of them or several; credentials in URIs are put aside."""
    if isinstance(value, str | os.PathLike):
        return [take_credentials(os.fspath(value))]
    if isinstance(value, list | tuple) and all(isinstance(item, str | os.PathLike) for item in value):
        return [take_credentials(os.fspath(item)) for item in value]
    raise ValueError(f"expected a path, a glob or a URI, or a list of them, found {type(value).__name__}")


def parse_path(value: Any) -> Any:
    """A path as text; of what ``train`` gave that of the run."""
    if hasattr(value, "to_json") and not hasattr(value, "run_dir"):
        raise ValueError("found a Model, which is in memory alone. Save it with model.save(path), and give the path")
    value = getattr(value, "run_dir", value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Duration = Annotated[float, BeforeValidator(parse_duration_s), Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Names = Annotated[list[str], BeforeValidator(parse_names)]
PathText = Annotated[str, BeforeValidator(parse_path)]
Sources = Annotated[list[str], BeforeValidator(parse_sources)]
Rate = Annotated[float | Literal["auto"], BeforeValidator(parse_rate)]
Fraction = Annotated[float, BeforeValidator(parse_fraction)]
Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
