"""The packages of the extra ``report``, imported when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from streamgd.errors import ConfigError


def require(module: str) -> Any:
    """The module, or one line that says how to get it.

    Raises
    ------
    ConfigError
        The package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise
        message = f"this needs the package '{package}'. Install it: pip install 'streamgd[report]'."
        raise ConfigError(message) from None
