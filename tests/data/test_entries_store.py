"""Entries on disk: pages of each block, finished blocks, and what a damaged or full disk says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgd import state as states
from streamgd.data import entries_store
from streamgd.data.blocks import Entries, EntriesLayout, RecordLayout
from streamgd.data.entries_store import EntriesStore
from streamgd.errors import StorageError


def layout(has_values: bool) -> RecordLayout:
    return RecordLayout(1, 0, "float32", False, False, False, EntriesLayout(3.0, has_values))


def new_store(folder: Path, has_values: bool = True, n_blocks: int = 3) -> EntriesStore:
    store = EntriesStore(folder, layout(has_values), n_blocks, n_rows=400)
    folder.mkdir(exist_ok=True, parents=True)
    store.create("No space.", reserve=False)
    return store


def waiting(first: int, count: int, words: int) -> np.ndarray:
    return np.arange(first, first + count * words, dtype=np.uint64).reshape(count, words)


@pytest.mark.parametrize("has_values", [False, True])
@settings(max_examples=20)
@given(appends=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), max_size=12), noted=st.integers(0, 12))
def test_entries_wait_in_the_order_they_came_and_go_on_from_the_note(
    tmp_path_factory: pytest.TempPathFactory, has_values: bool, appends: list[tuple[int, int]], noted: int
) -> None:
    folder, words = tmp_path_factory.mktemp("entries"), 1 + has_values
    pages = entries_store.PAGE_BYTES
    entries_store.PAGE_BYTES = 64
    try:
        store, note = new_store(folder, has_values), None
        expected: list[list[np.ndarray]] = [[], [], []]
        for number, (block, count) in enumerate(appends):
            if number == noted:
                note = store.state()
            entries = waiting(1_000 * number, count, words)
            store.append(block, entries)
            expected[block].append(entries)
        if note is not None:
            store.close()
            store = EntriesStore(folder, layout(has_values), 3, 400)
            assert store.take_up(note)
            store.open("No space.")
            for number, (block, count) in list(enumerate(appends))[noted:]:
                store.append(block, waiting(1_000 * number, count, words))
        for block, found in enumerate(expected):
            np.testing.assert_array_equal(store.waiting(block), np.concatenate([np.empty((0, words)), *found]))
        store.close()
    finally:
        entries_store.PAGE_BYTES = pages


@pytest.mark.parametrize("has_values", [False, True])
def test_finished_blocks_are_mapped_as_they_were_written(tmp_path: Path, has_values: bool) -> None:
    store = new_store(tmp_path, has_values)
    written = []
    for block, count in enumerate((5, 0, 7)):
        store.append(block, waiting(0, count, 1 + has_values))
    store.begin_finished([4, 2, 3], [[0], [1], [2]])
    for index, (rows, count) in enumerate(((4, 5), (2, 0), (3, 6))):  # one was of a key that nothing has
        starts = np.linspace(0, count, rows + 1).astype(np.int64)
        values = np.arange(count * has_values, dtype=np.float32)
        written.append((rows, Entries(starts, np.arange(count, dtype=np.int32), values)))
        store.write(index, written[-1][1])
    store.end_waiting()
    note = store.state()
    store.remove_waiting()
    store.close()
    again = EntriesStore(tmp_path, layout(has_values), 3, 400)
    assert again.take_up(note)
    again.open("")
    for index, (rows, entries) in enumerate(written):
        for found, array in zip(again.block(index, rows).arrays(), entries.arrays(), strict=True):
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["sparse.bin"]
    os.truncate(tmp_path / "sparse.bin", again.finished_bytes - 1)
    assert not EntriesStore(tmp_path, layout(has_values), 3, 400).take_up(note)


def test_a_file_that_was_cut_short_is_told_of(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.append(0, waiting(0, 10, 2))
    os.truncate(tmp_path / "entries-0.bin", 0)
    with pytest.raises(StorageError, match=r"entries-0\.bin is shorter than it was written"):
        store.waiting(0)


def test_a_full_disk_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states.files, "write_at", full)
    with pytest.raises(StorageError, match=r"entries-0\.bin.* No space\."):
        store.append(0, waiting(0, 10, 2))
