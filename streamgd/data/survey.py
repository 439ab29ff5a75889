"""What has been seen of the data while rows were encoded: counts, moments, level counts, merged in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from streamgd.data.scaler import Moments


@dataclass
class Survey:
    """What has been seen of the data: rows, moments, level counts. Merged in the order of the row groups."""

    train_rows: int
    holdout_rows: int
    dropped: dict[str, int]
    moments: Moments
    target_moments: Moments
    level_counts: list[np.ndarray]
    nulls: dict[str, int] = field(default_factory=dict)
    #: Total weight of the training rows of each class, (n_classes,); empty where there are no more than two.
    class_counts: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def empty(cls, n_numeric: int, n_categorical: int) -> Self:
        counts = [np.zeros(0) for _ in range(n_categorical)]
        return cls(0, 0, {}, Moments.empty(n_numeric), Moments.empty(1), counts)

    def merge(self, later: Survey) -> Survey:
        return Survey(
            self.train_rows + later.train_rows,
            self.holdout_rows + later.holdout_rows,
            _summed(self.dropped, later.dropped),
            self.moments.merge(later.moments),
            self.target_moments.merge(later.target_moments),
            [_added(a, b) for a, b in zip(self.level_counts, later.level_counts, strict=True)],
            _summed(self.nulls, later.nulls),
            _added(self.class_counts, later.class_counts),
        )

    @property
    def weight(self) -> float:
        """Total weight of the training rows."""
        return float(self.target_moments.weight[0])

    def state(self) -> dict[str, Any]:
        return {
            "train_rows": self.train_rows, "holdout_rows": self.holdout_rows, "dropped": self.dropped,
            "moments": self.moments.state(), "target_moments": self.target_moments.state(),
            "level_counts": self.level_counts, "nulls": self.nulls, "class_counts": self.class_counts,
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        moments, target = Moments.from_state(state["moments"]), Moments.from_state(state["target_moments"])
        return cls(
            state["train_rows"],
            state["holdout_rows"],
            state["dropped"],
            moments,
            target,
            list(state["level_counts"]),
            state["nulls"],
            state.get("class_counts", np.zeros(0)),  # states of earlier builds do not have them
        )


def _summed(counts: dict[str, int], later: dict[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) + later.get(name, 0) for name in dict.fromkeys((*counts, *later))}


def _added(counts: np.ndarray, later: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(counts), len(later)))
    total[: len(counts)] += counts
    total[: len(later)] += later
    return total
