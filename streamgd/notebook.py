"""Progress in a Jupyter notebook: one bar under the cell, and below it what was told.

rich's bars need ipywidgets there; this one needs nothing but the display that every kernel has. IPython is looked for
among what is already imported, so that other programs pay nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from streamgd.console import ConsoleDisplay, Phase
from streamgd.markup import cell, details

NOTEBOOK_INTERVAL_S = 0.25


class NotebookBar:
    """Writes to one output of a cell, which is replaced again and again; see ``console.Writer``."""

    interval_s = NOTEBOOK_INTERVAL_S

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._warnings: list[str] = []
        self._bar = ""
        self._handle: Any = None

    def line(self, text: str) -> None:
        (self._warnings if text.startswith("warning: ") else self._lines).append(text)
        self._show()

    def update(self, phase: Phase) -> None:
        self._bar = _bar(phase)
        self._show()

    def close(self) -> None:
        self._bar = ""
        self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        html = HTML(self.html())
        if self._handle is None:
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)

    def html(self) -> str:
        """The bar, the warnings, the last line, and all lines to unfold."""
        warnings = "".join(f"<div>⚠ {cell(text.removeprefix('warning: '))}</div>" for text in self._warnings)
        if not self._lines:
            return self._bar + warnings
        text = cell("\n".join(self._lines))
        return f"{self._bar}{warnings}{details(self._lines[-1], f'<pre>{text}</pre>')}"


def _bar(phase: Phase) -> str:
    """A progress bar of HTML; without a known total it says only that something moves."""
    known = f' value="{phase.done_rows:d}" max="{phase.total_rows:d}"' if phase.total_rows > 0 else ""
    return f"<div>{cell(phase.name)} <progress{known}></progress> {cell(', '.join(phase.facts()))}</div>"


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def notebook_display() -> ConsoleDisplay | None:
    """A display under the cell that runs; None where there is no notebook."""
    return ConsoleDisplay(NotebookBar()) if in_notebook() else None
