"""``--timestamps hour-cycle``: a part of a date that comes back, as a place on a circle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from streamgd.data.transforms.base import NumberTransform

#: After how much each part of a timestamp comes back; a year has the mean length of the Gregorian calendar.
PERIODS = {"hour": 24.0, "weekday": 7.0, "month": 12.0, "yearday": 365.2425}
#: What a part bears in ``--timestamps`` to become a pair of sine and cosine.
SUFFIX = "-cycle"


@dataclass(frozen=True)
class Cycle(NumberTransform):
    """``sin(2 pi x / period)``, or the cosine: with both, the last hour of a day is next to the first one.

    >>> Cycle(24.0, cosine=True).apply(np.array([0.0, 12.0, np.nan]))
    array([ 1., -1., nan])
    """

    period: float
    cosine: bool

    kind: ClassVar[str] = "cycle"

    def apply(self, values: np.ndarray) -> np.ndarray:
        angle = values * self.factor
        return np.asarray(np.cos(angle) if self.cosine else np.sin(angle))

    def outside(self, values: np.ndarray) -> None:  # noqa: ARG002
        return None

    def label(self, name: str) -> str:
        return f"{name}.{'cos' if self.cosine else 'sin'}"

    @property
    def factor(self) -> float:
        """Radians of one unit."""
        return 2.0 * np.pi / self.period

    @property
    def description(self) -> str:
        return f"{'cosine' if self.cosine else 'sine'} with period {self.period:g}"

    def check(self) -> None:
        if not (isinstance(self.period, float) and 0.0 < self.period < np.inf and isinstance(self.cosine, bool)):
            raise ValueError("a cycle without a period")

    def state(self) -> dict[str, Any]:
        return asdict(self)


def cycle_of(part: str) -> tuple[Cycle, Cycle]:
    """Sine and cosine of a part of a timestamp."""
    return Cycle(PERIODS[part], False), Cycle(PERIODS[part], True)
