"""The state directory of a job: its lock, what waits for a better night, and the night's plan.

lock               held by the kernel while a job works: a killed one leaves none behind
waiting.json       files that are held or in quarantine, and why
work/plan.json     what this night learns; work/train/ and so on are its runs
work/profiles.json what the new files hold, where there are rules of drift
.work.tmp/         a work that is done with, while it is deleted
mlflow.json        the run of the tracker, while it goes on: see ``mlflow``
candidates/        the last models that the gate refused, with the reasons
published/         see ``versions``
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from streamgd import state as states
from streamgd.errors import ConfigError, RunLockedError, storage_errors
from streamgd.jobs.ledger import Entry

#: Why a file waits.
Reason = Literal["held", "quarantined"]
KEPT_CANDIDATES = 3


@dataclass(frozen=True)
class Waiting:
    """A file that a refused candidate had learned: held files are tried again, those in quarantine are passed over.

    Attributes
    ----------
    why : what it was refused for, by itself where it was judged so
    since : when that was first, ISO 8601
    beside : other new files that the candidate had learned; empty where the reason is its own
    """

    relative: str
    footer_digest: str
    status: Reason
    why: str
    since: str = ""
    beside: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """The reason, with since when, and whom it was judged with."""
        beside = f", judged together with {', '.join(self.beside)}" if self.beside else ""
        return f"{self.why} (since {self.since}{beside})" if self.since else self.why


@dataclass(frozen=True)
class Stage:
    """One training run of a plan: the ``files`` it learns, in the folder ``run`` below ``work``."""

    run: str
    files: list[str]


@dataclass(frozen=True)
class Plan:
    """What a night learns, decided at its start and kept until it is done: a killed one ends as it would have.

    Attributes
    ----------
    base : number of the published version that it goes on from; 0 where it begins from nothing
    number : number of the version it will publish
    files : the files that will be in the ledger afterwards and were not before
    columns : names and types of their columns
    stages : the training runs, in order; the candidate is the result of the last
    newest : the file that models are judged on before it is learned; empty where rows are held out
    fresh : files to try alone if the gate refuses them together with those held; empty where there are none
    began_s : when it was made, seconds since 1970
    options : of the job, as far as they decide the result, as text
    """

    base: int
    number: int
    files: list[Entry]
    columns: dict[str, str]
    stages: list[Stage]
    newest: str
    fresh: list[str]
    began_s: float
    options: str

    @property
    def stage_files(self) -> set[str]:
        """Every file that any stage learns."""
        return {relative for stage in self.stages for relative in stage.files}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        stages, files = [Stage(**each) for each in values["stages"]], [Entry(**each) for each in values["files"]]
        return cls(**{**values, "stages": stages, "files": files})


class StateDirectory:
    """The files of a job; as a context it holds the lock.

    Raises
    ------
    RunLockedError
        On entering, when another process holds the lock.
    """

    def __init__(self, path: Path):
        self.path = path
        self.work = path / "work"
        self._dropped = path / ".work.tmp"
        self._plan_path = self.work / "plan.json"
        self._waiting_path = path / "waiting.json"
        self._lock = FileLock(path / "lock")

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"state {self.path} is a file. Name a directory.")
        states.make_folder(self.path)
        with storage_errors(f"lock {self.path}"):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RunLockedError(f"another job works in {self.path}. Wait for it.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def holder(self) -> int | None:
        """The process that works here now, as far as the kernel tells; taking the lock to see would disturb it."""
        locks = Path("/proc/locks")
        try:
            inode, lines = (self.path / "lock").stat().st_ino, locks.read_text().splitlines()
        except OSError:
            return None
        held = [line.split() for line in lines]
        found = [int(fields[4]) for fields in held if fields[5].rpartition(":")[2] == str(inode)]
        return found[0] if found else None

    def waiting(self) -> dict[str, Waiting]:
        """The files that wait, by relative path."""
        values = _read(self._waiting_path)
        try:
            found = [Waiting(**each) for each in (values or {"files": []})["files"]]
        except (TypeError, KeyError) as error:
            raise _damaged(self._waiting_path, error) from None
        return {each.relative: each for each in found}

    def write_waiting(self, waiting: Iterable[Waiting]) -> None:
        files = [asdict(each) for each in sorted(waiting, key=lambda each: each.relative)]
        if not files and not self._waiting_path.exists():
            return
        if files == [asdict(each) for each in self.waiting().values()]:
            return
        _write(self._waiting_path, {"files": files})

    def told(self, status: Reason) -> dict[str, str]:
        """The files that wait in this way, each with the reason."""
        return {each.relative: each.told for each in self.waiting().values() if each.status == status}

    def plan(self) -> Plan | None:
        """The plan that is not done yet, if there is one."""
        values = _read(self._plan_path)
        try:
            return Plan.from_json(values) if values is not None else None
        except (TypeError, KeyError) as error:
            raise _damaged(self._plan_path, error) from None

    def write_plan(self, plan: Plan) -> None:
        states.make_folder(self.work)
        _write(self._plan_path, asdict(plan))

    def clear_work(self) -> None:
        """Forget the plan and delete its runs, and what a kill left of others."""
        # Plan and runs are hidden in one rename: a run without its plan would be taken for one of a later plan.
        for path in (self._dropped, self.work):
            if path.exists():
                remove_folder(path)

    def keep_candidate(self, model: Path | None, reasons: dict[str, Any]) -> Path:
        """Keep a refused model, if there is one, with the reasons, and the last few before it."""
        kept = self.path / "candidates"
        numbers = [int(path.name) for path in kept.glob("*") if path.name.isdecimal()]
        folder = kept / f"{max(numbers, default=0) + 1:06d}"
        states.make_folder(folder)
        if model is not None:
            states.write_atomically(folder / "model.safetensors", states.read_file(model))
        _write(folder / "reasons.json", reasons)
        older = sorted(path for path in kept.iterdir() if path.is_dir())[:-KEPT_CANDIDATES]
        with storage_errors(f"remove old candidates of {kept}"):
            for path in older:
                shutil.rmtree(path)
        return folder


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = json.loads(states.read_file(path))
    except ValueError as error:
        raise _damaged(path, error) from None
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    states.write_atomically(path, json.dumps(values, indent=2).encode())


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} is damaged ({error}). Delete it; the next run looks at the source anew.")


def remove_folder(path: Path) -> None:
    """Remove a folder, or a link or file in its place; it is hidden first, so that half of it is never seen."""
    with storage_errors(f"remove {path}"):
        if path.is_symlink() or path.is_file():
            path.unlink()
            return
        if not path.name.startswith("."):
            hidden = path.with_name(f".{path.name}.tmp")
            states.files.replace(path, hidden)
            states.files.fsync_folder(path.parent)
            path = hidden
        shutil.rmtree(path)
