"""``show RUN``: how a run stands, what it learnt, and what could be gone back to."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamgd.console import format_facts, format_table, format_value
from streamgd.data.vocabulary import level_name
from streamgd.errors import ConfigError
from streamgd.inference import Errors, Inference
from streamgd.model import Model
from streamgd.relativities import relativities
from streamgd.state import no_other_content
from streamgd.training.certificate import Certificate
from streamgd.training.checkpoint import steps_of
from streamgd.training.path_points import NAMES as POINT_NAMES
from streamgd.training.rundir import STANDARD_INPUT, RunDirectory, is_final

MOST_COEFFICIENTS = 30
#: Relativities that are shown without --all.
MOST_RELATIVITIES = 60
MOST_HISTORY_LINES = 10
_LOSSES = ("base_loss", "train_loss", "holdout_loss", "objective")
_HISTORY_COLUMNS = (
    "epoch",
    "steps",
    "objective",
    "train_loss",
    "progressive_loss",
    "holdout_loss",
    "accepted",
    "gradient",
    "excess",
    "learning_rate",
    "seconds",
    "bottleneck",
)


def show(
    run_dir: str | Path, all_coefficients: bool = False, errors: Errors | None = None, level: float = 0.95
) -> dict[str, Any]:
    """What is known of a run, finished or not, as plain values.

    Parameters
    ----------
    run_dir : str or Path
    all_coefficients : bool
        Every coefficient, rather than the intercept and the 30 largest of the standardised features.
    errors, level
        See ``Model.coefficient_table``.

    Returns
    -------
    dict
        ``state`` is ``finished`` or ``unfinished``; ``stopped_by``, ``epochs``, ``steps`` and ``rows_seen`` come from
        the newest whole checkpoint, of a run on a stream from its model. ``theta_sha256``, ``model`` and
        ``coefficients`` are those of the model that predicts now; of an unfinished run that is none, or the one from
        before it went on. ``inference`` tells how the errors of the coefficients were made and how well the model fits;
        ``refused`` in it, why there are none.

    Raises
    ------
    NoInputError
        There is no run.
    ConfigError
        ``errors`` were asked for by name, and the run gave none.
    """
    directory = RunDirectory(Path(run_dir))
    stored = directory.require_config()
    config = stored["config"]
    latest = directory.checkpoints.latest()
    saved = latest.state if latest else {}
    model = Model.load(directory.model_path) if directory.model_path.exists() else None
    if config["data"] == STANDARD_INPUT:
        saved = _of_stream(model)
        finished = saved["stopped_by"] is not None
    elif latest is None and directory.checkpoints.damaged:
        finished = directory.model_without_checkpoints(stored["resolved"]["epochs"]) is not None
    else:
        finished = directory.model_of(latest.state if latest else None) is not None
    facts = {
        "run": str(run_dir),
        "state": "finished" if finished else "unfinished",
        "stopped_by": saved.get("stopped_by"),
        "epochs": saved.get("epoch", 0),
        "steps": steps_of(saved) or 0,
        "rows_seen": saved.get("rows_seen", 0),
        "theta_sha256": model.theta_sha256 if model else None,
        "data": config["data"],
        "target": config["target"],
        "method": stored["resolved"].get("method", config["method"]),
        "model": None,
        "inference": None,
        "base_levels": {},
        "non_negative": [],
        "at_bound": [],
        "n_coefficients": 0,
        "coefficients": [],
        "relativities": [],
        "history": directory.history(),
        "checkpoints": [
            {
                "file": info.path.name,
                "epoch": info.epoch,
                "steps": info.steps,
                "holdout_loss": info.holdout_loss,
                "size_bytes": info.size_bytes,
                "valid": info.valid,
                "problem": info.problem,
            }
            for info in directory.checkpoints.list()
        ],
    }
    return facts | model_facts(model, all_coefficients, errors, level) if model else facts


def _of_stream(model: Model | None) -> dict[str, Any]:
    """How far a stream was learned: its checkpoints are those of one part, and nothing goes on from them."""
    facts = model.facts if model else {}
    ended = "parts" in facts and is_final(facts.get("stopped_by"))
    return {
        "stopped_by": facts["stopped_by"] if ended else None,
        "epoch": facts.get("epochs", 0),
        "steps": facts.get("steps", 0),
        "rows_seen": facts.get("rows_seen", 0),
    }


def model_facts(
    model: Model, all_coefficients: bool, errors: Errors | None = None, level: float = 0.95
) -> dict[str, Any]:
    """What :func:`show` tells of the model itself."""
    """Coefficients in original units, the intercept first, then the largest of the standardised features."""
    inference = None if model.closing is None and errors is None else model.inference(errors, level)
    rows = model.rows_with(inference)
    features, intercepts = rows[: -model.n_outputs], rows[-model.n_outputs :]
    features.sort(key=lambda coefficient: -abs(coefficient["standardised"]))
    shown = features if all_coefficients else features[:MOST_COEFFICIENTS]
    return {
        "model": {"loss": model.loss_name, "classes": model.classes, **model.facts},
        "inference": _inference_facts(inference) if inference else {"refused": model.no_errors},
        "base_levels": model.base_levels(),
        "non_negative": list(model.encoding.columns.non_negative),
        "at_bound": [model.encoding.columns.numeric[row].name for row in model.encoding.at_bound(model.theta)],
        "n_coefficients": len(rows),
        "coefficients": [*intercepts, *shown],
        "relativities": relativities(model, errors, level) if model.loss.link_name == "log" else [],
    }


def _inference_facts(inference: Inference) -> dict[str, Any]:
    return {"errors": inference.errors, "level": inference.level, **asdict(inference.fit)}


def format_csv(rows: list[dict[str, Any]], names: Sequence[str] = ()) -> str:
    """Rows, as ``Model.coefficient_rows`` gives them, as CSV with a header; all digits of numbers, nulls empty.

    ``names`` are those of the header where there may be no row.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0] if rows else names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def format_show(facts: dict[str, Any]) -> str:
    """The text for people of what :func:`show` gives."""
    names = ("run", "state", "stopped_by", "epochs", "steps", "rows_seen", "data", "target", "method", "theta_sha256")
    parts = [format_facts({name: facts[name] for name in names})]
    if facts["model"]:
        parts += _model_parts(facts)
    elif facts["state"] == "unfinished":
        parts.append(f"no model yet. {way_on(facts)}")
    parts += _history_parts(facts["history"])
    parts.append("checkpoints\n" + _checkpoints(facts["checkpoints"]))
    return "\n\n".join(parts)


def _model_parts(facts: dict[str, Any]) -> list[str]:
    parts, n_shown = [], len(facts["coefficients"])
    losses = {name: facts["model"].get(name) for name in _LOSSES}
    if any(loss is not None for loss in losses.values()):
        parts.append(format_facts({name: loss for name, loss in losses.items() if loss is not None}))
    if facts["state"] == "unfinished":
        which = "--max-time ended the run" if facts["stopped_by"] else "the model is from before the run went on"
        if facts["data"] == STANDARD_INPUT:
            which = "the stream was not learned to its end, the model is that of the parts before"
        parts.append(f"{which}. {way_on(facts)}")
    elif _all_damaged(facts):
        parts.append("all checkpoints are damaged, the model is whole: more epochs would have to start over")
    if facts["model"].get("path"):
        with no_other_content(f"the model of {facts['run']}", "path"):
            parts.append(format_path(facts["model"]["path"]))
    if facts["model"].get("certificate"):
        with no_other_content(f"the model of {facts['run']}", "certificate"):
            certificate = Certificate.from_json(facts["model"]["certificate"])
            parts.append(f"certificate: {certificate.text(float(facts['model']['base_loss'] or 0.0))}")
    n_intercepts = sum(each["column"] == "(intercept)" for each in facts["coefficients"])
    n_features, n_largest = facts["n_coefficients"] - n_intercepts, n_shown - n_intercepts
    intercept = "the intercept" if n_intercepts == 1 else "the intercepts"
    of_all = f", {intercept} and the {n_largest} largest of {n_features:,} (--all)" if n_largest < n_features else ""
    parts.append(f"coefficients{of_all}\n{_coefficients(facts['coefficients'], facts['inference'])}")
    if facts["non_negative"]:
        parts.append(_bounds(facts["non_negative"], facts["at_bound"]))
    parts += _inference_parts(facts["coefficients"], facts["inference"])
    if facts["relativities"]:
        parts.append(_relativities(facts["relativities"], n_shown > n_features, facts["inference"].get("level")))
    if facts["base_levels"]:
        levels = {name: level_name(level) for name, level in facts["base_levels"].items()}
        parts.append("base levels, which have no coefficient\n" + format_facts(levels, indent="  "))
    return parts


def points_of_path(model: Model) -> list[dict[str, Any]]:
    """The points of the path of penalties that a model was chosen from, as plain values.

    Raises
    ------
    ConfigError
        The run followed none.
    """
    path = model.facts.get("path")
    if not path:
        raise ConfigError("the run followed no path of penalties. Train with --path N.")
    points: list[dict[str, Any]] = path["points"]
    return points


def format_path(path: dict[str, Any]) -> str:
    """The points of a path of penalties as a table; the one whose model was kept is marked."""
    names = [name for name in POINT_NAMES if name not in ("gradient", "stopped_by")]
    rows = [
        ["*" if number == path["chosen"] else "", *(point[name] for name in names)]
        for number, point in enumerate(path["points"])
    ]
    return "path of penalties; * has the least holdout loss\n" + format_table(
        ["", *(name.replace("_", " ") for name in names)], rows
    )


def way_on(facts: dict[str, Any]) -> str:
    """What to do about an unfinished run."""
    if facts["data"] == STANDARD_INPUT:
        return "A stream cannot be gone on with: begin anew with --restart"
    if _all_damaged(facts):
        return "All checkpoints are damaged: start over with streamgd train ... --restart"
    return f"Go on with: streamgd resume {facts['run']}"


def _all_damaged(facts: dict[str, Any]) -> bool:
    return bool(facts["checkpoints"]) and not any(each["valid"] for each in facts["checkpoints"])


def _coefficients(coefficients: list[dict[str, Any]], inference: dict[str, Any]) -> str:
    columns = {"name": "name", "class": "class", "value": "original units", "standardised": "standardised"}
    if "class" not in coefficients[0]:
        del columns["class"]
    if "refused" not in inference:
        tail = 50.0 * (1.0 - inference["level"])
        columns |= {"estimate": "estimate", "standard_error": "std error", "z": "z", "p_value": "p"}
        columns |= {"lower": f"{tail:g} %", "upper": f"{100.0 - tail:g} %"}
    rows = [[_rounded(name, c[name]) for name in columns] for c in coefficients]
    return format_table(list(columns.values()), rows)


def _bounds(non_negative: list[str], at_bound: list[str]) -> str:
    at = f"at the bound: {', '.join(at_bound)}" if at_bound else "none is at the bound"
    return f"held at 0 or above: {', '.join(non_negative)}; {at}"


def _relativities(rows: list[dict[str, Any]], everything: bool, level: float | None) -> str:
    """The factors of the prediction, with exposure and target of each level beside."""
    shown = rows if everything else rows[:MOST_RELATIVITIES]
    columns = {"name": "name", "relativity": "relativity"}
    if level is not None:
        tail = 50.0 * (1.0 - level)
        columns |= {"lower": f"{tail:g} %", "upper": f"{100.0 - tail:g} %", "exposure": "exposure", "actual": "actual"}
    table = format_table(list(columns.values()), [[row[name] for name in columns] for row in shown])
    of_all = f", the first {len(shown)} of {len(rows):,} (--all)" if len(shown) < len(rows) else ""
    return f"relativities: factors of the prediction, of a level against the base level{of_all}\n{table}"


def _rounded(name: str, value: Any) -> Any:
    """Errors and what is made of them with four digits."""
    return float(f"{value:.4g}") if name in ("standard_error", "z", "p_value") and value is not None else value


def _inference_parts(coefficients: list[dict[str, Any]], inference: dict[str, Any]) -> list[str]:
    """Why coefficients have no errors, and how well the model fits."""
    if "refused" in inference:
        return [f"no errors of the coefficients: {inference['refused']}"]
    without: dict[str, list[str]] = {}
    for each in coefficients:
        if each["reason"]:
            without.setdefault(each["reason"], []).append(each["name"])
    lines = [f"  {format_value(names)}: {reason}" for reason, names in without.items()]
    parts = ["\n".join(["without errors", *lines])] if lines else []
    facts = {name: value for name, value in inference.items() if name not in ("errors", "level")}
    return [*parts, f"fit, with {inference['errors']} errors\n" + format_facts(facts)]


def _history_parts(history: list[dict[str, Any]]) -> list[str]:
    """The last epochs or passes as a table, and below it what happened on the way."""
    parts = []
    epochs = [line for line in history if line.get("event") in ("epoch", "pass")]
    if epochs:
        shown = epochs[-MOST_HISTORY_LINES:]
        columns = [name for name in _HISTORY_COLUMNS if any(line.get(name) is not None for line in shown)]
        if all(line.get("accepted", True) for line in shown):
            columns = [name for name in columns if name != "accepted"]
        table = format_table(
            [name.replace("_", " ") for name in columns], [[line.get(name) for name in columns] for line in shown]
        )
        of_all = f", the last {len(shown)} of {len(epochs)}" if len(shown) < len(epochs) else ""
        parts.append(f"history{of_all}\n{table}")
    events = [f"{line['event']}: {line['text']}" for line in history if "text" in line]
    if events:
        parts.append("\n".join(["events", *events[-MOST_HISTORY_LINES:]]))
    return parts


def _checkpoints(checkpoints: list[dict[str, Any]]) -> str:
    if not checkpoints:
        return "none"
    rows = [
        [each["file"], each["epoch"], each["steps"], each["size_bytes"], "whole" if each["valid"] else each["problem"]]
        for each in checkpoints
    ]
    return format_table(["file", "epoch", "steps", "bytes", "state"], rows)
