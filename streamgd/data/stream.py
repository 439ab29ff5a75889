"""Slices decoded and encoded one after another, front to back: what every pass over the data is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamgd.data.encoder import EncodedRows, Encoder, Origin, Survey
from streamgd.data.reader import read_batches
from streamgd.data.source import Manifest, RowGroup
from streamgd.stopwatch import Stopwatch


@dataclass(frozen=True)
class EncodedSlice:
    """A slice as records, and what was found in it."""

    origin: Origin
    records: np.ndarray
    rows: EncodedRows

    def front(self, rows: int) -> EncodedSlice:
        """A copy of the first ``rows`` training rows; their survey is that of the whole slice."""
        found = self.rows
        first = np.flatnonzero(found.kept & ~found.holdout)[:rows]
        kept = EncodedRows(found.kept[first], found.holdout[first], found.has_null[first], found.survey)
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
