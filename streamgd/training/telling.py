"""What is told of a task before it begins."""

from __future__ import annotations

from pathlib import Path

from streamgd.plain import byte_size, count_noun
from streamgd.training.display import Display
from streamgd.training.task import Task


def tell(task: Task, display: Display) -> None:
    """Print what was resolved."""
    config, manifest = task.config, task.manifest
    display.message(
        f"data: {count_noun(manifest.n_rows, 'row')} in {count_noun(len(manifest.row_groups), 'row group')}"
        f" of {count_noun(len(manifest.files), 'file')}"
    )
    for name, text in task.resolved.became.items():
        display.message(f"  {name}: {text}")
    for name, reason in task.resolved.left_out:
        display.message(f"  {name}: left out, {reason}")
    loss = task.loss
    settings = ", ".join(f"{name} = {value:.6g}" for name, value in loss.named_settings.items())
    l1, l2 = f"{config.l1:g}", f"{config.l2:g}"
    if config.path is not None:
        l1, l2 = f"{config.l1_ratio:g} lambda", f"({l2} + {1.0 - config.l1_ratio:g} lambda)"
    display.message(
        f"objective: J = mean of w * loss + {l2}/2 |beta|^2 + {l1} |beta|_1,"
        f" {loss.name} loss {loss.formula}{', ' * bool(settings)}{settings}"
    )
    if task.resolved.columns.non_negative:
        display.message(f"bounds: coefficients >= 0 of {', '.join(task.resolved.columns.non_negative)}")
    if config.path is not None:
        display.message(f"path: {config.path} penalties lambda, the last {config.path_to:g} of the first")
    order = {
        "full": f"shuffled over the whole data, blocks of {byte_size(task.blocks_bytes)} in {blocks_place(task)}",
        "window": f"windows over {count_noun(task.lanes, 'row group')}, nothing kept on disk",
        "none": "as in the files",
    }[task.order]
    display.message(f"order: {order}")
    why = f" (auto: {task.why_minibatch})" if task.why_minibatch else ""
    display.message(f"method: {task.method}{why}, {passes(task)}, memory {config.memory / 1e6:.0f} MB")
    for note in task.notes:
        display.warn(note)
    if config.keep_blocks and task.order != "full":
        why = "--method batch makes its own anew" if task.method == "batch" else f"--shuffle {task.order} has none"
        # No note of the task: what is kept on a machine is no part of the result.
        display.warn(f"--keep-blocks keeps nothing here: the blocks are those of --shuffle full, {why}.")


def blocks_place(task: Task) -> Path:
    """Where the blocks are made; in which folder of it, is seen when that is locked."""
    return Path(task.config.blocks_dir or task.blocks_dir)


def passes(task: Task) -> str:
    """How, and how often, the rows are gone through."""
    average = ", averaged iterate" if task.averaging else ""
    if task.method == "auto":
        return f"an epoch of minibatch, {task.optimizer}{average}, then passes of newton to the optimum"
    unit = "pass" if task.method == "batch" else "epoch"
    each = " for each penalty" if task.config.path is not None else ""
    return f"{task.optimizer}{average}, at most {count_noun(task.epochs, unit)}{each}"
