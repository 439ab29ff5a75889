"""Small pieces of HTML, everything in them escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def cell(value: Any) -> str:
    """A value as escaped text: five digits, separators, a dash for None.

    >>> cell(1234567), cell(0.45601561), cell("<b>")
    ('1,234,567', '0.45602', '&lt;b&gt;')
    """
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(f"{value:.5g}" if isinstance(value, float) else str(value))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; numbers are right-aligned.

    >>> table(["loss"], [[0.5]])
    '<table><thead><tr><th>loss</th></tr></thead><tbody><tr><td>0.5</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{cell(name)}</th>" for name in header)
    lines = "".join(f"<tr>{''.join(map(_aligned, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _aligned(value: Any) -> str:
    return f'<td style="text-align:left">{cell(value)}</td>' if isinstance(value, str) else f"<td>{cell(value)}</td>"


def details(summary: str, inner: str) -> str:
    """What opens on a click; ``inner`` is HTML."""
    return f"<details><summary>{cell(summary)}</summary>{inner}</details>"
