"""A checkpoint is whole or absent, the newest whole one counts, and the last whole ones are never deleted."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from faults import FAULTS, FaultyFiles, ForgetfulFiles, Killed, on

from streamgd import state as state_module
from streamgd.errors import StorageError
from streamgd.state import FileSystem, serialize
from streamgd.training import checkpoint
from streamgd.training.checkpoint import CheckpointStore


def state_at(step: int) -> dict[str, Any]:
    return {"cursor": {"step": step}, "theta": np.full(5, float(step)), "codes": np.array([step], np.uint8)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbered(*sequences: int) -> list[str]:
    return [f"{sequence:08d}.safetensors" for sequence in sequences]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def latest_step(folder: Path) -> int | None:
    loaded = CheckpointStore(folder).latest()
    if loaded is None:
        return None
    step = int(loaded.state["cursor"]["step"])
    assert loaded.state["theta"].tobytes() == state_at(step)["theta"].tobytes()
    return step


class TestSaveAndLatest:
    def test_an_absent_folder_has_no_checkpoint(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path / "absent")
        assert store.latest() is None
        assert store.list() == []
        assert store.damaged == []
        assert not (tmp_path / "absent").exists()

    def test_the_newest_is_loaded_with_its_number(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path / "run" / "checkpoints")
        paths = [store.save(state_at(step)) for step in (10, 20)]
        assert [path.name for path in paths] == numbered(1, 2)
        loaded = CheckpointStore(store.folder).latest()
        assert loaded is not None
        assert (loaded.path, loaded.sequence, loaded.state["cursor"]) == (paths[1], 2, {"step": 20})

    def test_saving_changes_nothing_in_the_state_and_does_not_depend_on_it_later(self, tmp_path: Path) -> None:
        store, state = CheckpointStore(tmp_path), state_at(1)
        before = serialize(state, "checkpoint")
        store.save(state)
        assert serialize(state, "checkpoint") == before
        state["theta"][:] = np.nan
        assert latest_step(tmp_path) == 1

    def test_a_checkpoint_is_a_safetensors_file(self, tmp_path: Path) -> None:
        path = CheckpointStore(tmp_path).save(state_at(3))
        assert safetensors.numpy.load_file(path)["/theta"].tolist() == [3.0] * 5

    def test_a_state_that_cannot_be_stored_leaves_the_checkpoints_alone(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path)
        store.save(state_at(1))
        with pytest.raises(TypeError, match="theta: object array"):
            store.save({"theta": np.array([None])})
        assert names(tmp_path) == numbered(1)

    def test_numbers_go_on_after_the_highest_even_if_that_is_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "00000041.safetensors").write_bytes(b"cut sh")
        assert CheckpointStore(tmp_path).save(state_at(1)).name == "00000042.safetensors"

    def test_numbers_past_eight_digits_still_count_by_value(self, tmp_path: Path) -> None:
        (tmp_path / "99999999.safetensors").write_bytes(serialize(state_at(1), "checkpoint"))
        assert CheckpointStore(tmp_path).save(state_at(2)).name == "100000000.safetensors"
        assert latest_step(tmp_path) == 2

    def test_other_files_are_neither_read_nor_deleted(self, tmp_path: Path) -> None:
        others = ["best.safetensors", "notes.txt", "7.safetensors", "00000009.safetensors.bak"]
        for name in others:
            (tmp_path / name).write_bytes(b"x")
        store = CheckpointStore(tmp_path)
        for step in range(4):
            store.save(state_at(step))
        assert names(tmp_path) == sorted([*numbered(3, 4), *others])
        assert store.latest() is not None
        assert store.damaged == []

    def test_leftovers_of_killed_processes_are_removed_by_the_next_save_and_never_loaded(self, tmp_path: Path) -> None:
        leftover = tmp_path / ".00000002.safetensors.17.tmp"
        leftover.write_bytes(serialize(state_at(2), "checkpoint"))
        store = CheckpointStore(tmp_path)
        assert store.latest() is None
        assert leftover.exists(), "only the process that trains removes files"
        store.save(state_at(1))
        assert names(tmp_path) == numbered(1)


class TestDamaged:
    def test_the_one_before_is_used_and_the_damaged_ones_are_named(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path, keep=3)
        paths = [store.save(state_at(step)) for step in (1, 2, 3)]
        damage(paths[2])
        paths[1].write_bytes(paths[1].read_bytes()[:-1])
        loaded = store.latest()
        assert loaded is not None
        assert loaded.path == paths[0]
        assert [path for path, _ in store.damaged] == [paths[2], paths[1]]
        assert all(str(path) in problem and "checksum" in problem for path, problem in store.damaged)

    def test_a_file_of_another_kind_is_passed_over(self, tmp_path: Path) -> None:
        CheckpointStore(tmp_path).save(state_at(1))
        (tmp_path / "00000002.safetensors").write_bytes(serialize(state_at(2), "model"))
        assert latest_step(tmp_path) == 1

    def test_damaged_is_that_of_the_last_call(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path)
        damage(store.save(state_at(1)))
        assert store.latest() is None
        assert store.latest() is None
        assert len(store.damaged) == 1
        store.save(state_at(2))
        assert store.latest() is not None
        assert store.damaged == []

    def test_the_listing_tells_number_size_and_what_is_wrong(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path)
        paths = [store.save(state_at(step)) for step in (1, 2)]
        damage(paths[0])
        first, second = store.list()
        assert (first.path, first.sequence, first.valid) == (paths[0], 1, False)
        assert first.problem is not None
        assert "checksum" in first.problem
        assert (second.path, second.sequence, second.valid, second.problem) == (paths[1], 2, True, None)
        assert second.size_bytes == paths[1].stat().st_size

    def test_a_file_that_cannot_be_read_stops_the_resume_instead_of_setting_it_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = CheckpointStore(tmp_path)
        newest = [store.save(state_at(step)) for step in (1, 2)][-1]
        opened = Path.open

        def failing(path: Path, mode: str) -> Any:
            if path == newest:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return opened(path, mode)

        monkeypatch.setattr(Path, "open", failing)
        with pytest.raises(StorageError, match=newest.name):
            store.latest()
        assert [info.valid for info in store.list()] == [True, False]

    def test_a_file_that_vanishes_while_it_is_looked_at_is_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = CheckpointStore(tmp_path)
        newest = [store.save(state_at(step)) for step in (1, 2)][-1]
        glob = list(tmp_path.glob("*.safetensors"))
        monkeypatch.setattr(Path, "glob", lambda *_: iter(glob))
        newest.unlink()
        loaded = store.latest()
        assert loaded is not None
        assert loaded.sequence == 1
        assert [info.sequence for info in store.list()] == [1]


class TestPruning:
    @pytest.mark.parametrize("keep", [2, 3])
    def test_the_newest_whole_ones_are_kept(self, tmp_path: Path, keep: int) -> None:
        store = CheckpointStore(tmp_path, keep)
        for step in range(1, 7):
            store.save(state_at(step))
        assert names(tmp_path) == numbered(*range(7 - keep, 7))

    @pytest.mark.parametrize("keep", [1, 0, -1])
    def test_fewer_than_two_are_not_allowed(self, tmp_path: Path, keep: int) -> None:
        with pytest.raises(ValueError, match="at least 2"):
            CheckpointStore(tmp_path, keep)

    def test_damaged_ones_do_not_count_as_kept(self, tmp_path: Path) -> None:
        first = CheckpointStore(tmp_path, keep=4)
        paths = [first.save(state_at(step)) for step in (1, 2, 3, 4)]
        damage(paths[2])
        damage(paths[3])
        CheckpointStore(tmp_path).save(state_at(5))
        assert names(tmp_path) == numbered(2, 3, 4, 5)
        damage(tmp_path / numbered(5)[0])
        assert latest_step(tmp_path) == 2

    def test_damaged_ones_go_once_two_newer_ones_are_whole(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path)
        damage(store.save(state_at(1)))
        again = CheckpointStore(tmp_path)
        again.save(state_at(2))
        assert names(tmp_path) == numbered(1, 2)
        again.save(state_at(3))
        assert names(tmp_path) == numbered(2, 3)

    def test_a_file_is_read_at_most_once_to_decide_what_is_deleted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        CheckpointStore(tmp_path).save(state_at(1))
        reads: list[str] = []
        read = checkpoint.read_without_arrays
        monkeypatch.setattr(
            checkpoint, "read_without_arrays", lambda path, kind: (reads.append(path.name), read(path, kind))[1]
        )
        store = CheckpointStore(tmp_path, keep=3)
        for step in range(2, 6):
            store.save(state_at(step))
        assert reads == numbered(1)

    def test_the_one_with_the_lowest_holdout_loss_is_kept_too(self, tmp_path: Path) -> None:
        def save(epoch: int, best: int, loss: float, position: int = 0) -> None:
            # As another process does after each start.
            state = {"epoch": epoch, "position": position, "best": {"epoch": best, "loss": loss}}
            CheckpointStore(tmp_path).save(state)

        save(1, 1, 0.7)
        save(2, 2, 0.5)
        assert [info.holdout_loss for info in CheckpointStore(tmp_path).list()] == [0.7, 0.5]
        save(2, 2, 0.5, position=3)
        save(3, 2, 0.5)
        assert names(tmp_path) == numbered(2, 3, 4)
        save(4, 2, 0.5)
        assert names(tmp_path) == numbered(2, 4, 5)
        save(5, 5, 0.4)
        save(6, 5, 0.4)
        save(7, 5, 0.4)
        assert names(tmp_path) == numbered(6, 7, 8)
        damage(tmp_path / numbered(6)[0])
        save(8, 5, 0.4)
        assert names(tmp_path) == numbered(8, 9)


class HeldUp(FileSystem):
    """A disk that does not answer before it is told to."""

    def __init__(self, error: OSError | None = None) -> None:
        self.answers = threading.Event()
        self.error = error

    def fsync(self, file: Any) -> None:
        assert self.answers.wait(10)
        if self.error is not None:
            raise self.error
        super().fsync(file)


class TestBegin:
    def test_the_caller_goes_on_and_what_it_changes_does_not_reach_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = HeldUp()
        monkeypatch.setattr(state_module, "files", files)
        store, state = CheckpointStore(tmp_path), state_at(1)
        store.begin(state)
        store.poll()
        state["theta"][:] = np.nan
        assert store.latest() is None
        files.answers.set()
        store.wait()
        assert latest_step(tmp_path) == 1

    def test_one_write_is_under_way_at_a_time_and_the_order_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = HeldUp()
        monkeypatch.setattr(state_module, "files", files)
        store = CheckpointStore(tmp_path, keep=9)
        store.begin(state_at(1))
        threading.Timer(0.05, files.answers.set).start()
        for step in (2, 3):
            store.begin(state_at(step))
            assert latest_step(tmp_path) in (step - 1, step)
        store.save(state_at(4))
        assert names(tmp_path) == numbered(1, 2, 3, 4)
        assert latest_step(tmp_path) == 4

    @pytest.mark.parametrize("then", ["poll", "wait", "begin", "save"])
    def test_an_error_is_raised_by_what_comes_next_and_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
    ) -> None:
        store = CheckpointStore(tmp_path)
        store.save(state_at(1))
        files = HeldUp(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with monkeypatch.context() as patch:
            patch.setattr(state_module, "files", files)
            store.begin(state_at(2))
            files.answers.set()
            while store._in_flight is not None and not store._in_flight.done():
                time.sleep(0.001)
            with pytest.raises(StorageError, match="No space left"):
                getattr(store, then)(*([state_at(3)] if then in ("begin", "save") else []))
        store.wait()
        assert latest_step(tmp_path) == 1
        assert store.save(state_at(2)).name == numbered(2)[0]


def test_a_large_state_is_written_at_once_and_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_MOST_COPIED_BYTES", 100)
    store, state = CheckpointStore(tmp_path), state_at(1)
    store.begin(state)
    assert not store.busy
    assert latest_step(tmp_path) == 1
    monkeypatch.undo()
    CheckpointStore(tmp_path / "other").save(state)

    assert next(tmp_path.glob("*.safetensors")).read_bytes() == next(tmp_path.glob("other/*")).read_bytes()


@pytest.mark.parametrize(("error", "expected"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("leftover", [False, True], ids=["", "with a leftover"])
def test_a_failure_at_any_operation_leaves_the_old_or_the_new_checkpoint_and_the_next_save_works(
    tmp_path: Path, error: BaseException, expected: type[BaseException], leftover: bool
) -> None:
    found = set()
    for n in range(1, 100):
        folder = tmp_path / str(n)
        store = CheckpointStore(folder)
        for step in (1, 2):
            store.save(state_at(step))
        if leftover:
            (folder / ".00000003.safetensors.17.tmp").write_bytes(b"half")
        files = FaultyFiles(n, error)
        with on(files):
            try:
                store.save(state_at(3))
            except expected:
                completed = False
            else:
                completed = True
        step = latest_step(folder)
        assert step in (2, 3)
        found.add(step)
        assert sum(info.valid for info in CheckpointStore(folder).list()) >= 2
        assert CheckpointStore(folder).save(state_at(4)).exists()
        assert latest_step(folder) == 4
        assert len(names(folder)) == 2, "neither temporaries nor older checkpoints pile up"
        if completed:
            break
    else:
        pytest.fail("never ran to its end")
    assert n == 7 + leftover, "every operation was made to fail once"
    assert files.operations == ["remove"] * leftover + ["open", "write", "fsync", "replace", "fsync_folder", "remove"]
    assert found == {2, 3}


@pytest.mark.parametrize(("error", "expected"), FAULTS.values(), ids=FAULTS)
def test_a_failure_during_the_very_first_save_leaves_nothing_or_a_whole_checkpoint(
    tmp_path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    for n, operation in enumerate(["fsync_folder", "open", "write", "fsync", "replace", "fsync_folder"], start=1):
        folder = tmp_path / str(n)
        files = FaultyFiles(n, error)
        with on(files), pytest.raises(expected):
            CheckpointStore(folder).save(state_at(1))
        assert files.operations[n - 1] == operation
        assert latest_step(folder) == (1 if n == 6 else None)


@pytest.mark.parametrize("keep", [2, 3])
def test_a_power_failure_at_any_operation_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, keep: int) -> None:
    """On a device that drops, tears and reorders what was not synchronised."""
    rng, found, states_tried = random.Random(keep), set(), 0
    for n in range(1, 100):
        folder = tmp_path / str(n)
        for step in (1, 2):
            CheckpointStore(folder, keep).save(state_at(step))
        (folder / ".00000003.safetensors.17.tmp").write_bytes(b"half")
        files = ForgetfulFiles(folder, n)
        with on(files):
            completed = True
            try:
                CheckpointStore(folder, keep).save(state_at(3))
            except Killed:
                completed = False
        for trial in range(40):
            after = tmp_path / f"{n}-{trial}"
            files.after_a_power_failure(after, rng)
            step = latest_step(after)
            assert step == 3 if completed else step in (2, 3)
            assert sum(info.valid for info in CheckpointStore(after).list()) >= 2
            CheckpointStore(after, keep).save(state_at(4))
            assert latest_step(after) == 4
            found.add((completed, step))
            states_tried += 1
        if completed:
            break
    else:
        pytest.fail("never ran to its end")
    assert found == {(False, 2), (False, 3), (True, 3)}
    assert states_tried >= 40 * 7
