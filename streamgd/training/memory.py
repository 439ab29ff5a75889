"""The memory budget: how many threads and how large buffers fit ``--memory``, judged by the footers before the start.

Anonymous memory only: blocks are mapped from a file. Nothing here decides a bit of the result.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import suppress
from dataclasses import dataclass, replace

from streamgd.data.blocks import RecordLayout
from streamgd.data.columns import Columns
from streamgd.data.prepare import STAGE_BYTES
from streamgd.data.sample import sample_size
from streamgd.data.source import Manifest
from streamgd.errors import ConfigError
from streamgd.limits import memory_limit_bytes
from streamgd.plain import byte_size, count_noun
from streamgd.training.reduce import FOLDED

#: Interpreter, libraries and compiled loops, before any data. Measured with pandas in the environment, which pyarrow
#: imports where it is, but for commands: 107 to 124 MB. Where loops are compiled first, numba and SciPy, which it then
#: imports where that is, hold 230 MB beside this until the process ends.
BASE_BYTES = 180_000_000
#: What a worker process of Dask has more.
WORKER_BYTES = 40_000_000
#: A row of ``TrainState.coordinates`` has 6 to 7 numbers; it is there three times, with two snapshots, or, where these
#: are large, with one and a copy that is being written. Beside it are the best theta, the coefficients of the epoch
#: before, and what the ends of an epoch and of the run work with. Measured with 1.12 million coefficients of 26
#: columns: 442 MB in all, with adam 490 MB.
COEFFICIENT_BYTES = 8 * 34
#: What one of a list column has more: which of them occur, and their scales. Measured with 0.95 million: 460 to 474 MB.
LISTED_BYTES = 8 * 4
#: The same with the last steps that L-BFGS remembers, in the state and in a checkpoint; measured with a million.
LBFGS_COEFFICIENT_BYTES = 8 * 120
#: A level of an encoding: its text and its way into a checkpoint. Measured with 1.1 million coefficients of 26 columns.
LEVEL_BYTES = 64
#: What the vocabulary of a text column may take while rows are scattered: its index, its counts, its way into a note,
#: and the dictionaries of row groups. How many levels there are is not known before: the staging areas make room.
VOCABULARY_BYTES = 9_000_000
#: Copies of the Hessian while the step is solved for: the sum, the mean, the penalised, the scaled, and its factors.
SOLVING_HESSIANS = 8
#: What BLAS keeps for the threads that work out the steps of full batch: measured 28 to 62 MB.
SOLVER_BYTES = 64_000_000
#: Bytes of a decoded value: two record batches are there at once.
VALUE_BYTES = 16
#: What an entry takes while it is decoded and encoded; a value takes as much again, and so does a text.
ENTRY_BYTES = 48
#: What Arrow's allocator keeps of the batches before, measured with 3 to 1,000 columns and 1 to 4 threads: up to two
#: batches, of large buffers six, however many threads there are.
KEPT_VALUE_BYTES, LARGE_KEPT_VALUE_BYTES = 16, 48
LARGE_BUFFER_BYTES = 128_000
#: The sample is there in its parts, joined, and as numbers; what looks for ids and leaks works with some rows beside.
SAMPLE_VALUE_BYTES, SAMPLE_ROW_BYTES = 24, 320


@dataclass(frozen=True)
class MemoryPlan:
    """Threads that decode at once, the size of each one's staging area, what else each holds, and what all hold.

    In window order ``streaming_bytes`` are held beside the coefficients, by what is read while they are learned.
    """

    threads: int
    stage_bytes: int
    thread_bytes: int
    kept_bytes: int = 0
    streaming_bytes: int = 0


def plan_memory(
    memory_bytes: int,
    manifest: Manifest,
    columns: list[str],
    layout: RecordLayout,
    threads: int,
    lanes: int,
    hashed_rows: int,
    full_batch: bool = False,
    on_workers: bool = False,
    made_numbers: int = 0,
) -> MemoryPlan:
    """Share out the budget.

    Parameters
    ----------
    lanes : int
        Row groups that are open at once where windows are streamed, else 0.
    hashed_rows : int
        Coefficients of hashed columns, which are known before the start.
    on_workers : bool
        Whether the budget is that of a worker process.
    made_numbers : int
        Numbers at levels, which are made of columns that others are made of too.

    Raises
    ------
    ConfigError
        Not even one thread fits; the message has the number that would be needed.
    """
    fixed_bytes = _base_bytes(on_workers) + hashed_rows * COEFFICIENT_BYTES
    reader = manifest.largest_reader_bytes(manifest.row_groups, columns)
    slice_rows = min(layout.block_rows, max((group.rows for group in manifest.row_groups), default=1))
    slice_bytes = slice_rows * (VALUE_BYTES * len(columns) + 8 * made_numbers + layout.record_bytes)
    if layout.entries is not None:
        # Those of a slice are decoded, those of a block are finished, which takes half as much.
        rows = slice_rows if full_batch else max(layout.slice_rows, layout.block_rows // 2)
        slice_bytes += int(min(manifest.n_rows, rows) * _entries_of_row_bytes(layout))
        # Which of them occur, and words as they are read.
        fixed_bytes += (4 + 3 * layout.entries.has_texts) * VOCABULARY_BYTES
    kept_bytes = slice_rows * _kept_value_bytes(slice_rows) * len(columns) + full_batch * SOLVER_BYTES
    sampling = (fixed_bytes + _sample_bytes(manifest, columns, reader), "a sample of the rows")
    if lanes:
        # Three windows are decoded, gathered and finished at once. How many lanes there are decides the order, so
        # they cannot be fewer.
        row_bytes = 2 * (VALUE_BYTES + KEPT_VALUE_BYTES) * len(columns) + 6 * layout.record_bytes
        row_bytes += 2 * 8 * made_numbers
        row_bytes += math.ceil(2 * _entries_of_row_bytes(layout))
        streaming_bytes = lanes * reader + layout.block_rows * row_bytes + kept_bytes
        streaming = (fixed_bytes + streaming_bytes, f"{count_noun(lanes, 'row group')} open at once")
        _require(memory_bytes, *max(sampling, streaming))
        return MemoryPlan(threads, STAGE_BYTES, reader + slice_bytes, kept_bytes, streaming_bytes)
    fixed_bytes += kept_bytes
    smallest_stage = slice_rows * layout.record_bytes
    each = reader + slice_bytes + smallest_stage
    _require(memory_bytes, *max(sampling, (fixed_bytes + each, "one row group being decoded")))
    fitting = max(1, min(threads, (memory_bytes - fixed_bytes) // each))
    vocabularies = layout.n_categorical * VOCABULARY_BYTES
    spare = (memory_bytes - fixed_bytes - vocabularies) // fitting - reader - slice_bytes
    stage_bytes = int(min(STAGE_BYTES, max(smallest_stage, spare)))
    return MemoryPlan(int(fitting), stage_bytes, reader + slice_bytes, kept_bytes)


def beyond_limit(memory_bytes: int, processes: int) -> list[str]:
    """A warning where so many processes, with a budget of ``memory_bytes`` each, may be killed for what they take."""
    limit_bytes = memory_limit_bytes()
    if limit_bytes is None or memory_bytes * processes <= limit_bytes:
        return []
    each = f" for each of {processes} workers" if processes > 1 else ""
    return [
        f"--memory {byte_size(memory_bytes)}{each} is more than the {byte_size(limit_bytes)} that the control group of"
        f" this process may have: it may be killed. Lower --memory, or raise the limit of the container"
    ]


def check_room(memory_bytes: int, columns: Columns, n_outputs: int) -> None:
    """Refuse streamed sparse columns whose indices and buckets, which all have a coefficient, do not fit the budget.

    Raises
    ------
    ConfigError
        They do not fit; the message has the number that would be needed.
    """
    rooms = [each for each in columns.sparse if each.hashed or each.keys == "index"]
    n_rows = sum(each.n_columns for each in rooms)
    if rooms:
        widest = max(rooms, key=lambda each: each.n_columns)
        ways = "--hash-buckets makes" if widest.hashed else f"--index-columns {widest.name}=N makes"
        _require(
            memory_bytes, _base_bytes(False) + n_rows * (n_outputs * COEFFICIENT_BYTES + LISTED_BYTES),
            f"{n_rows:,} columns of lists and maps; {ways} them fewer, --shuffle full has only those that occur",
        )  # fmt: skip


def check_coefficients(
    memory_bytes: int, n_dof: int, n_levels: int, on_workers: bool = False, n_listed: int = 0, beside_bytes: int = 0
) -> None:
    """Refuse more coefficients and levels than fit the budget, which are known when every row has been seen.

    Parameters
    ----------
    n_listed : int
        Rows of theta of list columns.
    beside_bytes : int
        What is held while they are learned, by the plan.

    Raises
    ------
    ConfigError
        They do not fit; the message has the number that would be needed.
    """
    needed = _base_bytes(on_workers) + n_dof * COEFFICIENT_BYTES + n_levels * LEVEL_BYTES + n_listed * LISTED_BYTES
    needed += beside_bytes
    _require(memory_bytes, needed, f"{n_dof:,} coefficients; --max-levels, --hash-buckets or --exclude make them fewer")


def check_history(memory_bytes: int, n_dof: int, n_levels: int, on_workers: bool = False) -> None:
    """Refuse more coefficients and levels than L-BFGS has room for.

    Raises
    ------
    ConfigError
        They do not fit; the message has the number that would be needed.
    """
    needed = _base_bytes(on_workers) + n_dof * LBFGS_COEFFICIENT_BYTES + n_levels * LEVEL_BYTES
    _require(memory_bytes, needed, f"{n_dof:,} coefficients with lbfgs; --optimizer backtracking takes a third of it")


def memory_for_hessians(
    memory_bytes: int, plan: MemoryPlan, n_dof: int, chunks: int, meat: bool, on_workers: bool = False,
    way_out: str = "",
) -> MemoryPlan:  # fmt: skip
    """The plan with so few threads that the Hessians of a full-batch pass fit the budget.

    A thread holds the sums of its chunk, those of a block, and their sum; the tree holds a sum for each of its levels,
    and on workers the ``FOLDED`` that one of its folds brings together. After the pass, the solution works with as many
    copies as ``SOLVING_HESSIANS``. With the ``meat`` of robust errors, the last pass sums two such matrices.

    Raises
    ------
    ConfigError
        Not even one thread fits; the message has the number that would be needed.
    """
    hessian_bytes = 8 * n_dof**2
    folding = max(chunks - 1, 0).bit_length() + 1 + on_workers * FOLDED

    def needed(threads: int) -> int:
        summed_bytes = (1 + meat) * hessian_bytes
        in_pass = threads * (3 * summed_bytes + plan.thread_bytes) + folding * summed_bytes
        fixed_bytes = _base_bytes(on_workers) + plan.kept_bytes + n_dof * COEFFICIENT_BYTES
        return fixed_bytes + max(in_pass, SOLVING_HESSIANS * hessian_bytes)

    ways = f"--max-levels, --hash-buckets or --exclude make them fewer{way_out}"
    _require(memory_bytes, needed(1), f"the Hessian of {n_dof:,} coefficients; {ways}")
    fitting = next(threads for threads in range(plan.threads, 0, -1) if needed(threads) <= memory_bytes)
    return replace(plan, threads=fitting)


def _entries_of_row_bytes(layout: RecordLayout) -> float:
    entries = layout.entries
    return 0.0 if entries is None else entries.of_row * ENTRY_BYTES * (1 + entries.has_values + entries.has_texts)


def give_back_freed_memory() -> None:
    """Let the C library return to the system what was freed; without glibc, nothing.

    It keeps arrays of less than 32 MB for later, of which making rows ready leaves 80 MB and more.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _kept_value_bytes(slice_rows: int) -> int:
    return LARGE_KEPT_VALUE_BYTES if 8 * slice_rows > LARGE_BUFFER_BYTES else KEPT_VALUE_BYTES


def _base_bytes(on_workers: bool) -> int:
    return BASE_BYTES + on_workers * WORKER_BYTES


def _sample_bytes(manifest: Manifest, columns: list[str], reader_bytes: int) -> int:
    """What reading and judging the sample holds."""
    rows, threads = sample_size(manifest, columns, reader_bytes)
    return threads * reader_bytes + rows * (SAMPLE_VALUE_BYTES * len(columns) + SAMPLE_ROW_BYTES)


def _require(memory_bytes: int, needed_bytes: int, what: str) -> None:
    if needed_bytes > memory_bytes:
        # Of a number alone, as somebody may give it who means megabytes.
        given = f"{memory_bytes / 1e6:g}MB" if memory_bytes >= 1_000_000 else count_noun(memory_bytes, "byte")
        raise ConfigError(
            f"--memory {given} is too small for these data: {needed_bytes / 1e6:.0f} MB are needed"
            f" ({what}). Give at least --memory {-(-needed_bytes // 1_000_000)}MB."
        )
