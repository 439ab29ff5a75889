"""The figures of a report as charts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamgd.report.chart import Axis, Chart, Series
from streamgd.report.diagnosis import Along, Diagnosis
from streamgd.report.facts import RunFacts
from streamgd.stopwatch import STAGES

#: Coefficients that are drawn.
MOST_COEFFICIENTS = 30
#: Epochs or passes of which each has a line of its own where the time went; beyond it they are summed.
MOST_PHASES = 12
#: Levels that are drawn.
MOST_LEVELS = 20

_LOSSES = (("progressive_loss", "progressive"), ("train_loss", "training"), ("holdout_loss", "holdout"))
_CAPTIONS = {
    "progressive": "progressive: of every eighth row, just before it is learnt",
    "training": "training: of all training rows, before each pass",
    "holdout": "holdout: of the rows held out, after it",
}


def _rounds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in history if line.get("event") in ("epoch", "pass")]


def unit_of(history: list[dict[str, Any]]) -> str:
    """What a round is called: a run may begin with epochs and go on with passes, numbered together."""
    events = {line["event"] for line in _rounds(history)}
    return " or ".join(sorted(events)) or "epoch"


def _line(
    rounds: list[dict[str, Any]], name: str, label: str, colour: int, positive: bool = False, dashed: bool = False
) -> Series | None:
    """What ``name`` was at the end of each round; None where it never was a number."""
    found = [(float(line["epoch"]), float(line[name])) for line in rounds if _is_number(line.get(name))]
    found = [(x, y) for x, y in found if y > 0.0 or not positive]
    if not found:
        return None
    x, y = zip(*found, strict=True)
    return Series(label, "line", x, y, colour=colour, dashed=dashed, notes=tuple(f"{a:g}: {b:.7g}" for a, b in found))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _series(*made: Series | None) -> tuple[Series, ...]:
    return tuple(series for series in made if series is not None)


def loss_chart(history: list[dict[str, Any]]) -> Chart | None:
    """Losses by epoch or pass on a logarithmic axis, with a mark for each time that the run went back."""
    rounds, unit = _rounds(history), unit_of(history)
    series = _series(
        *(_line(rounds, name, label, colour, positive=True) for colour, (name, label) in enumerate(_LOSSES))
    )
    if not series:
        return None
    marks = _rollbacks(history)
    caption = "; ".join(_CAPTIONS[each.label] for each in series) + "."
    if marks:
        caption += " Flags: the run went back to a good state and halved its learning rate."
    return Chart(
        "Loss", Axis(unit, whole=True), Axis("loss", log=True), series, marks, caption=caption[0].upper() + caption[1:]
    )


def _place(history: list[dict[str, Any]], line: dict[str, Any]) -> float:
    """Where a line of the history stands, in epochs."""
    steps, epochs = [0.0], [0.0]
    for each in _rounds(history):
        if each["steps"] > steps[-1]:
            steps.append(float(each["steps"]))
            epochs.append(float(each["epoch"]))
    return float(np.interp(line["steps"], steps, epochs))


def _rollbacks(history: list[dict[str, Any]]) -> tuple[tuple[float, str], ...]:
    """Where the run went back to, in epochs; those of one place are one mark."""
    texts: dict[float, list[str]] = {}
    for line in history:
        if line.get("event") == "rollback":
            texts.setdefault(_place(history, line), []).append(str(line.get("text", "rollback")))
    return tuple((place, "\n".join(told)) for place, told in texts.items())


def distance_chart(history: list[dict[str, Any]]) -> Chart | None:
    """How far from the optimum each full-batch pass was."""
    rounds = _rounds(history)
    series = _series(
        _line(rounds, "excess", "J − J* (estimate)", 0, positive=True),
        _line(rounds, "gradient", "largest |∂J|", 1, positive=True),
    )
    if not series:
        return None
    caption = "Estimated excess of the objective over its minimum, and the largest component of its gradient."
    x = Axis(unit_of(history), whole=True)
    return Chart("Distance from the optimum", x, Axis("", log=True), series, caption=caption)


def rate_chart(history: list[dict[str, Any]]) -> Chart | None:
    """The learning rate by epoch, and as each return to a good state left it."""
    lines = [line for line in history if line.get("event") in ("epoch", "pass", "rollback")]
    found = [(_place(history, line), float(line["learning_rate"])) for line in lines if line.get("learning_rate")]
    if not found:
        return None
    x, y = zip(*found, strict=True)
    moves = max(y) > 10.0 * min(y)
    axis = Axis("rate", log=moves, limits=None if moves else (0.0, 1.15 * max(y)))
    series = Series("", "line", x, y, colour=3, notes=tuple(f"{each:g}" for each in y))
    return Chart(
        "Learning rate", Axis(unit_of(history), whole=True), axis, (series,), _rollbacks(history),
        caption=f"Step size at the end of each {unit_of(history)}, and after each return to a good state.",
    )  # fmt: skip


def throughput_chart(history: list[dict[str, Any]]) -> Chart | None:
    """Rows per second of each epoch or pass."""
    found = [
        (float(line["epoch"]), line["rows"] / line["seconds"])
        for line in _rounds(history)
        if _is_number(line.get("rows")) and _is_number(line.get("seconds")) and line["seconds"] > 0.0
    ]
    if not found:
        return None
    x, y = zip(*found, strict=True)
    bars = Series(
        "", "bars", x, y, tuple(each - 0.4 for each in x), tuple(each + 0.4 for each in x), 2,
        notes=tuple(f"{rate:,.0f} rows/s" for rate in y),
    )  # fmt: skip
    caption = "Rows trained on in a second of the clock, the holdout loss included."
    return Chart("Throughput", Axis(unit_of(history), whole=True), Axis("rows/s"), (bars,), caption=caption)


def stages_chart(history: list[dict[str, Any]]) -> Chart | None:
    """Seconds of each stage, added up over threads, for preparing and for each epoch or pass."""
    timed = [line for line in history if isinstance(line.get("thread_s"), dict)]
    phases: dict[str, dict[str, float]] = {}
    many = len(_rounds(timed)) > MOST_PHASES
    epochs = max((line["epoch"] for line in timed if line.get("event") == "epoch"), default=0)
    for line in timed:
        name = "prepare"
        if line in _rounds([line]):
            event, number = line["event"], line["epoch"]
            number -= epochs if event == "pass" else 0
            name = f"all {event}{'e' if event == 'pass' else ''}s" if many else f"{event} {number}"
        sums = phases.setdefault(name, dict.fromkeys(STAGES, 0.0))
        for stage, seconds in line["thread_s"].items():
            if stage in sums and _is_number(seconds):
                sums[stage] += float(seconds)
    if not phases:
        return None
    names, ends = tuple(phases), dict.fromkeys(phases, 0.0)
    series = []
    for colour, stage in enumerate(STAGES):
        spans = []
        for row, name in enumerate(names):
            seconds = phases[name][stage]
            spans.append((ends[name], ends[name] + seconds, float(row), f"{name}, {stage}: {seconds:.2f} s"))
            ends[name] += seconds
        if any(high > low for low, high, _, _ in spans):
            low, high, rows, notes = zip(*spans, strict=True)
            series.append(Series(stage, "spans", low, rows, low, high, colour, thick=True, notes=notes))
    caption = "Seconds of each stage added up over threads, so that they may exceed the time on the clock."
    return Chart("Stages", Axis("thread-seconds"), Axis("", categories=names), tuple(series), zero=True,
                 caption=caption)  # fmt: skip


def coefficient_chart(facts: RunFacts, most: int = MOST_COEFFICIENTS) -> Chart | None:
    """The largest coefficients of standardised features with their intervals."""
    rows = [row for row in facts.coefficients if row["name"] != "(intercept)"][:most]
    if not rows:
        return None
    x, low, high, notes = [], [], [], []
    for row in rows:
        unit = facts.unit_of(row)
        known = row["lower"] is not None
        x.append(row["estimate"] * unit if known else row["standardised"])
        low.append(row["lower"] * unit if known else math.nan)
        high.append(row["upper"] * unit if known else math.nan)
        notes.append(f"{row['name']}: {x[-1]:.4g}" + (f", {low[-1]:.4g} to {high[-1]:.4g}" if known else ""))
    places = tuple(float(k) for k in range(len(rows)))
    dots = Series("", "spans", tuple(x), places, tuple(low), tuple(high), notes=tuple(notes))
    caption = "Change of the raw prediction by one standard deviation of a number, or by a level against its base."
    if facts.has_intervals:
        caption += f" Lines: intervals of {100 * facts.shown['inference']['level']:g} %."
    names = tuple(row["name"] for row in rows)
    return Chart("Coefficients", Axis("standardised"), Axis("", categories=names), (dots,), zero=True, caption=caption)


def calibration_chart(diagnosis: Diagnosis) -> Chart:
    """Mean target against mean prediction in groups of rows by prediction."""
    along = diagnosis.along_prediction
    classifier = diagnosis.residuals is None and "auc" in diagnosis.evaluation.metrics
    variance = along.target * (1.0 - along.target) if classifier else along.squares
    error = 2.0 * np.sqrt(np.maximum(variance, 0.0) / np.maximum(along.weight, 1.0))
    notes = [
        f"predicted {p:.4g}, actual {t:.4g}, {w:,.0f} rows"
        for p, t, w in zip(along.prediction, along.target, along.weight, strict=True)
    ]
    points = Series(
        "", "points", _numbers(along.prediction), _numbers(along.target), _numbers(along.target - error),
        _numbers(along.target + error), notes=tuple(notes),
    )  # fmt: skip
    what = "probability" if classifier else "prediction"
    caption = (
        f"Rows in {len(along.weight)} groups by {what}; bars: two standard errors. On the line, "
        "predictions are right on average."
    )
    axis = Axis(f"mean {what}", percent=classifier)
    return Chart("Calibration", axis, Axis("actual", percent=classifier), (points,), diagonal=True, caption=caption)


def roc_chart(diagnosis: Diagnosis) -> Chart | None:
    """True against false positive rate over all thresholds."""
    if diagnosis.roc is None:
        return None
    x, y = (_numbers(column) for column in diagnosis.roc.T)
    auc = diagnosis.evaluation.metrics.get("auc")
    area = "" if auc is None else f" The area under the curve is {auc:.4f}."
    of_negative, of_positive = (
        Axis(f"{which} positive rate", limits=(0.0, 1.0), percent=True) for which in ("false", "true")
    )
    caption = f"Share of both classes above each threshold.{area}"
    return Chart("ROC", of_negative, of_positive, (Series("", "line", x, y),), diagonal=True, caption=caption)


def residual_chart(diagnosis: Diagnosis) -> Chart | None:
    """The distribution of actual minus predicted."""
    if diagnosis.residuals is None:
        return None
    weight, edges = diagnosis.residuals
    share = weight / diagnosis.evaluation.weight
    bars = Series(
        "", "bars", (), _numbers(share), _numbers(edges[:-1]), _numbers(edges[1:]),
        notes=tuple(f"{a:.4g} to {b:.4g}: {100 * s:.2g} %" for a, b, s in zip(edges, edges[1:], share, strict=False)),
    )  # fmt: skip
    beyond = f" {100 * diagnosis.beyond:.2g} % of the rows are farther out." if diagnosis.beyond > 0.0 else ""
    caption = f"Share of the rows by actual minus predicted.{beyond}"
    return Chart("Residuals", Axis("actual − predicted"), Axis("share", percent=True), (bars,), caption=caption)


def spread_chart(diagnosis: Diagnosis) -> Chart | None:
    """Root mean square of the residuals along the prediction."""
    if diagnosis.residuals is None:
        return None
    along = diagnosis.along_prediction
    line = Series("", "line", _numbers(along.prediction), _numbers(np.sqrt(along.squares)), colour=4)
    caption = "Root mean square of the residuals. Where it is not level, variances differ: take --errors robust."
    return Chart("Spread of residuals", Axis("mean prediction"), Axis("RMSE"), (line,), zero=True, caption=caption)


def feature_chart(along: Along) -> Chart:
    """Mean target and mean prediction along a feature."""
    caption = ""
    if along.nulls is not None:
        weight, actual, predicted = along.nulls
        caption = f"Without a value, {weight:,.0f} rows: actual {actual:.4g}, predicted {predicted:.4g}."
    if along.names:
        return _level_chart(along)
    value = _numbers(along.value)
    series = (
        Series("actual", "line", value, _numbers(along.target), colour=0),
        Series("predicted", "line", value, _numbers(along.prediction), colour=1, dashed=True),
    )
    return Chart(along.name, Axis(""), Axis(""), series, caption=caption)


def _level_chart(along: Along) -> Chart:
    names, places = along.names[:MOST_LEVELS], _numbers(np.arange(min(len(along.names), MOST_LEVELS), dtype=float))
    actual, predicted = _numbers(along.target)[:MOST_LEVELS], _numbers(along.prediction)[:MOST_LEVELS]
    notes = tuple(
        f"{name}: actual {a:.4g}, predicted {p:.4g}, {w:,.0f} rows"
        for name, a, p, w in zip(names, actual, predicted, along.weight, strict=False)
    )
    joined = tuple(map(min, actual, predicted)), tuple(map(max, actual, predicted))
    series = (
        Series("actual", "spans", actual, places, *joined, colour=0, notes=notes),
        Series("predicted", "spans", predicted, places, colour=1, notes=notes),
    )
    more = len(along.names) - len(names)
    caption = f"The {len(names)} most frequent of {len(along.names):,} groups of levels." if more else ""
    return Chart(along.name, Axis(""), Axis("", categories=names), series, caption=caption)


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.asarray(values, float).tolist())
