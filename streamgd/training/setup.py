"""From a configuration to a task: the data found, columns and loss decided, order, sizes and optimizer resolved.

All that ``auto`` stands for is settled here, once, from manifest and configuration, and stored with the run; but for
method and optimizer: see ``training.task``.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from streamgd.config import TrainConfig
from streamgd.data.agreement import check_columns
from streamgd.data.blocks import RecordLayout
from streamgd.data.columns import Columns
from streamgd.data.encoder import RowChoice
from streamgd.data.entries import entries_layout
from streamgd.data.filters import parse_where
from streamgd.data.resolve import Resolved, resolve
from streamgd.data.source import Manifest
from streamgd.data.window import count_lanes
from streamgd.errors import ConfigError
from streamgd.limits import usable_cores
from streamgd.objective.losses import LOSSES
from streamgd.plain import byte_size
from streamgd.training.blocks_place import check_blocks_dir, check_blocks_max, free_for_blocks, needed_bytes
from streamgd.training.memory import beyond_limit, check_room, plan_memory
from streamgd.training.method import check_tolerances, why_minibatch
from streamgd.training.task import DEFAULT_EPOCHS, DEFAULT_PASSES, Task
from streamgd.training.warm_start import model_to_start_from

#: Curvature of the penalty, of the mean loss where the target has a spread of 1, that shrinks no coefficient by much.
SMALL = 1e-3


def make_task(
    config: TrainConfig,
    manifest: Manifest,
    validation: Manifest | None,
    stored: dict[str, Any] | None = None,
    resolved: Resolved | None = None,
) -> Task:
    """Resolve everything that ``auto`` stands for.

    Parameters
    ----------
    validation : Manifest or None
        The data of ``--validation``.
    stored : dict, optional
        The ``summary`` of when the run began: its order and method stay, whatever the disk and options are now.
    resolved : Resolved, optional
        What the columns are, where that was decided before.
    """
    check_blocks_dir(config)
    where = parse_where(config.where, manifest.schema) if config.where else None
    is_new = stored is None and resolved is None
    resolved = resolved or resolve(manifest, config, where)
    if config.class_weight != "none" and not LOSSES[resolved.loss].is_classifier:
        raise ConfigError(f"--class-weight is for classes, the loss is {resolved.loss}. Leave it out.")
    if config.offset is not None and LOSSES[resolved.loss].has_many_outputs:
        raise ConfigError(
            f"--offset {config.offset}: added to the raw predictions of all classes, it changes no probability of the"
            f" {resolved.loss} loss. Leave it out."
        )
    if config.from_ is not None and is_new:
        model_to_start_from(config.from_, resolved)  # a mistake is told before there is a run
    pa.default_memory_pool().release_unused()  # what the sample took
    columns = resolved.columns
    if validation is not None:
        check_columns(columns, validation)
        validation.check_same(where.columns if where is not None else ())
    layout = RecordLayout(
        len(columns.numeric), len(columns.categorical), config.dtype,
        columns.weight is not None or config.class_weight != "none", columns.has_offset,
        config.row_log is not None, entries_layout(manifest, columns),
    )  # fmt: skip
    order, notes = (stored["order"], []) if stored else _order(config, manifest, resolved, layout)
    method, why = _method(config, order, columns, stored)
    if order == "full":
        check_blocks_max(config, manifest, layout)
    if config.batch_size > layout.block_rows and order != "full":
        raise ConfigError(
            f"--batch-size {config.batch_size}: a block of these {layout.record_bytes}-byte rows has"
            f" {layout.block_rows} rows. Choose at most that."
        )
    batch = method == "batch"
    optimizer = config.optimizer
    if optimizer == "auto" and batch:
        # Which one is decided by the number of coefficients, known when every row has been seen.
        optimizer = "auto" if config.learning_rate == "auto" else "plain"
    elif optimizer == "auto":
        optimizer = "plain" if method == "sgd" else "adagrad"
    if optimizer == "normal" and resolved.loss != "squared":
        raise ConfigError(f"--optimizer normal solves the squared loss alone, this is {resolved.loss}. Choose newton.")
    n_outputs = columns.target.n_outputs if columns.target is not None else 1
    read = list(dict.fromkeys([*columns.sources, *(where.columns if where else ())]))
    lanes = count_lanes(manifest, read) if order == "window" else 0
    if not batch and order != "full":
        check_room(config.memory, columns, n_outputs)
    return Task(
        config=config,
        manifest=manifest,
        validation=validation,
        resolved=resolved,
        layout=layout,
        choice=RowChoice(config.seed, where, config.sample, config.holdout),
        order=order,
        method=method,
        why_minibatch=why,
        optimizer=optimizer,
        schedule="constant" if config.schedule == "auto" else config.schedule,
        averaging=not batch and (config.average == "on" or (config.average == "auto" and config.l1 == 0.0)),
        epochs=1 if method == "auto" else config.epochs or (DEFAULT_PASSES if batch else DEFAULT_EPOCHS),
        lanes=lanes,
        memory=plan_memory(
            config.memory,
            manifest,
            read,
            layout,
            1 if config.on_workers else config.threads or usable_cores(),
            lanes or int(order == "none" and not batch),
            config.hash_buckets * sum(column.hashed for column in columns.categorical) * n_outputs,
            batch,
            config.on_workers,
            sum(column.at is not None for column in columns.numeric),
        ),
        notes=(
            *resolved.warnings,
            *_large_penalty(config, resolved),
            *notes,
            *beyond_limit(config.memory, 1 if config.cluster else config.workers or 1),
        ),
    )


def _large_penalty(config: TrainConfig, resolved: Resolved) -> list[str]:
    """A line where the default of l2 would shrink coefficients: the loss follows the target, and not its square."""
    l2, spread = config.l2, resolved.target_units[1]
    if resolved.loss != "quantile" or l2 != TrainConfig.model_fields["l2"].default or l2 * spread <= SMALL:
        return []
    return [
        f"--l2 {l2:g}, the default, is not small for this target, whose spread is {spread:.3g}: the quantile loss grows"
        f" with the target, the penalty with its square. Choose --l2 {l2 / spread:.1g}, or another one."
    ]


def _order(config: TrainConfig, manifest: Manifest, resolved: Resolved, layout: RecordLayout) -> tuple[str, list[str]]:
    """The order of rows, and a line about it where space decides."""
    if config.method == "batch":
        return "none", []
    if config.shuffle != "auto":
        return config.shuffle, []
    needed, free = needed_bytes(manifest, layout, config), free_for_blocks(config, manifest, resolved, layout)
    if needed <= config.blocks_max and needed <= 0.9 * free:
        return "full", []
    if needed > config.blocks_max:
        why, way_on = f"--blocks-max is {byte_size(config.blocks_max)}", "--blocks-max SIZE allows more"
    else:
        why = f"{byte_size(free)} are free in {config.blocks_dir or config.run_dir}"
        way_on = "--blocks-dir DIR puts them elsewhere"
    return "window", [
        f"order: window, since shuffling over the whole data needs {byte_size(needed)} of blocks and {why}; {way_on}."
    ]


def _method(config: TrainConfig, order: str, columns: Columns, stored: dict[str, Any] | None) -> tuple[str, str | None]:
    """The method as far as it is known by now, and why it is mini-batches where it might be more."""
    if config.method != "auto":
        return config.method, None
    if stored:
        why = None if stored["method"] == "auto" else "so the run began"
    else:
        n_columns = len(columns.numeric) + len(columns.categorical)
        why = why_minibatch(config, order, n_columns, len(columns.sparse))
    if why is None:
        return "auto", None
    check_tolerances(config, why)
    return "minibatch", why
