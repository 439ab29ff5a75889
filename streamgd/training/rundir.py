"""A run directory: its lock, its configuration, its history, its checkpoints and its model.

config.json   what was asked for and resolved      history.jsonl   one line for each epoch and event
checkpoints/  all that is needed to go on          model.safetensors   the result
blocks/       the shuffled rows, while training    lock
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from streamgd import state as states
from streamgd.errors import (
    ConfigError,
    DataError,
    NoInputError,
    RunLockedError,
    StorageError,
    StreamgdError,
    storage_errors,
)
from streamgd.model import FILE_NAME, Model
from streamgd.training.checkpoint import CheckpointStore

SCHEMA_VERSION = 1
#: DATA of a run on a stream, of whatever kind.
STANDARD_INPUT = ["-"]


def current_folder() -> str | None:
    """The folder that relative paths begin in; None where it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def is_final(stopped_by: str | None) -> bool:
    """Whether what stopped a run was its end; after ``--max-time`` the same command goes on."""
    return stopped_by not in (None, "max_time")


class RunDirectory:
    """The files of a run. As a context it holds the lock; nothing is created before it is entered.

    Raises
    ------
    RunLockedError
        On entering, when another process holds the lock.
    """

    def __init__(self, path: Path, keep_checkpoints: int = 2):
        self.path = path
        self.checkpoints = CheckpointStore(path / "checkpoints", keep_checkpoints)
        self.model_path = path / FILE_NAME
        self._config_path = path / "config.json"
        self._history_path = path / "history.jsonl"
        self._lock = FileLock(path / "lock")
        self._made_folders: list[Path] = []
        self._begun_here = False

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--run {self.path} is a file. Name a directory.")
        for path in (self._config_path, self._history_path, self.model_path):
            # Found now rather than when hours of work are to be written there.
            states.check_regular(path)
        self._made_folders = states.make_folder(self.path)
        try:
            with storage_errors(f"lock the run directory {self.path}"):
                try:
                    self._lock.acquire(timeout=0)
                except Timeout:
                    message = f"another run works in {self.path}. Wait for it, or choose another --run."
                    raise RunLockedError(message) from None
        except BaseException:
            states.remove_empty(self._made_folders)
            raise
        with suppress(StreamgdError):  # they are in nobody's way
            for path in (self._config_path, self.model_path):
                states.remove_leftovers(self.path, path.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mistake = isinstance(error, DataError | NoInputError | ConfigError)
        leaves_nothing = self._made_folders and isinstance(error, StorageError)
        try:
            # Nothing is written once the lock is given back.
            try:
                self.checkpoints.wait()
            except StreamgdError:
                if error is None:  # the first error is the one to tell
                    raise
            if (mistake or leaves_nothing) and (self._begun_here or self._made_folders):
                with suppress(StreamgdError, OSError):  # so, too, on a disk that fails on
                    if self.untrained:
                        self._forget_beginning()
        finally:
            self._lock.release()

    def _forget_beginning(self) -> None:
        """Keep nothing that the next command would have to agree with."""
        self.clear()
        if self._made_folders:
            states.remove_empty([self.checkpoints.folder])
            with suppress(OSError):
                (self.path / "lock").unlink()
            states.remove_empty(self._made_folders)

    def read_config(self) -> dict[str, Any] | None:
        """What was stored when the run began, or None for a new run."""
        if not self._config_path.exists():
            return None
        text = states.read_file(self._config_path)
        try:
            stored: dict[str, Any] = json.loads(text)
            _check_stored(stored)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{self._config_path} is damaged ({error}). Start over with --restart.") from None
        return stored

    @property
    def untrained(self) -> bool:
        """Whether nothing was trained here yet: there is no checkpoint, whole or damaged, and no model."""
        return self.checkpoints.empty and not self.model_path.exists()

    def require_config(self) -> dict[str, Any]:
        """As :meth:`read_config`, for a run that must be there."""
        stored = self.read_config()
        if stored is None:
            raise NoInputError(
                f"no run at {self.path}. Start one with: streamgd train DATA --target COL --run {self.path}"
            )
        return stored

    def model_of(self, saved: dict[str, Any] | None) -> Model | None:
        """The model, if it is that of a checkpoint's state ``saved`` and the run had come to its end there.

        A damaged one counts as absent: it is made anew from the checkpoint.
        """
        if saved is None or not is_final(saved["stopped_by"]) or not self.model_path.exists():
            return None
        try:
            model = Model.load(self.model_path)
        except states.CorruptStateError:
            return None
        same = (model.facts.get("key"), model.facts.get("epochs"), model.facts.get("rows_seen"))
        return model if same == (saved["key"], saved["epoch"], saved["rows_seen"]) else None

    def model_without_checkpoints(self, epochs: int) -> Model | None:
        """The model of a run that had come to its end within ``epochs`` epochs, where no checkpoint is whole."""
        try:
            model = Model.load(self.model_path)
        except (states.CorruptStateError, NoInputError):
            return None
        stopped_by = model.facts.get("stopped_by")
        if not is_final(stopped_by) or (stopped_by == "epochs" and model.facts["epochs"] < epochs):
            return None
        return model

    def write_config(self, stored: dict[str, Any]) -> None:
        self._begun_here = self._begun_here or not self._config_path.exists()
        text = json.dumps({"schema_version": SCHEMA_VERSION, **stored}, indent=2, default=str)
        states.write_atomically(self._config_path, text.encode())

    def clear(self) -> None:
        """Forget the run, but keep the model until a new one replaces it."""
        # Checkpoints first: without them the configuration binds nobody, the other way round they would be adopted.
        for info in self.checkpoints.list():
            states.remove(info.path)
        for path in (self._history_path, self._config_path):
            if path.exists():
                states.remove(path)

    def append_history(self, line: dict[str, Any], size_bytes: int) -> int:
        """Write ``line`` after the first ``size_bytes`` bytes of the history; returns the new size."""
        text = (json.dumps(line) + "\n").encode()
        with storage_errors(f"write {self._history_path}"):
            return states.files.append(self._history_path, size_bytes, text)

    def history(self) -> list[dict[str, Any]]:
        """The lines of the history, oldest first."""
        if not self._history_path.exists():
            return []
        lines = states.read_file(self._history_path).splitlines()
        history = []
        for line in lines:
            # A torn line is what a kill left behind; it is cut off when the run goes on.
            with suppress(ValueError):
                history.append(json.loads(line))
        return history


def _check_stored(stored: dict[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError where a run's configuration has not what a later start looks at."""
    config, resolved, validation = stored["config"], stored["resolved"], stored.get("validation")
    texts = [*config["data"], config["target"], config["method"], resolved["loss"], resolved["order"]]
    texts += [resolved["method"]] if config["method"] == "auto" else []
    texts += [config["blocks_dir"]] if config.get("blocks_dir") is not None else []
    for manifest in [stored["manifest"], *([validation] if validation is not None else [])]:
        texts += [file["relative"] for file in manifest["files"]]
        texts += [relative for relative, _ in manifest.get("skipped", [])]
        hash(tuple(index for _, index in manifest.get("skipped", [])))
    of_types = isinstance(config["data"], list) and isinstance(resolved["epochs"], int)
    if not all(isinstance(text, str) for text in texts) or not of_types:
        raise ValueError("it has other values than a run writes")
