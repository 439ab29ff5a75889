"""What the events of a job tell, read from their plain values."""

from __future__ import annotations

from typing import Any


def metrics_in(scores: dict[str, Any] | None) -> dict[str, float]:
    """The metrics of a model in a ``judged`` event, with the ``rows`` that they are of.

    Those that are finite; none where the limits were not looked at, or there was no row.
    """
    found = (scores or {}).get("all") or {}
    return {name: value for name, value in found.items() if name != "weight" and isinstance(value, int | float)}
