"""``--cross`` of a number with labels: a number for each level, such as the distance of flights of one carrier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgd.data.transforms.cross import NULL, Met, Part

#: Share of the rows that a level has to have for a slope of its own. Of fewer, the number would be 30 standard
#: deviations out and more, and steps that are safe for it would teach the others nothing.
FEWEST = 0.001


@dataclass(frozen=True)
class AtLevel:
    """Where a number counts: in rows that have the level ``text`` of a part; in others it is 0.

    So its coefficient is what the slope of the number is there beside that elsewhere. ``null`` is what a null counts
    as: the mean of the number in sampled rows with the level, or, where there are none, in all of them. ``reference``
    is the level that has none of its own, where the number is a feature itself.
    """

    part: Part
    text: str
    null: float
    reference: str | None = None

    def apply(self, values: np.ndarray, met: Met) -> np.ndarray:
        """The number where it counts, float64 ``(n_rows,)``."""
        here = met.places == met.texts.index(self.text).as_py()
        return np.where(here, np.where(np.isnan(values), self.null, values), 0.0)

    def check(self) -> None:
        """Raise ValueError where its values make no sense, as those of a file that was tampered with."""
        self.part.check()
        if not isinstance(self.text, str) or not isinstance(self.null, float) or not np.isfinite(self.null):
            raise ValueError("a number at a level that is none")
        if not isinstance(self.reference, str | None):
            raise ValueError("a reference that is no level")

    def state(self) -> dict[str, Any]:
        """As plain values."""
        return {"part": self.part.state(), "text": self.text, "null": self.null, "reference": self.reference}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> AtLevel:
        """The inverse of :meth:`state`."""
        return cls(Part.from_state(state["part"]), state["text"], state["null"], state.get("reference"))


def at_levels(
    part: Part, counts: Mapping[str, int], met: Met, values: np.ndarray, without_most_frequent: bool
) -> list[AtLevel]:
    """The levels that have a slope of their own, in the order of their texts: those of ``FEWEST`` rows or more.

    Parameters
    ----------
    counts : mapping
        How many rows each level has.
    met : Met
        The levels of sampled rows.
    values : float64, (n_rows,)
        The number in these, NaN for null.
    without_most_frequent : bool
        Where the number is a feature itself, numbers of all levels would add up to it.
    """
    enough = FEWEST * sum(counts.values())
    texts = {text for text, count in counts.items() if count >= enough}
    reference = None
    if without_most_frequent and texts:
        reference = min(texts, key=lambda text: (-counts[text], text))
        texts.remove(reference)
    finite = np.isfinite(values)
    if not finite.any():
        return []
    overall = float(values[finite].mean())
    n_met, sums = (np.bincount(met.places[finite], by, len(met.texts)) for by in (None, values[finite]))
    met_means = zip(met.texts.to_pylist(), n_met, sums, strict=True)
    mean = {text: float(total / n) for text, n, total in met_means if n}
    ordered = sorted(texts, key=lambda text: (text == NULL, text))
    return [AtLevel(part, text, mean.get(text, overall), reference) for text in ordered]
