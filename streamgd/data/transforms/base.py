"""What a transform of numbers is: values in, values out, and the plain numbers that it is stored as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np


class NumberTransform(ABC):
    """One step from the values of a column to those of a feature; a frozen dataclass of plain values.

    Attributes
    ----------
    kind : str
        What it is stored as.
    expected : str
        The values that it takes, for messages; of others :meth:`outside` tells.
    way_out : str
        What can be done about others.
    """

    kind: ClassVar[str]
    expected: ClassVar[str] = "a number"
    way_out: ClassVar[str] = ""

    @abstractmethod
    def apply(self, values: np.ndarray) -> np.ndarray:
        """The transformed values, float64 ``(n_rows,)``; NaN stays NaN, and so becomes what is :meth:`outside`."""

    @abstractmethod
    def outside(self, values: np.ndarray) -> np.ndarray | None:
        """Which values it cannot take, bool ``(n_rows,)``; None where it takes all."""

    @abstractmethod
    def label(self, name: str) -> str:
        """The feature's name, made from that of the column."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What it does, for people."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError where its numbers make no sense, as those of a file that was tampered with."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Its numbers, as the class takes them back."""
