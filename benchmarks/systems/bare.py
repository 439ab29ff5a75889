"""The floors: decoding the columns and nothing else; adding up mapped numbers and nothing else."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.systems.base import DataFiles, Float64Array, System, cores, matrix

BLOCK_BYTES = 1 << 23
BLOCK_ROWS = 65_536

T = TypeVar("T")


def block_rows(data: DataFiles) -> int:
    """Rows that streamgd decodes at once: a block of its default layout (float32, 4-byte codes, target, slot)."""
    record_words = -(-(8 + 4 * len(data.numeric) + 4 * len(data.categorical) + 4) // 8)
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (8 * record_words)))


class BareDecode(System):
    """Decodes every row group once, with the access that streamgd's reader has, and drops what it decoded."""

    trains: ClassVar[bool] = False

    @property
    def settings(self) -> str:
        return (
            f"iter_batches of a block's rows, row groups dealt to {cores()} threads, buffer_size=65536,"
            " pre_buffer=False, memory_map=False, page_checksum_verification=True"
        )

    def prepare(self, data: DataFiles) -> None:
        self._data = data
        self._files = [(path, pq.read_metadata(path)) for path in data.paths]

    def run(self) -> None:
        groups = [(path, footer, group) for path, footer in self._files for group in range(footer.num_row_groups)]
        rows = in_threads(groups, lambda group: self._decode(*group))
        if rows != self._data.rows:
            raise ValueError(f"decoded {rows:,} rows of {self._data.rows:,}")

    def _decode(self, path: str, footer: pq.FileMetaData, group: int) -> int:
        with pq.ParquetFile(
            path, metadata=footer, read_dictionary=list(self._data.categorical), memory_map=False,
            buffer_size=65_536, pre_buffer=False, page_checksum_verification=True,
        ) as file:  # fmt: skip
            batches = file.iter_batches(block_rows(self._data), [group], self._data.columns, use_threads=False)
            return sum(batch.num_rows for batch in batches)

    def measures(self) -> dict[str, float]:
        return {}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        raise NotImplementedError


class PlainSum(System):
    """numpy's sum over the float32 features of all blocks, mapped from a file.

    The first pass is over a new map, so that it touches each page as streamgd's pass does, which gives up the pages of
    a block after use; the second finds the pages in place.
    """

    trains: ClassVar[bool] = False

    @property
    def settings(self) -> str:
        return f"numpy.sum of each block, {cores()} threads; once over a new map, once over pages already mapped"

    def prepare(self, data: DataFiles) -> None:
        self._path = Path(self.scratch) / "features.bin"
        with self._path.open("wb") as file:
            for batch in data.batches(BLOCK_ROWS):
                file.write(matrix(batch, data.numeric, "float32").data)
        self._n_numbers = data.rows * len(data.numeric)
        self._block_numbers = block_rows(data) * len(data.numeric)

    def run(self) -> None:
        with self._path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            numbers = np.frombuffer(mapped, np.float32)
            starts = range(0, len(numbers), self._block_numbers)
            blocks = [numbers[start : start + self._block_numbers] for start in starts]
            del numbers
            self._seconds = []
            for _ in range(2):
                started_s = time.perf_counter()
                in_threads(blocks, lambda block: int(np.isfinite(block.sum())))
                self._seconds.append(time.perf_counter() - started_s)
            blocks.clear()

    def measures(self) -> dict[str, float]:
        first, second = (4 * self._n_numbers / seconds for seconds in self._seconds)
        return {"feature_bytes_per_s": first, "feature_bytes_per_s_already_mapped": second}

    def raw_prediction(self, batch: pa.RecordBatch) -> Float64Array:
        raise NotImplementedError


def in_threads(items: Iterable[T], work: Callable[[T], int]) -> int:
    """The sum of `work` over all items, which the threads take one after another."""
    waiting, lock = iter(items), threading.Lock()

    def take(_: None) -> int:
        total = 0
        while True:
            with lock:
                item = next(waiting, None)
            if item is None:
                return total
            total += work(item)

    with ThreadPoolExecutor(cores()) as pool:
        return sum(pool.map(take, repeat(None, cores())))
