"""Mistakes with a run directory, permissions and signals: one line, one exit code, and the run as it was."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from conftest import Generated
from filelock import FileLock
from mistakes import ROOT, Ending, contents, here, message, process


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A finished run over four epochs; not to be changed."""
    run = folder / "trained"
    ending = process(*command(folder, run), "--epochs", "4", cwd=folder)
    assert ending.exit_code == 0, ending.err
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def command(folder: Path, run: Path) -> list[str]:
    return ["train", str(folder / "good.parquet"), "--target", "late", "--run", str(run), "--quiet", "--json"]


@pytest.mark.parametrize(("options", "listed"), [
    ("--seed 1 --learning-rate 0.1 --features x",
     ("--features was not given, now x", "--seed was 0, now 1", "--learning-rate was auto, now 0.1")),
    ("--method batch", ("--method was auto, now batch",)),
    ("--exclude z", ("--exclude was none, now z",)),
])  # fmt: skip
def test_a_run_of_another_configuration_is_refused_and_unchanged(
    options: str, listed: tuple[str, ...], folder: Path, run: Path
) -> None:
    before = contents(run)
    ending = process(*command(folder, run), *options.split(), cwd=folder)
    message(ending, 78, str(run), *listed, "another --run", "--restart")
    assert contents(run) == before


@pytest.mark.parametrize("mistake", [
    "--target lat", "--learning-rate 0", "--where x>1e9", "--exclude nope", "--memory 1MB", "--epoch 9",
    "--restart --target lat", "--restart --memory 1MB",
])  # fmt: skip
def test_a_mistake_changes_no_byte_of_a_run_that_was_there(mistake: str, folder: Path, run: Path) -> None:
    before = contents(run)
    message(here(*command(folder, run), *mistake.split()), here(*command(folder, run), *mistake.split()).exit_code)
    assert contents(run) == before


def test_other_data_are_refused_and_the_run_is_unchanged(folder: Path, run: Path) -> None:
    before = contents(run)
    other = here("train", folder / "mixed", "--target", "late", "--run", run, "--quiet", "--json")
    message(other, 78, "holds a run on other data", "a.parquet", "b.parquet", "--restart")
    assert contents(run) == before


def test_a_run_in_use_is_left_alone_within_a_second(folder: Path, run: Path) -> None:
    before = contents(run)
    with FileLock(run / "lock"):
        started_s = time.monotonic()
        ending = here(*command(folder, run), "--epochs", "9")
        assert time.monotonic() - started_s < 1.0
        message(ending, 4, str(run), "another --run")
        message(process(*command(folder, run), "--epochs", "9", cwd=folder), 4, str(run))
        assert contents(run) == before
    assert here(*command(folder, run), "--epochs", "5").exit_code == 0


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(folder: Path, run: Path, tmp_path: Path) -> None:
    straight = json.loads(here(*command(folder, tmp_path / "straight"), "--epochs", "6").out)
    *_, newest = sorted((run / "checkpoints").iterdir())
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    ending = here(*command(folder, run), "--epochs", "6")
    assert (ending.exit_code, ending.err) == (0, "")
    facts = json.loads(ending.out)
    assert len(facts["warnings"]) == 1
    assert newest.name in facts["warnings"][0]
    assert "checksum" in facts["warnings"][0]
    assert facts["theta_sha256"] == straight["theta_sha256"]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_can_be_restarted(folder: Path, run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    before = contents(run)
    message(here(*command(folder, run), "--epochs", "6"), 65, "all checkpoints", str(run), "--restart")
    assert contents(run) == before
    assert here(*command(folder, run), "--epochs", "1", "--restart").exit_code == 0


def put(kind: str, path: Path) -> None:
    """Something that is no regular file in the place of ``path``."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
@pytest.mark.parametrize("name", ["config.json", "history.jsonl", "model.safetensors"])
def test_what_is_no_file_in_the_place_of_one_is_named(name: str, kind: str, folder: Path, run: Path) -> None:
    put(kind, run / name)
    found = f"{name} is a {'folder' if kind == 'folder' else 'pipe or a device'}, not a file. Move it away."
    message(here(*command(folder, run), "--epochs", "6"), 65, found)
    message(here("show", run, "--json"), 65, found)
    if name == "model.safetensors":
        data = str(folder / "good.parquet")
        message(here("predict", run, data, "--out", run / "out", "--quiet", "--json"), 65, found)
        message(here("evaluate", run / name, data, "--json"), 65, found)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_a_checkpoint_that_is_no_file_is_named_and_passed_over(
    kind: str, folder: Path, run: Path, tmp_path: Path
) -> None:
    put(kind, run / "checkpoints" / "99999998.safetensors")
    ending = here(*command(folder, run), "--epochs", "7")
    assert ending.exit_code == 0, ending.err
    assert any("99999998.safetensors is damaged" in text for text in json.loads(ending.out)["warnings"])
    straight = here(*command(folder, tmp_path / "straight"), "--epochs", "7")
    assert json.loads(ending.out)["theta_sha256"] == json.loads(straight.out)["theta_sha256"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_a_list_of_rows_that_is_to_go_to_no_file_is_refused(kind: str, folder: Path, tmp_path: Path) -> None:
    put(kind, tmp_path / "rows")
    told = (str(tmp_path / "rows"), "no regular file")
    message(here(*command(folder, tmp_path / "run"), "--row-log", tmp_path / "rows"), 78, *told)


def test_a_finished_run_whose_checkpoints_are_all_damaged_is_finished_still(folder: Path, run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    before = contents(run)
    shown = json.loads(here("show", run, "--json").out)
    assert (shown["state"], shown["theta_sha256"] is None) == ("finished", False)
    text = here("show", run).out
    assert "all checkpoints are damaged, the model is whole" in text
    assert "resume" not in text
    ending = here(*command(folder, run), "--epochs", "4")
    assert ending.exit_code == 0, ending.err
    facts = json.loads(ending.out)
    assert facts["already_finished"]
    assert facts["theta_sha256"] == shown["theta_sha256"]
    assert "all checkpoints are damaged, the model is whole" in facts["warnings"][-1]
    message(here("resume", run, "--epochs", "9", "--quiet", "--json"), 65, "all checkpoints", "--restart")
    message(here(*command(folder, run), "--epochs", "4", "--seed", "2"), 78, "--seed was 0, now 2")
    assert contents(run) == before


def test_an_unfinished_run_whose_checkpoints_are_all_damaged_is_not_told_to_resume(folder: Path, run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    (run / "model.safetensors").unlink()
    text = here("show", run).out
    assert "start over with" in text
    assert "resume" not in text
    message(here(*command(folder, run), "--epochs", "4"), 65, "all checkpoints", "--restart")


def test_a_run_that_is_resumed_in_another_folder_names_its_own(inside: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    there = ["train", "good.parquet", "--target", "late", "--run", str(run), "--epochs", "1", "--quiet", "--json"]
    assert here(*there).exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    with contextlib.chdir(tmp_path / "elsewhere"):
        message(
            here("resume", run, "--epochs", "2", "--quiet", "--json"), 66, "good.parquet", f"in {inside}: resume it"
        )
    assert here("resume", run, "--epochs", "2", "--quiet").exit_code == 0


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b"[]", b"\xff", b'{"config": {}}'])
def test_a_damaged_configuration_is_named(text: bytes, folder: Path, run: Path) -> None:
    (run / "config.json").write_bytes(text)
    before = contents(run)
    for arguments in (command(folder, run), ["resume", str(run), "--quiet", "--json"], ["show", str(run), "--json"]):
        message(here(*arguments), 78, "config.json", "damaged", "--restart")
    assert contents(run) == before
    assert here(*command(folder, run), "--restart").exit_code == 0


@pytest.mark.parametrize("damage", [b"", b"x", b"x" * 5_000])
def test_a_damaged_model_is_named(damage: bytes, folder: Path, run: Path, tmp_path: Path) -> None:
    (run / "model.safetensors").write_bytes(damage)
    data = str(folder / "good.parquet")
    for arguments in (["predict", str(run), data, "--out", str(tmp_path / "out")], ["evaluate", str(run), data]):
        message(here(*arguments, "--json"), 65, "model.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("path", "exit_code"), [
    ("good.parquet", 78), ("good.parquet/run", 78), ("/dev/null", 78), ("/proc/no/run", 66),
    ("x" * 300, 78),
])  # fmt: skip
def test_a_run_directory_that_cannot_be_made_is_named(path: str, exit_code: int, inside: Path) -> None:
    ending = here("train", "good.parquet", "--target", "late", "--run", path, "--quiet", "--json")
    message(ending, exit_code, path)


# Permissions


@pytest.fixture
def open_folder(folder: Path) -> Iterator[Path]:
    """A folder that every user can enter, with data of which some are closed to all but root."""
    made = Path(tempfile.mkdtemp(prefix="streamgd-test-"))
    made.chmod(0o755)
    try:
        shutil.copy(folder / "good.parquet", made)
        (made / "good.parquet").chmod(0o644)
        shutil.copy(made / "good.parquet", made / "closed.parquet")
        (made / "closed.parquet").chmod(0)
        (made / "locked").mkdir(mode=0o500)
        yield made
    finally:
        shutil.rmtree(made)


@pytest.mark.parametrize(("arguments", "texts"), [
    ("closed.parquet --run here/run", ("closed.parquet", "Permission denied")),
    ("good.parquet --run locked/run", ("locked/run", "Permission denied")),
])  # fmt: skip
def test_refused_permission_is_77(arguments: str, texts: tuple[str, ...], open_folder: Path) -> None:
    (open_folder / "locked").chmod(0o500)
    # Nothing is refused to root: it becomes a user who owns nothing, once all is imported.
    code = (
        "import os, sys, streamgd.training.train, streamgd.options, streamgd.failures\n"
        "if os.geteuid() == 0: os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "from streamgd.cli import main; main(sys.argv[1:])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "train", *arguments.split(), "--target", "late", "--quiet", "--json"],
        cwd=open_folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    ending = Ending(found.returncode, found.stdout, found.stderr)
    message(ending, 77, *texts, "Grant access")


# Signals


@pytest.fixture(scope="module")
def larger(generated: Generated) -> Path:
    return generated(rows=200_000, features=10, files=2)


def start(larger: Path, run: Path, *options: str) -> processes.Process:
    """A run that goes on for minutes, waited for until it trains."""
    started = processes.command(
        "train", larger, "--target", "y", "--run", run, "--json", "--epochs", "100000", *options
    )
    deadline_s = time.monotonic() + 60
    while not (run / "checkpoints").is_dir() or not list((run / "checkpoints").glob("*.safetensors")):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return started


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_at_a_checkpoint_from_which_the_same_command_goes_on(
    number: int, exit_code: int, larger: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    training = start(larger, run)
    second = here("train", larger, "--target", "y", "--run", run, "--quiet", "--json", "--epochs", "100000")
    message(second, 4, str(run))
    training.send_signal(number)
    sent_s = time.monotonic()
    out, err = training.communicate(timeout=60)
    assert time.monotonic() - sent_s < 5.0
    last = err.splitlines()[-1]
    assert training.returncode == exit_code, err
    assert re.fullmatch(r"streamgd: [^\n]+ The same command goes on from the last checkpoint\.", last)
    assert "Traceback" not in err
    assert json.loads(out)["error"]["exit_code"] == exit_code

    before = json.loads(here("show", run, "--json").out)
    # --max-time ends the rest of the 100,000 epochs with a model.
    ending = here("train", larger, "--target", "y", "--run", run, "--quiet", "--json", "--epochs", "100000",
                  "--max-time", "0.3s")  # fmt: skip
    assert ending.exit_code == 0, ending.err
    after = json.loads(ending.out)
    assert after["stopped_by"] == "max_time"
    assert after["steps"] > before["steps"] > 0
