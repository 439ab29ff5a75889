"""Histories of two runs are compared without what tells the time."""

from __future__ import annotations

from typing import Any

TIMES = {"seconds", "thread_s", "bottleneck"}


def untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in TIMES}


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of epochs, passes and events; how long preparing took differs from start to start."""
    return [untimed(line) for line in history if line["event"] != "prepare"]
