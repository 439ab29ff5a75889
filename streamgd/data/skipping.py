"""``--on-bad-data skip``: the data set without the row groups that cannot be decoded.

Files whose footer cannot be read are passed over before, by ``discover``.

Every row group is decoded once before anything is decided from the data, so that the order, the sample and the result
depend on which row groups are bad and not on when that is found. Rows keep their numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from streamgd.config import TrainConfig
from streamgd.data.filters import parse_where
from streamgd.data.kinds import kind_of
from streamgd.data.reader import read_batches
from streamgd.data.source import Manifest, RowGroup, Skipped
from streamgd.errors import CorruptFileError
from streamgd.limits import usable_cores

_BATCH_ROWS = 65_536


def without_bad_row_groups(
    manifest: Manifest, columns: list[str], check: Callable[[], None], threads: int | None = None
) -> Manifest:
    """The manifest without the row groups of which one of ``columns`` cannot be decoded; they are in its ``skipped``.

    Parameters
    ----------
    check : callable
        Called between batches; raises to stop.

    Raises
    ------
    CorruptFileError
        No row group can be decoded.
    """
    text = [name for name in columns if kind_of(manifest.schema.field(name).type) == "text"]

    def problem(row_group: RowGroup) -> str | None:
        try:
            for _ in read_batches(manifest, row_group, columns, text, _BATCH_ROWS):
                check()
        except CorruptFileError as error:
            return error.problem
        return None

    pool = ThreadPoolExecutor(threads or usable_cores())
    try:
        problems = list(pool.map(problem, manifest.row_groups))
    finally:
        pool.shutdown(cancel_futures=True)
    bad = [(group, why) for group, why in zip(manifest.row_groups, problems, strict=True) if why is not None]
    if not bad:
        return manifest
    if len(bad) == len(manifest.row_groups):
        raise CorruptFileError(f"no row group can be decoded, the first since {bad[0][1]}")
    skipped = manifest.skipped + tuple(
        Skipped(manifest.files[group.file_index].relative, group.index, group.rows, why) for group, why in bad
    )
    left = tuple(group for group, why in zip(manifest.row_groups, problems, strict=True) if why is None)
    parts = repr((manifest.fingerprint, [(each.relative, each.index) for each in skipped]))
    fingerprint = hashlib.sha256(parts.encode()).hexdigest()
    return replace(manifest, row_groups=left, skipped=skipped, fingerprint=fingerprint)


def columns_in_use(manifest: Manifest, config: TrainConfig) -> list[str]:
    """The columns that training may read; names that do not exist are told of later, with advice."""
    names = set(manifest.schema.names) - set(config.exclude)
    if config.features is not None:
        names &= set(config.features)
    names |= {*config.crossed}
    names |= {name for name in (config.target, config.weight, config.offset, config.exposure) if name}
    if config.where:
        names |= set(parse_where(config.where, manifest.schema).columns)
    return [field.name for field in manifest.schema if field.name in names and kind_of(field.type) != "other"]
