"""Messages of a run as estimators tell them: options of the command line become arguments of the estimator.

The rest of streamgd speaks of options, which the command, TOML files and ``streamgd.train`` have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

from streamgd.config import TrainConfig, option_name
from streamgd.errors import StreamgdError

#: Options that are arguments of an estimator or of its ``fit``, by the names that they have there.
ARGUMENTS = {
    name: name
    for name in (
        "method", "optimizer", "learning_rate", "batch_size", "epochs", "l1", "l2", "non_negative", "features",
        "categorical", "max_levels", "index_columns", "null_indicators", "scale", "shuffle", "dtype", "seed", "memory",
        "threads", "class_weight", "target", "loss", "power", "delta", "quantile", "log", "clip", "bins", "spline",
        "cross",
    )
} | {"weight": "sample_weight"}  # fmt: skip

#: Advice that estimators have another word for.
_PHRASES = (
    (r" \(--exclude [^)]*\)", ""),
    (r"leave out with --exclude ([^ ]+?)(?=[.;:]? |[.;:]?$)", r"leave out \1"),
    (r" with --exclude or --where", ""),
    (r" with --exclude\b", ""),
    (r", or --restart\b", ""),
    (r"--index-columns ([^ =]+)=N", r"index_columns={'\1': N}"),
)  # fmt: skip


@contextmanager
def in_arguments() -> Iterator[None]:
    """Let errors of the block speak of arguments."""
    try:
        yield
    except StreamgdError as error:
        error.args = (with_arguments(str(error)),)
        raise


def with_arguments(message: str) -> str:
    """The message, with arguments in place of options.

    >>> with_arguments("--l2 1e-06 is above 0. Choose --method batch, or say --timestamps hour,weekday.")
    "l2=1e-06 is above 0. Choose method='batch', or say timestamps='hour,weekday' of streamgd.train."
    """
    for pattern, words in _PHRASES:
        message = re.sub(pattern, words, message)
    return re.sub(_OPTION, _argument, message)


def _argument(match: re.Match[str]) -> str:
    option, value = match.groups()
    field = _FIELDS[option]
    name, where = ARGUMENTS.get(field, field), "" if field in ARGUMENTS else " of streamgd.train"
    if not value or (value.isalpha() and value.isupper()):  # that is a placeholder
        return f"{name}{where}"
    if _is_number(value) or value in _choices(field) or "," in value:
        return f"{name}={value if _is_number(value) else repr(value)}{where}"
    return f"{name}{where} {value}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d[\d.]*(e-?\d+)?", text) is not None


def _choices(field: str) -> set[Any]:
    """The texts that an option may be."""
    found: set[Any] = set()
    waiting = [TrainConfig.model_fields[field].annotation]
    while waiting:
        each = waiting.pop()
        found |= {each} if isinstance(each, str) else set()
        waiting += get_args(each)
    return found


_FIELDS = {option_name(name): name for name in TrainConfig.model_fields if name != "data"}
_OPTION = re.compile(
    rf"({'|'.join(sorted(map(re.escape, _FIELDS), key=len, reverse=True))})\b(?!-)"
    r"(?: (-?\d[\w.+-]*[\w]|[A-Z]+\b|[a-z0-9]\w*(?:,\w+)*))?"
)
