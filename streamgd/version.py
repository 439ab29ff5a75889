"""The version of the package that is installed."""

from __future__ import annotations


def version() -> str:
    """The version, or ``"unknown"`` in a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version("streamgd")
    except PackageNotFoundError:
        return "unknown"
