"""Published versions: each a folder of its own, and a pointer that is swapped in one rename.

    published/000007/   model.safetensors   what readers load
                        job.safetensors     ledger and state of training: what the next night goes on from
                        version.json        the facts, for people
    published/current   a link to one of them

The swap of the pointer is the moment in which model, theta and ledger move together. Before it nothing has happened,
after it everything has.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from streamgd import state as states
from streamgd.errors import ConfigError, DataError, NoInputError, storage_errors
from streamgd.jobs.ledger import Ledger
from streamgd.jobs.statedir import remove_folder
from streamgd.model import Model

#: What reading a version ends with whose files are damaged or missing; not that storage does not answer.
DAMAGED = (DataError, NoInputError, ConfigError)
_NAME = re.compile(r"\d{6,}")
_KIND = "job"


@dataclass(frozen=True)
class Version:
    """One published version."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What ``version.json`` says."""
        path = self.folder / "version.json"
        try:
            facts: dict[str, Any] = json.loads(states.read_file(path))
            if not isinstance(facts, dict):
                raise ValueError("it holds no facts")
        except ValueError as error:
            raise states.CorruptStateError(f"{path}: damaged: {error}. Go back with: streamgd job rollback") from None
        return facts

    @property
    def replaced(self) -> int | None:
        """The number of the version that was published before this one; None where nothing tells."""
        try:
            number = self.facts.get("replaced")
        except DAMAGED:
            return None
        return number if isinstance(number, int) else None

    def check(self) -> None:
        """Read all of it.

        Raises
        ------
        DataError, NoInputError, ConfigError
            A part of it is damaged, or missing.
        """
        _ = self.facts, self._state, self.model()

    def model(self) -> Model:
        return Model.load(self.folder / "model.safetensors")

    @cached_property
    def _state(self) -> dict[str, Any]:
        path = self.folder / "job.safetensors"
        data = states.read_file(path)
        with states.no_other_content(str(path), _KIND):
            state: dict[str, Any] = states.deserialize(data, _KIND, str(path))
            Ledger.from_state(state["ledger"])
        return state

    @property
    def ledger(self) -> Ledger:
        return Ledger.from_state(self._state["ledger"])

    @property
    def training(self) -> dict[str, Any] | None:
        """The state that mode ``continue`` goes on from."""
        training: dict[str, Any] | None = self._state["training"]
        return training


class Versions:
    """The versions in a folder. Only the process that holds the job's lock may change them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._pointer = folder / "current"

    def current(self) -> Version | None:
        """The published version, if there is one."""
        if not self._pointer.is_symlink():
            return None
        with storage_errors(f"read {self._pointer}"):
            name = Path(os.readlink(self._pointer)).name
        if not _NAME.fullmatch(name) or not (self.folder / name).is_dir():
            raise ConfigError(
                f"{self._pointer} points to '{name}', which is no version. Point it to one of {self.folder}."
            )
        return Version(self.folder / name)

    def ledger(self) -> Ledger:
        """What the published version has learned; nothing where none is published."""
        current = self.current()
        return current.ledger if current is not None else Ledger()

    def all(self) -> list[Version]:
        """All versions, oldest first."""
        if not self.folder.is_dir():
            return []
        with storage_errors(f"read {self.folder}"):
            return [Version(path) for path in sorted(self.folder.iterdir()) if _NAME.fullmatch(path.name)]

    def next_number(self) -> int:
        """A number that no version has had."""
        return max((version.number for version in self.all()), default=0) + 1

    def get(self, number: int) -> Version:
        """The version of that number.

        Raises
        ------
        NoInputError
            It is not there; the message lists those that are.
        """
        known = {version.number: version for version in self.all()}
        if number not in known:
            raise NoInputError(
                f"no version {number} in {self.folder}. There are: {', '.join(map(str, known)) or 'none'}."
            )
        return known[number]

    def publish(
        self, number: int, model: Model, ledger: Ledger, training: dict[str, Any] | None, facts: dict[str, Any]
    ) -> Version:
        """Write a version beside the others, then point to it."""
        states.make_folder(self.folder)
        self.remove_leftovers(number)
        building = self.folder / f".{number:06d}.tmp"
        states.make_folder(building)
        model.save(building / "model.safetensors")
        state = states.serialize({"ledger": ledger.state(), "training": training}, _KIND)
        states.write_atomically(building / "job.safetensors", state)
        text = json.dumps({"version": number, **facts}, indent=2)
        states.write_atomically(building / "version.json", text.encode())
        version = Version(self.folder / f"{number:06d}")
        with storage_errors(f"publish {version.folder}"):
            states.files.replace(building, version.folder)
            states.files.fsync_folder(self.folder)
        self.point_to(version)
        return version

    def point_to(self, version: Version) -> None:
        """Make a version the published one, in one rename."""
        temporary = self.folder / ".current.tmp"
        with storage_errors(f"point {self._pointer} to {version.folder.name}"):
            with suppress(FileNotFoundError):
                temporary.unlink()
            temporary.symlink_to(version.folder.name)
            states.files.replace(temporary, self._pointer)
            states.files.fsync_folder(self.folder)

    def remove_leftovers(self, number: int) -> None:
        """Remove what a kill left behind: unfinished folders, and version ``number``, which was never pointed to."""
        if not self.folder.is_dir():
            return
        current = self.current()
        for path in sorted(self.folder.glob(".*.tmp")):
            remove_folder(path)
        unpublished = self.folder / f"{number:06d}"
        if unpublished.is_dir() and (current is None or current.number != number):
            remove_folder(unpublished)

    def before(self, version: Version) -> list[Version]:
        """The versions to go back to from this one, nearest first: what it replaced, what that replaced, and so on.

        After them those off that line, newest first: they were taken back, or nothing says what they came after.
        """
        older = {each.number: each for each in self.all() if each.number < version.number}
        line: list[Version] = []
        each: Version | None = version
        while each is not None:
            each = older.pop(each.replaced or 0, None)
            line += [each] if each is not None else []
        return line + [older[number] for number in sorted(older, reverse=True)]

    def prune(self, keep: int) -> None:
        """Keep the published version and the ``keep - 1`` nearest before it; those that were taken back go first.

        Newer ones stay until the next is published, so that no number is used twice.
        """
        current = self.current()
        for version in self.before(current)[keep - 1 :] if current is not None else []:
            remove_folder(version.folder)
