"""The blocks on disk: what is written to a region is read back, notes are trusted only when they fit."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamgd.data import store as module
from streamgd.data import store as stores
from streamgd.data.blocks import RecordLayout
from streamgd.data.mapped import PAGE_BYTES
from streamgd.data.store import BlockStore, free_bytes, remove_blocks
from streamgd.errors import StorageError
from streamgd.stopwatch import Stopwatch

LAYOUT = RecordLayout(3, 2, "float32", True, False, True)


def a_store(folder: Path, places: int = 50, n_regions: int = 4) -> BlockStore:
    store = BlockStore(folder, LAYOUT, places, n_regions)
    store.create(0)
    return store


def test_regions_are_whole_pages_that_hold_records_and_blocks(tmp_path: Path) -> None:
    for places in (1, 50, 12_345):
        store = BlockStore(tmp_path, LAYOUT, places, 4)
        assert store.region_bytes % PAGE_BYTES == 0
        assert store.region_bytes >= max(places * LAYOUT.record_bytes, LAYOUT.block_bytes(places))
        assert store.total_bytes == 4 * store.region_bytes


def test_records_are_read_as_they_were_appended(tmp_path: Path) -> None:
    store = a_store(tmp_path, n_regions=19)
    records = np.random.default_rng(0).integers(0, 2**63, (50, LAYOUT.record_words)).astype(np.uint64)
    for start, stop in ((0, 20), (20, 21), (21, 50)):
        store.write(10, start * LAYOUT.record_bytes, records[start:stop])

    np.testing.assert_array_equal(store.records(10, 50), records)
    np.testing.assert_array_equal(store.records(10, 7), records[:7])
    for other in (2, 9, 11, 18):
        assert not store.records(other, 50).any()


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_a_block_is_mapped_as_it_was_written(tmp_path: Path, rows: int) -> None:
    store = a_store(tmp_path)
    buffer = np.random.default_rng(1).integers(0, 255, LAYOUT.block_bytes(rows)).astype(np.uint8)
    store.write(3, 0, buffer)
    block, expected = store.block(3, rows), LAYOUT.views(buffer, rows)

    for array, other in zip(block.arrays(), expected.arrays(), strict=True):
        assert array.tobytes() == other.tobytes()
    store.release(3)
    assert store.block(3, rows).target.tobytes() == expected.target.tobytes()


def test_blocks_are_read_ahead_where_they_are_not_in_memory(tmp_path: Path) -> None:
    store = a_store(tmp_path, 5_000)
    buffer = np.random.default_rng(1).integers(0, 255, LAYOUT.block_bytes(5_000)).astype(np.uint8)
    for region in range(4):
        store.write(region, 0, buffer)
    assert not store.read_ahead(3)  # just written: in memory
    for path in tmp_path.glob("blocks-*.bin"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for region in (2, 0):
        store.read_ahead(region)
        store.wait_for(region)
        assert not store.read_ahead(region)
        assert store.block(region, 5_000).target.tobytes() == LAYOUT.views(buffer, 5_000).target.tobytes()


def test_regions_come_in_turn_and_each_is_let_go_of_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, happened = a_store(tmp_path), []
    monkeypatch.setattr(stores, "MAPPED_BYTES", 0)
    monkeypatch.setattr(store, "read_ahead", lambda region: happened.append(("ahead", region)) or region != 3)
    monkeypatch.setattr(store, "wait_for", lambda region: happened.append(("wait", region)))
    monkeypatch.setattr(store, "release", lambda region: happened.append(("release", region)))
    happened.extend(("use", region) for region in store.in_turn([2, 3, 0], Stopwatch()))

    steps = "ahead 2, wait 2, ahead 3, use 2, release 2, ahead 0, use 3, release 3, wait 0, use 0, release 0"
    assert ", ".join(f"{what} {region}" for what, region in happened) == steps
    assert list(store.in_turn([], Stopwatch())) == []


def test_regions_are_mapped_on_a_thread_before_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, on_threads = a_store(tmp_path), set()
    mapped = {region: threading.Event() for region in (2, 3, 0)}

    def wait_for(region: int) -> None:
        on_threads.add(threading.get_ident())
        mapped[region].set()

    monkeypatch.setattr(store, "read_ahead", lambda _: False)
    monkeypatch.setattr(store, "wait_for", wait_for)
    assert list(store.in_turn([2, 3, 0], Stopwatch(), alone=True)) == [2, 3, 0]
    assert not on_threads

    monkeypatch.setattr(stores, "MAPPED_BYTES", 0)
    turns = store.in_turn([2, 3, 0], Stopwatch(), alone=True)
    for region, following in ((2, 3), (3, 0), (0, 0)):
        assert next(turns) == region
        assert mapped[following].wait(10.0)
    assert next(turns, None) is None
    assert threading.get_ident() not in on_threads


def test_the_pages_of_few_blocks_stay_for_the_next_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path)
    monkeypatch.setattr(store, "release", lambda region: pytest.fail(f"region {region} was let go"))
    assert list(store.in_turn([2, 0], Stopwatch())) == [2, 0]


@pytest.mark.parametrize("alone", [False, True])
def test_blocks_that_cannot_be_read_are_an_error_before_they_are_looked_at(
    tmp_path: Path, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "MAPPED_BYTES", 0)
    store = a_store(tmp_path, 5_000)
    store.block(3, 5_000)
    os.truncate(tmp_path / "blocks-3.bin", 10)
    with pytest.raises(StorageError, match="read the blocks"):
        next(store.in_turn([3], Stopwatch(), alone))


def test_a_note_about_a_file_that_was_cut_short_does_not_count(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.write_note("key", {"phase": "done"})
    assert store.read_note("key")["phase"] == "done"
    os.truncate(tmp_path / "blocks-2.bin", store.region_bytes - 1)
    assert store.read_note("key") is None


def test_threads_write_at_the_same_time(tmp_path: Path) -> None:
    store = a_store(tmp_path, 200, 4)

    def fill(region: int) -> None:
        for row in range(200):
            records = np.full((1, LAYOUT.record_words), region * 1000 + row, np.uint64)
            store.write(region, row * LAYOUT.record_bytes, records)

    threads = [threading.Thread(target=fill, args=(region,)) for region in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for region in range(4):
        assert store.records(region, 200)[:, 0].tolist() == [region * 1000 + row for row in range(200)]


def test_blocks_stay_readable_after_the_store_is_closed(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.write(0, 0, np.full(LAYOUT.block_bytes(5), 7, np.uint8))
    block = store.block(0, 5)
    store.close()

    assert block.codes[0, 0] == 0x07070707


def test_a_note_comes_back_to_the_same_blocks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path)
    assert store.read_note("key") is None
    store.write_note("key", {"phase": "scatter", "fill": np.arange(3)})
    note = store.read_note("key")

    assert note is not None
    assert note["phase"] == "scatter"
    np.testing.assert_array_equal(note["fill"], [0, 1, 2])
    assert store.read_note("another key") is None
    assert BlockStore(tmp_path, LAYOUT, 5000, 4).read_note("key") is None
    # What was not on the disk when the machine stopped cannot be trusted.
    monkeypatch.setattr(module, "boot_id", lambda: "after a restart")
    assert store.read_note("key") is None


def noted(store: BlockStore) -> dict[str, Any]:
    note = store.read_note("key")
    assert note is not None
    return note


def test_what_is_finished_counts_beside_its_own_note_alone(tmp_path: Path) -> None:
    prepared, finished = (tmp_path / name for name in module.NOTE_NAMES)
    store = a_store(tmp_path)
    store.write_note("key", {"phase": "scatter", "rows": np.arange(1)})
    of_scatter = prepared.read_bytes()
    store.write_note("key", {"phase": "finalise"}, {"rows": np.arange(2)})
    assert len(noted(store)["rows"]) == 2
    store.write_finished({"rows": np.arange(3)})
    assert len(noted(BlockStore(tmp_path, LAYOUT, 50, 4))["rows"]) == 3

    # As a kill between the two leaves them: what scatter noted before counts.
    of_finalise = prepared.read_bytes()
    prepared.write_bytes(of_scatter)
    assert (noted(store)["phase"], len(noted(store)["rows"])) == ("scatter", 1)

    # Regions of records may hold blocks by now: without the note of what is finished nothing counts.
    prepared.write_bytes(of_finalise)
    assert noted(store)["phase"] == "finalise"
    finished.unlink()
    assert store.read_note("key") is None


def test_where_starts_of_the_machine_have_no_name_notes_are_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_proc(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_proc)
    store = a_store(tmp_path)
    store.write_note("key", {"phase": "done"})
    assert store.read_note("key") is not None
    monkeypatch.setattr(module, "_PROCESS_ID", "that of another process")
    assert store.read_note("key") is None


def test_a_store_that_was_left_is_opened_again(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    records = np.full((3, LAYOUT.record_words), 9, np.uint64)
    store.write(1, 0, records)
    store.close()
    again = BlockStore(tmp_path, LAYOUT, 50, 4)
    again.open()

    np.testing.assert_array_equal(again.records(1, 3), records)


def test_a_file_that_was_cut_short_is_an_error_not_a_crash(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    (tmp_path / "blocks-2.bin").write_bytes(b"short")
    with pytest.raises(StorageError, match="shorter"):
        store.records(2, 5)


def test_no_pages_beyond_the_file_are_advised_of(tmp_path: Path) -> None:
    """They would be those of something else."""
    store = a_store(tmp_path)
    file = store._files._files[0]
    with pytest.raises(ValueError, match="too small"):
        file.wait_for(0, file.size_bytes + PAGE_BYTES)


def test_pages_that_cannot_be_read_are_an_error_not_a_crash(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.records(0, 5)
    os.truncate(tmp_path / "blocks-0.bin", 0)
    with pytest.raises(StorageError, match=r"read the blocks from .*blocks-0\.bin"):
        store.wait_for(0)


def test_too_little_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda _: 1_000_000)
    store = BlockStore(tmp_path / "blocks", LAYOUT, 50, 4)
    with pytest.raises(StorageError, match=r"need 1\.0 MB in .*, 1\.0 MB are free.*--blocks-dir.*--shuffle window"):
        store.create(1_000_001)

    assert not list((tmp_path / "blocks").glob("*.bin"))


def test_removing_leaves_other_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "blocks"
    store = a_store(folder)
    store.write_note("key", {})
    (folder / "mine").write_text("keep")
    store.remove()
    assert [path.name for path in folder.iterdir()] == ["mine"]
    (folder / "mine").unlink()
    remove_blocks(folder)

    assert not folder.exists()
    remove_blocks(folder)


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0
