"""Whether a start goes on with the run that its directory holds: the same options, the same data, epochs left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamgd.config import TrainConfig, differing_options
from streamgd.data.source import Manifest, compare
from streamgd.errors import DataChangedError, OtherBlocksError, RunMismatchError
from streamgd.training.task import Task


def check_epochs_left(task: Task, saved: dict[str, Any], finished: bool, changes: str) -> None:
    """Refuse to go on with changed data where no epoch would be trained on them."""
    if task.method == "auto":
        return  # the passes to the optimum are those of the new data
    # An epoch that was begun on the old data counts as done.
    done = saved["epoch"] + (saved.get("position", 0) > 0)
    if finished:
        done = max(done, saved["asked_epochs"])
    if task.epochs <= done:
        stands = "is finished" if finished else "is in its last epoch"
        raise RunMismatchError(
            f"the data changed ({changes}), and the run {stands}: no epoch is left for them. Go on with more --epochs"
            f" than {done}, or train afresh with --restart."
        )


def check_epochs(task: Task, path: Path) -> None:
    """Refuse ``--epochs`` where a run began without them, to go to the optimum."""
    if task.method == "auto" and task.config.epochs is not None:
        raise RunMismatchError(
            f"{path} holds a run that began without --epochs: after one epoch of mini-batches it goes to the optimum"
            f" itself. Leave --epochs out, choose another --run, or start over with --restart."
        )


def check_blocks(task: Task, block_rows: int) -> None:
    """Refuse to go on within an epoch whose rows were in other blocks, as those of another version may be."""
    here = task.summary()["block_rows"]
    if task.method != "batch" and here != block_rows:
        raise OtherBlocksError(
            f"{task.config.run_dir} holds a run of another version of streamgd, in whose blocks were {block_rows:,}"
            f" rows; now they have {here:,}. End it with that version, or use --restart."
        )


def check_options(config: TrainConfig, stored: dict[str, Any], path: Path) -> None:
    """Refuse to go on with options that would give another model."""
    differing = differing_options(config.identity, stored["config"], config.identity)
    if differing:
        raise RunMismatchError(
            f"{path} holds a run with other options: {differing}. Choose another --run, or start over with --restart."
        )


def check_data(
    before: dict[str, Any], sources_before: list[str], manifest: Manifest, sources: list[str], config: TrainConfig,
    finished: bool, method: str,
) -> str:  # fmt: skip
    """Refuse to go on with other data than the run began with; with ``--accept-data-change`` say what changed."""
    changes = compare(before, manifest)
    if not changes:
        return ""
    told = [
        f"{what}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        for what, names in (("new", changes.added), ("gone", changes.removed), ("changed", changes.changed))
        if names
    ]
    listed = "; ".join(told)
    if config.accept_data_change:
        return listed
    skips = bool(before.get("skipped")) and config.on_bad_data != "skip"
    if changes.only_skipped and skips and not config.accept_data_change:
        groups = [
            relative if index is None else f"{relative}, row group {index}" for relative, index in before["skipped"]
        ]
        raise RunMismatchError(
            f"{config.run_dir} holds a run that skips what cannot be decoded ({'; '.join(groups[:5])}"
            f"{' …' if len(groups) > 5 else ''}). Go on with --on-bad-data skip, or use --restart."
        )
    wants_epochs = finished and method != "auto"
    way_on = "--accept-data-change and more --epochs" if wants_epochs else "--accept-data-change"
    if sources_before != sources:
        raise RunMismatchError(
            f"{config.run_dir} holds a run on other data ({listed}). Choose another --run, or use --restart."
        )
    if changes.added and not changes.removed and not changes.changed:
        state = "since the run finished" if finished else "since the run began"
        raise RunMismatchError(
            f"the data have new files {state} ({listed}). Train on all with --restart, or go on with {way_on}."
        )
    raise DataChangedError(
        f"the data are not those the run began with ({listed}). Put them back, use --restart, or go on from the next"
        f" epoch with {way_on}."
    )
