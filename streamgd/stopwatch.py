"""Where the time goes: the seconds that threads spend in each stage of the work.

decode     Parquet pages become Arrow columns, reading them included
encode     Arrow columns become records: numbers shifted and scaled, labels as codes
scatter    records are placed, sorted by block and written
finalise   rows are put in their final order and get their exact moments
compute    predictions, gradients and updates
waiting    the loop stands still: for rows being decoded, for blocks from the disk, for notes being written

Stages run at once on several threads, and their seconds add up over threads: ``thread_s`` may exceed ``seconds``, the
time on the clock. Nothing is timed more often than once a record batch, and nothing depends on what is found.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

Stage = Literal["decode", "encode", "scatter", "finalise", "compute", "waiting"]
STAGES: tuple[Stage, ...] = ("decode", "encode", "scatter", "finalise", "compute", "waiting")

Item = TypeVar("Item")


class Stopwatch:
    """Adds up the thread-seconds of each stage; any thread may add to it.

    >>> stopwatch = Stopwatch()
    >>> stopwatch.add("decode", 2.0)
    >>> stopwatch.add("compute", 0.5)
    >>> stopwatch.bottleneck
    'decode'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread_s: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._lap_began_s = time.monotonic()

    def add(self, stage: Stage, seconds: float) -> None:
        with self._lock:
            self._thread_s[stage] += seconds

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Time what is inside; also a decorator."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - began_s)

    def timed_items(self, stage: Stage, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time it takes to get them counts, what is done with them does not."""
        waiting = iter(items)
        while True:
            with self.timed(stage):
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            yield item

    @property
    def bottleneck(self) -> Stage | None:
        """The stage with most thread-seconds in this lap, if any has some."""
        with self._lock:
            stage = max(STAGES, key=self._thread_s.__getitem__)
            return stage if self._thread_s[stage] > 0.0 else None

    def lap(self) -> dict[str, Any]:
        """The fields of a history line for the time since the last lap; begins a new one.

        Returns
        -------
        dict
            ``seconds`` on the clock, ``thread_s`` (dict of stage to seconds, added up over threads), ``bottleneck``.
        """
        now_s, bottleneck = time.monotonic(), self.bottleneck
        with self._lock:
            found, self._thread_s = self._thread_s, dict.fromkeys(STAGES, 0.0)
            seconds, self._lap_began_s = now_s - self._lap_began_s, now_s
        thread_s = {stage: round(found[stage], 4) for stage in STAGES}
        return {"seconds": round(seconds, 3), "thread_s": thread_s, "bottleneck": bottleneck}
