"""The checkpoints of a run: numbered files, each whole or absent, of which the newest that validates counts.

Writing goes through ``state.write_atomically``, on a thread of its own: the training loop waits for the copy of its
state, not for the disk. A state too large to be in memory twice is written at once. A file is trusted only after its
checksum was compared, and no file is deleted unless enough newer ones are known to be whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamgd.errors import NoInputError, StreamgdError, storage_errors
from streamgd.state import (
    CorruptStateError,
    checksum_of,
    make_folder,
    no_other_content,
    read_state,
    read_without_arrays,
    remove,
    remove_leftovers,
    unsealed_parts,
    write_atomically,
)

_KIND = "checkpoint"
#: A state of more bytes is not copied for the thread that writes.
_MOST_COPIED_BYTES = 100_000_000
_NAME = re.compile(r"(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that validated, with the state it holds."""

    path: Path
    sequence: int
    state: Any


@dataclass(frozen=True)
class CheckpointInfo:
    """One line of a listing.

    ``problem`` says why a checkpoint is not valid; ``epoch``, ``steps`` and ``holdout_loss`` (of a checkpoint at the
    end of the best epoch so far) are None where the checkpoint does not tell.
    """

    path: Path
    sequence: int
    size_bytes: int
    valid: bool
    problem: str | None
    epoch: int | None = None
    steps: int | None = None
    holdout_loss: float | None = None


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
        self._known_whole: dict[Path, float | None] = {}  # written or validated by this process; the holdout loss
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._in_flight: Future[Path] | None = None

    def save(self, state: dict[str, Any]) -> Path:
        """Write ``state`` as the newest checkpoint, then delete older ones.

        The ``keep`` newest whole ones stay, and the one with the lowest holdout loss. Leftovers of killed processes
        are removed first, since they may be what fills the disk.

        Raises
        ------
        StorageError, AccessError
            Writing or deleting failed, now or in what :meth:`begin` began; the checkpoints that were there are whole.
        TypeError
            The state holds a value that cannot be stored.
        """
        self.wait()
        return self._write(_file_of(state), best_holdout_loss(state))

    def begin(self, state: dict[str, Any]) -> None:
        """As :meth:`save`, but only the state is copied now; one write at a time is under way.

        An error of the write is raised by whichever of ``begin``, ``poll``, ``wait`` and ``save`` comes next. A state
        of many coefficients is written now: its copy might not fit the memory.
        """
        self.wait()
        parts, holdout_loss = _file_of(state), best_holdout_loss(state)
        if len(parts) > 1:
            self._write(parts, holdout_loss)
        else:
            self._in_flight = self._writer.submit(self._write, parts, holdout_loss)

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._in_flight is not None and not self._in_flight.done()

    def poll(self) -> None:
        """Raise the error of a write that failed meanwhile."""
        if self._in_flight is not None and self._in_flight.done():
            self.wait()

    def wait(self) -> None:
        """Wait until no write is under way."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            in_flight.result()

    def _write(self, parts: list[Any], holdout_loss: float | None) -> Path:
        checksum = checksum_of(parts)
        if len(parts) == 1:
            parts[0] += checksum
        else:
            parts.append(checksum)
        make_folder(self.folder)
        remove_leftovers(self.folder)
        sequence = max((number for number, _ in self._newest_first()), default=0) + 1
        path = self.folder / f"{sequence:08d}.safetensors"
        write_atomically(path, *parts)
        self._known_whole[path] = holdout_loss
        self._prune()
        return path

    @property
    def empty(self) -> bool:
        """Whether there is no checkpoint, whole or damaged."""
        return not any(True for _ in self._newest_first())

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
            try:
                state = self._read(path)
            except StreamgdError as error:
                found.append(CheckpointInfo(path, sequence, size_bytes, False, str(error)))
                continue
            epoch, steps = state.get("epoch"), steps_of(state)
            found.append(CheckpointInfo(path, sequence, size_bytes, True, None, epoch, steps, best_holdout_loss(state)))
        return found[::-1]

    def _newest_first(self) -> Iterator[tuple[int, Path]]:
        """Sequence number and path of every checkpoint, damaged or not."""
        matches = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("*.safetensors")]
        return iter(sorted(((int(match[1]), path) for match, path in matches if match), reverse=True))

    def _read(self, path: Path) -> Any:
        state = read_state(path, _KIND)
        with no_other_content(str(path), _KIND):
            self._known_whole[path] = best_holdout_loss(state)
        return state

    def _is_whole(self, path: Path) -> bool:
        if path not in self._known_whole:
            with suppress(StreamgdError), storage_errors(f"read {path}"), no_other_content(str(path), _KIND):
                self._known_whole[path] = best_holdout_loss(read_without_arrays(path, _KIND))
        return path in self._known_whole

    def _prune(self) -> None:
        paths = [path for _, path in self._newest_first()]
        whole = [path for path in paths if self._is_whole(path)]
        if len(whole) < self.keep:
            return
        oldest = whole[self.keep - 1]
        losses = {path: loss for path in whole if (loss := self._known_whole[path]) is not None}
        best = min(losses, key=losses.__getitem__, default=None)
        for path in paths[paths.index(oldest) + 1 :]:
            if path != best and not path.is_dir():
                remove(path)
                self._known_whole.pop(path, None)


def _file_of(state: dict[str, Any]) -> list[Any]:
    """What is to be written, but for the checksum: the arrays themselves where they are large, else one copy of all."""
    parts = unsealed_parts(state, _KIND)
    return parts if sum(map(len, parts)) > _MOST_COPIED_BYTES else [bytearray().join(parts)]


def steps_of(state: dict[str, Any]) -> int | None:
    """Updates that a state has seen; a full-batch step is a pass, after those of mini-batches if there were any."""
    if "steps" in state or "epoch" not in state:
        return state.get("steps")
    return int(state.get("steps_before", 0) + state["epoch"] - state.get("epochs_before", 0))


def best_holdout_loss(state: dict[str, Any]) -> float | None:
    """The holdout loss, in units of the target, of a state that stands at the end of its best epoch; else None."""
    best = state.get("best")
    if not best or best["epoch"] != state["epoch"] or state.get("position", 0) != 0:
        return None
    scale = state["encoding"]["target_scale"] if "encoding" in state else 1.0
    return None if best["loss"] is None else float(best["loss"] * scale**2)
