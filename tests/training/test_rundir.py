"""A run directory: one process at a time, a configuration that is whole, a history that is cut back on resume."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from streamgd import state as states
from streamgd.errors import AccessError, ConfigError, NoInputError, RunLockedError, StorageError, StreamgdError
from streamgd.training.rundir import SCHEMA_VERSION, RunDirectory

STORED = {
    "config": {"data": ["x"], "target": "late", "method": "minibatch"},
    "resolved": {"loss": "logistic", "order": "full", "epochs": 5},
    "manifest": {"files": [{"relative": "x"}], "skipped": [["x", 3], ["y", None]]},
}

HOLD = """
import sys, time
from pathlib import Path
from streamgd.training.rundir import RunDirectory
with RunDirectory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_nothing_is_created_before_it_is_entered(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    directory = RunDirectory(folder)
    assert not folder.exists()
    with directory:
        assert folder.is_dir()


def test_another_process_is_kept_out_until_the_first_is_gone_even_if_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError, match="another run works in"), RunDirectory(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with RunDirectory(tmp_path):
        pass


def test_what_killed_processes_were_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    others = [".report.html.17.tmp", "model.safetensors", ".config.json.tmp"]
    for name in [".config.json.17.tmp", ".model.safetensors.4711.tmp", *others]:
        (tmp_path / name).write_bytes(b"x")
    with RunDirectory(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "lock"])


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path):
        raise ZeroDivisionError
    with RunDirectory(tmp_path):
        pass


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file"), RunDirectory(tmp_path / "run"):
        pass


def test_a_configuration_comes_back(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        assert directory.read_config() is None
        directory.write_config(STORED)
        assert directory.read_config() == {"schema_version": SCHEMA_VERSION, **STORED}
        assert directory.require_config() == directory.read_config()


def begin_and_fail(folder: Path, error: StreamgdError) -> None:
    with RunDirectory(folder) as directory:
        directory.clear()
        directory.write_config(STORED)
        raise error


@pytest.mark.parametrize("error", [ConfigError("no such column"), StorageError("disk full")])
def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(tmp_path: Path, error: StreamgdError) -> None:
    with pytest.raises(type(error), match=str(error)):
        begin_and_fail(tmp_path / "very" / "deep" / "run", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ConfigError("no such column"), StorageError("disk full")])
def test_a_run_that_fails_before_it_begins_leaves_no_folder(tmp_path: Path, error: StreamgdError) -> None:
    with pytest.raises(type(error)), RunDirectory(tmp_path / "very" / "deep" / "run"):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync_folder", "acquire"])
def test_a_folder_that_cannot_be_locked_is_not_left(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states.files if failing == "fsync_folder" else FileLock, failing, fail)
    with pytest.raises(StorageError, match="No space left"), RunDirectory(tmp_path / "very" / "deep" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ConfigError("no such column"), StorageError("disk full")])
def test_the_configuration_of_a_model_stays_with_it(tmp_path: Path, error: StreamgdError) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one that is kept")
    with pytest.raises(type(error), match=str(error)):
        begin_and_fail(tmp_path, error)
    assert RunDirectory(tmp_path).read_config() is not None


def test_a_run_that_was_there_can_be_resumed_after_the_disk_was_full(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as directory:
        directory.write_config(STORED)
    with pytest.raises(StorageError):
        begin_and_fail(tmp_path / "run", StorageError("disk full"))
    assert RunDirectory(tmp_path / "run").require_config()


@pytest.mark.parametrize("failure", [AccessError("read-only"), StorageError("device error"), OSError("stale")])
def test_a_disk_that_fails_on_does_not_hide_the_first_error(
    tmp_path: Path, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(states, "remove", fail)
    with pytest.raises(StorageError, match="disk full"):
        begin_and_fail(tmp_path / "run", StorageError("disk full"))


def test_a_run_that_must_be_there_is_missed_by_name(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"no run at .*nowhere.*streamgd train"):
        RunDirectory(tmp_path / "nowhere").require_config()


WRONG: list[dict[str, object]] = [
    {"config": None}, {"config": {"data": ["x"]}}, {"config": {**STORED["config"], "data": 1}},
    {"config": {**STORED["config"], "blocks_dir": 5}}, {"resolved": 3},
    {"resolved": {**STORED["resolved"], "epochs": None}}, {"validation": 1},
    {"config": {**STORED["config"], "method": "auto"}},
    {"manifest": {"files": [True]}}, {"manifest": {"files": [], "skipped": [["x", []]]}},
]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "{", '{"config": ', "null", "[" * 100_000, *[json.dumps({**STORED, **change}) for change in WRONG]]
)
def test_a_damaged_configuration_is_said_to_be_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json is damaged.*--restart"):
        RunDirectory(tmp_path).read_config()


def test_the_history_grows_line_by_line(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.history() == []
    size = 0
    for epoch in range(3):
        size = directory.append_history({"epoch": epoch}, size)

    assert size == (tmp_path / "history.jsonl").stat().st_size
    assert directory.history() == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}]


def test_a_resumed_history_is_cut_back_to_what_the_checkpoint_records(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    recorded = directory.append_history({"epoch": 0}, 0)
    directory.append_history({"epoch": 1, "lost": True}, recorded)
    directory.append_history({"epoch": 1}, recorded)

    assert directory.history() == [{"epoch": 0}, {"epoch": 1}]


def test_half_a_line_of_a_killed_run_is_passed_over_and_then_cut_off(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    recorded = directory.append_history({"epoch": 0}, 0)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"epoch": 1, "los')

    assert directory.history() == [{"epoch": 0}]
    directory.append_history({"epoch": 1}, recorded)
    assert directory.history() == [{"epoch": 0}, {"epoch": 1}]


def test_a_history_that_is_shorter_than_recorded_is_gone_on_with(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    size = directory.append_history({"epoch": 5}, 10_000)

    assert directory.history() == [{"epoch": 5}]
    assert size == (tmp_path / "history.jsonl").stat().st_size


def test_clearing_forgets_the_run_and_keeps_the_model(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        directory.write_config({})
        directory.append_history({"epoch": 0}, 0)
        directory.model_path.write_bytes(b"old model")
        directory.clear()
        assert directory.read_config() is None
        assert directory.history() == []
        assert directory.model_path.read_bytes() == b"old model"
        directory.clear()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is refused to root")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    from streamgd.errors import AccessError

    tmp_path.chmod(0o500)
    try:
        with pytest.raises(AccessError), RunDirectory(tmp_path / "run"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_the_configuration_is_plain_json(tmp_path: Path) -> None:
    RunDirectory(tmp_path).write_config({"path": Path("a/b"), "text": "Zürich"})

    assert json.loads((tmp_path / "config.json").read_text())["path"] == "a/b"
