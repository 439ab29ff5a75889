"""What a night learns: from what has arrived to a plan of training runs.

mode        files of the training runs                          goes on from
continue    those that are new, each once                       the published version
window      the latest n, new or not                            nothing
retrain     all                                                 nothing
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamgd.errors import DataChangedError
from streamgd.jobs.config import JobConfig
from streamgd.jobs.ledger import Arrivals, Arrived, Ledger, check_columns_of
from streamgd.jobs.statedir import Plan, Stage, Waiting
from streamgd.jobs.versions import Version


@dataclass(frozen=True)
class Candidates:
    """Files to learn.

    ``new`` are those that are not in the ledger as they are now, ``held`` those of them that a refused candidate had
    learned; ``from_scratch`` says that everything is to be learned anew.
    """

    new: list[Arrived]
    held: set[str]
    from_scratch: bool


def what_is_new(
    job: JobConfig, ledger: Ledger, arrivals: Arrivals, waiting: dict[str, Waiting], restart: bool
) -> Candidates:
    """The files that this night should learn.

    Raises
    ------
    DataChangedError
        A file that was learned has other content now, and the job does not say what to do then.
    SchemaError
        The columns of a new file are not those of the files before.
    CorruptFileError
        A new file cannot be read, and the training options do not say that such files are skipped.
    """
    if arrivals.changed and job.on_changed == "error" and not restart:
        names = ", ".join(each.entry.relative for each in arrivals.changed[:5])
        raise DataChangedError(
            f"{job.source}: files that were learned have other content now: {names}. Put them back, or choose"
            f' on_changed = "retrain" or "ignore" in {job.path}.'
        )
    if arrivals.unreadable and job.train.get("on_bad_data") != "skip":
        raise next(iter(arrivals.unreadable.values()))
    from_scratch = restart or (bool(arrivals.changed) and job.on_changed == "retrain")
    same = {
        each.entry.relative: waiting[each.entry.relative].status
        for each in arrivals.fresh
        if each.entry.relative in waiting and waiting[each.entry.relative].footer_digest == each.entry.footer_digest
    }
    new = [each for each in arrivals.fresh if same.get(each.entry.relative) != "quarantined"]
    if from_scratch:
        new = _sorted([*new, *arrivals.known, *arrivals.changed])
    else:
        check_columns_of(new, ledger, job.train_config(job.state_dir / "work"))
    return Candidates(new, {name for name, status in same.items() if status == "held"}, from_scratch)


def make_plan(
    job: JobConfig, base: Version | None, number: int, arrivals: Arrivals, found: Candidates, now_s: float
) -> Plan:
    """The training runs of a night that learns what was ``found``, at least one file."""
    goes_on = base is not None and not found.from_scratch
    new = _sorted(found.new)
    names = [each.entry.relative for each in new]
    learned_before = (
        [] if found.from_scratch else [each.entry.relative for each in (*arrivals.known, *arrivals.changed)]
    )
    newest = names[-1] if job.gate.on == "newest" else ""
    others = [name for name in names if name != newest]
    if job.mode == "continue":
        stages = [others, [newest]] if newest and others else [names]
    else:
        latest = sorted([*learned_before, *names])[-(job.window_files or 0) :]
        before = [name for name in latest if name != newest]
        stages = [before, latest] if newest and others and before else [latest]
    fresh = [name for name in names if name not in found.held]
    return Plan(
        base=base.number if base is not None and goes_on else 0,
        number=number,
        files=[each.entry for each in new],
        columns=new[0].columns,
        stages=[Stage(f"{number:06d}-{len(names)}-{k}", files) for k, files in enumerate(stages)],
        newest=newest,
        fresh=fresh if found.held and len(fresh) < len(names) else [],
        began_s=now_s,
    )


def is_still_possible(plan: Plan, base: Version | None, arrivals: Arrivals) -> bool:
    """Whether an unfinished plan can go on: the version it began with is published, and its files are as they were."""
    if plan.base not in (0, base.number if base is not None else 0):
        return False
    there = {each.entry.relative: each.entry for each in (*arrivals.fresh, *arrivals.known, *arrivals.changed)}
    return plan.stage_files <= there.keys() and all(there.get(each.relative) == each for each in plan.files)


def _sorted(arrived: Iterable[Arrived]) -> list[Arrived]:
    return sorted(arrived, key=lambda each: each.entry)
