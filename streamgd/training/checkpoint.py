"""The checkpoints of a run: numbered files, each whole or absent, of which the newest that validates counts.

Writing goes through ``state.write_atomically``. A file is trusted only after its checksum was compared, and no file is
deleted unless enough newer ones are known to be whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamgd.errors import NoInputError, StreamgdError, storage_errors
from streamgd.state import (
    CorruptStateError,
    deserialize,
    make_folder,
    remove,
    remove_leftovers,
    serialize,
    write_atomically,
)

_KIND = "checkpoint"
_NAME = re.compile(r"(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that validated, with the state it holds."""

    path: Path
    sequence: int
    state: Any


@dataclass(frozen=True)
class CheckpointInfo:
    """One line of a listing; ``problem`` says why a checkpoint is not valid."""

    path: Path
    sequence: int
    size_bytes: int
    valid: bool
    problem: str | None


class CheckpointStore:
    """The checkpoints in one folder. Only the process that holds the run's lock may save.

    Parameters
    ----------
    folder : Path
        Made by the first ``save``.
    keep : int
        How many whole checkpoints are kept, at least 2.

    Attributes
    ----------
    damaged : list of (Path, str)
        What the last call of ``latest`` had to pass over, newest first, with the reason.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError(f"at least 2 checkpoints are kept, not {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.damaged: list[tuple[Path, str]] = []
        self._known_whole: set[Path] = set()  # written or validated by this process

    def save(self, state: object) -> Path:
        """Write ``state`` as the newest checkpoint, then delete what is older than the ``keep`` newest whole ones.

        Leftovers of killed processes are removed first, since they may be what fills the disk. The state is copied at
        once and not changed.

        Raises
        ------
        StorageError, AccessError
            Writing or deleting failed; the checkpoints that were there are whole.
        TypeError
            The state holds a value that cannot be stored.
        """
        data = serialize(state, _KIND)
        make_folder(self.folder)
        remove_leftovers(self.folder)
        sequence = max((number for number, _ in self._newest_first()), default=0) + 1
        path = self.folder / f"{sequence:08d}.safetensors"
        write_atomically(path, data)
        self._known_whole.add(path)
        self._prune()
        return path

    def latest(self) -> Loaded | None:
        """The newest checkpoint that validates, or None; damaged ones are passed over and noted in ``damaged``.

        Raises
        ------
        StorageError, AccessError
            A file cannot be read. It is not passed over: once storage answers again it may prove whole.
        """
        self.damaged = []
        for sequence, path in self._newest_first():
            try:
                return Loaded(path, sequence, self._read(path))
            except CorruptStateError as error:
                self.damaged.append((path, str(error)))
            except NoInputError:
                continue  # deleted meanwhile by the process that trains
        return None

    def list(self) -> Sequence[CheckpointInfo]:
        """All checkpoints, oldest first, each one read and validated."""
        found = []
        for sequence, path in self._newest_first():
            try:
                size_bytes = path.stat().st_size
            except FileNotFoundError:
                continue  # deleted meanwhile by the process that trains
            problem = self._problem(path)
            found.append(CheckpointInfo(path, sequence, size_bytes, problem is None, problem))
        return found[::-1]

    def _newest_first(self) -> Iterator[tuple[int, Path]]:
        """Sequence number and path of every checkpoint, damaged or not."""
        matches = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("*.safetensors")]
        return iter(sorted(((int(match[1]), path) for match, path in matches if match), reverse=True))

    def _read(self, path: Path) -> Any:
        with storage_errors(f"read {path}"):
            data = path.read_bytes()
        state = deserialize(data, _KIND, str(path))
        self._known_whole.add(path)
        return state

    def _problem(self, path: Path) -> str | None:
        """Why the file cannot be used, or None."""
        try:
            self._read(path)
        except StreamgdError as error:
            return str(error)
        return None

    def _prune(self) -> None:
        whole = 0
        for _, path in self._newest_first():
            if whole == self.keep:
                remove(path)
                self._known_whole.discard(path)
            elif path in self._known_whole or self._problem(path) is None:
                whole += 1
