"""The benchmark on a small data set: its tables, its ratios, what it does without a peer, what it measures with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# Not part of the installed package; behind it, so that the installed streamgd is the one that is tested.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks import __main__ as command
from benchmarks import machine, report
from benchmarks.cases import Case, Run, RunResult, all_cases
from benchmarks.datasets import DataSet, geometric_levels
from benchmarks.measure import Measurement, MemorySampler
from benchmarks.systems import SYSTEMS

ROWS = 20_000


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """JSON and Markdown of a run of two cases."""
    folder = tmp_path_factory.mktemp("benchmark")
    arguments = ["--rows", str(ROWS), "--repeats", "1", "--only", "default-1", "prepare"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "DISK_BYTES", 2**22)
        assert command.main([*arguments, "--data", str(folder / "data"), "--out", str(folder / "out")]) == 0
    assert not list((folder / "data").glob("_scratch*"))
    results = json.loads((folder / "out" / "results.json").read_text())
    return results, (folder / "out" / "RESULTS.md").read_text()


def test_each_run_of_the_cases_has_a_row_with_its_times(found: tuple[dict[str, Any], str]) -> None:
    results, markdown = found
    runs = {run.label for case in all_cases() if case.name in ("default-1", "prepare") for run in case.runs}
    assert {row["run"] for row in results["runs"]} == runs
    for row in results["runs"]:
        assert row["skipped"] is None
        assert row["repeats"] == 1
        assert 0 < row["fastest_s"] <= row["seconds"] <= row["slowest_s"]
        assert row["peak_anonymous_bytes"] > 10**7
        assert f"| {row['run']} |" in markdown


def test_quality_stands_beside_the_time_of_each_system_that_trains(found: tuple[dict[str, Any], str]) -> None:
    for row in found[0]["runs"]:
        if row["run"] == "bare decode":
            assert row["way_closed"] is None
        else:
            assert 0.9 < row["way_closed"] <= 1.0 + 1e-9


def test_ratios_are_those_of_medians_and_the_better_of_two_ways_counts() -> None:
    case = next(case for case in all_cases() if case.name == "default-1")
    seconds = {"streamgd default": [1.0, 2.0, 9.0], "iter_batches": [10.0, 30.0, 11.0], "to_batches": [12.0, 8.0, 13.0]}
    results = {run.label: RunResult(run, ROWS) for run in case.runs}
    for label, result in results.items():
        values = next(values for name, values in seconds.items() if name in label)
        result.measurements = [Measurement(value, 0) for value in values]
    comparison = case.comparisons[0]
    assert comparison.value(results) == 11.0 / 2.0
    assert comparison.reached(5.5)
    assert not comparison.reached(3.9)


def test_ratios_are_those_of_the_times(found: tuple[dict[str, Any], str]) -> None:
    runs = {row["run"]: row for row in found[0]["runs"]}
    ratios = {row["case"]: row for row in found[0]["ratios"]}
    loops = [runs[f"scikit-learn loop, {access}, 1 epoch"]["seconds"] for access in ("iter_batches", "to_batches")]
    expected = min(loops) / runs["streamgd default, 1 epoch"]["seconds"]
    assert ratios["default-1"]["value"] == pytest.approx(expected)
    assert ratios["default-1"]["reached"] == (expected >= 4.0)

    prepare = runs["streamgd default, 5 epochs"]["measures"]["prepare_s"]
    assert ratios["prepare"]["value"] == pytest.approx(prepare / runs["bare decode"]["seconds"])


def test_paired_ratios_are_taken_repeat_by_repeat() -> None:
    case = next(case for case in all_cases() if case.name == "checkpoints")
    without, with_checkpoints = (case.comparisons[0].numerator, case.comparisons[0].denominator)
    assert with_checkpoints is not None
    results = {run.label: RunResult(run, ROWS) for run in case.runs}
    # The machine slows down from repeat to repeat: the ratio of medians would be 2.0 / 2.0.
    for quantity, seconds in ((without, [1.0, 2.0, 4.0]), (with_checkpoints, [1.25, 2.0, 5.0])):
        measured = [Measurement(9.9, 0, {"further_epoch_s": value}) for value in seconds]
        results[quantity.runs[0].label].measurements = measured
    assert case.comparisons[0].value(results) == pytest.approx(0.8)
    results[without.runs[0].label].measurements.clear()
    assert case.comparisons[0].value(results) is None


@pytest.mark.slow
def test_checkpoints_are_counted_and_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISK_BYTES", 2**22)
    runs = [
        Run("with", "Streamgd", options={"epochs": 20, "checkpoint_every": "1ms"}),
        Run("without", "Streamgd", options={"epochs": 20, "checkpoints": False}),
    ]
    outcome = command.run([Case("checkpoints", "Checkpoints", (), tuple(runs))], ROWS, 1, tmp_path)
    measures = {row["run"]: row["measures"] for row in outcome.times()}
    assert measures["without"]["checkpoints"] == 0.0
    assert measures["with"]["checkpoints"] > 2.0
    assert measures["with"]["further_epoch_s"] > 0.0
    assert "no checkpoint" in outcome.settings["without"]


def test_the_machine_and_the_data_are_described(found: tuple[dict[str, Any], str]) -> None:
    results, markdown = found
    assert results["machine"]["versions"]["numpy"] == np.__version__
    assert results["data"]["numeric"]["page_checksums"] is False
    assert "page cache: warm" in markdown


def test_a_missing_peer_is_skipped_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISK_BYTES", 2**22)
    monkeypatch.setattr(SYSTEMS["TorchLinear"], "packages", ("no_such_package",))
    case = Case("peers", "Peers", (), (Run("PyTorch", "TorchLinear"),))
    outcome = command.run([case], ROWS, 1, tmp_path)
    assert outcome.results["PyTorch"].skipped == "not installed: no_such_package (see the extra bench)"
    assert "| PyTorch | numeric | skipped: not installed: no_such_package" in report.to_markdown(outcome)


def test_a_ratio_without_its_peer_says_what_is_missing() -> None:
    case = next(case for case in all_cases() if case.name == "vowpal")
    results = {run.label: RunResult(run, ROWS) for run in case.runs}
    results["streamgd sgd, 5 epochs"].measurements.append(Measurement(1.0, 0, {"further_epoch_s": 0.1}))
    results["Vowpal Wabbit, cache"].skipped = "not installed: vowpalwabbit"
    outcome = report.Outcome("", "", {}, {}, {}, "", dict.fromkeys(results, ""), [case], results)
    assert outcome.ratios()[0]["value"] is None
    assert outcome.ratios()[0]["missing"] == "not installed: vowpalwabbit"


@pytest.mark.slow
def test_a_system_that_fails_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISK_BYTES", 2**22)
    wrong = Run("wrong", "Streamgd", options={"epochs": -1})
    outcome = command.run([Case("x", "X", (), (wrong, Run("bare decode", "BareDecode")))], ROWS, 1, tmp_path)
    assert "--epochs" in str(outcome.results["wrong"].skipped)
    assert len(outcome.results["bare decode"].measurements) == 1


def test_an_unknown_case_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "nothing"]) == 2
    assert "no such case: nothing" in capsys.readouterr().err


def test_each_run_has_one_label_and_a_system_that_exists() -> None:
    by_label: dict[str, Run] = {}
    for run in (run for case in all_cases() for run in case.runs):
        assert run.system in SYSTEMS
        assert by_label.setdefault(run.label, run) == run


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("checksums", [True, False])
def test_page_checksums_are_found(tmp_path: Path, dictionary: bool, checksums: bool) -> None:
    path = tmp_path / "part.parquet"
    table = pa.table({"x": np.arange(1000.0)})
    pq.write_table(table, path, use_dictionary=dictionary, write_page_checksum=checksums)
    assert machine.has_page_checksums(str(path)) == checksums


def test_memory_of_children_is_counted() -> None:
    hold = "import time; held = b'x' * 80_000_000; time.sleep(1.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen([sys.executable, "-c", parent]) as process, MemorySampler(process.pid) as memory:
        process.wait()
    assert memory.peak_bytes > 80_000_000


def test_the_truth_closes_the_whole_way_on_rows_with_levels(tmp_path: Path) -> None:
    data_set = DataSet("mixed", 1_000, 2, geometric_levels(2, 3, 30), judged_by="truth")
    files, reference = data_set.make(tmp_path)
    assert pq.read_metadata(files.paths[0]).num_rows == 1_000
    assert reference.optimum_loss < reference.base_loss < np.log(2) + 1e-3
    assert data_set.make(tmp_path) == (files, reference)
