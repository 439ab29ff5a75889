"""A night of a job: look, plan, learn, judge, publish.

    source ── ledger: what is new ── plan ── train ── gate ─┬─ published: theta, ledger and pointer in one rename
                                                            └─ refused: files held or in quarantine, exit 3

The plan is written down before anything is learned and kept until its version is published or refused. A night that is
killed at any moment is made up for by the next one, which finds the plan and ends as this one would have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from streamgd.errors import ConfigError, DataChangedError, GateError, NoInputError, OtherBlocksError, SchemaError
from streamgd.jobs.config import JobConfig, mistakes_placed, rules_of_loss
from streamgd.jobs.drift import Drift, Moved, files_of
from streamgd.jobs.gate import Broken, Gate, Scores, beside, judge
from streamgd.jobs.ledger import Arrivals, Entry, Ledger, look, utc
from streamgd.jobs.planning import Candidates, foreseen, forgotten, is_still_possible, make_plan, what_is_new
from streamgd.jobs.retry import retrying
from streamgd.jobs.statedir import Plan, Reason, Stage, StateDirectory, Waiting
from streamgd.jobs.telemetry import Telemetry
from streamgd.jobs.versions import Versions
from streamgd.model import Model
from streamgd.state import CorruptStateError
from streamgd.training import train as training
from streamgd.training.display import Display
from streamgd.training.interrupt import Interrupt
from streamgd.training.rundir import RunDirectory

T = TypeVar("T")


@dataclass(frozen=True)
class _Learned:
    """Where training stands: the model so far, its file, and the state to go on from in mode continue."""

    model: Model | None = None
    path: Path | None = None
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Verdict:
    """What the gate says of a candidate: the ``broken`` rules, none where it may be published.

    ``measured_on`` says of which rows the metrics are.
    """

    candidate: Scores | None
    current: Scores | None
    broken: Sequence[Broken | Moved]
    measured_on: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "measured_on": self.measured_on,
            "candidate": self.candidate.to_json() if self.candidate else None,
            "current": self.current.to_json() if self.current else None,
            "broken": [each.to_json() for each in self.broken],
        }


class Night:
    """One run of a job, while its lock is held."""

    def __init__(
        self, job: JobConfig, state: StateDirectory, interrupt: Interrupt, display: Display, telemetry: Telemetry
    ):
        self._job = job
        self._state = state
        self._versions = Versions(job.published_dir)
        self._interrupt = interrupt
        self._display = display
        self._telemetry = telemetry
        self._drift = Drift(job, state.work, interrupt, display, telemetry)

    def run(self, restart: bool) -> dict[str, Any]:
        self._forget_what_is_done()
        if restart:
            self._state.clear_work()
        arrivals = self._look()
        plan = self._unfinished(arrivals)
        if plan is not None:
            facts = self._carry_out(plan, arrivals)
            arrivals = self._look()  # what came since the night that was interrupted
            plan = self._new_plan(arrivals, restart=False)
            return facts if plan is None else self._carry_out(plan, arrivals)
        plan = self._new_plan(arrivals, restart)
        return self._nothing_new(arrivals) if plan is None else self._carry_out(plan, arrivals)

    def _forget_what_is_done(self) -> None:
        """Clear away what a kill left behind after a version was published, and runs that are of no plan."""
        current, plan = self._versions.current(), self._state.plan()
        if plan is None:
            self._state.clear_work()
        elif current is not None and plan.number == current.number:
            self._state.clear_work()
            self._versions.prune(self._job.publish.keep)
        if current is not None:
            learned = {(each.relative, each.footer_digest) for each in current.ledger.files.values()}
            waiting = self._state.waiting().values()
            self._state.write_waiting(each for each in waiting if (each.relative, each.footer_digest) not in learned)

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do ``work``, asking again while storage does not answer."""
        return retrying(work, self._job.retry_for, self._interrupt.check, self._display)

    def _look(self) -> Arrivals:
        arrivals = self._patiently(lambda: look(self._job, self._versions.ledger(), time.time()))
        self._telemetry.event(
            "looked", new=len(arrivals.fresh), unsettled=len(arrivals.unsettled), newest_data_s=arrivals.newest_s
        )
        self._interrupt.check_repeated()
        if arrivals.unsettled:
            self._display.message(f"not settled yet: {_listed(arrivals.unsettled)}")
        if arrivals.without_rows:
            self._display.message(f"without rows yet: {_listed(arrivals.without_rows)}")
        for problem in arrivals.unreadable.values():
            if self._job.train.get("on_bad_data") == "skip":
                self._display.warn(f"passed over until it can be read: {problem.problem}")
        return arrivals

    def _unfinished(self, arrivals: Arrivals) -> Plan | None:
        """The plan of a night that was interrupted, if it can still be carried out."""
        plan = self._state.plan()
        if plan is None:
            return None
        if is_still_possible(self._job, plan, self._versions.current(), arrivals):
            self._telemetry.event("goes_on", version=plan.number, files=[each.relative for each in plan.files])
            self._display.message(f"going on with what was begun: {_listed([each.relative for each in plan.files])}")
            return plan
        self._display.warn(
            "what was begun cannot be ended: its files or the published version changed; it is begun anew"
        )
        self._state.clear_work()
        return None

    def _new_plan(self, arrivals: Arrivals, restart: bool) -> Plan | None:
        """A plan for what is new, written down; None where nothing is."""
        found = what_is_new(self._job, self._versions.ledger(), arrivals, self._state.waiting(), restart)
        if not found.new:
            return None
        number, current = self._versions.next_number(), self._versions.current()
        plan = make_plan(self._job, current, number, arrivals, found, time.time())
        if lost := forgotten(self._job, plan, arrivals):
            self._display.warn(
                f"trained afresh without files that have other content now than when they were learned: {_listed(lost)}"
            )
        if current is None and self._job.train.get("loss", "auto") == "auto" and rules_of_loss(self._job):
            self._patiently(lambda: foreseen(self._job, current, plan, self._interrupt))
        self._state.write_plan(plan)
        self._telemetry.event("plan", version=number, files=[each.relative for each in plan.files], mode=self._job.mode)
        self._display.message(f"new: {_listed([each.relative for each in plan.files])}")
        return plan

    def _nothing_new(self, arrivals: Arrivals) -> dict[str, Any]:
        current, limit_s = self._versions.current(), self._job.expect_new_within
        newest_s = max(arrivals.newest_s or 0.0, current.facts["began_s"] if current is not None else 0.0)
        if limit_s is not None and time.time() - newest_s > limit_s:
            since = f"since {utc(newest_s)}" if newest_s else "ever"
            raise NoInputError(
                f"{self._job.source}: nothing new {since}, expected within {limit_s / 3600:g} h."
                f" Look at what writes it."
            )
        passed_over = list(self._state.told("quarantined"))
        self._display.message(f"nothing new; in quarantine: {_listed(passed_over)}" if passed_over else "nothing new.")
        return {"outcome": "nothing new", "version": current.number if current is not None else None}

    def _carry_out(self, plan: Plan, arrivals: Arrivals) -> dict[str, Any]:
        """Learn, judge and publish; a refused candidate that held files had part in is followed by one without them."""
        base = self._versions.current() if plan.base else None
        drifted = self._patiently(lambda: self._drift.of_new(plan, base))
        learned, verdict = _Learned(), _Verdict(None, None, drifted)
        if not drifted:
            learned, verdict = self._learn_and_judge(plan, arrivals)
        if not verdict.broken:
            return self._publish(plan, learned, verdict)
        folder = self._refuse(plan, learned, verdict)
        if plan.fresh:
            self._display.warn(f"{_reasons(verdict)}; trying again without the files that are held")
            return self._carry_out(self._without_held(plan, arrivals), arrivals)
        current = self._versions.current()
        stays = f"version {current.number} stays published" if current is not None else "nothing is published"
        fate = {
            "hold": "Held, and tried again next time", "quarantine": "In quarantine until streamgd job release",
        }[self._job.gate.on_fail]  # fmt: skip
        what = "the candidate was" if learned.model is not None else "new files were"
        refused = self._refused_files(plan, verdict)
        waits = f" {fate}: {_listed([each.relative for each in refused])}." if refused else ""
        raise GateError(f"{what} refused: {_reasons(verdict)}; {stays}.{waits} Look at {folder}.")

    def _without_held(self, plan: Plan, arrivals: Arrivals) -> Plan:
        """The plan for those files alone that no refused candidate had learned before."""
        names = set(plan.fresh)
        alone = Candidates([each for each in arrivals.fresh if each.entry.relative in names], set(), from_scratch=False)
        without = make_plan(self._job, self._versions.current(), plan.number, arrivals, alone, plan.began_s)
        self._state.write_plan(without)
        return without

    def _learn_and_judge(self, plan: Plan, arrivals: Arrivals) -> tuple[_Learned, _Verdict]:
        base = self._versions.current() if plan.base else None
        learned = _Learned()
        if base is not None:
            learned = _Learned(base.model(), base.folder / "model.safetensors", base.training)
        before = _Verdict(None, None, [])
        for stage in plan.stages:
            if plan.newest in stage.files and learned.model is not None:
                before = self._judge(learned.model, [plan.newest], None, ", before it was learned")
                if before.broken:
                    return learned, before
            learned = self._learn(stage, learned)
            self._check_learned(stage, plan, arrivals)
        assert learned.model is not None
        files, known = self._gate_files(plan, arrivals)
        # Where everything is learned anew, there may be nothing that the published model knows too.
        compared = known if known or plan.base else None
        if not plan.newest:
            return learned, self._judge(learned.model, files, compared)
        # What has learned the newest file is judged too: the first model on that file, later ones on those before it.
        after = self._judge(learned.model, [plan.newest] if before.candidate is None else [], compared)
        return learned, after if after.broken or before.candidate is None else before

    def _learn(self, stage: Stage, before: _Learned) -> _Learned:
        """One training run, new or gone on with; one that is damaged, or in blocks of another version, is begun anew,
        since its files are still there.
        """
        try:
            result, learned = self._patiently(lambda: self._trained(stage, before, restart=False))
        except (CorruptStateError, OtherBlocksError) as error:
            self._telemetry.event("begun_anew", files=stage.files, reason=str(error))
            self._display.warn(f"what was trained in {stage.run} cannot be gone on with, and is trained anew: {error}")
            result, learned = self._patiently(lambda: self._trained(stage, before, restart=True))
        self._telemetry.event(
            "trained", files=stage.files, rows=result.facts["train_rows"], epochs=result.facts["epochs"],
            seconds=result.facts.get("seconds"), stopped_by=result.stopped_by,
            theta_sha256=result.model.theta_sha256,
        )  # fmt: skip
        return learned

    def _trained(self, stage: Stage, before: _Learned, restart: bool) -> tuple[training.Result, _Learned]:
        """The result of one training run.

        Raises
        ------
        CorruptStateError
            It was begun, and cannot be gone on with: its configuration or all its checkpoints are damaged.
        """
        config = self._job.train_config(self._state.work / stage.run, stage.files)
        directory, goes_on = RunDirectory(config.run_dir), self._job.mode == "continue"
        if not restart:
            try:
                directory.read_config()
            except ConfigError as error:
                raise CorruptStateError(str(error)) from error
        with mistakes_placed(self._job):
            result = training.run(
                config, self._display, restart, self._interrupt, before=before.state if goes_on else None
            )
        if not goes_on:
            return result, _Learned(result.model, directory.model_path)
        loaded = directory.checkpoints.latest()
        if loaded is None:
            raise CorruptStateError(f"all checkpoints in {directory.path} are damaged.")
        return result, _Learned(result.model, directory.model_path, loaded.state)

    def _check_learned(self, stage: Stage, plan: Plan, arrivals: Arrivals) -> None:
        """Refuse what was trained on other files than the ledger would say.

        Raises
        ------
        DataChangedError
            A file was replaced after the look and before training; the plan is dropped.
        """
        expected = {each.relative: each for each in (*(each.entry for each in arrivals.known), *plan.files)}
        stored = RunDirectory(self._state.work / stage.run).read_config()
        files = stored["manifest"]["files"] if stored is not None else []
        found = {each["relative"]: Entry(each["relative"], each["size_bytes"], each["footer_digest"]) for each in files}
        changed = [relative for relative in stage.files if found.get(relative) != expected[relative]]
        if changed:
            self._state.clear_work()
            raise DataChangedError(
                f"{self._job.source}: files were replaced between the look at the source and training:"
                f" {_listed(changed)}. What was trained is dropped; the next run looks at the source anew."
            )

    def _gate_files(self, plan: Plan, arrivals: Arrivals) -> tuple[list[str], list[str]]:
        """Files to judge on, and files that the published model has learned: the latest ones, if that is asked for."""
        known = sorted(each.entry.relative for each in arrivals.known)
        every = sorted({*known, *(each.relative for each in plan.files)})
        latest = slice(-(self._job.gate.files or 0), None)
        return every[latest], known[latest]

    def _judge(self, model: Model, files: list[str], known: list[str] | None, when: str = "") -> _Verdict:
        """Score the candidate, and the published model beside it, on the same rows.

        ``known`` is None where it is not compared with the published one.
        """
        candidate = self._scores(model, files, known or [])
        published = self._published_beside(model, files, known) if known is not None else None
        broken = judge(self._job.gate, candidate, published, with_limits=bool(files))
        rows = "held-out rows" if self._job.gate.on == "holdout" else "all rows"
        verdict = _Verdict(candidate, published, broken, f"{rows} of {_listed(files)}{when}" if files else None)
        self._telemetry.event("judged", **verdict.to_json())
        return verdict

    def _scores(self, model: Model, files: list[str], known: list[str]) -> Scores:
        config = self._job.train_config(self._state.work)
        gate = Gate(
            self._job.gate, self._job.source, files, known, config.on_bad_data == "skip", config.threads,
            self._interrupt.check_repeated, self._display,
        )  # fmt: skip
        return self._patiently(lambda: gate.scores(model))

    def _published_beside(self, candidate: Model, files: list[str], known: list[str]) -> Scores | None:
        """The scores of the published model, if it is to be compared with the candidate, and can be."""
        current = self._versions.current()
        if current is None or self._job.gate.max_worse is None:
            return None
        model = current.model()
        try:
            published = beside(model, candidate, self._job.gate)
            try:
                return self._scores(published, files, known)
            except SchemaError:  # new files are without columns that it needs, and the candidate does not
                return self._scores(published, [], known)
        except ConfigError as error:  # also one that held out no rows cannot be scored on them
            self._display.warn(f"the published model is not compared with, and max_worse does not apply: {error}")
            return None

    def _publish(self, plan: Plan, learned: _Learned, verdict: _Verdict) -> dict[str, Any]:
        """Publish the candidate; the next night goes on from here."""
        self._interrupt.check_repeated()
        assert learned.model is not None
        model, base = learned.model, self._versions.current() if plan.base else None
        profile = self._patiently(lambda: self._drift.learned(plan, base, model))
        ledger = self._versions.ledger() if plan.base else Ledger()
        ledger = ledger.with_files(plan.files, plan.columns)
        files = [each.relative for each in plan.files]
        current = self._versions.current()
        replaced = current.number if current is not None else None
        facts = {
            "job": self._job.name, "mode": self._job.mode, "base": plan.base or None, "replaced": replaced,
            "began_s": plan.began_s,
            "published": utc(time.time()), "files": files, "files_in_ledger": len(ledger.files),
            "rows": learned.model.facts.get("train_rows"), "theta_sha256": learned.model.theta_sha256,
            "gate": verdict.to_json(), "learned": profile,
        }  # fmt: skip
        version = self._patiently(lambda: self._versions.publish(plan.number, model, ledger, learned.state, facts))
        self._telemetry.event("published", **{name: facts[name] for name in ("files", "rows", "theta_sha256")},
                              version=version.number)  # fmt: skip
        self._forget_what_is_done()
        self._display.message(f"published: version {version.number} in {version.folder}")
        return {
            "outcome": "published", "version": version.number, "files": files, "rows": facts["rows"],
            "model": str(version.folder), "theta_sha256": facts["theta_sha256"], "metrics": self._telemetry.metrics,
            "measured_on": self._telemetry.measured_on,
        }  # fmt: skip

    def _refuse(self, plan: Plan, learned: _Learned, verdict: _Verdict) -> Path:
        """Keep the candidate with the reasons, and note what becomes of its files."""
        refused = self._refused_files(plan, verdict)
        names = [each.relative for each in refused]
        folder = self._state.keep_candidate(
            learned.path, {"files": names, "refused": utc(time.time()), **verdict.to_json()}
        )
        self._telemetry.event("refused", files=names, reasons=[each.text for each in verdict.broken])
        if not plan.fresh:  # else the next candidate tells which files are at fault
            self._let_wait(refused, verdict)
            self._state.clear_work()
        return folder

    def _refused_files(self, plan: Plan, verdict: _Verdict) -> list[Entry]:
        """The new files that the broken rules name, or all that are new where they name none."""
        named, learned_before = files_of(verdict.broken), self._versions.ledger().files.values()
        return [each for each in plan.files if each not in learned_before and (not named or each.relative in named)]

    def _let_wait(self, files: list[Entry], verdict: _Verdict) -> None:
        """Hold files, or put them in quarantine; one that has a reason keeps it unless it was judged alone."""
        status: Reason = "held" if self._job.gate.on_fail == "hold" else "quarantined"
        waiting, now = self._state.waiting(), utc(time.time())
        apart = bool(files_of(verdict.broken))
        for each in files:
            before = waiting.get(each.relative)
            if before is not None and before.footer_digest != each.footer_digest:
                before = None
            beside = [] if apart else [other.relative for other in files if other != each]
            if before is not None and beside:
                waiting[each.relative] = replace(before, status=status)
                continue
            why = "; ".join(rule.text for rule in verdict.broken if files_of([rule]) <= {each.relative})
            since = before.since if before is not None else now
            waiting[each.relative] = Waiting(each.relative, each.footer_digest, status, why, since, beside)
        self._state.write_waiting(waiting.values())


def _reasons(verdict: _Verdict) -> str:
    return "; ".join(each.text for each in verdict.broken)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
