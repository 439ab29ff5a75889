"""``--cross`` of a number with labels: a number for each level, such as the distance of flights of one carrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgd.data.transforms.cross import NULL, Met, Part


@dataclass(frozen=True)
class AtLevel:
    """Where a number counts: in rows that have the level ``text`` of a part; in others it is 0.

    So its coefficient is what the slope of the number is there beside that elsewhere. ``null`` is what a null counts
    as: the mean of the number in sampled rows with the level.
    """

    part: Part
    text: str
    null: float

    def apply(self, values: np.ndarray, met: Met) -> np.ndarray:
        """The number where it counts, float64 ``(n_rows,)``."""
        here = met.places == met.texts.index(self.text).as_py()
        return np.where(here, np.where(np.isnan(values), self.null, values), 0.0)

    def check(self) -> None:
        """Raise ValueError where its values make no sense, as those of a file that was tampered with."""
        self.part.check()
        if not isinstance(self.text, str) or not isinstance(self.null, float) or not np.isfinite(self.null):
            raise ValueError("a number at a level that is none")

    def state(self) -> dict[str, Any]:
        """As plain values."""
        return {"part": self.part.state(), "text": self.text, "null": self.null}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> AtLevel:
        """The inverse of :meth:`state`."""
        return cls(Part.from_state(state["part"]), state["text"], state["null"])


def at_levels(part: Part, met: Met, values: np.ndarray, without_most_frequent: bool) -> list[AtLevel]:
    """The levels that sampled rows have with a finite number, in the order of their texts.

    Parameters
    ----------
    met : Met
        The levels of the rows.
    values : float64, (n_rows,)
        The number, NaN for null.
    without_most_frequent : bool
        Where the number is a feature itself, numbers of all levels would add up to it.
    """
    finite = np.isfinite(values)
    counts, sums = (np.bincount(met.places[finite], weights, len(met.texts)) for weights in (None, values[finite]))
    left_out = int(counts.argmax()) if without_most_frequent and counts.any() else -1
    of_text = {
        text: float(total / count)
        for place, (text, count, total) in enumerate(zip(met.texts.to_pylist(), counts, sums, strict=True))
        if count and place != left_out
    }
    return [AtLevel(part, text, of_text[text]) for text in sorted(of_text, key=lambda text: (text == NULL, text))]
