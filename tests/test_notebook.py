"""In a notebook: a bar under the cell, results as HTML, and nothing imported elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_models import model, table, write

import streamgd
from streamgd import markup, notebook
from streamgd.console import Phase
from streamgd.notebook import NotebookBar, in_notebook, notebook_display

ROOT = Path(__file__).parent.parent


def test_outside_a_notebook_nothing_is_shown_or_imported() -> None:
    assert not in_notebook()
    assert notebook_display() is None
    code = "import sys, streamgd.notebook as n; n.notebook_display(); print('IPython' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert told.stdout == "False\n"


def test_the_bar_tells_how_far_the_phase_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = NotebookBar()
    monkeypatch.setattr(bar, "_show", lambda: None)
    bar.update(Phase("epoch 1/5 <b>", 50, 200, 0.5, 0, 1.0))
    assert '<progress value="50" max="200">' in bar.html()
    assert "epoch 1/5 &lt;b&gt;" in bar.html()
    bar.update(Phase("pass", 50, 0, None, 0, 1.0))
    assert "<progress></progress>" in bar.html()
    bar.line("data: <script>")
    bar.line("warning: <i>")
    assert "<script>" not in bar.html()
    assert "⚠ &lt;i&gt;" in bar.html()
    bar.close()
    assert "<progress" not in bar.html()


def test_a_model_shows_its_coefficients_as_text() -> None:
    html = model()._repr_html_()
    assert "carrier=AA" in html
    assert "<td>-6</td>" not in html
    assert "The intercept and the 5 largest of 5" in html


def test_a_result_shows_what_came_of_the_run(tmp_path: Path) -> None:
    rows = table(1000).rename_columns(["id", "<script>", "delay", "carrier", "late"])
    data = write(rows, tmp_path / "data.parquet")
    result = streamgd.train(data, "late", exclude="id", run=str(tmp_path / "run"), epochs=1)
    html = result._repr_html_()
    assert "train loss" in html
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_cells_are_escaped() -> None:
    assert markup.table(["<a>"], [("<b>", 1)]) == (
        '<table><thead><tr><th>&lt;a&gt;</th></tr></thead><tbody><tr><td style="text-align:left">&lt;b&gt;</td>'
        "<td>1</td></tr></tbody></table>"
    )
    assert markup.details("<s>", "<p>") == "<details><summary>&lt;s&gt;</summary><p></details>"


def test_a_kernel_shows_the_bar_and_the_result(tmp_path: Path) -> None:
    """The real thing: a notebook run by a Jupyter kernel."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    data = write(table(3000), tmp_path / "data.parquet")
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import streamgd, streamgd.notebook
        streamgd.notebook.NotebookBar.interval_s = 0.0
        streamgd.train({data!r}, "late", exclude="id", run={str(tmp_path / "run")!r}, epochs=2)
    """
    cell = nbformat.v4.new_code_cell("\n".join(line.strip() for line in code.splitlines()))
    book = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    shown, *others, result = [output for output in cell.outputs if output.output_type != "stream"]
    assert others == []
    assert "epoch 2/2" in shown.data["text/html"]
    assert "<progress" not in shown.data["text/html"]  # the last state: the bar is gone, the lines stay
    assert "train loss" in result.data["text/html"]
    assert notebook.NOTEBOOK_INTERVAL_S > 0.0
