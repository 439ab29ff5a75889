"""``--clip``: values below a bound count as the lower bound, those above another as the upper one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from streamgd.data.transforms.base import NumberTransform


@dataclass(frozen=True)
class Clip(NumberTransform):
    """``min(max(x, low), high)``; either bound may be None. What is infinite is no value to be held.

    >>> Clip(50.0, None).apply(np.array([20.0, 60.0, np.nan]))
    array([50., 60., nan])
    """

    low: float | None
    high: float | None

    kind: ClassVar[str] = "clip"
    expected: ClassVar[str] = "a finite number"
    way_out: ClassVar[str] = "Mend the data, or leave it out with --exclude or --where"

    def apply(self, values: np.ndarray) -> np.ndarray:
        return np.clip(np.where(np.isinf(values), np.nan, values), self.low, self.high)

    def outside(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.isinf(values))

    def label(self, name: str) -> str:
        return name

    @property
    def description(self) -> str:
        if self.low is None:
            return f"clipped above {self.high:g}"
        return f"clipped below {self.low:g}" if self.high is None else f"clipped to [{self.low:g}, {self.high:g}]"

    def check(self) -> None:
        given = [bound for bound in (self.low, self.high) if bound is not None]
        if not given or not all(isinstance(bound, float) and np.isfinite(bound) for bound in given):
            raise ValueError("bounds that are no numbers")
        if sorted(given) != given:
            raise ValueError("a lower bound above the upper one")

    def state(self) -> dict[str, Any]:
        return asdict(self)
