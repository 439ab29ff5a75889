"""How far new files have moved from what was learned, before they are learned.

    new file ── profile, as the published model encodes it ───────┐
    version.json, "learned" ── profile of all that was learned ───┴── compared by the rules of [drift]

``warn_*`` rules are told, ``fail_*`` rules refuse the file. Without a rule there is no pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from streamgd.errors import ConfigError
from streamgd.jobs.config import DriftConfig, JobConfig
from streamgd.jobs.profiles import Column, Profile, Profiles
from streamgd.jobs.statedir import Plan
from streamgd.jobs.telemetry import Telemetry
from streamgd.jobs.versions import Version
from streamgd.model import Model
from streamgd.training.display import Display
from streamgd.training.interrupt import Interrupt

#: Below this share of a column's size, differences are rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Moved:
    """A rule that a column of a file breaks: what it was when ``learned`` and is now, and how far that is.

    ``found`` is None where that is no finite number: one of them is constant.
    """

    rule: str
    file: str
    column: str
    learned: float | None
    value: float | None
    found: float | None
    allowed: float
    text: str

    @property
    def fails(self) -> bool:
        return self.rule.startswith("fail_")

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Drift:
    """Looks at the new files of a night, and says what a version has learned.

    Parameters
    ----------
    work : Path
        Folder of the night's work.
    """

    def __init__(self, job: JobConfig, work: Path, interrupt: Interrupt, display: Display, telemetry: Telemetry):
        config = job.train_config(work)
        self._config = job.drift
        self._mode = job.mode
        self._target = config.target
        self._display = display
        self._telemetry = telemetry

        def done() -> None:
            interrupt.progressed = True

        self._profiles = Profiles(
            job.source, work / "profiles.json", config.on_bad_data == "skip", config.threads, interrupt.check_repeated,
            done, display,
        )  # fmt: skip

    @property
    def is_on(self) -> bool:
        """Whether there is a rule."""
        return any(getattr(self._config, rule) is not None for rule in _rules(self._config))

    def of_new(self, plan: Plan, base: Version | None) -> list[Moved]:
        """The ``fail_*`` rules that the new files of a plan break; those and ``warn_*`` are told."""
        if base is not None:
            self._check_target(base.model())
        learned = base.facts.get("learned") if base is not None else None
        if base is None or learned is None or not self.is_on:
            return []
        before, failed = Profile.from_json(learned), []
        files = {each.relative: each.footer_digest for each in plan.files}
        for file, profile in self._profiles.of(base.model(), files).items():
            broken = moved(self._config, file, before, profile, self._target)
            self._telemetry.event(
                "drift", file=file, **profile.to_json(), learned=learned, broken=[each.to_json() for each in broken]
            )
            for each in broken:
                self._display.warn(each.text)
            failed += [each for each in broken if each.fails]
        return failed

    def _check_target(self, model: Model) -> None:
        """Refuse rules about the mean of a target that has none."""
        rules = [rule for rule in ("fail_target", "warn_target") if getattr(self._config, rule) is not None]
        if model.n_outputs > 1 and rules:
            raise ConfigError(
                f"[drift] {rules[0]} is about the mean of the target, and {model.n_outputs} classes have none. Leave it"
                f" out."
            )

    def learned(self, plan: Plan, base: Version | None, model: Model) -> dict[str, Any] | None:
        """The profile of what a version has learned, as plain values; None without a rule.

        What went on from a base that has one is that and the new files; else the files that were just learned.
        """
        if not self.is_on:
            return None
        self._check_target(model)
        files = {each.relative: each.footer_digest for each in plan.files}
        if base is not None and base.facts.get("learned") is not None and self._mode != "window":
            before = [Profile.from_json(base.facts["learned"])]
            now = self._profiles.of(base.model(), files)
        else:
            before = []
            now = self._profiles.of(model, {name: files.get(name, "") for name in sorted(plan.stage_files)})
        return reduce(Profile.merge, [*before, *now.values()]).to_json()


def files_of(broken: Iterable[Any]) -> set[str]:
    """The files that broken rules are about, as far as they are about single files."""
    return {each.file for each in broken if isinstance(each, Moved)}


def _rules(config: DriftConfig) -> list[str]:
    return [name for name in type(config).model_fields if name.startswith(("warn_", "fail_"))]


def moved(config: DriftConfig, file: str, learned: Profile, now: Profile, target: str) -> list[Moved]:
    """The rules that a file breaks, by column; of a pair of rules ``fail_*`` is told."""
    broken = []
    for name, column in now.columns.items():
        before = learned.columns.get(name)
        if before is None or name in config.exclude:
            continue
        broken += [
            _mean(config, "mean", file, name, before, column),
            _deviation(config, file, name, before, column),
            _nulls(config, file, name, before, column),
            _new_levels(config, file, name, column),
        ]
    broken += [
        _mean(config, "target", file, target, learned.target, now.target),
        _nulls(config, file, target, learned.target, now.target),
    ]
    return [each for each in broken if each is not None]


def _broken(
    config: DriftConfig, fact: str, file: str, column: str, learned: float, value: float, found: float, text: str,
    limit: str,
) -> Moved | None:  # fmt: skip
    """The rule about a fact that ``found`` breaks, if it breaks one; ``limit`` is what a rule's value is told with."""
    for rule in (f"fail_{fact}", f"warn_{fact}"):
        allowed = getattr(config, rule)
        if allowed is not None and found > allowed:
            told = f"{file}: {text}; {limit.format(allowed)} allowed"
            return Moved(rule, file, column, learned, value, found if math.isfinite(found) else None, allowed, told)
    return None


def _mean(config: DriftConfig, fact: str, file: str, name: str, before: Column, now: Column) -> Moved | None:
    if before.mean is None or before.deviation is None or now.mean is None:
        return None
    distance = abs(now.mean - before.mean)
    if distance <= _ROUNDING * max(abs(now.mean), abs(before.mean)):
        return None
    spread = before.deviation
    if spread <= _ROUNDING * abs(before.mean):
        # What was constant has no unit to measure by; both together have one.
        spread = before.merge(now).deviation or distance
    found = distance / spread
    text = (
        f"the mean of '{name}' is {now.mean:.6g}, {found:.3g} standard deviations from the {before.mean:.6g} that was"
        f" learned"
    )
    return _broken(config, fact, file, name, before.mean, now.mean, found, text, "{:g}")


def _deviation(config: DriftConfig, file: str, name: str, before: Column, now: Column) -> Moved | None:
    if before.deviation is None or now.deviation is None or now.mean is None or before.mean is None:
        return None
    rounding = _ROUNDING * max(abs(now.mean), abs(before.mean))
    smaller, larger = sorted((before.deviation, now.deviation))
    if larger <= rounding:
        return None
    found = larger / smaller if smaller > rounding else math.inf
    text = f"the standard deviation of '{name}' is {now.deviation:.6g}, {before.deviation:.6g} was learned"
    limit = "a factor of {:g}"
    return _broken(config, "deviation", file, name, before.deviation, now.deviation, found, text, limit)


def _nulls(config: DriftConfig, file: str, name: str, before: Column, now: Column) -> Moved | None:
    found = abs(now.null_share - before.null_share)
    text = f"{now.null_share:.2%} of '{name}' is null, {before.null_share:.2%} was when it was learned"
    limit = "a difference of {:.2%}"
    return _broken(config, "nulls", file, name, before.null_share, now.null_share, found, text, limit)


def _new_levels(config: DriftConfig, file: str, name: str, now: Column) -> Moved | None:
    found = now.new_level_share
    if found is None:
        return None
    text = f"{found:.2%} of the rows have a level of '{name}' that is new"
    return _broken(config, "new_levels", file, name, 0.0, found, found, text, "{:.2%}")
