"""Shuffled blocks hold each row once, in its place, to the same bits whatever threads and interruptions did."""

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import stop_at_note
from hypothesis import given
from hypothesis import strategies as st
from small_data import (
    LAYOUT,
    encoding_of,
    expected_codes,
    expected_features,
    growing_encoder,
    table,
    written,
)

from streamgd.data import prepare, scatter
from streamgd.data.encoder import RowChoice
from streamgd.data.filters import parse_where
from streamgd.data.plan import HOLDOUT, PLACES, SAMPLE, Permutation, chosen_rows
from streamgd.data.prepare import Preparation, block_plan, bundle_plan, new_store
from streamgd.data.prepared import PreparedBlocks
from streamgd.data.source import Manifest, discover
from streamgd.data.store import NOTE_NAMES, BlockStore
from streamgd.data.survey import Survey
from streamgd.errors import DataError, StreamgdError
from streamgd.stopwatch import Stopwatch

ROWS, PLACES_OF_BLOCK, SEED = 330, 40, 11


class StoppedError(StreamgdError):
    """What a check raises when a run is told to stop."""


@pytest.fixture(autouse=True)
def short_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waves of two row groups and two blocks."""

    class ShortWave(prepare.Wave):
        def __init__(
            self, first_group: int, n_groups: int, deadline_s: float, check: Callable[[], None], survey: Survey
        ):
            super().__init__(first_group, n_groups, float("inf"), check, survey)
            self._last = first_group + 2

        def take(self) -> int | None:
            return super().take() if self.next_group < self._last else None

    monkeypatch.setattr(prepare, "Wave", ShortWave)
    monkeypatch.setattr(prepare, "SPARE_REGIONS", 2)


def preparation(
    manifest: Manifest, folder: Path, threads: int = 1, choice: RowChoice | None = None,
    check: Callable[[], None] = lambda: None, key: str = "key", bundle_blocks: int = 1,
    progress: Callable[..., None] = lambda *_: None, **options: Any,
) -> Preparation:  # fmt: skip
    n_regions = -(-manifest.n_rows // PLACES_OF_BLOCK) + max(2, bundle_blocks)
    n_regions = -(-n_regions // bundle_blocks) * bundle_blocks
    store = BlockStore(folder, LAYOUT, PLACES_OF_BLOCK, n_regions, bundle_blocks=bundle_blocks)
    encoder = growing_encoder(choice, **options)
    stage_bytes = 40 * LAYOUT.record_bytes
    return Preparation(
        manifest,
        encoder,
        encoding_of,
        store,
        key,
        SEED,
        threads,
        stage_bytes,
        check,
        check,
        progress,
        Stopwatch(),
    )


def progress_of(manifest: Manifest, folder: Path, choice: RowChoice, check: Callable[[], None]) -> dict[str, int]:
    """The rows that each phase of one start leaves to be done in the end."""
    told: dict[str, int] = {}

    def tell(phase: str, rows: int, total_rows: int = manifest.n_rows) -> None:
        told[phase] = told.get(phase, total_rows) - rows

    with suppress(StoppedError):
        preparation(manifest, folder, 2, choice, check, progress=tell).run()
    return told


def bits(prepared: PreparedBlocks) -> list[bytes]:
    """All arrays of all blocks, and what is known of them."""
    found = []
    for index in range(prepared.n_blocks):
        for block in (prepared.train_block(index), prepared.holdout_block(index)):
            found += [array.tobytes() for array in block.arrays()]
    survey, encoding = prepared.survey, prepared.encoding
    found += [survey.moments.mean.tobytes(), survey.moments.squares.tobytes()]
    found += [repr((survey.train_rows, survey.dropped, column.row_names())).encode() for column in encoding.categorical]
    return found


def train_and_holdout(prepared: PreparedBlocks) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers in the order of the blocks."""
    parts = [(prepared.train_block(i).row_numbers, prepared.holdout_block(i).row_numbers)
             for i in range(prepared.n_blocks)]  # fmt: skip
    return tuple(np.concatenate([part[k] for part in parts]).astype(int) for k in (0, 1))  # type: ignore[return-value]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return written(tmp_path / "data", ROWS, 35)


CHOICES = {
    "all": (1.0, 0.0, False),
    "holdout": (1.0, 0.3, False),
    "sample": (0.2, 0.0, False),
    "where, sample and holdout": (0.5, 0.3, True),
}


def test_each_phase_tells_of_its_rows_in_the_end(manifest: Manifest, tmp_path: Path) -> None:
    """Also of those in row groups that the filter rules out, and of those that it leaves out of others."""
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise StoppedError("told to stop")

    choice = RowChoice(5, parse_where("k % 3 != 0 and k < 300", manifest.schema), 1.0, 0.0)
    stopped = progress_of(manifest, tmp_path / "blocks", choice, check)
    assert 0 < stopped["prepare"] < ROWS
    assert progress_of(manifest, tmp_path / "blocks", choice, lambda: None) == {"prepare": 0, "finalise": 0}


@pytest.mark.parametrize("bundle_blocks", [1, 4])
@pytest.mark.parametrize("kind", sorted(CHOICES))
def test_every_kept_row_is_in_its_place_once_with_its_features(
    manifest: Manifest, tmp_path: Path, kind: str, bundle_blocks: int
) -> None:
    sample, holdout, filtered = CHOICES[kind]
    where = parse_where("k % 3 != 0 and k < 300", manifest.schema) if filtered else None
    choice = RowChoice(5, where, sample, holdout)
    prepared = preparation(manifest, tmp_path / "blocks", 2, choice, bundle_blocks=bundle_blocks).run()

    rows = table(ROWS)
    k = np.arange(ROWS)
    half = ROWS // 2
    kept = np.array([value is not None for value in rows["y"].to_pylist()])
    held_out = np.zeros(ROWS, bool)
    if sample < 1.0:
        kept &= np.concatenate([chosen_rows(5, SAMPLE, f"{i}.parquet", 0, half, sample) for i in (0, 1)])
    if holdout:
        held_out = np.concatenate([chosen_rows(5, HOLDOUT, f"{i}.parquet", 0, half, holdout) for i in (0, 1)])
    if filtered:
        kept &= (k % 3 != 0) & (k < 300)
    train, place = kept & ~held_out, Permutation.of(ROWS, SEED, PLACES).as_array()
    found_train, found_holdout = train_and_holdout(prepared)

    assert found_train.tolist() == sorted(np.flatnonzero(train), key=lambda row: place[row])
    assert found_holdout.tolist() == sorted(np.flatnonzero(kept & held_out), key=lambda row: place[row])
    features, codes = expected_features(rows, train), expected_codes(rows, train)
    for index in range(prepared.n_blocks):
        for block in (prepared.train_block(index), prepared.holdout_block(index)):
            numbers = block.row_numbers.astype(int)
            np.testing.assert_allclose(block.features, features[numbers], rtol=1e-11, atol=1e-12)
            np.testing.assert_array_equal(block.codes[:, 0], codes[numbers])
            for array, name in ((block.target, "y"), (block.weight, "w"), (block.offset, "o")):
                np.testing.assert_array_equal(array, rows[name].take(numbers).to_numpy())
    assert prepared.survey.train_rows == train.sum()
    assert prepared.survey.holdout_rows == (kept & held_out).sum()


def test_holes_of_dropped_rows_are_packed(manifest: Manifest, tmp_path: Path) -> None:
    full = preparation(manifest, tmp_path / "full").run()
    packed = preparation(manifest, tmp_path / "packed", 1, RowChoice(sample=0.2)).run()

    assert full.n_blocks == -(-ROWS // PLACES_OF_BLOCK)
    assert packed.n_blocks < full.n_blocks / 2
    rows = np.array([packed.train_block(index).rows for index in range(packed.n_blocks)])
    assert (rows <= PLACES_OF_BLOCK).all()
    # No two neighbours would fit one block.
    assert (rows[:-1] + rows[1:] > PLACES_OF_BLOCK).all()


def test_nulls_are_dropped_if_asked(manifest: Manifest, tmp_path: Path) -> None:
    prepared = preparation(manifest, tmp_path / "blocks", nulls="drop").run()
    rows = table(ROWS)
    complete = [all(rows[name][row].as_py() is not None for name in ("x", "c", "y")) for row in range(ROWS)]

    assert sorted(train_and_holdout(prepared)[0].tolist()) == np.flatnonzero(complete).tolist()
    reasons = prepared.survey.dropped
    assert reasons["null target"] == rows["y"].null_count
    assert sum(reasons.values()) == ROWS - sum(complete)


# The same bits


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_and_bundles_change_no_bit(manifest: Manifest, tmp_path: Path, threads: int) -> None:
    choice = RowChoice(5, None, 0.8, 0.2)
    one = preparation(manifest, tmp_path / "one", 1, choice).run()
    for bundle_blocks in (1, 2, 4, 16):
        several = preparation(
            manifest, tmp_path / f"several-{bundle_blocks}", threads, choice, bundle_blocks=bundle_blocks
        ).run()
        assert bits(several) == bits(one)


@pytest.mark.parametrize(("threads", "bundle_blocks"), [(1, 1), (3, 2), (2, 8)])
def test_an_interruption_at_any_check_changes_no_bit(
    manifest: Manifest, tmp_path: Path, threads: int, bundle_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scatter, "LONG_ROW_GROUP_VALUES", 0)  # a check for each slice
    monkeypatch.setattr(prepare, "NOTE_FINISHED_S", 0.0)  # and for each wave of finalise
    choice = RowChoice(5, None, 0.8, 0.2)
    undisturbed = bits(preparation(manifest, tmp_path / "undisturbed", threads, choice).run())
    stopped = 0
    for last_call in range(1, 1000):
        calls = 0

        def check(last_call: int = last_call) -> None:
            nonlocal calls
            calls += 1
            if calls >= last_call:
                raise StoppedError

        folder = tmp_path / f"stopped-{last_call}"
        try:
            preparation(manifest, folder, threads, choice, check, bundle_blocks=bundle_blocks).run()
        except StoppedError:
            stopped += 1
        else:
            break
        again = preparation(manifest, folder, threads, choice, bundle_blocks=bundle_blocks)
        assert bits(again.run()) == undisturbed
    # Three checks in each row group of 35 rows, which are two slices of at most 24, and one for each wave of finalise.
    assert stopped >= 3 * -(-ROWS // 35) + 4


@pytest.mark.parametrize(("bundle_blocks", "finished_s", "notes"), [(1, 60, 4), (1, 0, 4), (4, 60, 2), (8, 0, 4)])
def test_a_kill_before_any_note_changes_no_bit(
    manifest: Manifest, tmp_path: Path, bundle_blocks: int, finished_s: float, notes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The blocks are written, what they are is not yet noted: the records must still be there."""
    monkeypatch.setattr(prepare, "NOTE_FINISHED_S", finished_s)
    undisturbed = bits(preparation(manifest, tmp_path / "undisturbed").run())
    stopped = 0
    for last_note in range(1, 100):
        killed = preparation(manifest, tmp_path / f"killed-{last_note}", 2, bundle_blocks=bundle_blocks)
        stop_at_note(killed, last_note, StoppedError())
        try:
            killed.run()
        except StoppedError:
            stopped += 1
        else:
            break
        again = preparation(manifest, tmp_path / f"killed-{last_note}", 1, bundle_blocks=bundle_blocks)
        assert bits(again.run()) == undisturbed
    # Waves of scatter, notes of finalise, and that all is done.
    assert stopped >= 5 + notes + 1


def test_work_that_is_noted_is_not_done_again(manifest: Manifest, tmp_path: Path) -> None:
    preparation(manifest, tmp_path / "blocks").run()

    def never() -> None:
        raise AssertionError("nothing is left to do")

    again = preparation(manifest, tmp_path / "blocks", check=never).run()
    assert bits(again) == bits(preparation(manifest, tmp_path / "afresh").run())


@pytest.mark.parametrize("name", NOTE_NAMES)
@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "gone", "another key", "blocks gone"])
def test_a_note_that_cannot_be_trusted_starts_over(manifest: Manifest, tmp_path: Path, damage: str, name: str) -> None:
    folder = tmp_path / "blocks"
    undisturbed = bits(preparation(manifest, folder).run())
    note, blocks = folder / name, folder / "blocks-1.bin"
    content = bytearray(note.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flipped":
        note.write_bytes(content)
    elif damage == "short":
        note.write_bytes(note.read_bytes()[:-5])
    elif damage == "empty":
        note.write_bytes(b"")
    elif damage == "gone":
        note.unlink()
    elif damage == "blocks gone":
        blocks.unlink()
    checks = 0

    def count() -> None:
        nonlocal checks
        checks += 1

    key = "another" if damage == "another key" else "key"
    again = preparation(manifest, folder, key=key, check=count).run()

    assert bits(again) == undisturbed
    assert checks >= ROWS // 24


def test_blocks_come_in_the_order_asked_for(manifest: Manifest, tmp_path: Path) -> None:
    prepared = preparation(manifest, tmp_path / "blocks", 1, RowChoice(holdout=0.3)).run()
    order = [3, 0, 5]

    for blocks, one in (
        (prepared.train_blocks, prepared.train_block), (prepared.holdout_blocks, prepared.holdout_block),
    ):  # fmt: skip
        found = [block.row_numbers.tolist() for block in blocks(order, Stopwatch())]
        assert found == [one(index).row_numbers.tolist() for index in order]


def test_an_error_in_one_thread_ends_the_preparation(tmp_path: Path) -> None:
    rows = table(ROWS)
    bad = rows["w"].to_numpy().copy()
    bad[200] = -1.0
    (tmp_path / "data").mkdir()
    pq.write_table(rows.set_column(4, "w", pa.array(bad)), tmp_path / "data" / "0.parquet", row_group_size=35)
    manifest = discover([str(tmp_path / "data")])

    with pytest.raises(DataError, match=r"0\.parquet, row group 5, row 25, column 'w'"):
        preparation(manifest, tmp_path / "blocks", 3).run()


def test_data_that_take_most_of_memory_with_their_blocks_are_let_go(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advised: dict[str, list[tuple[int, int, int]]] = {}

    def note(descriptor: int, begin: int, size: int, advice: int) -> None:
        advised.setdefault(os.readlink(f"/proc/self/fd/{descriptor}"), []).append((begin, begin + size, advice))

    expected = bits(preparation(manifest, tmp_path / "in memory", 2).run())
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fadvise", note)
        in_memory, larger = preparation(manifest, tmp_path / "also in memory"), preparation(manifest, tmp_path / "l")
        total = manifest.size_bytes + in_memory._store.needed_bytes
        patched.setattr(prepare, "memory_bytes", lambda: int(1.3 * total))
        in_memory.run()
        assert not advised.keys() & {file.path for file in manifest.files}
        patched.setattr(prepare, "memory_bytes", lambda: int(1.2 * total))
        assert bits(larger.run()) == expected
    for file in manifest.files:
        parts = sorted(advised[file.path])
        assert parts[0][0] == 4  # behind the magic number
        assert all(end == begin for (_, end, _), (begin, _, _) in pairwise(parts))
        assert file.size_bytes - 10_000 < parts[-1][1] < file.size_bytes  # up to the footer
        assert {advice for _, _, advice in parts} == {os.POSIX_FADV_DONTNEED}


# Sizes


@pytest.mark.parametrize("n_rows", [1, 23, 24, 25, 48, 1000])
@pytest.mark.parametrize("batch_size", [1, 24, 30])
def test_blocks_are_nearly_equal_and_hold_a_minibatch(n_rows: int, batch_size: int, tmp_path: Path) -> None:
    n_blocks, places = block_plan(n_rows, LAYOUT, batch_size)

    assert n_blocks * places >= n_rows > (n_blocks - 1) * places - n_blocks
    assert places <= max(24, batch_size)
    store = new_store(tmp_path, LAYOUT, n_rows, batch_size)
    assert store.places == places
    assert store.n_regions > n_blocks


@given(n_blocks=st.integers(1, 1_000_000), places=st.sampled_from([1, 4_000, 65_536]))
def test_bundles_are_few_or_large_and_can_be_finished(n_blocks: int, places: int) -> None:
    bundle_blocks, n_regions = bundle_plan(n_blocks, places, LAYOUT)

    block_bytes = places * max(LAYOUT.record_bytes, 64)
    assert n_blocks <= 128 * bundle_blocks or 2 * bundle_blocks * block_bytes > 256_000_000
    assert bundle_blocks == 1 or bundle_blocks * block_bytes <= 256_000_000
    assert bundle_blocks == 1 or n_blocks > 64 * bundle_blocks  # and no fewer than there need be
    assert n_regions % bundle_blocks == 0
    assert n_regions - n_blocks >= min(n_blocks, bundle_blocks)
