"""What a night learns: from what has arrived to a plan of training runs.

mode        files of the training runs                          goes on from
continue    those that are new, each once                       the published version
window      the latest n, new or not                            nothing
retrain     all                                                 nothing
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from streamgd.errors import ConfigError, DataChangedError
from streamgd.jobs.config import JobConfig, check_rules, mistakes_placed
from streamgd.jobs.ledger import Arrivals, Arrived, Ledger, check_columns_of
from streamgd.jobs.statedir import Plan, Stage, Waiting
from streamgd.jobs.versions import Version
from streamgd.training import train as training
from streamgd.training.increment import check_same_stream
from streamgd.training.interrupt import Interrupt


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
        The columns of a new file, or their types, are not those of the files before.
    CorruptFileError
        A new file cannot be read, and the training options do not say that such files are skipped.
    """
    status = {
        each.entry.relative: waiting[each.entry.relative].status
        for each in (*arrivals.fresh, *arrivals.changed)
        if each.entry.relative in waiting and waiting[each.entry.relative].footer_digest == each.entry.footer_digest
    }
    # One that was refused as it is now is passed over until it is released or written again.
    changed = [each for each in arrivals.changed if each.entry.relative not in status]
    if changed and job.on_changed == "error" and not restart:
        names = ", ".join(each.entry.relative for each in changed[:5])
        raise DataChangedError(
            f"{job.source}: files that were learned have other content now: {names}. Put them back, or choose"
            f' on_changed = "retrain" or "ignore" in {job.path}.'
        )
    if arrivals.unreadable and job.train.get("on_bad_data") != "skip":
        raise next(iter(arrivals.unreadable.values()))
    from_scratch = restart or (bool(changed) and job.on_changed == "retrain")
    new = [each for each in arrivals.fresh if status.get(each.entry.relative) != "quarantined"]
    if from_scratch:
        new = _sorted([*new, *arrivals.known, *changed])
    else:
        check_columns_of(new, ledger, job.train_config(job.state_dir / "work"))
    return Candidates(new, {name for name, each in status.items() if each == "held"}, from_scratch)


def make_plan(
    job: JobConfig, base: Version | None, number: int, arrivals: Arrivals, found: Candidates, now_s: float
) -> Plan:
    """The training runs of a night that learns what was ``found``, at least one file."""
    check_base(job, base, found)
    goes_on = base is not None and not found.from_scratch
    new = _sorted(found.new)
    names = [each.entry.relative for each in new]
    learned_before = [] if found.from_scratch else [each.entry.relative for each in arrivals.known]
    newest = names[-1] if job.gate.on == "newest" else ""
    others = [name for name in names if name != newest]
    if job.mode == "continue":
        stages = [others, [newest]] if newest and others else [names]
    else:
        latest = sorted([*learned_before, *names])[-(job.window_files or 0) :]
        before = [name for name in latest if name != newest]
        stages = [before, latest] if newest and others and before else [latest]
    # Everything anew is tried as a whole, or not at all.
    fresh = [name for name in names if name not in found.held] if found.held and not found.from_scratch else []
    return Plan(
        base=base.number if base is not None and goes_on else 0,
        number=number,
        files=[each.entry for each in new],
        columns=new[0].columns,
        stages=[Stage(f"{number:06d}-{len(names)}-{k}", files) for k, files in enumerate(stages)],
        newest=newest,
        fresh=fresh,
        began_s=now_s,
        options=_options(job),
    )


def check_base(job: JobConfig, base: Version | None, found: Candidates) -> None:
    """Refuse to go on as a stream from a version that is none.

    Raises
    ------
    ConfigError
        The published version was trained in another mode, or with other options.
    """
    if job.mode != "continue" or base is None or found.from_scratch:
        return
    if base.training is None:
        raise ConfigError(
            f'{job.path}: mode = "continue" has nothing to go on from: version {base.number} was trained afresh, in'
            f" another mode. Learn everything anew once: streamgd job run --restart"
        )
    with mistakes_placed(job):
        check_same_stream(base.training, job.train_config(job.state_dir / "work"))


def forgotten(job: JobConfig, plan: Plan, arrivals: Arrivals) -> list[str]:
    """Files that a plan which begins from nothing would learn, had they not changed since they were learned."""
    if job.mode == "continue":
        return []
    changed = [each.entry.relative for each in arrivals.changed if each.entry.relative not in plan.stage_files]
    latest = sorted([*plan.stage_files, *changed])[-(job.window_files or 0) :]
    return [name for name in latest if name in changed]


def foreseen(job: JobConfig, base: Version | None, plan: Plan, interrupt: Interrupt | None = None) -> dict[str, Any]:
    """What training on the files of a plan would do, as ``training.train.plan`` has it.

    Raises
    ------
    StreamgdError
        What that would end with before it begins; a rule that no model of its loss can meet.
    """
    before = base.training if base is not None and plan.base and job.mode == "continue" else None
    config = job.train_config(job.state_dir / "work" / "check", sorted(plan.stage_files))
    with mistakes_placed(job):
        facts = training.plan(config, interrupt=interrupt, before=before)
    check_rules(job, facts["loss"])
    return facts


def is_still_possible(job: JobConfig, plan: Plan, base: Version | None, arrivals: Arrivals) -> bool:
    """Whether an unfinished plan can go on: version, options and files are those it was made of."""
    if plan.base not in (0, base.number if base is not None else 0) or plan.options != _options(job):
        return False
    planned = {each.relative: each for each in plan.files}
    same = {each.entry.relative for each in arrivals.known}
    same |= {
        each.entry.relative
        for each in (*arrivals.fresh, *arrivals.changed)
        if planned.get(each.entry.relative) == each.entry
    }
    return plan.stage_files <= same and planned.keys() <= same


def _options(job: JobConfig) -> str:
    """What decides the result of the training runs, as text."""
    gate = (job.gate.on, job.gate.holdout)
    return json.dumps([job.mode, job.window_files, job.train, gate], sort_keys=True, default=str)


def _sorted(arrived: Iterable[Arrived]) -> list[Arrived]:
    return sorted(arrived, key=lambda each: each.entry)
