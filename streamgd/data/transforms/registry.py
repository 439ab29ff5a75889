"""The registry of what makes levels, and how it is stored."""

from __future__ import annotations

from typing import Any

from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.cross import Cross
from streamgd.data.transforms.labels import Labels

LABELS: dict[str, type[Labels]] = {each.kind: each for each in (Bins, Cross)}


def labels_state(labels: Labels) -> dict[str, Any]:
    """As plain values; :func:`labels_from_state` is the inverse."""
    return {"kind": labels.kind, **labels.state()}


def labels_from_state(state: dict[str, Any]) -> Labels:
    """What :func:`labels_state` wrote down.

    Raises
    ------
    ValueError
        It is of a kind that this build does not know.
    """
    if state["kind"] not in LABELS:
        raise ValueError(f"levels made by {state['kind']!r}")
    return LABELS[state["kind"]].from_state(state)
