"""The report as one HTML page: no script, no network, fonts of the system, figures drawn in it.

All text that comes from the run or its data goes through jinja2's escaping or that of ``svg``. A content security
policy in the page forbids requests, should anything slip through.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from streamgd.config import TrainConfig, option_name
from streamgd.console import format_duration, format_rate
from streamgd.credentials import without_credentials
from streamgd.data.kinds import python_values
from streamgd.data.vocabulary import level_name
from streamgd.evaluation import check_part
from streamgd.model import Model
from streamgd.option_values import parse_sources
from streamgd.plain import byte_size, count_noun
from streamgd.report import figures
from streamgd.report.chart import Chart
from streamgd.report.diagnosis import Diagnosis, diagnose
from streamgd.report.extra import require
from streamgd.report.facts import RunFacts, facts_of
from streamgd.report.svg import render
from streamgd.show import way_on
from streamgd.state import write_atomically
from streamgd.training.certificate import Certificate
from streamgd.training.display import Display
from streamgd.training.task import DEFAULT_PASSES
from streamgd.version import version

#: Lines of a table that a page holds; `streamgd show --csv` has all coefficients.
MOST_ROWS = 200
#: Levels told of a column.
MOST_LEVELS = 6
_PACKAGES = ("numpy", "pyarrow", "numba", "dask")
_ROUND_COLUMNS = (
    "epoch", "steps", "objective", "train_loss", "progressive_loss", "holdout_loss", "learning_rate", "seconds",
    "bottleneck",
)  # fmt: skip
_METHODS = {
    "auto": "an epoch of mini-batches, then full batch", "batch": "full batch", "minibatch": "mini-batches",
    "sgd": "single rows",
}  # fmt: skip
_METRICS = {
    "loss": "loss", "log_loss": "log loss", "auc": "AUC", "brier": "Brier score", "accuracy": "accuracy",
    "deviance": "mean deviance", "d2": "D²", "coverage": "share of targets below",
    "gini": "Gini", "top_decile_lift": "lift of the highest tenth",
    "bottom_decile_lift": "lift of the lowest tenth", "r2": "R²", "rmse": "RMSE", "mae": "mean absolute error",
    "positive_rate": "positive rate",
    "mean_target": "mean target", "mean_prediction": "mean prediction",
}  # fmt: skip


def write_report(
    run: Any,
    out: str | Path | None = None,
    data: Sequence[str] | str = (),
    where: str | None = None,
    part: Any = "all",
    threads: int | None = None,
    display: Display | None = None,
    *,
    filesystem: Any = None,
) -> dict[str, Any]:
    """Write the report of a run to one HTML file.

    Parameters
    ----------
    run : str, Path, or what ``train`` gave
        A run directory, finished or not.
    out : str or Path, optional
        The file; ``report.html`` in the run directory if not given.
    data : str or sequence of str
        Parquet data on which the model is evaluated, in one streamed pass.
    where, part, threads, display, filesystem
        See :func:`streamgd.evaluation.evaluate`.

    Returns
    -------
    dict
        ``run``, ``out``, ``size_bytes``, and ``rows``: those evaluated, or None.

    Raises
    ------
    NoInputError
        There is no run; or there are data to evaluate, and no model yet.
    ConfigError
        ``run`` is something else; there is no such part; or the extra ``report`` is not installed.
    StreamgdError
        From the evaluation, or from writing.
    """
    require("jinja2")
    check_part(part)
    facts, diagnosis = facts_of(run), None
    run_dir, sources = Path(facts.shown["run"]), parse_sources(data)
    if sources:
        diagnosis = diagnose(
            facts.model or Model.load(run_dir), sources, where, part, threads, display, filesystem=filesystem
        )
    file = run_dir / "report.html" if out is None else Path(out)
    text = render_page(facts, diagnosis).encode(errors="backslashreplace")
    write_atomically(file, text)
    rows = diagnosis.evaluation.rows if diagnosis else None
    return {"run": str(run_dir), "out": str(file), "size_bytes": len(text), "rows": rows}


def render_page(facts: RunFacts, diagnosis: Diagnosis | None = None) -> str:
    """The page as text."""
    jinja2 = require("jinja2")
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["number"] = number

    markup, template = require("markupsafe").Markup, environment.get_template("figure.html.j2")

    def figure(chart: Chart) -> Any:
        return markup(template.render(chart=chart, svg=markup(render(chart))))

    page: str = environment.get_template("page.html.j2").render(figure=figure, **_content(facts, diagnosis))
    return page


def number(value: Any) -> str:
    """A value for a table: five digits, a dash for what is not known.

    >>> number(1234567), number(0.45601561), number(None), number(1e-20), number("a")
    ('1,234,567', '0.45602', '–', '1e-20', 'a')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and 1e3 <= abs(value) < 1e15 else f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value))
    return str(value)


def _content(facts: RunFacts, diagnosis: Diagnosis | None) -> dict[str, Any]:
    shown, config, resolved = facts.shown, facts.stored["config"], facts.stored["resolved"]
    history, model = facts.history, shown["model"] or {}
    return {
        "title": shown["target"],
        "run": shown["run"],
        "state": shown["state"],
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "summary": _summary(facts),
        "cards": _cards(facts, diagnosis),
        "warnings": _warnings(facts),
        "training": _charts(figures.loss_chart(history), figures.distance_chart(history), figures.rate_chart(history)),
        "rounds": _rounds(history),
        "time": _charts(figures.stages_chart(history), figures.throughput_chart(history)),
        "coefficient_chart": figures.coefficient_chart(facts),
        "coefficients": facts.coefficients[:MOST_ROWS],
        "n_coefficients": shown["n_coefficients"],
        "has_intervals": facts.has_intervals,
        "inference": shown["inference"],
        "base_levels": {name: level_name(level) for name, level in shown["base_levels"].items()},
        "certificate": _certificate(model),
        "evaluation": _evaluation(diagnosis) if diagnosis else None,
        "evaluation_charts": _evaluation_charts(diagnosis) if diagnosis else [],
        "features": _features(diagnosis) if diagnosis else [],
        "profile": _profile(facts, diagnosis),
        "dropped": (model.get("dropped") or {}),
        "left_out": resolved.get("left_out") or {},
        "data": _data(facts),
        "options": _options(config),
        "resolved": {
            "loss": resolved.get("loss"),
            "method": resolved.get("method"),
            "optimizer": model.get("optimizer", resolved.get("optimizer")),
            "schedule": resolved.get("schedule"),
            "averaged iterate": resolved.get("averaging"),
            "order of rows": resolved.get("order"),
            **_most_rounds(resolved),
            "l1": config.get("l1"),
            "l2": config.get("l2"),
            "seed": config.get("seed"),
        },
        "versions": _versions(),
        "theta_sha256": shown["theta_sha256"],
    }


def _charts(*charts: Chart | None) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _summary(facts: RunFacts) -> str:
    """What was trained on what, in a sentence or two."""
    shown, config, resolved = facts.shown, facts.stored["config"], facts.stored["resolved"]
    model = shown["model"]
    if model is None:
        return (
            f"A run that is not finished: {_rounds_made(facts)}, {shown['rows_seen']:,} rows used so far. "
            f"{way_on(shown)}"
        )
    of_class = ""
    if model["classes"] and len(model["classes"]) > 2:
        of_class = f" ({len(model['classes'])} classes)"
    elif model["classes"]:
        negative, positive = model["classes"]
        of_class = f" ({positive} against {negative})"
    method, loss = model.get("method", shown["method"]), resolved["loss"].replace("_", " ")
    kind = "A logistic model" if loss == "logistic" else f"A linear model with {loss} loss"
    return (
        f"{kind} of {config['target']}{of_class} from"
        f" {number(model['columns'])} columns: {shown['n_coefficients']:,} coefficients, trained on"
        f" {number(model['train_rows'])} of {number(model['rows'])} rows by gradient descent on"
        f" {_METHODS.get(method, method)} ({model['optimizer']}),"
        f" {_rounds_made(facts)}; stopped by {number(shown['stopped_by'])}."
    )


def _rounds_made(facts: RunFacts) -> str:
    """Epochs, passes, or both where passes follow an epoch."""
    made, method = facts.shown["epochs"], facts.shown["method"]
    parts = (facts.shown["model"] or {}).get("parts")
    if parts:
        return f"{count_noun(parts, 'part')} of a stream"
    passes = made if method == "batch" else sum(line.get("event") == "pass" for line in facts.history)
    epochs = max(0, made - passes)
    told = [count_noun(made, unit) for made, unit in ((epochs, "epoch"), (passes, "pass")) if made]
    return " and ".join(told) or "no epoch"


def _most_rounds(resolved: dict[str, Any]) -> dict[str, Any]:
    """How many epochs and passes the run makes at most."""
    rounds = resolved.get("epochs")
    if resolved.get("method") == "batch":
        return {"passes at most": rounds}
    passes = {"passes at most": DEFAULT_PASSES} if resolved.get("method") == "auto" else {}
    return {"epochs at most": rounds, **passes}


def _cards(facts: RunFacts, diagnosis: Diagnosis | None) -> list[tuple[str, str, str]]:
    """Label, figure and remark of what is most worth knowing."""
    model = facts.shown["model"]
    if model is None:
        return []
    cards = []
    known = [(name, model.get(f"{name}_loss")) for name in ("train", "progressive")]
    name, loss = next(((name, loss) for name, loss in known if loss is not None), ("", None))
    if loss is not None:
        label = {"train": "training loss", "progressive": "progressive loss"}[name]
        cards.append((label, number(loss), f"best constant {number(model.get('base_loss'))}"))
    if model.get("holdout_loss") is not None:
        cards.append(("holdout loss", number(model["holdout_loss"]), f"{number(model.get('holdout_rows'))} rows"))
    if diagnosis:
        evaluated, metrics = f"on {diagnosis.evaluation.rows:,} rows", diagnosis.evaluation.metrics
        found = [(name, metrics.get(name)) for name in ("auc", "r2", "d2")]
        cards += [(_METRICS[name], f"{value:.4f}", evaluated) for name, value in found if value is not None]
    seconds = sum(line["seconds"] for line in facts.history if isinstance(line.get("seconds"), int | float))
    rows = sum(line["rows"] for line in facts.history if isinstance(line.get("rows"), int))
    if seconds > 0.0:
        cards.append(("time", format_duration(seconds), f"{format_rate(rows / seconds)} in all" if rows else ""))
    return cards


def _warnings(facts: RunFacts) -> list[str]:
    """Warnings of the run and what happened on the way, each once."""
    model = facts.shown["model"] or {}
    events = [f"{line['event']}: {line['text']}" for line in facts.history if "text" in line]
    told = [text for text in model.get("warnings") or [] if not any(text in event for event in events)]
    return list(dict.fromkeys([*told, *events]))


def _rounds(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The history as a table; the middle of a long one is left out."""
    lines = [line for line in history if line.get("event") in ("epoch", "pass")]
    names = [name for name in _ROUND_COLUMNS if any(line.get(name) is not None for line in lines)]
    if not lines:
        return None
    rows = [[line.get(name) for name in names] for line in lines]
    if len(rows) > MOST_ROWS:
        rows = [*rows[: MOST_ROWS // 2], ["…"] * len(names), *rows[-MOST_ROWS // 2 :]]
    shown = {"epoch": figures.unit_of(history)}
    return {"names": [shown.get(name, name.replace("_", " ")) for name in names], "rows": rows}


def _certificate(model: dict[str, Any]) -> str | None:
    found = model.get("certificate")
    return Certificate.from_json(found).text(float(model.get("base_loss") or 0.0)) if found else None


def _evaluation(diagnosis: Diagnosis) -> dict[str, Any]:
    found, metrics = diagnosis.evaluation, diagnosis.evaluation.metrics
    return {
        "data": [without_credentials(source) for source in diagnosis.data],
        "part": diagnosis.part,
        "where": diagnosis.where,
        "rows": found.rows,
        "weight": found.weight,
        "dropped": found.dropped,
        "metrics": [
            (text, metrics[name], metrics.get(f"base_{name}")) for name, text in _METRICS.items() if name in metrics
        ],
    }


def _evaluation_charts(diagnosis: Diagnosis) -> list[Chart]:
    return _charts(
        figures.calibration_chart(diagnosis), figures.roc_chart(diagnosis), figures.residual_chart(diagnosis),
        figures.spread_chart(diagnosis),
    )  # fmt: skip


def _features(diagnosis: Diagnosis) -> list[list[Chart]]:
    """The figures of numbers and those of categories, which are taller, apart."""
    numbers = [figures.feature_chart(along) for along in diagnosis.features if not along.names]
    levels = [figures.feature_chart(along) for along in diagnosis.features if along.names]
    return [charts for charts in (numbers, levels) if charts]


def _profile(facts: RunFacts, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """Columns with what is known of them: of the data evaluated on, else of the training rows."""
    model = facts.model
    if model is None:
        return {"numbers": [], "levels": [], "evaluated": False, "hidden": 0}
    encoding, nulls = model.encoding, model.facts.get("nulls") or {}
    if diagnosis:
        numbers = [vars(each) for each in diagnosis.numbers]
        levels = [
            {**vars(each), "levels": [(name, f"{100 * share:.2g} %") for name, share in each.levels[:MOST_LEVELS]]}
            for each in diagnosis.levels
        ]
    else:
        moments = zip(encoding.scaling.shift.tolist(), encoding.scaling.scale.tolist(), strict=True)
        numbers = [
            {"name": column.name, "nulls": nulls.get(column.name, 0), "mean": mean, "deviation": deviation}
            for column, (mean, deviation) in zip(encoding.columns.numeric, moments, strict=True)
        ]
        levels = [
            {
                "name": each.column.name,
                "nulls": nulls.get(each.column.name, 0),
                "n_levels": None if each.hashed else len(each.levels),
                "levels": [(level_name(level), "") for level in python_values(each.levels[:MOST_LEVELS])],
            }
            for each in encoding.categorical
        ]
    hidden = max(0, len(numbers) - MOST_ROWS) + max(0, len(levels) - MOST_ROWS)
    shown = {"numbers": numbers[:MOST_ROWS], "levels": levels[:MOST_ROWS]}
    return shown | {"evaluated": diagnosis is not None, "hidden": hidden}


def _data(facts: RunFacts) -> dict[str, Any]:
    config, manifest = facts.stored["config"], facts.stored["manifest"]
    listed = manifest["files"]
    return {
        "sources": [without_credentials(source) for source in config["data"]],
        "files": [
            (file["relative"], file.get("rows"), byte_size(file.get("size_bytes", 0))) for file in listed[:MOST_ROWS]
        ],
        "n_files": len(listed),
        "fingerprint": manifest.get("fingerprint"),
    }


def _options(config: dict[str, Any]) -> list[tuple[str, Any, bool]]:
    """Option, value and whether it was given, those that were given first."""
    options = []
    for name, field in TrainConfig.model_fields.items():
        value = config.get(name)
        if isinstance(value, list):
            value = [without_credentials(str(each)) for each in value]
        given = field.is_required() or config.get(name) != field.default
        hidden = isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("hidden")
        if hidden and not given:
            continue
        options.append((option_name(name).removeprefix("--"), value if value not in ([], None) else None, given))
    return sorted(options, key=lambda option: not option[2])


def _versions() -> dict[str, str]:
    versions = {"streamgd": version(), "Python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = installed_version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
