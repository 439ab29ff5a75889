"""Sums over chunks by Dask: one task holds theta, one fused task a chunk reads, encodes and sums, a fixed tree folds.

The tree depends on the number of chunks alone, so neither threads nor the order of arrival change a bit. This is the
only module that imports Dask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def tree_reduce(
    task: Callable[[Any, Chunk], Result],
    common: Any,
    chunks: Sequence[Chunk],
    combine: Callable[[Result, Result], Result],
    threads: int,
) -> Result:
    """``task(common, chunk)`` of all chunks, combined pairwise over neighbours until one is left.

    Parameters
    ----------
    task : callable
        Pure; its errors are raised here.
    common : object
        What every task needs (theta); one node of the graph.
    """
    import dask  # takes long, and only full batch needs it

    shared = dask.delayed(common, traverse=False)
    run, fold = dask.delayed(task, pure=False), dask.delayed(combine, pure=False)
    level = [run(shared, chunk) for chunk in chunks]
    while len(level) > 1:
        pairs = [fold(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) // 2 * 2 :]
    # A pool of our own: leaving it waits for tasks that still run when another one has failed.
    with ThreadPoolExecutor(threads) as pool:
        (result,) = dask.compute(level[0], scheduler="threads", pool=pool, num_workers=threads)
    return result  # type: ignore[no-any-return]
