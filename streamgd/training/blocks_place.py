"""The blocks of a run: what they are made from, the space they need, and the folder they are in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamgd.config import TrainConfig, identity_fields
from streamgd.data.blocks import RecordLayout
from streamgd.data.entries_store import entries_bytes
from streamgd.data.prepare import block_plan, bundle_plan
from streamgd.data.resolve import Resolved
from streamgd.data.source import Manifest
from streamgd.data.store import WAY_OUT, free_bytes, written_bytes
from streamgd.errors import ConfigError, storage_errors
from streamgd.plain import byte_size

#: Identity options that decide no bit of the blocks, or by what they resolve to.
NOT_OF_BLOCKS = {
    "data", "validation", "loss", "l1", "l2", "method", "optimizer", "learning_rate", "schedule", "average", "init",
    "shuffle", "from_", "non_negative", "path", "path_to", "l1_ratio",
}  # fmt: skip


def blocks_dir(config: TrainConfig) -> Path:
    """See ``Task.blocks_dir``: under ``--blocks-dir`` in a folder named after the run."""
    if config.blocks_dir is None:
        return config.run_dir / "blocks"
    run = hashlib.sha256(str(config.run_dir.resolve()).encode()).hexdigest()[:12]
    return Path(config.blocks_dir) / f"streamgd-{run}"


def check_blocks_dir(config: TrainConfig) -> None:
    """Refuse a ``--blocks-dir`` that is a file or a link that leads nowhere, or lies below one."""
    if config.blocks_dir is None:
        return
    path = Path(config.blocks_dir)
    with storage_errors(f"look at --blocks-dir {path}"):
        there = next(each for each in (path, *path.parents) if each.exists() or each.is_symlink())
    if not there.is_dir():
        raise ConfigError(f"--blocks-dir {config.blocks_dir}: {there} is not a directory. Name one.")


def common_blocks_dir(config: TrainConfig, key: str) -> Path | None:
    return Path(config.blocks_dir) / f"streamgd-{key[:16]}" if config.blocks_dir else None


def blocks_key(config: TrainConfig, manifest: Manifest, resolved: Resolved, layout: RecordLayout) -> str:
    """See ``Task.blocks_key``."""
    names = [name for name in identity_fields() if name not in NOT_OF_BLOCKS]
    resolved = replace(resolved, columns=replace(resolved.columns, non_negative=()))
    # Exact zeros want the base levels left out: see ``StochasticSession``.
    return digest(config, names, manifest, resolved, layout, resolved.loss, config.l1 > 0)


def digest(
    config: TrainConfig, names: list[str], manifest: Manifest, resolved: Resolved, layout: RecordLayout, *more: Any
) -> str:
    """Of the data, the options ``names``, what they resolve to, and ``more``."""
    options = config.model_dump(mode="json")
    parts: list[Any] = [manifest.fingerprint, [options[name] for name in names]]
    parts += [resolved.columns.to_json(), repr(layout), resolved.shift.tolist(), resolved.scale.tolist(), *more]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def blocks_bytes(manifest: Manifest, layout: RecordLayout, config: TrainConfig) -> int:
    n_blocks, places = block_plan(manifest.n_rows, layout, config.batch_size)
    _, n_regions = bundle_plan(n_blocks, places, layout)
    return n_regions * places * layout.record_bytes + entries_bytes(layout, n_blocks, manifest.n_rows)


def needed_bytes(manifest: Manifest, layout: RecordLayout, config: TrainConfig) -> int:
    return int(blocks_bytes(manifest, layout, config) * config.sample)


def free_for_blocks(config: TrainConfig, manifest: Manifest, resolved: Resolved, layout: RecordLayout) -> int:
    """Free bytes where the blocks will lie; blocks of an earlier start, or kept for all, count as free."""
    common = common_blocks_dir(config, blocks_key(config, manifest, resolved, layout))
    there = written_bytes(blocks_dir(config)) + (written_bytes(common) if common else 0)
    return free_bytes(blocks_dir(config)) + there


def lack_of_space(config: TrainConfig, manifest: Manifest, resolved: Resolved, layout: RecordLayout) -> list[str]:
    """A line where a new run that shuffles over the whole data would find too little space for its blocks."""
    needed, free = needed_bytes(manifest, layout, config), free_for_blocks(config, manifest, resolved, layout)
    if needed <= free:
        return []
    return [f"the blocks may need {byte_size(needed)} in {blocks_dir(config)}, {byte_size(free)} are free. {WAY_OUT}"]


def check_blocks_max(config: TrainConfig, manifest: Manifest, layout: RecordLayout) -> None:
    needed = needed_bytes(manifest, layout, config)
    if needed > config.blocks_max:
        raise ConfigError(
            f"--blocks-max {byte_size(config.blocks_max)} is too small: the blocks need {byte_size(needed)}. Raise it,"
            f" or begin a run with --shuffle window, which needs none."
        )
