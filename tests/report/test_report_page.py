"""The page: what it tells, that all of it is text, and that it asks the network for nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_report_chart import HOSTILE, Tags

import streamgd
from streamgd.cli import main
from streamgd.errors import ConfigError, NoInputError, PausedError, StorageError
from streamgd.plain import count_noun
from streamgd.report import extra
from streamgd.report.diagnosis import diagnose
from streamgd.report.facts import RunFacts
from streamgd.report.figures import distance_chart, loss_chart, rate_chart, stages_chart, throughput_chart
from streamgd.report.page import render_page, write_report

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: What would make a browser ask for something.
REQUESTS = re.compile(
    r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?\s*(?!data:,)[^"'>\s]|url\(|@import""", re.I
)


def rows(n: int = 4000) -> pa.Table:
    random = np.random.default_rng(1)
    x, z = random.normal(5.0, 3.0, n), random.normal(size=n)
    level = random.choice(["<b>bold</b>", "AA", "b&c"], n)
    raw = 0.4 * (x - 5.0) - z + (level == "AA")
    late = (random.random(n) < 1 / (1 + np.exp(-raw))).astype(np.int8)
    columns = {"x <i>": x, "z": z, "kind": level, "late": late, "cost": raw + random.normal(size=n)}
    return pa.table(columns)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data.parquet`` and the runs ``late`` (mini-batches, with a holdout), ``cost`` (full batch) and
    ``auto`` (no options)."""
    folder = tmp_path_factory.mktemp("report")
    pq.write_table(rows(), folder / "data.parquet", row_group_size=500)
    data = str(folder / "data.parquet")
    streamgd.train(data, "late", exclude="cost", run=str(folder / "late"), holdout=0.2, epochs=2)
    streamgd.train(data, "cost", exclude="late", run=str(folder / "cost"), method="batch", errors="robust")
    streamgd.train(data, "late", exclude="cost", run=str(folder / "auto"))
    return folder


def page(folder: Path, run: str, evaluated: bool = True) -> str:
    out = folder / f"{run}-{evaluated}.html"
    write_report(folder / run, out, str(folder / "data.parquet") if evaluated else ())
    return out.read_text()


@pytest.mark.parametrize("run", ["late", "cost"])
@pytest.mark.parametrize("evaluated", [True, False])
def test_the_page_asks_the_network_for_nothing(runs: Path, run: str, evaluated: bool) -> None:
    text = page(runs, run, evaluated)
    assert not REQUESTS.search(re.sub(r">[^<]*<", "><", text.replace("\n", " ")))
    assert "default-src 'none'" in text
    assert "<script" not in text


def test_the_page_of_a_classifier_tells_what_was_found(runs: Path) -> None:
    found = Tags(page(runs, "late"))
    auc = streamgd.evaluate(str(runs / "late"), str(runs / "data.parquet")).metrics["auc"]
    for text in ("A logistic model of late", "ROC", "Calibration", "Loss", "Learning rate", "Throughput", f"{auc:.4f}",
                 "holdout loss", "fingerprint", "null", "numpy"):  # fmt: skip
        assert text in found.text
    assert "Residuals" not in found.text
    assert streamgd.load(runs / "late").theta_sha256 in found.text


def test_the_page_of_a_regression_tells_what_was_found(runs: Path) -> None:
    found = Tags(page(runs, "cost"))
    for text in ("A linear model with squared loss of cost", "Residuals", "Spread of residuals", "R²", "Certificate",
                 "Distance from the optimum", "robust", "intervals of 95 %"):  # fmt: skip
        assert text in found.text
    assert "ROC" not in found.text


@pytest.mark.parametrize(
    ("run", "how", "at_most"),
    [
        ("late", "mini-batches (adagrad), 2 epochs; ", "epochs at most2"),
        ("cost", "full batch (newton), {passes}; ", "passes at most500"),
        ("auto", "an epoch of mini-batches, then full batch (newton), 1 epoch and {passes}; ",
         "epochs at most1passes at most500"),
    ],
)  # fmt: skip
def test_the_summary_tells_how_it_was_trained(runs: Path, run: str, how: str, at_most: str) -> None:
    text = page(runs, run, evaluated=False)
    (summary,) = re.findall(r'<p class="summary">(.*?)</p>', text)
    passes = sum(line["event"] == "pass" for line in RunFacts.of(runs / run).history)
    assert f"by gradient descent on {how.format(passes=count_noun(passes, 'pass'))}" in summary
    assert "None" not in summary
    assert at_most in Tags(text).text


def test_an_epoch_and_the_passes_after_it_are_told_apart(runs: Path) -> None:
    history = RunFacts.of(runs / "auto").history
    for chart in (loss_chart(history), distance_chart(history), rate_chart(history), throughput_chart(history)):
        assert chart is not None
        assert chart.x.label == "epoch or pass"
    stages = stages_chart(history)
    assert stages is not None
    assert stages.y.categories[:3] == ("prepare", "epoch 1", "pass 1")
    assert loss_chart(RunFacts.of(runs / "late").history).x.label == "epoch"
    assert loss_chart(RunFacts.of(runs / "cost").history).x.label == "pass"


def test_names_and_levels_are_text(runs: Path) -> None:
    text = page(runs, "late")
    assert "<b>bold</b>" not in text
    assert "x <i>" not in text
    found = Tags(text)
    assert "<b>bold</b>" in found.text
    assert "x <i>" in found.text


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile=st.lists(HOSTILE, min_size=6, max_size=6))
def test_no_text_of_a_run_becomes_markup(runs: Path, hostile: list[str]) -> None:
    facts = RunFacts.of(runs / "cost")
    usual = Tags(render_page(facts)).tags
    shown, stored = json.loads(json.dumps(facts.shown)), json.loads(json.dumps(facts.stored))
    a, b, c, d, e, f = hostile
    shown |= {"run": a, "target": b, "base_levels": {c: d}, "theta_sha256": e}
    for row in shown["coefficients"]:
        row["name"] = f
    shown["history"] += [{"event": a, "text": b, "steps": 0, "epoch": 0, "learning_rate": 1.0}]
    shown["model"] |= {"warnings": [c], "dropped": {d: 1}, "classes": [e, f], "optimizer": a}
    shown["inference"]["errors"] = b
    stored["config"] |= {"data": [c], "target": d, "where": e, "features": [f]}
    stored["resolved"] |= {"left_out": {a: b}, "order": c, "loss": d}
    stored["manifest"] = {"files": [{"relative": e, "rows": 1, "size_bytes": 1}], "fingerprint": f}
    text = render_page(RunFacts(shown, stored, facts.model))
    assert Tags(text).tags <= usual | {"i", "ul", "li", "code"}
    assert text.count("</svg>") == text.count("<svg")
    assert text.count("</body>") == 1


def test_credentials_stay_out(runs: Path) -> None:
    found = diagnose(streamgd.load(runs / "cost"), [str(runs / "data.parquet")])
    facts = RunFacts.of(runs / "cost")
    source = "s3://AKIA:SECRET@bucket/x?region=eu-west-1&secret_key=SECRET"
    facts.stored["config"] |= {"data": [source], "validation": [source]}
    text = render_page(facts, replace(found, data=(source,)))
    assert "AKIA" not in text
    assert "SECRET" not in text
    assert Tags(text).text.count("s3://bucket/x?region=eu-west-1") == 4


def test_a_run_that_is_not_finished_has_a_page(tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "data.parquet", row_group_size=500)
    data, run = str(tmp_path / "data.parquet"), str(tmp_path / "run")
    with pytest.raises(PausedError):
        streamgd.train(data, "late", exclude="cost", run=run, pause_after=1e-9)
    write_report(run)
    found = Tags((tmp_path / "run" / "report.html").read_text())
    assert "unfinished" in found.text
    assert f"streamgd resume {run}" in found.text
    with pytest.raises(NoInputError, match="no model in"):
        write_report(run, data=data)


def test_rollbacks_are_marked(tmp_path: Path) -> None:
    pq.write_table(rows(20_000), tmp_path / "data.parquet", row_group_size=2000)
    run = str(tmp_path / "run")
    result = streamgd.train(str(tmp_path / "data.parquet"), "cost", exclude="late", run=run, optimizer="plain",
                            learning_rate=1e3, epochs=2)  # fmt: skip
    assert result.facts["rollbacks"] > 0
    write_report(run)
    text = (tmp_path / "run" / "report.html").read_text()
    assert 'class="flag"' in text
    assert "Flags: the run went back" in text


def test_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no run at"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_part_that_is_not_there_is_one_clear_line(evaluated: bool, runs: Path, tmp_path: Path) -> None:
    data = str(runs / "data.parquet") if evaluated else ()
    with pytest.raises(ConfigError, match="--part: expected all, train or holdout, found 'nonsense'"):
        write_report(runs / "late", tmp_path / "page.html", data, part="nonsense")
    assert not (tmp_path / "page.html").exists()


def test_a_folder_that_is_not_there_is_one_clear_line(runs: Path, tmp_path: Path) -> None:
    with pytest.raises((NoInputError, StorageError), match="missing"):
        write_report(runs / "late", tmp_path / "missing" / "page.html")


def test_a_missing_extra_is_one_clear_line(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'streamgd[report]'")):
        write_report(runs / "late")


def test_a_defect_of_an_installed_package_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr(extra, "import_module", fails)
    with pytest.raises(ModuleNotFoundError):
        extra.require("jinja2")


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_into_the_run_by_default(runs: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(runs / "late"), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["out"] == str(runs / "late" / "report.html")
    assert facts["size_bytes"] == Path(facts["out"]).stat().st_size
    assert facts["rows"] is None


def test_the_command_evaluates_on_the_part_it_is_given(runs: Path, tmp_path: Path) -> None:
    data, out = str(runs / "data.parquet"), str(tmp_path / "page.html")
    arguments = ["report", str(runs / "late"), "--out", out, "--data", data, "--part", "holdout", "--json"]
    facts = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert facts["rows"] == streamgd.load(runs / "late").facts["holdout_rows"]
    assert "holdout part" in Path(out).read_text()


def test_help_imports_none_of_it() -> None:
    code = "import sys; from streamgd.cli import main; \ntry: main(['report', '--help'])\nexcept SystemExit: pass"
    code += "\nprint({'jinja2', 'matplotlib', 'numpy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "RUN/report.html" in told.stdout
    assert "set()" in told.stdout


# In a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(runs: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a page on loopback, and the paths that were asked for."""
    text, asked = page(runs, "late").encode(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/report", asked
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_chromium_draws_the_page_and_asks_for_nothing_else(served: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = served
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    told = subprocess.run([str(CHROMIUM), *options, address], capture_output=True, text=True, timeout=120)
    found = Tags(told.stdout)
    assert "A logistic model of late" in found.text
    assert told.stdout.count("<svg") == told.stdout.count("</svg>") > 8
    assert asked == ["/report"]


def test_the_diagnosis_is_that_of_the_page(runs: Path) -> None:
    found = diagnose(streamgd.load(runs / "cost"), [str(runs / "data.parquet")])
    text = Tags(render_page(RunFacts.of(runs / "cost"), found)).text
    assert f"{found.evaluation.metrics['r2']:.4f}" in text
