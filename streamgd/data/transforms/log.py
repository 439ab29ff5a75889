"""``--log``: the natural logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from streamgd.data.transforms.base import NumberTransform


@dataclass(frozen=True)
class Log(NumberTransform):
    """``log(x)`` to the base e; zero and below are refused, not moved.

    >>> Log().apply(np.array([1.0, np.nan]))
    array([ 0., nan])
    """

    kind: ClassVar[str] = "log"
    expected: ClassVar[str] = "a number above 0 for its logarithm"
    way_out: ClassVar[str] = "Raise such values with --clip {name}=LOW:, or leave the rows out with --where"

    def apply(self, values: np.ndarray) -> np.ndarray:
        return np.log(np.where(values > 0.0, values, np.nan))

    def outside(self, values: np.ndarray) -> np.ndarray:
        return values <= 0.0

    def label(self, name: str) -> str:
        return f"log({name})"

    @property
    def description(self) -> str:
        return "natural logarithm"

    def check(self) -> None:
        """There is nothing to check."""

    def state(self) -> dict[str, Any]:
        return {}
