"""Disks that fail: at one operation, for good from one operation on, or by forgetting what was not synchronised."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamgd import state as state_module
from streamgd.data.prepare import Preparation
from streamgd.errors import AccessError, StorageError
from streamgd.state import FileSystem


class Killed(BaseException):
    """The process is gone: nothing after this happens."""


#: Name, error, and what streamgd makes of it.
FAULTS: dict[str, tuple[BaseException, type[BaseException]]] = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), StorageError),
    "device error": (OSError(errno.EIO, "Input/output error"), StorageError),
    "no permission": (OSError(errno.EACCES, "Permission denied"), AccessError),
    "killed": (Killed(), Killed),
}


class UnsynchronisedFiles(FileSystem):
    """The real file system without its waits: no test cuts the power."""

    def fsync(self, file: Any) -> None:
        pass

    def fsync_folder(self, folder: Path) -> None:
        pass


class FaultyFiles(UnsynchronisedFiles):
    """The real file system up to operation ``n``, which fails half done; once killed, all that follow do nothing.

    Operations of one ``kind`` alone are counted where that is given; ``failed`` is the kind of the one that failed.
    """

    def __init__(self, n: int, error: BaseException, kind: str | None = None) -> None:
        self.left, self.error, self.kind = n, error, kind
        self.failed: str | None = None
        self.operations: list[str] = []
        self.named: list[Path] = []  # what got its final name

    def due(self, operation: str) -> bool:
        self.operations.append(operation)
        if self.failed is not None and isinstance(self.error, Killed):
            raise self.error
        self.left -= self.kind in (None, operation)
        if self.left == 0 and self.failed is None:
            self.failed = operation
            return True
        return False

    def open(self, path: Path) -> Any:
        if self.due("open"):
            raise self.error
        return super().open(path)

    def write(self, file: Any, data: Any) -> None:
        if self.due("write"):
            super().write(file, data[: len(data) // 2])
            raise self.error
        super().write(file, data)

    def append(self, path: Path, kept_bytes: int, data: bytes) -> int:
        if self.due("append"):
            with path.open("ab") as file:
                file.write(data[: len(data) // 2])
            raise self.error
        with path.open("ab") as file:
            file.truncate(kept_bytes)
            return kept_bytes + file.write(data)

    def create(self, path: Path, size_bytes: int, reserve: bool = False) -> int:
        if self.due("create"):
            path.touch()
            raise self.error
        return super().create(path, size_bytes, reserve)

    def write_at(self, descriptor: int, data: memoryview, position: int) -> None:
        if self.due("write_at"):
            super().write_at(descriptor, data[: len(data) // 2], position)
            raise self.error
        super().write_at(descriptor, data, position)

    def fsync(self, file: Any) -> None:
        if self.due("fsync"):
            raise self.error
        super().fsync(file)

    def replace(self, source: Path, target: Path) -> None:
        if self.due("replace"):
            raise self.error
        super().replace(source, target)
        self.named.append(target)

    def remove(self, path: Path) -> None:
        if self.due("remove"):
            raise self.error
        super().remove(path)

    def fsync_folder(self, folder: Path) -> None:
        if self.due("fsync_folder"):
            raise self.error
        super().fsync_folder(folder)


@contextmanager
def on(files: FileSystem) -> Iterator[None]:
    """The code inside works on these files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_module, "files", files)
        yield


class ForgetfulFiles(FaultyFiles):
    """One folder on a device that keeps only what was synchronised, as POSIX allows.

    Content that was not ``fsync``ed may be whole, torn, zeros or absent; names that no ``fsync_folder`` followed may
    have come or not, each by itself. ``after_a_power_failure`` makes one of the folders that may be found.
    """

    def __init__(self, folder: Path, n: int) -> None:
        super().__init__(n, Killed())
        # By name, what the folder is sure to hold; operations on names since; content that is not yet sure.
        self.durable = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.pending: list[tuple[str, str | None]] = []  # target, and the name it comes from; None: removed
        self.content: dict[str, bytes] = {}  # of new files, as written so far
        self.synchronised: set[str] = set()

    def open(self, path: Path) -> Any:
        file = super().open(path)
        self.content[path.name] = b""
        self.pending.append((path.name, path.name))
        return file

    def write(self, file: Any, data: Any) -> None:
        try:
            super().write(file, data)
        finally:
            path = Path(file.name)
            self.content[path.name] = path.read_bytes()

    def fsync(self, file: Any) -> None:
        super().fsync(file)
        self.synchronised.add(Path(file.name).name)

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.pending.append((target.name, source.name))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.pending.append((path.name, None))

    def fsync_folder(self, folder: Path) -> None:
        super().fsync_folder(folder)
        assert {source for _, source in self.pending if source} <= self.synchronised, "a name before its content"
        self.durable = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.pending = []

    def after_a_power_failure(self, folder: Path, rng: random.Random) -> None:
        """Make ``folder`` what may be found when the power is back."""
        found = dict(self.durable)
        for target, source in rng.sample(self.pending, rng.randint(0, len(self.pending))):
            if source is None:
                found.pop(target, None)
            else:
                found[target] = self._content_of(source, rng)
                if source != target:
                    found.pop(source, None)
        folder.mkdir()
        for name, content in found.items():
            (folder / name).write_bytes(content)

    def _content_of(self, name: str, rng: random.Random) -> bytes:
        content = self.content[name]
        if name in self.synchronised:
            return content
        torn = content[: rng.randint(0, len(content))]
        return rng.choice([content, torn, torn + bytes(len(content) - len(torn)), bytes(len(content)), b""])


def stop_at_note(preparation: Preparation, number: int, error: BaseException) -> None:
    """Have ``preparation`` end with ``error`` in the place of its note ``number``, counted from 1."""
    store, notes = preparation._store, 0

    def stopping(write: Callable[..., None]) -> Callable[..., None]:
        def write_or_stop(*arguments: Any) -> None:
            nonlocal notes
            notes += 1
            if notes == number:
                raise error
            write(*arguments)

        return write_or_stop

    store.write_note = stopping(store.write_note)  # type: ignore[method-assign]
    store.write_finished = stopping(store.write_finished)  # type: ignore[method-assign]
