"""The command line: every way of ending has its exit code and one line, and results alone go to standard output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from streamgd.cli import main
from streamgd.config import TrainConfig, identity_fields, option_name
from streamgd.errors import DataError, PausedError
from streamgd.face import Command, Commands
from streamgd.training import train as training

ROOT = Path(__file__).parent.parent


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="streamgd")


def run_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return _run_interpreter("-m", "streamgd", *arguments, **options)


def after_main(call: str, code: str) -> str:
    """The last line printed by an interpreter of its own: after a call of ``main``, which ends with 0, it runs code."""
    found = _run_interpreter(
        "-c",
        f"import sys; from streamgd.cli import main\ntry: {call}\n"
        f"except SystemExit as error: assert error.code == 0\n{code}",
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1]


def _run_interpreter(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run([sys.executable, *arguments], text=True, env=environment, timeout=120, **defaults | options)


def assert_one_line(result: Result, exit_code: int, text: str) -> None:
    """The command ended with this code and one line that has this text; nothing is on standard output."""
    assert result.exit_code == exit_code, result.stderr
    assert re.fullmatch(r"streamgd: [^\n]+\n", result.stderr)
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(folder: Path) -> str:
    """600 rows in two row groups: a number, three carriers, and what is late."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=600)
    carrier = rng.choice(["AA", "DL", "UA"], 600)
    late = (rng.random(600) < 1 / (1 + np.exp(-(2 * x + (carrier == "UA"))))).astype(np.int8)
    table = pa.table({"x": x, "carrier": carrier, "row": [f"r{i}" for i in range(600)], "late": late})
    pq.write_table(table, folder / "data.parquet", row_group_size=300)
    return "data.parquet"


class FakeTraining:
    """Stands in for training: notes what it was called with, tells something, and ends as it is told to."""

    def __init__(self) -> None:
        self.config: TrainConfig | None = None
        self.restart: bool | None = None
        self.error: BaseException | None = None
        self.result: dict[str, Any] = {"epochs": 5, "loss": 0.25, "history": [{"epoch": 1}]}

    def run(self, config: TrainConfig, display: Any, restart: bool = False) -> Any:
        self.config, self.restart = config, restart
        display.message("resolved something")
        display.warn("look at this")
        if self.error is not None:
            raise self.error
        return SimpleNamespace(to_json=lambda: self.result)


@pytest.fixture
def fake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(training, "run", fake.run)
    return fake


class TestTrainOptions:
    def test_every_option_of_the_configuration_exists(self, fake: FakeTraining) -> None:
        help_text = run_cli("train", "--help").stdout
        for name, field in TrainConfig.model_fields.items():
            if name not in ("data", "row_log", "only"):
                assert option_name(name) in help_text
                assert (field.description or "?").split()[0] in help_text
        assert "--row-log" not in help_text
        assert "--only " not in help_text

    def test_values_reach_the_configuration(self, fake: FakeTraining) -> None:
        result = run_cli(
            "train", "a.parquet", "b", "--target", "late", "--features", "x,y", "--features", "z", "--memory", "1GiB",
            "--validation", "v,1.parquet", "--validation", "w", "--sample", "5%", "--keep-blocks", "--epochs", "7",
            "--max-time", "2h", "--row-log", "rows.bin", "--restart",
            "--only", "a,1.parquet", "--only", "b.parquet",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        assert fake.restart is True
        assert fake.config == TrainConfig(
            data=["a.parquet", "b"], target="late", features=["x", "y", "z"], memory=2**30, sample=0.05,
            validation=["v,1.parquet", "w"], keep_blocks=True, epochs=7, max_time=7200.0, row_log="rows.bin",
            only=["a,1.parquet", "b.parquet"],
        )  # fmt: skip

    def test_what_is_not_given_keeps_its_default(self, fake: FakeTraining) -> None:
        assert run_cli("train", "d", "--target", "late").exit_code == 0
        assert fake.config == TrainConfig(data=["d"], target="late")

    @pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "fast"])
    def test_a_bad_learning_rate_is_bad_configuration(self, fake: FakeTraining, value: str) -> None:
        result = run_cli("train", "d", "--target", "late", "--learning-rate", value)
        assert_one_line(result, 78, "--learning-rate: expected a positive number or 'auto'")
        assert fake.config is None

    def test_an_unknown_choice_is_bad_configuration_and_lists_the_choices(self, fake: FakeTraining) -> None:
        result = run_cli("train", "d", "--target", "late", "--method", "magic")
        assert_one_line(result, 78, "--method: input should be 'auto', 'minibatch', 'sgd' or 'batch', found 'magic'.")

    def test_an_unknown_option_is_wrong_usage_with_a_suggestion(self, fake: FakeTraining) -> None:
        assert_one_line(run_cli("train", "d", "--targt", "late"), 2, "'--target'")

    @pytest.mark.parametrize(("arguments", "missing"), [(("--target", "late"), "DATA"), (("d",), "--target")])
    def test_what_is_required_and_missing_is_wrong_usage(
        self, fake: FakeTraining, arguments: tuple[str, ...], missing: str
    ) -> None:
        assert_one_line(run_cli("train", *arguments), 2, f"missing {missing}")


class TestConfigFile:
    def test_the_command_line_overrides_the_file(self, fake: FakeTraining) -> None:
        Path("c.toml").write_text('data = "d"\ntarget = "late"\nepochs = 3\nbatch-size = 64\nkeep_blocks = true\n')
        result = run_cli("train", "--config", "c.toml", "--epochs", "9", "--no-keep-blocks")
        assert result.exit_code == 0, result.stderr
        assert fake.config == TrainConfig(data=["d"], target="late", epochs=9, batch_size=64)

    def test_an_unknown_key_names_file_and_key(self, fake: FakeTraining) -> None:
        Path("c.toml").write_text('target = "late"\nepoch = 3\n')
        assert_one_line(
            run_cli("train", "d", "--config", "c.toml"), 78, "c.toml: no such option: epoch. Did you mean 'epochs'?"
        )

    def test_a_file_that_is_missing_is_no_input(self, fake: FakeTraining) -> None:
        assert_one_line(run_cli("train", "d", "--config", "none.toml"), 66, "none.toml")

    def test_a_file_that_is_no_toml_is_bad_configuration(self, fake: FakeTraining) -> None:
        Path("c.toml").write_text("epochs: 3")
        assert_one_line(run_cli("train", "d", "--config", "c.toml"), 78, "c.toml is not TOML")


class TestResume:
    @pytest.fixture
    def run_dir(self, folder: Path) -> str:
        (folder / "moved").mkdir()
        config = TrainConfig(data=["d"], target="late", run="before", epochs=3, learning_rate=0.5)
        stored = {"schema_version": 1, "config": config.model_dump(mode="json"), "manifest": {"files": []}}
        stored["resolved"] = {"loss": "logistic", "order": "full", "method": "auto", "epochs": 5}
        (folder / "moved" / "config.json").write_text(json.dumps(stored))
        return "moved"

    def test_it_takes_the_stored_options_and_the_given_ones(self, fake: FakeTraining, run_dir: str) -> None:
        result = run_cli("resume", run_dir, "--epochs", "6")
        assert result.exit_code == 0, result.stderr
        assert fake.config == TrainConfig(data=["d"], target="late", run="moved", epochs=6, learning_rate=0.5)
        assert fake.restart is False

    @pytest.mark.parametrize("name", [*identity_fields(), "run"])
    def test_what_decides_the_result_cannot_be_changed(self, fake: FakeTraining, run_dir: str, name: str) -> None:
        assert_one_line(run_cli("resume", run_dir, f"--{name.replace('_', '-')}", "1"), 2, "no such option")

    def test_a_bad_value_is_bad_configuration(self, fake: FakeTraining, run_dir: str) -> None:
        assert_one_line(run_cli("resume", run_dir, "--epochs", "0"), 78, "--epochs")

    def test_without_a_run_there_is_no_input(self, fake: FakeTraining) -> None:
        assert_one_line(run_cli("resume", "nowhere"), 66, "no run at nowhere")


class TestOutput:
    def test_results_go_to_stdout_and_the_rest_to_stderr(self, fake: FakeTraining) -> None:
        result = run_cli("train", "d", "--target", "late")
        assert result.stdout == "epochs  5\nloss    0.25\n"
        assert result.stderr == "resolved something\nwarning: look at this\n"

    def test_json_is_one_object_with_the_warnings(self, fake: FakeTraining) -> None:
        fake.result = {"loss": float("nan"), "theta": np.arange(2.0), "steps": np.int64(3), "warnings": ["a note"]}
        result = run_cli("train", "d", "--target", "late", "--json")
        assert json.loads(result.stdout, parse_constant=pytest.fail) == {
            "schema_version": 1, "loss": None, "theta": [0.0, 1.0], "steps": 3, "warnings": ["look at this", "a note"],
        }  # fmt: skip
        assert result.stdout.count("\n") == 1

    def test_quiet_is_silent_on_success(self, fake: FakeTraining) -> None:
        result = run_cli("train", "d", "--target", "late", "--quiet")
        assert (result.exit_code, result.output) == (0, "")

    def test_quiet_with_json_prints_the_object_alone(self, fake: FakeTraining) -> None:
        result = run_cli("train", "d", "--target", "late", "--quiet", "--json")
        assert json.loads(result.stdout)["warnings"] == ["look at this"]
        assert result.stderr == ""

    def test_dry_run_prints_the_plan_and_trains_nothing(
        self, fake: FakeTraining, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training, "plan", lambda *_: {"rows": 600, "columns": {"x": "number"}})
        result = run_cli("train", "d", "--target", "late", "--dry-run")
        assert result.stdout == "rows     600\ncolumns\n  x      number\n"
        assert fake.config is None


class TestErrors:
    @pytest.fixture
    def failing(self, fake: FakeTraining, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        (folder / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))

        def run(error: BaseException, *arguments: str) -> Result:
            fake.error = error
            return run_cli("train", "d", "--target", "late", "--run", "r", *arguments)

        return run

    def test_an_error_of_streamgd_has_its_code_and_one_line(self, failing: Any) -> None:
        result = failing(DataError("column 'x' is inf:\n  use --where."), "--quiet")
        assert_one_line(result, 65, "streamgd: column 'x' is inf: use --where.\n")

    def test_with_json_the_error_is_an_object_too(self, failing: Any) -> None:
        result = failing(PausedError("paused."), "--json", "--quiet")
        assert (result.exit_code, result.stderr) == (75, "streamgd: paused.\n")
        assert json.loads(result.stdout) == {
            "schema_version": 1, "warnings": ["look at this"],
            "error": {"type": "PausedError", "message": "paused.", "exit_code": 75},
        }  # fmt: skip

    def test_wrong_usage_with_json_is_an_object_too(self, fake: FakeTraining) -> None:
        result = run_cli("train", "--nonsense", "--json")
        assert json.loads(result.stdout)["error"]["exit_code"] == result.exit_code == 2

    def test_ctrl_c_outside_of_training_is_130(self, failing: Any) -> None:
        assert_one_line(failing(KeyboardInterrupt(), "--quiet"), 130, "interrupted")

    @pytest.mark.parametrize("run_dir_exists", [True, False])
    def test_a_defect_is_70_and_its_traceback_is_in_a_file(
        self, failing: Any, folder: Path, run_dir_exists: bool
    ) -> None:
        if run_dir_exists:
            (folder / "r").mkdir()
        result = failing(ZeroDivisionError("division\nby zero"), "--quiet")
        assert_one_line(result, 70, "a defect of streamgd: ZeroDivisionError: division by zero. Please report it with ")
        [file] = (folder / ("r" if run_dir_exists else "temporary")).iterdir()
        assert file.name in result.stderr
        assert "ZeroDivisionError: division\nby zero" in file.read_text()
        assert "in run" in file.read_text()

    def test_running_out_of_memory_is_70_and_says_what_to_lower(self, failing: Any) -> None:
        assert_one_line(failing(MemoryError(), "--quiet"), 70, "out of memory. Lower --memory")

    @pytest.mark.parametrize(
        ("error", "exit_code"),
        [
            (PermissionError(13, "Permission denied", "model"), 77),
            (OSError(28, "No space left on device", "model"), 74),
            (BrokenPipeError(32, "Broken pipe"), 74),  # of storage: only that of standard output is no error
            (FileNotFoundError(2, "No such file or directory", "model"), 70),
            (OSError("a library's own"), 70),
        ],
    )
    def test_what_storage_answers_is_told_as_such(self, failing: Any, error: OSError, exit_code: int) -> None:
        assert_one_line(failing(error, "--quiet"), exit_code, "")

    @pytest.mark.parametrize(
        "arguments", [(), ("nonsense",), ("--nonsense",), ("predict", "r"), ("show",), ("inspect",)]
    )
    def test_wrong_usage_is_one_line_that_says_where_help_is(self, folder: Path, arguments: tuple[str, ...]) -> None:
        assert_one_line(run_cli(*arguments), 2, "--help.")

    @pytest.mark.parametrize("threads", ["0", "-1", "two"])
    def test_bad_threads_are_bad_configuration_everywhere(self, folder: Path, threads: str) -> None:
        assert_one_line(run_cli("evaluate", "r", "d", "--threads", threads), 78, "--threads")
        assert_one_line(run_cli("predict", "r", "d", "--out", "o", "--threads", threads), 78, "--threads")

    def test_python_warnings_reach_nobody(self, fake: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*_: Any, **__: Any) -> Any:
            warnings.warn("of a library", UserWarning, stacklevel=1)
            return SimpleNamespace(to_json=dict)

        monkeypatch.setattr(training, "run", run)
        monkeypatch.setattr(sys, "warnoptions", [])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = run_cli("train", "d", "--target", "late")
        assert (result.exit_code, result.stderr, caught) == (0, "", [])


class TestTheWholeWay:
    """Real training on small data, in one process."""

    def test_train_show_evaluate_predict_and_resume(self, data: str) -> None:
        trained = run_cli(
            "train", data, "--target", "late", "--exclude", "row", "--run", "r", "--epochs", "2", "--json"
        )
        assert trained.exit_code == 0, trained.stderr
        facts = json.loads(trained.stdout)
        assert facts["schema_version"] == 1
        assert (facts["epochs"], facts["stopped_by"]) == (2, "epochs")

        shown = json.loads(run_cli("show", "r", "--json").stdout)
        assert {
            name: shown[name] for name in ("theta_sha256", "steps", "epochs", "rows_seen", "stopped_by", "state")
        } == {
            **{name: facts[name] for name in ("theta_sha256", "steps", "epochs", "rows_seen", "stopped_by")},
            "state": "finished",
        }
        text = run_cli("show", "r").stdout
        assert facts["theta_sha256"] in text
        assert re.search(r"base levels, which have no coefficient\n  carrier  (AA|DL|UA)\n", text)

        evaluated = json.loads(run_cli("evaluate", "r", data, "--by", "carrier", "--json").stdout)
        assert evaluated["log_loss"] < evaluated["base_log_loss"]
        text = run_cli("evaluate", "r", data, "--by", "carrier").stdout
        assert re.search(r"\nlog loss +0\.\d+ +0\.\d+\n", text)
        assert re.search(r"\nDL +\d+ +", text)

        predicted = run_cli("predict", "r", data, "--out", "out", "--keep", "row", "--json")
        assert json.loads(predicted.stdout)["rows"] == 600
        table = pq.read_table("out")
        assert table.column_names == ["row", "probability", "prediction"]
        assert table["row"].to_pylist() == [f"r{i}" for i in range(600)]

        again = run_cli("resume", "r", "--epochs", "3", "--json")
        assert again.exit_code == 0, again.stderr
        assert json.loads(again.stdout)["epochs"] == 3

    def test_the_plan_of_a_dry_run_tells_of_passes_and_the_disk(self, data: str, folder: Path) -> None:
        told = ["train", data, "--target", "late", "--exclude", "row", "--dry-run"]
        plan = json.loads(run_cli(*told, "--json").stdout)
        assert (
            plan["passes"] == "an epoch of minibatch, adagrad, averaged iterate, then passes of newton to the optimum"
        )
        assert (plan["blocks_dir"], plan["free_bytes"] > plan["blocks_bytes"]) == ("runs/late/blocks", True)
        assert "blocks_dir" not in json.loads(run_cli(*told, "--json", "--shuffle", "window").stdout)
        refused = run_cli(*told, "--memory", "512")
        assert refused.exit_code == 78
        assert "--memory 512 bytes is too small" in refused.stderr

    def test_the_plan_of_a_dry_run_writes_nothing(self, data: str, folder: Path) -> None:
        result = run_cli("train", data, "--target", "late", "--exclude", "row", "--dry-run", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["rows"] == 600
        assert [path.name for path in folder.iterdir()] == ["data.parquet"]

    def test_the_plan_of_a_new_start_is_not_bound_to_the_old_one(self, data: str) -> None:
        options = ("train", data, "--target", "late", "--exclude", "row", "--run", "r", "--epochs", "1")
        assert run_cli(*options).exit_code == 0
        assert run_cli(*options, "--l2", "0.1", "--dry-run").exit_code == 78
        assert run_cli(*options, "--l2", "0.1", "--dry-run", "--restart").exit_code == 0

    def test_inspect(self, data: str) -> None:
        facts = json.loads(run_cli("inspect", data, "--json").stdout)
        assert {column["name"] for column in facts["columns"]} == {"x", "carrier", "row", "late"}
        assert "carrier" in run_cli("inspect", data).stdout

    @pytest.mark.parametrize("command", [("show",), ("resume",), ("predict", "d", "--out", "o"), ("evaluate", "d")])
    def test_a_run_that_is_not_there_is_no_input(self, folder: Path, command: tuple[str, ...]) -> None:
        assert_one_line(run_cli(command[0], "nowhere", *command[1:]), 66, "nowhere")
        assert list(folder.iterdir()) == []


class TestTheProcess:
    def test_the_version_of_a_checkout_is_that_of_its_project(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def not_installed(name: str) -> str:
            raise PackageNotFoundError(name)

        monkeypatch.setattr("importlib.metadata.version", not_installed)
        # Where the package is installed, that is what is imported, and it lies beside no project.
        monkeypatch.setattr("streamgd.version.__file__", str(ROOT / "streamgd" / "version.py"))
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert run_cli("--version").stdout == f"streamgd {project['version']}\n"

    @pytest.mark.parametrize("option", ["--version", "--help"])
    def test_it_imports_nothing_heavy(self, option: str) -> None:
        heavy = "{'numpy', 'pyarrow', 'numba', 'rich', 'pydantic', 'dask'}"
        assert after_main(f"main(['{option}'])", f"print(sorted({heavy} & set(sys.modules)))") == "[]"

    def test_pandas_is_imported_by_those_alone_who_need_it(self, data: str) -> None:
        code = (
            "assert 'pandas' not in sys.modules\n"
            "import pyarrow as pa; print(pa.table({'x': [1, 2]}).to_pandas().x.sum())"
        )
        assert after_main(f"sys.argv[1:] = {self.training_on(data)}; main()", code) == "3"
        # Where the process is another's, so is what Arrow knows of pandas.
        code = "import pandas as pd, pyarrow as pa; print(pa.array(pd.Series([1.0, float('nan')])).null_count)"
        assert after_main(f"main(['inspect', {data!r}])", code) == "1"

    def test_garbage_is_looked_for_when_all_is_imported(self, data: str) -> None:
        code = "import gc; print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
        assert after_main(f"sys.argv[1:] = {self.training_on(data)}; main()", code) == "True True"
        # Where the process is another's, its objects may become garbage.
        assert after_main(f"main({self.training_on(data)})", code) == "True False"

    @staticmethod
    def training_on(data: str) -> list[str]:
        return ["train", data, "--target", "late", "--exclude", "row", "--where", "x < 1", "--quiet", "--restart"]

    def test_every_command_is_one_that_leaves_pandas_alone(self) -> None:
        job = main.commands["job"]
        assert isinstance(job, Commands)
        commands = {**main.commands, **job.commands}
        assert len(commands) > 12
        assert all(isinstance(command, Command) for command in commands.values() if command is not job)

    def test_a_reader_that_goes_away_is_no_error(self, data: str) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        result = run_process("inspect", data, stdout=writer)
        os.close(writer)
        assert (result.returncode, result.stderr) == (0, "")

    def test_a_full_disk_behind_standard_output_is_an_error(self, data: str) -> None:
        with open("/dev/full", "w") as full:
            result = run_process("inspect", data, stdout=full)
        assert result.returncode == 74
        assert re.fullmatch(r"streamgd: cannot write to standard output: [^\n]+\n", result.stderr)

    def test_nobody_reading_the_progress_is_no_error(self, data: str) -> None:
        assert (
            run_cli("train", data, "--target", "late", "--exclude", "row", "--run", "r", "--epochs", "1").exit_code == 0
        )
        reader, writer = os.pipe()
        os.close(reader)
        result = run_process("evaluate", "r", data, "--json", stderr=writer)
        os.close(writer)
        assert result.returncode == 0
        assert json.loads(result.stdout)["rows"] == 600
