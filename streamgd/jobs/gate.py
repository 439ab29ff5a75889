"""The gate: candidate and published model are scored on the same rows, and rules say whether the candidate may follow.

A metric that is not finite fails. The limits (``max_log_loss``, ``min_auc``, …) hold on all rows that are scored. What
the candidate may lose against the published model (``max_worse``) is measured on files that the published model has
learned: on new ones a model that has learned them has the better of one that has not, even where they are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from streamgd.comparison import check_comparable
from streamgd.errors import ConfigError
from streamgd.evaluation import Evaluation, NoRowsError, Tally, compared_pieces
from streamgd.jobs.config import GateConfig
from streamgd.model import Model
from streamgd.training.display import Display

#: Rule -> the metric it looks at, and whether that must not be above (or below) the rule's value.
_LIMITS: dict[str, tuple[str, Literal["above", "below"]]] = {
    "max_log_loss": ("log_loss", "above"),
    "max_rmse": ("rmse", "above"),
    "min_auc": ("auc", "below"),
    "min_r2": ("r2", "below"),
}


@dataclass(frozen=True)
class Broken:
    """A rule that the candidate breaks: what was ``found``, what was ``allowed``."""

    rule: str
    found: float | None
    allowed: float
    text: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Scores:
    """Metrics of one model: on ``all`` rows of the gate, and on those of files that the published model has learned.

    None where there are no rows.
    """

    all: Evaluation | None
    known: Evaluation | None

    @property
    def metrics(self) -> dict[str, float | None]:
        """Of all rows; none where there are no rows."""
        return self.all.metrics if self.all is not None else {}

    def to_json(self) -> dict[str, Any]:
        parts = {"all": self.all, "known": self.known}
        return {name: part.to_json() if part is not None else None for name, part in parts.items()}


class Gate:
    """Scores models on fixed rows, in one pass.

    Parameters
    ----------
    source : str
    files, known : list of str
        Relative paths of the files to score on, and of those that the published model has learned, to compare on.
    skip_bad : bool
        Pass over what cannot be read, as training does.
    check : callable
        Raises to stop.
    """

    def __init__(
        self, config: GateConfig, source: str, files: list[str], known: list[str], skip_bad: bool,
        threads: int | None, check: Callable[[], None], display: Display,
    ):  # fmt: skip
        self._part: Literal["all", "holdout"] = "holdout" if config.on == "holdout" else "all"
        self._source = source
        self._files = set(files)
        self._known = set(known)
        self._skip_bad = skip_bad
        self._threads = threads
        self._check = check
        self._display = display

    def scores(self, model: Model) -> Scores:
        """The metrics of a model."""
        every, known = Tally(model), Tally(model)
        only = self._files | self._known
        if not only:
            return Scores(None, None)
        rows = compared_pieces(
            model, self._source, part=self._part, threads=self._threads, check=self._check, display=self._display,
            only=only, skip_bad=self._skip_bad,
        )  # fmt: skip
        with closing(rows) as pieces:
            for piece in pieces:
                if piece.file in self._files:
                    every.add(piece)
                if piece.file in self._known:
                    known.add(piece)
        return Scores(_evaluation(every), _evaluation(known))


def beside(published: Model, candidate: Model, config: GateConfig) -> Model:
    """The published model as it is compared with a candidate, measured by the same loss.

    Raises
    ------
    ConfigError
        What they predict, their loss, or the rows that it is of, are not the same.
    """
    if published.loss_name == candidate.loss_name:
        # Settings may follow the data, as delta of huber does.
        published = replace(published, loss_settings=candidate.loss_settings)
    check_comparable(published, candidate)
    first, second = (model.facts.get("where") for model in (published, candidate))
    if first != second and config.on == "holdout":
        raise ConfigError(
            f"the models cannot be compared: the condition on rows of the first is {first}, of the second {second}."
        )
    return published


def _evaluation(tally: Tally) -> Evaluation | None:
    try:
        return tally.evaluation()
    except NoRowsError:
        return None


def judge(config: GateConfig, candidate: Scores, current: Scores | None, with_limits: bool = True) -> list[Broken]:
    """The rules that a candidate breaks; none where it may be published.

    Parameters
    ----------
    current : Scores or None
        Of the published model; None where it is not to be compared with it.
    with_limits : bool
        Whether the limits are looked at, beside that comparison.
    """
    broken = _limits(config, candidate) if with_limits else []
    if config.max_worse is not None and current is not None:
        broken += _worse(config.max_worse, candidate, current)
    return broken


def _limits(config: GateConfig, candidate: Scores) -> list[Broken]:
    if candidate.all is None:
        return [Broken("min_rows", 0, config.min_rows or 1, "there is no row to judge by")]
    metrics = candidate.metrics
    broken = [
        Broken(name, None, math.inf, f"{name} is not finite")
        for name in ("loss", "log_loss")
        if name in metrics and not _finite(metrics[name])
    ]
    for rule, (metric, side) in _LIMITS.items():
        allowed = getattr(config, rule)
        if allowed is not None:
            broken += _beyond(rule, metric, metrics, allowed, side)
    if config.min_rows is not None and candidate.all.rows < config.min_rows:
        text = f"{candidate.all.rows:,} rows to judge by, at least {config.min_rows:,} are asked for"
        broken.append(Broken("min_rows", candidate.all.rows, config.min_rows, text))
    return broken


def _beyond(
    rule: str, metric: str, metrics: dict[str, float | None], allowed: float, side: Literal["above", "below"]
) -> list[Broken]:
    found, name = metrics.get(metric), metric.replace("_", " ")
    if not _finite(found):
        reason = "is not finite" if metric in metrics else "is none of this model's metrics"
        return [Broken(rule, None, allowed, f"{name} {reason}, {allowed:g} is asked for")]
    assert found is not None
    if (found > allowed) if side == "above" else (found < allowed):
        return [Broken(rule, found, allowed, f"{name} {found:.6g} is {side} {allowed:g}")]
    return []


def _worse(max_worse: float, candidate: Scores, current: Scores) -> list[Broken]:
    """Whether the candidate loses too much against the published model, on what that has learned."""
    if candidate.known is None or current.known is None:
        text = "no row of a file that the published model has learned is there to compare on"
        return [Broken("max_worse", None, max_worse, f"{text}; keep such files, or judge by limits")]
    ours, theirs = candidate.known.metrics["loss"], current.known.metrics["loss"]
    if not _finite(theirs):
        return []  # anything finite is better
    if not _finite(ours):
        return [Broken("max_worse", None, max_worse, "loss is not finite")]
    assert ours is not None
    assert theirs is not None
    if ours <= theirs * (1.0 + max_worse):
        return []
    found = ours / theirs - 1.0 if theirs > 0.0 else math.inf
    text = f"loss {ours:.6g} is {found:.2%} above the published model's {theirs:.6g}, {max_worse:.2%} is allowed"
    return [Broken("max_worse", found, max_worse, text)]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
