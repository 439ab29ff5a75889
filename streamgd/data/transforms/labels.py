"""What makes levels of columns, and the registry of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from streamgd.data.transforms.numbers import Steps

#: Gives the values of a column of numbers after the steps, float64 ``(n_rows,)``, NaN for null.
NumbersOf = Callable[[str, Steps], np.ndarray]


class Labels(ABC):
    """How a categorical column is made of columns of the data; a frozen dataclass of plain values."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def reads(self) -> dict[str, str]:
        """Each column that is read, and what it has to be: ``number``, or ``string|int|float|bool`` of labels."""

    @abstractmethod
    def labels(self, rows: pa.RecordBatch, numbers: NumbersOf) -> pa.DictionaryArray:
        """The level of each row, codes of text; null where there is none."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What it does, for people."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError where its numbers make no sense, as those of a file that was tampered with."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """As plain values."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Any]) -> Labels:
        """The inverse of :meth:`state`."""
