"""Charts as SVG inside HTML: colours are CSS variables of the page, so that they follow light and dark.

A chart is drawn as wide as a phone, and charts stand side by side where there is room: so its text is never small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from streamgd.report.chart import Axis, Chart, Series, tick_label, ticks

WIDTH = 360.0
HEIGHT = 220.0
ROW_HEIGHT = 17.0
LONGEST_NAME = 18

#: Points of a line beyond which its points are not drawn as dots too.
MOST_DOTS = 60

_RIGHT, _TOP, _BOTTOM = 14.0, 10.0, 38.0
_LETTER = 6.2  # width of a letter of the labels, about


class _Scale:
    """Places numbers of an axis between two coordinates."""

    def __init__(self, axis: Axis, low: float, high: float, start: float, stop: float):
        self._log = axis.log
        self.axis, self.low, self.high = axis, low, high
        self._from, self._to = self._value(low), self._value(high)
        self.start, self.stop = start, stop

    def _value(self, number: float) -> float:
        return math.log10(max(number, 1e-320)) if self._log else number

    def __call__(self, number: float) -> float:
        share = (self._value(number) - self._from) / ((self._to - self._from) or 1.0)
        return self.start + min(max(share, -0.02), 1.02) * (self.stop - self.start)

    def ticks(self, most: int) -> list[float]:
        return ticks(self.axis, self.low, self.high, most)

    def label(self, number: float) -> str:
        return tick_label(self.axis, number)


def render(chart: Chart) -> str:
    """The chart as one ``<svg>`` element; all text in it is escaped.

    >>> from streamgd.report.chart import Axis, Series
    >>> text = render(Chart("loss <b>", Axis("epoch"), Axis("loss"), (Series("", "line", (1.0, 2.0), (3.0, 2.0)),)))
    >>> "<b>" in text, text.startswith("<svg ")
    (False, True)
    """
    rows = len(chart.y.categories)
    bottom = _BOTTOM + 16.0 * len(_legend_lines(chart))
    height = _TOP + bottom + ROW_HEIGHT * rows if rows else HEIGHT + bottom - _BOTTOM
    (x_low, x_high), (y_low, y_high) = chart.x_range, chart.y_range
    named = _Scale(chart.y, y_low, y_high, 0.0, 0.0)
    names = [_short(named.label(value)) for value in named.ticks(5)]
    left = 22.0 + _LETTER * max(map(len, names), default=1)
    x = _Scale(chart.x, x_low, x_high, left, WIDTH - _RIGHT)
    # Categories are read from the top down.
    y_ends = (_TOP, height - bottom) if rows else (height - bottom, _TOP)
    y = _Scale(chart.y, y_low, y_high, *y_ends)
    floor, ceiling = height - bottom, _TOP
    parts = [
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{_text(chart.title)}">',
        *_axes(x, y, floor, ceiling),
        *_references(chart, x, y),
        *(part for series in chart.series for part in _DRAWN[series.kind](series, x, y)),
        *_marks(chart, x, floor, ceiling),
        *_legend(chart, height),
        "</svg>",
    ]
    return "".join(parts)


def _text(text: str) -> str:
    return escape(text, quote=True)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _axes(x: _Scale, y: _Scale, floor: float, ceiling: float) -> Iterator[str]:
    yield f'<path class="axis" d="M{x.start:.1f} {floor:.1f}H{x.stop:.1f}"/>'
    for value in y.ticks(5):
        name = y.label(value)
        if not y.axis.categories:
            yield f'<path class="grid" d="M{x.start:.1f} {y(value):.1f}H{x.stop:.1f}"/>'
        yield f'<text class="end" x="{x.start - 5:.1f}" y="{y(value) + 4:.1f}">{_text(_short(name))}'
        yield f"<title>{_text(name)}</title></text>" if _short(name) != name else "</text>"
    last_stop = -math.inf
    for value in x.ticks(5):
        label = _short(x.label(value))
        half = 0.5 * _LETTER * len(label)
        place = min(x(value), WIDTH - 2.0 - half)
        if place - half > last_stop + 4.0:  # labels that would touch are left out
            yield f'<text class="middle" x="{place:.1f}" y="{floor + 15:.1f}">{_text(label)}</text>'
            last_stop = place + half
        if y.axis.categories:
            yield f'<path class="grid" d="M{x(value):.1f} {ceiling:.1f}V{floor:.1f}"/>'
    middle = 0.5 * (x.start + x.stop)
    yield f'<text class="middle name" x="{middle:.1f}" y="{floor + 31:.1f}">{_text(x.axis.label)}</text>'
    if y.axis.label:
        centre = 0.5 * (floor + ceiling)
        yield (
            f'<text class="middle name" x="0" y="0" transform="translate(10 {centre:.1f}) rotate(-90)">'
            f"{_text(y.axis.label)}</text>"
        )


def _references(chart: Chart, x: _Scale, y: _Scale) -> Iterator[str]:
    if chart.diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        if low < high:
            yield f'<path class="reference" d="M{x(low):.1f} {y(low):.1f}L{x(high):.1f} {y(high):.1f}"/>'
    if chart.zero and chart.y.categories:
        yield f'<path class="reference" d="M{x(0.0):.1f} {y.start:.1f}V{y.stop:.1f}"/>'
    elif chart.zero:
        yield f'<path class="reference" d="M{x.start:.1f} {y(0.0):.1f}H{x.stop:.1f}"/>'


def _marks(chart: Chart, x: _Scale, floor: float, ceiling: float) -> Iterator[str]:
    for place, text in chart.marks:
        yield f'<path class="mark" d="M{x(place):.1f} {ceiling:.1f}V{floor:.1f}"><title>{_text(text)}</title></path>'
        yield f'<path class="flag" d="M{x(place):.1f} {ceiling:.1f}l6 4l-6 4z"><title>{_text(text)}</title></path>'


def _line(series: Series, x: _Scale, y: _Scale) -> Iterator[str]:
    places = [
        (x(a), y(b), k)
        for k, (a, b) in enumerate(zip(series.x, series.y, strict=True))
        if math.isfinite(a) and math.isfinite(b)
    ]
    if not places:
        return
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b, _ in places)
    dashed = " dashed" if series.dashed else ""
    yield f'<path class="line s{series.colour}{dashed}" d="M{path}"/>'
    if len(places) <= MOST_DOTS and not series.dashed:
        for a, b, k in places:
            yield f'<circle class="dot f{series.colour}" cx="{a:.1f}" cy="{b:.1f}" r="2.5">{_note(series, k)}</circle>'


def _points(series: Series, x: _Scale, y: _Scale) -> Iterator[str]:
    for k, (a, b) in enumerate(zip(series.x, series.y, strict=True)):
        if not (math.isfinite(a) and math.isfinite(b)):
            continue
        if series.low:
            yield f'<path class="bar s{series.colour}" d="M{x(a):.1f} {y(series.low[k]):.1f}V{y(series.high[k]):.1f}"/>'
        yield f'<circle class="dot f{series.colour}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3">{_note(series, k)}</circle>'


def _bars(series: Series, x: _Scale, y: _Scale) -> Iterator[str]:
    for k, (low, high, top) in enumerate(zip(series.low, series.high, series.y, strict=True)):
        left, width, floor = x(low), max(x(high) - x(low) - 0.6, 0.4), y(max(0.0, y.low))
        yield (
            f'<rect class="f{series.colour}" x="{left:.1f}" y="{y(top):.1f}" width="{width:.1f}"'
            f' height="{max(floor - y(top), 0.0):.1f}">{_note(series, k)}</rect>'
        )


def _spans(series: Series, x: _Scale, y: _Scale) -> Iterator[str]:
    for k, row in enumerate(series.y):
        place = y(row)
        low, high = (x(series.low[k]), x(series.high[k])) if series.low else (math.nan, math.nan)
        if series.thick:
            yield (
                f'<rect class="f{series.colour}" x="{low:.1f}" y="{place - 5:.1f}" width="{max(high - low, 0.0):.1f}"'
                f' height="10">{_note(series, k)}</rect>'
            )
            continue
        if math.isfinite(low) and math.isfinite(high):
            yield f'<path class="bar s{series.colour}" d="M{low:.1f} {place:.1f}H{high:.1f}"/>'
        dot = f'cx="{x(series.x[k]):.1f}" cy="{place:.1f}" r="3"'
        yield f'<circle class="dot f{series.colour}" {dot}>{_note(series, k)}</circle>'


def _note(series: Series, k: int) -> str:
    return f"<title>{_text(series.notes[k])}</title>" if series.notes else ""


_DRAWN: dict[str, Callable[[Series, _Scale, _Scale], Iterator[str]]] = {
    "line": _line,
    "points": _points,
    "bars": _bars,
    "spans": _spans,
}


def _legend_lines(chart: Chart) -> list[list[Series]]:
    """The labelled series, as many in a line as fit."""
    lines: list[list[Series]] = []
    room = 0.0
    for series in chart.series if chart.has_legend else ():
        if not series.label:
            continue
        width = 22.0 + _LETTER * len(series.label)
        if room < width:
            lines.append([])
            room = WIDTH - 24.0
        lines[-1].append(series)
        room -= width
    return lines


def _legend(chart: Chart, height: float) -> Iterator[str]:
    lines = _legend_lines(chart)
    for number, line in enumerate(lines):
        left, place = 12.0, height - 16.0 * (len(lines) - number) + 10.0
        for series in line:
            yield f'<rect class="f{series.colour}" x="{left:.1f}" y="{place - 8:.1f}" width="9" height="9" rx="2"/>'
            yield f'<text x="{left + 13:.1f}" y="{place:.1f}">{_text(series.label)}</text>'
            left += 22.0 + _LETTER * len(series.label)
