"""The figures of a report in matplotlib, for notebooks and papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from streamgd.errors import ConfigError
from streamgd.report import figures
from streamgd.report.chart import Axis, Chart, Series, tick_label, ticks
from streamgd.report.diagnosis import Diagnosis
from streamgd.report.extra import require
from streamgd.report.facts import RunFacts, coefficient_facts_of, facts_of
from streamgd.training.train import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#1f6fb2", "#cf5c10", "#2b8a5b", "#8a4fa3", "#b0851a", "#7b8790")
_SOFT, _FLAG = "#5a646d", "#b3261e"
_ROW_INCHES = 0.22


def plot_loss(run: RunFacts | Result | str | Path, ax: Axes | None = None) -> Figure:
    """Losses by epoch or pass, with a mark where the run went back.

    Parameters
    ----------
    run : Result, or the path of a run
    ax : matplotlib Axes, optional
        Where it is drawn; a new figure if not given.

    Raises
    ------
    NoInputError
        There is no run.
    ConfigError
        matplotlib is not installed, or no epoch has ended yet.
    """
    return _drawn(figures.loss_chart(facts_of(run).history), "no epoch of the run has ended yet", ax)


def plot_coefficients(run: Any, most: int = 30, ax: Axes | None = None) -> Figure:
    """The ``most`` largest coefficients of standardised features, with intervals where the run has errors.

    Parameters and errors as for :func:`plot_loss`; ``run`` may be a model or a fitted estimator too.
    """
    return _drawn(
        figures.coefficient_chart(coefficient_facts_of(run), most), "the run has no model with coefficients yet", ax
    )


def plot_calibration(diagnosis: Diagnosis, ax: Axes | None = None) -> Figure:
    """Mean target against mean prediction in groups of rows by prediction.

    Parameters
    ----------
    diagnosis : Diagnosis
        What ``streamgd.diagnose(model, data)`` gives.
    ax : matplotlib Axes, optional
    """
    return _drawn(figures.calibration_chart(_checked(diagnosis)), "", ax)


def plot_roc(diagnosis: Diagnosis, ax: Axes | None = None) -> Figure:
    """True against false positive rate; parameters as for :func:`plot_calibration`.

    Raises
    ------
    ConfigError
        The model is a regression, or the data have one class only.
    """
    return _drawn(figures.roc_chart(_checked(diagnosis)), "a ROC curve needs a classifier and rows of both classes", ax)


def plot_residuals(diagnosis: Diagnosis, ax: Axes | None = None) -> Figure:
    """The distribution of actual minus predicted; parameters as for :func:`plot_calibration`.

    Raises
    ------
    ConfigError
        The model is a classifier.
    """
    return _drawn(figures.residual_chart(_checked(diagnosis)), "residuals are of a regression", ax)


def plot_features(diagnosis: Diagnosis, names: Sequence[str] | str | None = None) -> Figure:
    """Actual and predicted along features, side by side.

    Parameters
    ----------
    diagnosis : Diagnosis
    names : sequence of str, or a name, optional
        Which; all that the diagnosis has, at most 24, if not given.

    Raises
    ------
    ConfigError
        The diagnosis has no such feature.
    """
    found = {along.name: along for along in _checked(diagnosis).features}
    wanted = list(found) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in found]
    if unknown or not wanted:
        what = f"feature {', '.join(map(repr, unknown))}" if unknown else "feature to plot"
        raise ConfigError(f"the diagnosis has no {what}. It has: {', '.join(found) or 'none'}.")
    charts = [figures.feature_chart(found[name]) for name in wanted]
    columns = min(3, len(charts))
    rows = -(-len(charts) // columns)
    figure: Figure = _new_figure(4.0 * columns, 3.2 * rows)
    for number, chart in enumerate(charts):
        _draw(chart, figure.add_subplot(rows, columns, number + 1))
    return figure


def _checked(diagnosis: Any) -> Diagnosis:
    if not isinstance(diagnosis, Diagnosis):
        found = type(diagnosis).__name__
        raise ConfigError(f"expected what streamgd.diagnose(model, data) gives, found {found}.")
    return diagnosis


def _drawn(chart: Chart | None, problem: str, ax: Axes | None) -> Figure:
    require("matplotlib")
    if chart is None:
        raise ConfigError(f"nothing to plot: {problem}.")
    if ax is None:
        rows = len(chart.y.categories)
        ax = _new_figure(6.0, 1.5 + _ROW_INCHES * rows if rows else 4.0).add_subplot()
    _draw(chart, ax)
    return cast("Figure", ax.get_figure(root=True))


def _new_figure(width: float, height: float) -> Any:
    """A figure that a notebook shows and pyplot does not keep."""
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(chart: Chart, ax: Axes) -> None:
    """Names come from the data, so no text is taken for mathematics."""
    for series in chart.series:
        _draw_series(series, ax)
    _scale(ax.xaxis, chart.x, chart.x_range, ax.set_xlim, ax.set_xscale)
    low, high = chart.y_range
    _scale(ax.yaxis, chart.y, (high, low) if chart.y.categories else (low, high), ax.set_ylim, ax.set_yscale)
    if chart.diagonal:
        ends = max(chart.x_range[0], chart.y_range[0]), min(chart.x_range[1], chart.y_range[1])
        ax.plot(ends, ends, color=_SOFT, linestyle=":", linewidth=1.0, zorder=0)
    if chart.zero:
        (ax.axvline if chart.y.categories else ax.axhline)(0.0, color=_SOFT, linestyle=":", linewidth=1.0, zorder=0)
    for place, _ in chart.marks:
        ax.axvline(place, color=_FLAG, linestyle="--", linewidth=1.0)
    ax.set_title(chart.title, loc="left", fontsize=11, parse_math=False)
    ax.set_xlabel(chart.x.label, parse_math=False)
    ax.set_ylabel(chart.y.label, parse_math=False)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if chart.has_legend:
        ax.legend(frameon=False, fontsize=9)


def _scale(axis: Any, described: Axis, limits: tuple[float, float], set_limits: Any, set_scale: Any) -> None:
    from matplotlib import ticker

    if described.log:
        set_scale("log")
        # matplotlib's own ticks of a range within a decade are hard to read.
        found = ticks(described, *limits)
        axis.set_ticks(found, [tick_label(described, value) for value in found])
        axis.set_minor_locator(ticker.NullLocator())
    set_limits(*limits)
    if described.categories:
        axis.set_ticks(range(len(described.categories)), described.categories, fontsize=8, parse_math=False)
    elif described.percent:
        axis.set_major_formatter(ticker.PercentFormatter(1.0))
    elif described.whole:
        axis.set_major_locator(ticker.MaxNLocator(integer=True))


def _draw_series(series: Series, ax: Axes) -> None:
    colour = _COLOURS[series.colour]
    label = series.label or None
    low, high = np.array(series.low), np.array(series.high)
    if series.kind == "line":
        style = "--" if series.dashed else "-"
        marker = "" if series.dashed or len(series.x) > 60 else "o"
        ax.plot(series.x, series.y, style, marker=marker, markersize=3, color=colour, label=label)
    elif series.kind == "points":
        error = np.stack([np.array(series.y) - low, high - np.array(series.y)])
        ax.errorbar(series.x, series.y, yerr=error, fmt="o", markersize=4, color=colour, label=label)
    elif series.kind == "bars":
        ax.bar(low, series.y, width=high - low, align="edge", color=colour, label=label, edgecolor="white")
    elif series.thick:
        ax.barh(series.y, high - low, left=low, height=0.6, color=colour, label=label)
    else:
        ax.plot(series.x, series.y, "o", markersize=4, color=colour, label=label)
        if series.low:
            ax.hlines(series.y, low, high, color=colour, linewidth=1.2)
