"""Slices decoded and encoded one after another, front to back: what every pass over the data is made of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from streamgd.data.ahead import in_order
from streamgd.data.encoder import EncodedRows, Encoder, Origin
from streamgd.data.reader import read_batches
from streamgd.data.source import Manifest, RowGroup, check_identity
from streamgd.data.survey import Survey
from streamgd.limits import usable_cores
from streamgd.stopwatch import Stopwatch

Item = TypeVar("Item")


@dataclass(frozen=True)
class EncodedSlice:
    """A slice as records, and what was found in it."""

    origin: Origin
    records: np.ndarray
    rows: EncodedRows

    def front(self, rows: int) -> EncodedSlice:
        """A copy of the first ``rows`` training rows, without a survey, which has a count for each level met."""
        found = self.rows
        first = np.flatnonzero(found.kept & ~found.holdout)[:rows]
        entries = None
        if found.entries is not None:
            is_first = np.zeros(len(found.kept), np.bool_)
            is_first[first] = True
            entries = found.entries.chosen(is_first)
        survey = Survey.empty(len(found.survey.moments.mean), len(found.survey.level_counts))
        kept = EncodedRows(found.kept[first], found.holdout[first], found.has_null[first], survey, entries=entries)
        return EncodedSlice(self.origin, self.records[first], kept)


def origin_of(manifest: Manifest, row_group: RowGroup, start: int) -> Origin:
    """The origin of the rows from ``start`` on in a row group."""
    file = manifest.files[row_group.file_index]
    first = row_group.first_row + start
    return Origin(file.relative, row_group.index, first, first - file.first_row, start)


def can_hold_rows(manifest: Manifest, row_group: RowGroup, encoder: Encoder) -> bool:
    """Whether the footer's statistics leave a chance that ``--where`` keeps a row of the row group."""
    where = encoder.choice.where
    if where is None or encoder.every_row:
        return True
    return where.may_hold(manifest, row_group.file_index, row_group.index)


def passed_over(manifest: Manifest, row_group: RowGroup, encoder: Encoder, rows: int) -> EncodedSlice:
    """A slice without rows that counts ``rows`` of a row group which ``--where`` rules out."""
    survey = Survey.empty(len(encoder.shift0), len(encoder.vocabularies))
    survey.dropped["where"] = rows
    none = np.empty(0, np.bool_)
    origin = origin_of(manifest, row_group, 0)
    return EncodedSlice(origin, encoder.layout.new_records(0), EncodedRows(none, none, none, survey))


def encoded_slices(
    manifest: Manifest, row_group: RowGroup, encoder: Encoder, slice_rows: int, stopwatch: Stopwatch
) -> Iterator[EncodedSlice]:
    """The slices of one row group, in order; one without rows if ``--where`` rules the row group out."""
    if not can_hold_rows(manifest, row_group, encoder):
        yield passed_over(manifest, row_group, encoder, row_group.rows)
        return
    start = 0
    batches = read_batches(manifest, row_group, encoder.read_columns, encoder.dictionary_columns, slice_rows)
    for batch in stopwatch.timed_items("decode", batches):
        records = encoder.layout.new_records(batch.num_rows)
        origin = origin_of(manifest, row_group, start)
        with stopwatch.timed("encode"):
            rows = encoder.encode(batch, origin, encoder.layout.places(records))
        yield EncodedSlice(origin, records, rows)
        start += batch.num_rows


def one_pass(
    manifest: Manifest, row_groups: Sequence[RowGroup], work: Callable[[RowGroup], Iterator[Item]],
    threads: int | None, check: Callable[[], None],
) -> Generator[tuple[RowGroup, Item], None, None]:  # fmt: skip
    """What ``work`` gives of each row group, in order. To be closed where it may be left early.

    Parameters
    ----------
    row_groups : sequence of RowGroup
        At least one; those of a file stand together.
    work : callable
        Gives the items of a row group; runs on a thread.
    threads : int or None
        One for each core if not given.
    check : callable
        Called before each item is handed on; raises to stop.

    Raises
    ------
    DataChangedError
        A file is another one when its last row group was read.
    """
    last_file = row_groups[0].file_index
    with closing(in_order(row_groups, work, max(1, min(threads or usable_cores(), len(row_groups))))) as items:
        for row_group, item in items:
            check()
            if row_group.file_index != last_file:
                check_identity(manifest, last_file)
                last_file = row_group.file_index
            yield row_group, item
    check_identity(manifest, last_file)
