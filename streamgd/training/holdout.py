"""The holdout loss: mean loss over rows that were not trained on, without the penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from streamgd.data.block_encoder import BlockEncoder, blocks_of
from streamgd.data.blocks import Block
from streamgd.data.encoder import RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.prepared import PreparedBlocks
from streamgd.data.source import Manifest, RowGroup
from streamgd.objective.objective import ChunkSums, Objective
from streamgd.stopwatch import Stopwatch
from streamgd.training.chunks import BlockWork
from streamgd.training.reduce import Pass, Reduction
from streamgd.training.task import Task

Found = TypeVar("Found")


class Holdout(Protocol):
    """Gives the holdout loss of a theta."""

    def mean_loss(self, objective: Objective, encoding: Encoding, theta: np.ndarray) -> float | None:
        """Weighted mean loss over the held out rows; None when there are none."""
        ...


class StreamedHoldout:
    """Held out rows that are decoded anew each time: those of ``manifest``, or only those a hash holds out.

    ``check`` is called for each row group; it raises to stop. Sums are folded in the order of the row groups, so the
    number of threads changes no bit.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: BlockEncoder,
        threads: int,
        only_held_out: bool,
        check: Callable[[], None],
        stopwatch: Stopwatch,
    ):
        self._manifest = manifest
        self._encoder = encoder
        self._threads = threads
        self._only_held_out = only_held_out
        self._check = check
        self._stopwatch = stopwatch

    def mean_loss(self, objective: Objective, encoding: Encoding, theta: np.ndarray) -> float | None:
        encoder = self._encoder.under(encoding)

        def sums_of(row_group: RowGroup) -> ChunkSums | None:
            self._check()
            blocks = blocks_of(self._manifest, row_group, encoder, self._stopwatch, self._only_held_out)
            loss_sums = self._stopwatch.timed("compute")(objective.loss_sums)
            return folded(loss_sums(theta, block) for block in blocks)

        with ThreadPoolExecutor(self._threads) as pool:
            return _mean_loss(pool.map(sums_of, self._manifest.row_groups))


class ReducedHoldout:
    """Held out rows summed by the same reduction as the training rows of full batch."""

    def __init__(self, held_out: Pass):
        self._held_out = held_out

    def mean_loss(self, objective: Objective, encoding: Encoding, theta: np.ndarray) -> float | None:  # noqa: ARG002
        total: ChunkSums = self._held_out((objective.loss_sums, theta))
        return total.mean_loss if total.weight > 0 else None

    def mean_losses(self, objective: Objective, thetas: np.ndarray) -> list[float] | None:
        """As :meth:`mean_loss`, for many ``thetas`` (n_thetas, n_dof, n_outputs) in one pass."""
        total: ChunkSums = self._held_out((partial(_losses_of_all, objective), thetas))
        return (total.gradient[:, 0] / total.weight).tolist() if total.weight > 0 else None


def _losses_of_all(objective: Objective, thetas: np.ndarray, block: Block) -> ChunkSums:
    """The summed losses by each theta, in the place of a gradient ``(n_thetas, 1)``."""
    found = [objective.loss_sums(theta, block) for theta in thetas]
    return ChunkSums(0.0, np.array([[each.loss] for each in found]), found[0].weight, block.rows)


def reduced_holdout(task: Task, encoding: Encoding, reduction: Reduction) -> ReducedHoldout | None:
    """Held out rows of full batch, decoded anew each time, if there are any."""
    if task.validation is not None:
        choice = RowChoice(where=task.choice.where)
        return ReducedHoldout(reduction.open(BlockWork(task.validation, encoding, task.layout, choice), task.threads))
    if task.config.holdout > 0:
        work = BlockWork(task.manifest, encoding, task.layout, task.choice, held_out=True)
        return ReducedHoldout(reduction.open(work, task.threads))
    return None


class BlocksHoldout:
    """The held out rows at the end of each shuffled block, folded in the order of the blocks.

    Theta may be without the rows that base levels have in the blocks.
    """

    def __init__(self, prepared: PreparedBlocks, threads: int, check: Callable[[], None], stopwatch: Stopwatch):
        self._prepared = prepared
        self._threads = threads
        self._check = check
        self._stopwatch = stopwatch

    def mean_loss(self, objective: Objective, encoding: Encoding, theta: np.ndarray) -> float | None:
        if encoding.n_dof < self._prepared.encoding.n_dof:
            theta = self._prepared.encoding.theta_with_base_rows(theta)

        def sums_of(block: Block) -> ChunkSums:
            self._check()
            with self._stopwatch.timed("compute"):
                return objective.loss_sums(theta, block)

        prepared = self._prepared
        found = of_all_blocks(prepared.holdout_blocks, prepared.n_blocks, sums_of, self._threads, self._stopwatch)
        return _mean_loss(iter(found))


def of_all_blocks(
    blocks: Callable[[Sequence[int], Stopwatch], Iterator[Block]], n_blocks: int, found_in: Callable[[Block], Found],
    threads: int, stopwatch: Stopwatch,
) -> list[Found]:  # fmt: skip
    """What ``found_in`` gives for each block, in their order; each thread reads its share of them in turn.

    ``blocks`` is the method of :class:`PreparedBlocks` for the rows that are asked for.
    """

    def share(first: int) -> dict[int, Found]:
        mine = range(first, n_blocks, threads)
        return dict(zip(mine, map(found_in, blocks(mine, stopwatch)), strict=True))

    with ThreadPoolExecutor(threads) as pool:
        found = {index: each for part in pool.map(share, range(threads)) for index, each in part.items()}
    return [found[index] for index in range(n_blocks)]


def _mean_loss(sums: Iterator[ChunkSums | None] | Iterator[ChunkSums]) -> float | None:
    """Mean loss over all chunks, folded in order; None without rows."""
    total = folded(sums)
    return total.mean_loss if total is not None and total.weight > 0 else None


def folded(sums: Iterator[ChunkSums | None] | Iterator[ChunkSums]) -> ChunkSums | None:
    """The sum of all, from the first to the last."""
    total = None
    for each in sums:
        if each is not None:
            total = each if total is None else total + each
    return total
