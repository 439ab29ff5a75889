"""Blocks go to free regions only: whatever is interrupted, records that are still needed are there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import LAYOUT, encoding_of, growing_encoder

from streamgd.data import finalise, prepare
from streamgd.data.finalise import BlockFinisher
from streamgd.data.prepare import Preparation, bundle_plan
from streamgd.data.store import BlockStore
from streamgd.data.survey import Survey
from streamgd.errors import StreamgdError
from streamgd.stopwatch import Stopwatch

PLACES = 10


class StoppedError(StreamgdError):
    """The process is gone before something was noted."""


class Finisher(BlockFinisher):
    """Writes nothing, but looks whether it would be written over records of blocks that are not noted as finished."""

    def __init__(self, rows: np.ndarray, bundle_blocks: int, noted: dict[str, np.ndarray]):
        store: Any = SimpleNamespace(places=PLACES, bundle_blocks=bundle_blocks, entries=None)
        store.release_records = lambda _: None
        encoder: Any = SimpleNamespace(layout=None, vocabularies=None)
        super().__init__(store, encoder, mock.Mock(), rows)
        self.noted, self.in_use = noted, []  # type: ignore[var-annotated]

    def _sort(self, number: int) -> Any:
        """There are no records."""

    def write(self, index: int, region: int) -> tuple[int, int]:
        done = len(self.noted["regions"])
        needed = {block // self._store.bundle_blocks for group in self.groups[done:] for block in group}
        if region in {each for bundle in needed for each in self._blocks_of(bundle)} | set(self.noted["regions"]):
            self.in_use.append((index, region))
        self._let_go(index)
        return 0, int(self._scattered[self.groups[index]].sum())


def preparation_with(finisher: Finisher, threads: int) -> Any:
    preparation: Any = Preparation.__new__(Preparation)
    preparation._stopwatch, preparation._store = Stopwatch(), finisher._store
    preparation._progress, preparation._check = lambda *_: None, lambda: None
    preparation._threads = threads
    return preparation


@settings(max_examples=300)
@given(
    rows=st.lists(st.one_of(st.integers(0, PLACES), st.just(PLACES), st.integers(0, 2)), min_size=1, max_size=80),
    most_bundles=st.sampled_from([1, 2, 5, 20, 100]), spare=st.integers(1, 8), threads=st.integers(1, 3),
    stops=st.lists(st.integers(1, 4), max_size=8),
)  # fmt: skip
def test_no_block_is_written_over_records_that_are_needed(
    rows: list[int], most_bundles: int, spare: int, threads: int, stops: list[int]
) -> None:
    n_blocks, nothing = len(rows), np.empty(0, np.int64)
    with (
        mock.patch.object(prepare, "SPARE_REGIONS", spare), mock.patch.object(prepare, "MOST_BUNDLES", most_bundles),
        mock.patch.object(finalise, "Finisher"),
    ):  # fmt: skip
        bundle_blocks, n_regions = bundle_plan(n_blocks, PLACES, LAYOUT)
        noted = {
            "regions": nothing, "free": np.arange(n_blocks, n_regions), "train_rows": nothing, "rows": nothing,
            "scattered": np.array(rows),
        }  # fmt: skip
        for stop in [*stops, 1_000]:
            finisher, left = Finisher(np.array(rows), bundle_blocks, noted), stop
            preparation = preparation_with(finisher, threads)

            def note(finished: dict[str, Any]) -> None:
                nonlocal left
                left -= 1
                if not left:
                    raise StoppedError
                if "phase" not in finished:
                    assert len(finished["regions"]) > len(noted["regions"])  # else it would go on for ever
                    noted.update(finished)

            preparation._write_finished = note
            try:
                found = preparation._finalise(dict(noted), finisher)
            except StoppedError:
                pass
            else:
                assert found["rows"].sum() == sum(rows)
                assert len(set(found["regions"].tolist())) == len(finisher.groups)
            assert not finisher.in_use


@pytest.mark.parametrize(("n_blocks", "rows_each"), [(100, PLACES), (100, PLACES // 2), (600, PLACES), (600, 3)])
@pytest.mark.parametrize("finished_s", [0.0, 60.0])
def test_starts_that_are_stopped_at_once_come_to_the_end(
    n_blocks: int, rows_each: int, finished_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "NOTE_FINISHED_S", finished_s)
    monkeypatch.setattr(finalise, "Finisher", mock.Mock())
    rows, nothing = np.full(n_blocks, rows_each), np.empty(0, np.int64)
    bundle_blocks, n_regions = bundle_plan(n_blocks, PLACES, LAYOUT)
    noted = {
        "regions": nothing, "free": np.arange(n_blocks, n_regions), "train_rows": nothing, "rows": nothing,
        "scattered": rows,
    }  # fmt: skip

    def stop() -> None:
        raise StoppedError

    finished = [0]
    for _ in range(n_blocks):
        finisher = Finisher(rows, bundle_blocks, noted)
        preparation = preparation_with(finisher, 2)
        preparation._write_finished, preparation._check = noted.update, stop
        try:
            preparation._finalise(dict(noted), finisher)
        except StoppedError:
            finished.append(len(noted["regions"]))
        else:
            break
    assert noted["phase"] == "done"
    assert len(finished) > 3
    assert min(np.diff(finished), default=1) > 0


def test_a_bundle_that_nobody_reads_any_more_is_not_sorted(tmp_path: Path) -> None:
    """A thread that was to sort it ahead may come so late that finished blocks are in its place."""
    store = BlockStore(tmp_path, LAYOUT, PLACES, 6, bundle_blocks=2)
    store.create(store.needed_bytes)
    encoder = growing_encoder()
    encoding = encoding_of(Survey.empty(len(encoder.shift0), len(encoder.vocabularies)), encoder.vocabularies)
    records = np.zeros((2 * PLACES, LAYOUT.record_words), np.uint64)
    records.view(np.int32)[:, LAYOUT.slot_position] = np.arange(2 * PLACES)[::-1]
    for bundle in (0, 1):
        store.write_records(bundle, 0, records)
    finisher = BlockFinisher(store, encoder, encoding, np.full(4, PLACES))
    finisher.sort_ahead(2)
    assert finisher._bundles[1].records is not None
    for index, region in ((0, 4), (1, 5), (2, 0), (3, 1)):
        finisher.write(index, region)

    with mock.patch.object(store, "records", side_effect=AssertionError):
        finisher.sort_ahead(2)
