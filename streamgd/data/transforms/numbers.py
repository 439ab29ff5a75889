"""The registry of transforms of numbers, and chains of them as they are stored."""

from __future__ import annotations

from typing import Any

from streamgd.data.transforms.base import NumberTransform
from streamgd.data.transforms.clip import Clip
from streamgd.data.transforms.cycle import Cycle
from streamgd.data.transforms.log import Log
from streamgd.data.transforms.spline import Spline

NUMBER_TRANSFORMS: dict[str, type[NumberTransform]] = {each.kind: each for each in (Clip, Cycle, Log, Spline)}

#: Transforms of one column, one after another.
Steps = tuple[NumberTransform, ...]


def steps_state(steps: Steps) -> list[dict[str, Any]]:
    """As plain values; :func:`steps_from_state` is the inverse."""
    return [{"kind": step.kind, **step.state()} for step in steps]


def steps_from_state(stored: list[dict[str, Any]]) -> Steps:
    """The transforms that :func:`steps_state` wrote down.

    Raises
    ------
    ValueError
        One is of a kind that this build does not know.
    """
    steps = []
    for fields in stored:
        kind, given = fields["kind"], {name: value for name, value in fields.items() if name != "kind"}
        if kind not in NUMBER_TRANSFORMS:
            raise ValueError(f"a transform of kind {kind!r}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        steps.append(NUMBER_TRANSFORMS[kind](**values))
    return tuple(steps)


def check_steps(steps: Steps) -> None:
    """Raise ValueError where one of them makes no sense."""
    for step in steps:
        step.check()


def label(name: str, steps: Steps) -> str:
    """The name of what the steps make of a column."""
    for step in steps:
        name = step.label(name)
    return name


def description(steps: Steps) -> str:
    """What the steps do, for people."""
    return ", ".join(step.description for step in steps)
