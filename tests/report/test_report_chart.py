"""Charts: ticks and ranges of any numbers, and SVG in which all text is text."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from streamgd.report.chart import Axis, Chart, Series, tick_label, ticks
from streamgd.report.svg import render

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e200, max_value=1e200)
TEXTS = st.text(max_size=30)
HOSTILE = TEXTS | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=http://x onerror=y>', "</svg>", "&lt;", "'"]
)


class Tags(HTMLParser):
    """The names of all tags and all text, as a browser would see them."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@given(NUMBERS, NUMBERS)
def test_ticks_rise_and_lie_within_the_range(a: float, b: float) -> None:
    chart = Chart("", Axis(""), Axis(""), (Series("", "line", (a, b), (0.0, 0.0)),))
    low, high = chart.x_range
    found = ticks(chart.x, low, high)
    assert low < high
    assert low <= min(a, b)
    assert high >= max(a, b)
    assert len(found) <= 7
    assert all(one < other for one, other in pairwise(found))
    room = 1e-6 * (high - low)
    assert all(low - room <= tick <= high + room for tick in found)
    assert all(tick_label(chart.x, tick) for tick in found)


@given(st.floats(1e-200, 1e200), st.floats(1e-200, 1e200))
def test_logarithmic_ticks_lie_within_the_range(a: float, b: float) -> None:
    chart = Chart("", Axis(""), Axis("", log=True), (Series("", "line", (0.0, 1.0), (a, b)),))
    low, high = chart.y_range
    found = ticks(chart.y, low, high)
    assert 0.0 < low <= min(a, b)
    assert max(a, b) <= high
    assert found
    assert len(found) <= 8
    assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in found)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@example(0, 10)
def test_whole_numbers_alone_are_labelled_where_epochs_are(a: int, b: int) -> None:
    low, high = sorted((a, b))
    found = ticks(Axis("epoch", whole=True), low - 0.1, high + 0.1)
    assert found
    assert all(tick.is_integer() and low <= tick <= high for tick in found)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_no_text_of_a_chart_becomes_markup(title: str, name: str, note: str, label: str) -> None:
    spans = Series(label, "spans", (1.0,), (0.0,), (0.5,), (2.0,), notes=(note,))
    bars = Series("b" + label, "bars", (), (1.0,), (0.0,), (1.0,), notes=(note,))
    for chart in (
        Chart(title, Axis(name), Axis(name, categories=(name,)), (spans, bars), ((1.0, note),)),
        Chart(title, Axis(name), Axis(name), (bars, Series(label, "line", (0.0, 1.0), (1.0, 2.0), notes=(note,) * 2))),
    ):
        svg = render(chart)
        found = Tags(svg)
        assert found.tags <= {"svg", "path", "text", "title", "circle", "rect"}
        assert found.attributes <= {
            "viewbox", "role", "aria-label", "class", "d", "x", "y", "cx", "cy", "r", "rx", "width", "height",
            "transform",
        }  # fmt: skip
        assert svg.count("<svg") == 1
        assert len(re.findall(r"</svg>", svg)) == 1


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8), st.booleans())
@example([5e-324], False)
def test_what_is_not_a_number_is_left_out_of_the_drawing(values: list[float], log: bool) -> None:
    x = tuple(float(k) for k in range(len(values)))
    line = Series("", "line", x, tuple(values))
    points = Series("", "points", x, tuple(values), tuple(values), tuple(values))
    svg = render(Chart("", Axis(""), Axis("", log=log), (line, points), zero=not log, diagonal=True))
    coordinates = " ".join(re.findall(r' (?:d|x|y|cx|cy|width|height)="([^"]*)"', svg))
    assert "nan" not in coordinates
    assert "inf" not in coordinates


def test_a_long_name_is_shortened_and_told_where_the_pointer_rests() -> None:
    name = "a_column_with_a_very_long_name"
    svg = render(Chart("", Axis(""), Axis("", categories=(name,)), (Series("", "spans", (1.0,), (0.0,)),)))
    assert f"{name[:17]}…" in svg
    assert f"<title>{name}</title>" in svg


def test_a_mark_has_its_text() -> None:
    svg = render(Chart("", Axis(""), Axis(""), (Series("", "line", (0.0, 2.0), (1.0, 2.0)),), ((1.0, "went back"),)))
    assert svg.count("<title>went back</title>") == 2


def test_ranges_of_nothing_are_ranges() -> None:
    for axis in (Axis(""), Axis("", log=True)):
        low, high = Chart("", Axis(""), axis, (Series("", "line", (), ()),)).y_range
        assert math.isfinite(low)
        assert low < high
