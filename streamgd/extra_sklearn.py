"""What the estimators say where scikit-learn is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamgd.errors import ConfigError


@contextmanager
def scikit_learn() -> Iterator[None]:
    """For its imports.

    Raises
    ------
    ConfigError
        It is not there; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "sklearn":
            raise
        raise ConfigError(
            "estimators need the package 'scikit-learn'. Install it: pip install 'streamgd[sklearn]'."
        ) from None
