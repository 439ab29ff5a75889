"""One range of bytes over several files: parts of equal size, dealt to the files in turn.

    part 0 → file 0 | part 1 → file 1 | … | part 7 → file 7 | part 8 → file 0, behind part 0 | …

A system lets one thread at a time write to a file, and others wait for it, spinning: on one file, two threads that
write to fresh memory take twice the processor time of one, and are no faster.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from streamgd import state as states
from streamgd.data.mapped import MappedFile
from streamgd.limits import usable_cores

#: Two threads meet in one of so many seldom.
N_FILES = 8


def file_names(stem: str) -> list[str]:
    """What the files may be called; where there are fewer parts than that, there are fewer.

    >>> file_names("blocks")[:2]
    ['blocks-0.bin', 'blocks-1.bin']
    """
    return [f"{stem}-{number}.bin" for number in range(N_FILES)]


def remove_files(paths: Iterable[Path]) -> None:
    """Delete those that are there.

    On threads, as the system takes a third of a second a gigabyte to let go of what it holds in memory of a file.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(partial(states.remove, missing_ok=True), paths))  # errors come with the results


class StripedFiles:
    """``n_parts`` parts of ``part_bytes``, a multiple of ``mapped.PAGE_BYTES``; nothing that is asked for leaves one.

    The methods are those of :class:`MappedFile`, and one to remove the files.
    """

    def __init__(self, folder: Path, stem: str, part_bytes: int, n_parts: int):
        self._part_bytes = part_bytes
        names = file_names(stem)[: max(1, n_parts)]
        parts = [len(range(number, n_parts, len(names))) for number in range(len(names))]
        self._files = [MappedFile(folder / name, n * part_bytes) for name, n in zip(names, parts, strict=True)]

    @property
    def is_whole(self) -> bool:
        return all(file.is_whole for file in self._files)

    @property
    def written_ns(self) -> list[int]:
        """When each file was last written to."""
        return [file.written_ns for file in self._files]

    def create(self, hint: str, reserve: bool = False) -> None:
        for file in self._files:
            file.create(hint, reserve)

    def open(self) -> None:
        for file in self._files:
            file.open()

    def write(self, begin: int, data: np.ndarray, hint: str) -> None:
        file, begin = self._place(begin)
        file.write(begin, data, hint)

    def read(self, begin: int, out: np.ndarray) -> None:
        file, begin = self._place(begin)
        file.read(begin, out)

    def array(self, begin: int, count: int, kind: np.dtype | type) -> np.ndarray:
        file, begin = self._place(begin)
        return file.array(begin, count, kind)

    def read_ahead(self, begin: int, size_bytes: int) -> bool:
        file, begin = self._place(begin)
        return file.read_ahead(begin, size_bytes)

    def wait_for(self, begin: int, size_bytes: int) -> None:
        file, begin = self._place(begin)
        file.wait_for(begin, size_bytes)

    def release(self, begin: int, size_bytes: int) -> None:
        file, begin = self._place(begin)
        file.release(begin, size_bytes)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def remove(self) -> None:
        """Close the files, and delete those that are there."""
        self.close()
        remove_files([file.path for file in self._files])

    def _place(self, begin: int) -> tuple[MappedFile, int]:
        """The file that has byte ``begin``, and where in it."""
        part, within = divmod(begin, self._part_bytes)
        number, of_files = divmod(part, len(self._files))
        return self._files[of_files], number * self._part_bytes + within
