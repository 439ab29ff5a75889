"""What a figure shows, without saying how it is drawn: axes, series of points, marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["line", "points", "bars", "spans"]

#: What is larger is not shown, nor what is smaller than its inverse on a logarithmic axis.
LARGEST = 1e250
#: On a logarithmic axis numbers are labelled at every decade where there are so many of them.
FEWEST_DECADES = 2


@dataclass(frozen=True)
class Axis:
    """An axis; with ``categories`` its positions 0, 1, … have names. ``limits`` is what it shows; ``whole`` labels
    whole numbers only."""

    label: str
    log: bool = False
    categories: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None
    percent: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one kind and colour.

    line     ``(x, y)`` in order, joined
    points   ``(x, y)``, with ``low`` and ``high`` error bars along y
    bars     from ``low`` to ``high`` along x, from the axis up to ``y``: a histogram
    spans    at ``y``, from ``low`` to ``high`` along x, with a point at ``x``; ``thick`` ones have no point

    ``colour`` is a number from 0 on. ``notes`` are shown where the pointer rests on a point.
    """

    label: str
    kind: Kind
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: int = 0
    thick: bool = False
    dashed: bool = False
    notes: tuple[str, ...] = ()

    def along_x(self) -> list[float]:
        """All values that the x axis has to show."""
        return [*self.x, *(self.low + self.high if self.kind in ("bars", "spans") else ())]

    def along_y(self) -> list[float]:
        """All values that the y axis has to show."""
        return [*self.y, *(self.low + self.high if self.kind == "points" else ())]


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes
    ----------
    marks : tuple of (x, text)
        Vertical lines.
    diagonal : bool
        Draw the line y = x, where model and data agree.
    zero : bool
        Draw the line x = 0 (of a chart with categories along y) or y = 0.
    caption : str
        What the figure says, in a sentence or two.
    """

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[tuple[float, str], ...] = ()
    diagonal: bool = False
    zero: bool = False
    caption: str = ""

    @property
    def x_range(self) -> tuple[float, float]:
        values = [value for series in self.series for value in series.along_x()]
        return _range(self.x, [*values, *(x for x, _ in self.marks)], self.zero and bool(self.y.categories))

    @property
    def y_range(self) -> tuple[float, float]:
        values = [value for series in self.series for value in series.along_y()]
        from_zero = self.zero and not self.y.categories
        return _range(self.y, values, from_zero or any(series.kind == "bars" for series in self.series))

    @property
    def has_legend(self) -> bool:
        return len([series for series in self.series if series.label]) > 1


def _range(axis: Axis, values: Sequence[float], with_zero: bool) -> tuple[float, float]:
    """Lowest and highest value to show, with a little room; never an empty range."""
    if axis.categories:
        return -0.5, len(axis.categories) - 0.5
    if axis.limits is not None:
        return axis.limits
    shown = [value for value in values if abs(value) <= LARGEST and (value >= 1.0 / LARGEST or not axis.log)]
    if not axis.log:
        # Steps between numbers that small are none that a double has.
        shown = [value if abs(value) >= 1.0 / LARGEST else 0.0 for value in [*shown, *([0.0] if with_zero else [])]]
    if not shown:
        return (0.1, 1.0) if axis.log else (0.0, 1.0)
    low, high = min(shown), max(shown)
    if axis.log:
        room = 10.0 ** (0.06 * (math.log10(high) - math.log10(low))) if high > low * (1.0 + 1e-9) else 1.1
        return low / room, high * room
    room = 0.06 * (high - low) if high - low > 1e-12 * max(abs(low), abs(high)) else 0.5 * abs(high) or 0.5
    low_room = 0.0 if with_zero and low == 0.0 else room
    return low - low_room, high + (0.0 if with_zero and high == 0.0 and low < 0.0 else room)


def ticks(axis: Axis, low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between ``low`` and ``high`` to label.

    >>> ticks(Axis(""), 0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(Axis("", log=True), 1e-3, 2.0)
    [0.001, 0.01, 0.1, 1.0]
    """
    if axis.categories:
        return [float(k) for k in range(len(axis.categories))]
    if axis.log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        if last - first + 1 >= FEWEST_DECADES:
            every = -(-(last - first + 1) // (most + 1))
            return [10.0**k for k in range(first, last + 1, every)]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = [step * k for k in (1.0, 2.0, 2.5, 5.0) if not axis.whole or (step * k).is_integer()]
    step = next((each for each in steps if (high - low) / each <= most), step * 10.0)
    step = max(step, 1.0) if axis.whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def tick_label(axis: Axis, value: float) -> str:
    """A short text for a number on an axis.

    >>> [tick_label(Axis(""), value) for value in (0.0, 0.25, 1500.0, 2e6, 1e-7)]
    ['0', '0.25', '1,500', '2M', '1e-7']
    >>> tick_label(Axis("", percent=True), 0.25)
    '25 %'
    """
    if axis.categories:
        return axis.categories[int(value)]
    if axis.percent:
        return f"{100.0 * value:.6g} %"
    size = abs(value)
    for least, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if least <= size < 1e12:
            return f"{value / unit:.6g}{letter}"
    if 0.0 < size < 1e-3:
        return f"{value:.6g}".replace("e-0", "e-")
    return f"{value:,.0f}" if 1e3 <= size < 1e4 and value.is_integer() else f"{value:.6g}"
