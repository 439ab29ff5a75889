"""Passes over the data as sums over chunks: who works on the chunks changes no bit of the sum.

    common (theta, …) ──┬── chunk 0: read, encode, sum ──┐
                        ├── chunk 1                      ├── folded over neighbours, always the same tree ── sum
                        └── …                            ┘

Work says what is done with a chunk, a reduction who does it: threads of this process (here), or the processes of a
Dask cluster (``training.cluster``). The tree depends on the number of chunks alone, and what a chunk is on the data
alone, so neither threads, workers nor the order of arrival change a bit.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from streamgd.data.source import Manifest, RowGroup
from streamgd.stopwatch import Stopwatch
from streamgd.training.kept import Keep

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
#: Row groups that one task works on.
RowGroups = tuple[RowGroup, ...]

#: What a chunk has at least where there is enough of it: 0.1 s of decoding, encoding and summing.
CHUNK_VALUES = 10_000_000
#: Fewer chunks than this would leave processors idle at the end of a pass, …
FEWEST_CHUNKS = 32
#: … unless they were so small that starting a task would cost more than a tenth of it.
SMALLEST_CHUNK_VALUES = 1_000_000
#: More than this would make the graph of a pass large.
MOST_CHUNKS = 4096
#: Neighbours that one task of a cluster folds; a power of two, so that the tree is that of pairs.
FOLDED = 8


def no_check() -> None:
    """Where nothing stops the work from inside."""


class OpenWork(Protocol):
    """Work made ready in one process; several threads may use it."""

    def result(self, common: Any, chunk: RowGroups) -> Any:
        """The sums over one chunk: a value that can be added to that of the next chunk."""
        ...

    def close(self) -> None:
        """Let go of what was kept on disk."""
        ...


class Work(Protocol):
    """What a kind of pass does with a chunk: plain data, which can be pickled."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def chunks(self) -> tuple[RowGroups, ...]:
        """All chunks in order: a function of the data alone."""
        ...

    def with_manifest(self, manifest: Manifest) -> Work:
        """The same on another manifest of the same data."""
        ...

    def opened(self, keep: Keep | None, stopwatch: Stopwatch, check: Callable[[], None] = no_check) -> OpenWork:
        """Make it ready; ``check`` is called for each block, and raises to stop."""
        ...


class Pass(ABC):
    """Runs one kind of work over all chunks, as often as it is called."""

    @abstractmethod
    def __call__(self, common: Any, done: Callable[[int], None] | None = None, every: int = 1) -> Any:
        """The sum of ``work.result(common, chunk)`` over all chunks.

        Parameters
        ----------
        common : object
            What every task needs (theta).
        done : callable, optional
            Told the rows of chunks that are done.
        every : int
            Only each so-manieth chunk counts, the first one too.

        Raises
        ------
        StreamgdError
            What a chunk raised, or what stops the run.
        """


class Reduction(ABC):
    """Those who work on chunks."""

    @abstractmethod
    def open(self, work: Work, threads: int, keeps_blocks: bool = False) -> Pass:
        """Make ready for passes of one kind.

        Parameters
        ----------
        threads : int
            That work at once, where they are those of this process.
        keeps_blocks : bool
            Whether encoded blocks are kept on disk between passes.
        """

    @abstractmethod
    def close(self) -> None:
        """Let them go, with all that was kept on disk."""


class ThreadReduction(Reduction):
    """Threads of this process.

    Parameters
    ----------
    keep : Keep or None
        For work that keeps blocks.
    check : callable
        Called for each chunk and each block; raises to stop.
    """

    def __init__(self, keep: Keep | None, check: Callable[[], None], stopwatch: Stopwatch):
        self._keep = keep
        self._check = check
        self._stopwatch = stopwatch
        self._opened: list[OpenWork] = []

    def open(self, work: Work, threads: int, keeps_blocks: bool = False) -> Pass:
        opened = work.opened(self._keep if keeps_blocks else None, self._stopwatch, self._check)
        self._opened.append(opened)
        return _ThreadPass(opened, work.chunks, threads, self._check)

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()


class _ThreadPass(Pass):
    def __init__(self, work: OpenWork, chunks: tuple[RowGroups, ...], threads: int, check: Callable[[], None]):
        self._work = work
        self._chunks = chunks
        self._threads = threads
        self._check = check

    def __call__(self, common: Any, done: Callable[[int], None] | None = None, every: int = 1) -> Any:
        def result_of(shared: Any, chunk: RowGroups) -> Any:
            self._check()
            result = self._work.result(shared, chunk)
            if done is not None:
                done(sum(row_group.rows for row_group in chunk))
            return result

        return tree_reduce(result_of, common, self._chunks[::every], operator.add, self._threads)


def grouped(manifest: Manifest, n_columns: int) -> tuple[RowGroups, ...]:
    """Neighbouring row groups taken together to chunks of about equal size, in values."""
    total = manifest.n_rows * n_columns
    enough = min(CHUNK_VALUES, max(SMALLEST_CHUNK_VALUES, total // FEWEST_CHUNKS))
    enough = max(enough, total // MOST_CHUNKS)
    chunks: list[RowGroups] = []
    begin, values = 0, 0
    for index, row_group in enumerate(manifest.row_groups):
        values += row_group.rows * n_columns
        if values >= enough or index == len(manifest.row_groups) - 1:
            chunks.append(manifest.row_groups[begin : index + 1])
            begin, values = index + 1, 0
    return tuple(chunks)


def folded_in_pairs(parts: list[Result], combine: Callable[[Result, Result], Result]) -> Result:
    """Neighbours combined pairwise, level after level, until one is left: the only tree that sums over chunks have."""
    level = parts
    while len(level) > 1:
        pairs = [combine(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) // 2 * 2 :]
    return level[0]


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
    if len(chunks) == 1:
        return task(common, chunks[0])
    import dask  # takes long, and only full batch needs it

    shared = dask.delayed(common, traverse=False)
    run, fold = dask.delayed(task, pure=False), dask.delayed(combine, pure=False)
    total = folded_in_pairs([run(shared, chunk) for chunk in chunks], fold)
    # A pool of our own: leaving it waits for tasks that still run when another one has failed.
    with ThreadPoolExecutor(threads) as pool:
        (result,) = dask.compute(total, scheduler=pool)  # "threads" would import dask.distributed to pass it over
    return result  # type: ignore[no-any-return]
