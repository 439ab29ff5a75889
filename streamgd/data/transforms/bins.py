"""``--bins``: a number becomes a categorical column, whose levels are intervals."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from streamgd.column_options import MOST_EDGES
from streamgd.data.transforms.labels import Labels, NumbersOf
from streamgd.data.transforms.numbers import Steps, check_steps, steps_from_state, steps_state


@dataclass(frozen=True)
class Bins(Labels):
    """Intervals that begin at each edge, and one below the first; the last one has no end.

    ``steps`` are applied to the column ``source`` before; null is a level of its own.

    >>> Bins("DrivAge", (18.0, 25.0)).names
    ['< 18', '[18, 25)', '>= 25']
    """

    source: str
    edges: tuple[float, ...]
    steps: Steps = ()

    kind: ClassVar[str] = "bins"

    @property
    def reads(self) -> dict[str, str]:
        return {self.source: "number"}

    @property
    def names(self) -> list[str]:
        """The name of each interval, ascending."""
        edges = [_text(edge) for edge in self.edges]
        between = [f"[{low}, {high})" for low, high in pairwise(edges)]
        return [f"< {edges[0]}", *between, f">= {edges[-1]}"]

    def labels(self, rows: pa.RecordBatch, numbers: NumbersOf) -> pa.DictionaryArray:  # noqa: ARG002
        values = numbers(self.source, self.steps)
        places = np.searchsorted(np.array(self.edges), values, side="right").astype(np.int32)
        indices = pa.array(places, mask=np.isnan(values))
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.names, pa.string()))

    @property
    def description(self) -> str:
        return f"{len(self.edges) + 1} bins"

    def check(self) -> None:
        check_steps(self.steps)
        edges = self.edges
        if not 0 < len(edges) <= MOST_EDGES:
            raise ValueError(f"{len(edges):,} edges of bins, where 1 to {MOST_EDGES:,} are possible")
        if not all(isinstance(edge, float) and np.isfinite(edge) for edge in edges):
            raise ValueError("edges of bins that are no numbers")
        if list(edges) != sorted(set(edges)):
            raise ValueError("edges of bins that are not ascending")

    def state(self) -> dict[str, Any]:
        return {"source": self.source, "edges": list(self.edges), "steps": steps_state(self.steps)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Bins:
        return cls(state["source"], tuple(state["edges"]), steps_from_state(state["steps"]))


def _text(edge: float) -> str:
    """As short as it can be without standing for another number."""
    short = f"{edge:g}"
    return short if float(short) == edge else repr(edge)
