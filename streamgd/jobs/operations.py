"""What people do to a job by hand: see how it stands, go back to an older version, pass files over and release them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from streamgd.errors import NoInputError, StreamgdError, did_you_mean
from streamgd.jobs.config import JobConfig
from streamgd.jobs.ledger import Entry, Ledger, look, utc
from streamgd.jobs.log import last_runs
from streamgd.jobs.planning import foreseen, forgotten, make_plan, what_is_new
from streamgd.jobs.statedir import StateDirectory, Waiting
from streamgd.jobs.telemetry import check as check_telemetry
from streamgd.jobs.versions import DAMAGED, Version, Versions
from streamgd.state import CorruptStateError

_TOLD_OF_TRAINING = ("rows", "loss", "columns", "left_out", "method", "optimizer", "order")
#: Of a run on another machine the kernel of this one knows nothing.
_BROKEN_OFF = "broken off: it told nothing of its end, and does not work on this machine now"


def status(job: JobConfig) -> dict[str, Any]:
    """How the job stands, as plain values; nothing is changed, and a running job is not disturbed."""
    state, versions = StateDirectory(job.state_dir), Versions(job.published_dir)
    current, ledger = versions.current(), versions.ledger()
    plan, waiting = state.plan(), state.waiting()
    facts: dict[str, Any] = {
        "job": job.name, "running": state.holder, "last_run": _last_run(job, state),
        "published": None if current is None else _published(current),
        "versions": [version.number for version in versions.all()], "files_learned": len(ledger.files),
        "unfinished": None if plan is None else [each.relative for each in plan.files],
        "held": state.told("held"), "quarantined": state.told("quarantined"),
    }  # fmt: skip
    return facts | _source_facts(job, ledger, waiting)


def _last_run(job: JobConfig, state: StateDirectory) -> dict[str, Any] | None:
    """How the last run ended; the last but one while a run works."""
    ended, begun = last_runs(job)
    if begun is not None and state.holder is None:
        return {"began": begun["time"], "exit_code": None, "reason": _BROKEN_OFF}
    if ended is None:
        return None
    names = ("time", "exit_code", "reason", "version", "rows", "seconds", "metrics", "measured_on")
    newest_s = ended["newest_data_s"]
    return {name: ended.get(name) for name in names} | {"newest_data": None if newest_s is None else utc(newest_s)}


def _published(version: Version) -> dict[str, Any]:
    names = ("version", "published", "files", "rows", "theta_sha256")
    return {name: version.facts.get(name) for name in names}


def _source_facts(job: JobConfig, ledger: Ledger, waiting: dict[str, Waiting]) -> dict[str, Any]:
    """What waits in the source and why; a problem is told instead of raised."""
    facts: dict[str, Any] = {
        "newest_data": None, "waiting": [], "unsettled": [], "without_rows": [], "unreadable": {}, "changed": [],
        "problem": None,
    }  # fmt: skip
    try:
        arrivals = look(job, ledger, time.time())
        facts["newest_data"] = None if arrivals.newest_s is None else utc(arrivals.newest_s)
        facts["unsettled"], facts["without_rows"] = arrivals.unsettled, arrivals.without_rows
        facts["unreadable"] = {name: error.problem for name, error in arrivals.unreadable.items()}
        facts["changed"] = [each.entry.relative for each in arrivals.changed]
        facts["waiting"] = [each.entry.relative for each in arrivals.fresh if each.entry.relative not in waiting]
        what_is_new(job, ledger, arrivals, waiting, restart=False)
    except StreamgdError as error:
        facts["problem"] = str(error)
    return facts


def check(job: JobConfig) -> dict[str, Any]:
    """What the next run would do, as plain values.

    Raises
    ------
    StreamgdError
        What the next run would end with before it trains.
    """
    check_telemetry(job)
    versions = Versions(job.published_dir)
    current, ledger = versions.current(), versions.ledger()
    state, arrivals = StateDirectory(job.state_dir), look(job, ledger, time.time())
    found = what_is_new(job, ledger, arrivals, state.waiting(), restart=False)
    facts, lost = dict[str, Any](), list[str]()
    if found.new:
        plan = make_plan(job, current, versions.next_number(), arrivals, found, time.time())
        facts, lost = foreseen(job, current, plan), forgotten(job, plan, arrivals)
    names = [each.entry.relative for each in found.new]
    return {
        "job": job.name, "mode": job.mode, "source": job.source, "state": job.state, "files_learned": len(ledger.files),
        "would_learn": names, "held": state.told("held"), "quarantined": state.told("quarantined"),
        "unsettled": arrivals.unsettled, "without_rows": arrivals.without_rows, "changed": lost,
        **{name: facts[name] for name in _TOLD_OF_TRAINING if facts},
    }  # fmt: skip


def rollback(job: JobConfig, number: int | None, quarantine: bool = False) -> dict[str, Any]:
    """Publish an older version again: theta and ledger together, so that the next night goes on from there.

    Parameters
    ----------
    number : int or None
        The version to go back to; None: the nearest whole one before the published one, which may be damaged itself.
    quarantine : bool
        Pass over the files learned since, until they are released; else the next night learns them again.

    Returns
    -------
    dict
        ``files_since`` is None where the ledger of the version that is left cannot be read.

    Raises
    ------
    NoInputError
        There is no such version.
    CorruptStateError
        It is damaged; or files are to be passed over, and nothing tells which.
    RunLockedError
        The job is running.
    """
    with StateDirectory(job.state_dir) as state:
        versions = Versions(job.published_dir)
        current = versions.current()
        if current is None:
            raise NoInputError(f"nothing is published in {versions.folder} yet.")
        target = _whole_before(versions, current) if number is None else _whole(versions.get(number))
        since = _learned_since(current, target)
        if quarantine:
            if since is None:
                raise CorruptStateError(
                    f"{current.folder}: its ledger cannot be read, so nothing tells which files were learned since"
                    f" version {target.number}. Go back without --quarantine, then name the files to:"
                    f" streamgd job quarantine"
                )
            why = f"learned by version {current.number}, which was taken back"
            _put_in_quarantine(state, since, why)
        versions.point_to(target)
        state.clear_work()
    names = None if since is None else [each.relative for each in since]
    return {"from": current.number, "to": target.number, "files_since": names, "quarantined": quarantine}


def _learned_since(current: Version, target: Version) -> list[Entry] | None:
    """The files that the published version learned and the other did not; None where its ledger cannot be read."""
    try:
        entries = current.ledger.files
    except DAMAGED:
        return None
    return [entry for name, entry in entries.items() if target.ledger.files.get(name) != entry]


def _put_in_quarantine(state: StateDirectory, entries: Iterable[Entry], why: str) -> None:
    """Pass over files; one that waits already keeps its reason."""
    waiting, now = state.waiting(), utc(time.time())
    for each in entries:
        new = Waiting(each.relative, each.footer_digest, "quarantined", why, now)
        before = waiting.get(each.relative)
        same = before is not None and before.footer_digest == each.footer_digest
        waiting[each.relative] = replace(before, status="quarantined") if before is not None and same else new
    state.write_waiting(waiting.values())


def _whole(version: Version) -> Version:
    """The version, read once."""
    try:
        version.check()
    except DAMAGED as error:
        raise CorruptStateError(
            f"version {version.number} cannot be published again, since it is not whole: {error} Choose another with"
            f" --to; without it the nearest whole one is taken."
        ) from error
    return version


def _whole_before(versions: Versions, current: Version) -> Version:
    """The version that was published when this one took its place, or the nearest before that is whole."""
    before = versions.before(current)
    for version in before:
        with suppress(*DAMAGED):
            version.check()
            return version
    if before:
        damaged = ", ".join(str(version.number) for version in before)
        raise CorruptStateError(
            f"no version before {current.number} in {versions.folder} is whole; damaged: {damaged}. Put one back from a"
            f" copy, or move {versions.folder} away: the next run learns everything anew."
        )
    raise NoInputError(f"there is no version before {current.number} in {versions.folder}. Name one with --to.")


def quarantine(job: JobConfig, names: list[str]) -> dict[str, Any]:
    """Pass over files that are held or new, until they are released.

    Parameters
    ----------
    names : list of str
        Relative paths as ``job status`` lists them.

    Raises
    ------
    NoInputError
        No such file is held or new.
    RunLockedError
        The job is running.
    """
    with StateDirectory(job.state_dir) as state:
        arrivals = look(job, Versions(job.published_dir).ledger(), time.time())
        entries = {each.entry.relative: each.entry for each in (*arrivals.fresh, *arrivals.changed)}
        for name in names:
            if name not in entries:
                raise NoInputError(f"'{name}' is not held, and not new. {did_you_mean(name, list(entries))}")
        _put_in_quarantine(state, [entries[name] for name in names], "put there by hand")
        begun = state.plan()
        if begun is not None and begun.stage_files & set(names):
            state.clear_work()
    return {"quarantined": names}


def release(job: JobConfig, names: list[str]) -> dict[str, Any]:
    """Take files back in that are held or in quarantine; the next run learns them with what has come since.

    Parameters
    ----------
    names : list of str
        Relative paths as ``job status`` lists them; ``"all"`` for all.

    Raises
    ------
    NoInputError
        No such file waits.
    """
    with StateDirectory(job.state_dir) as state:
        waiting = state.waiting()
        released = list(waiting) if names == ["all"] else names
        for name in released:
            if name not in waiting:
                raise NoInputError(f"'{name}' is not held or in quarantine. {did_you_mean(name, list(waiting))}")
        state.write_waiting(each for name, each in waiting.items() if name not in released)
    return {"released": released}
