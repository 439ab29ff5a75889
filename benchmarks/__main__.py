"""The command: `python -m benchmarks [--rows N] [--only NAME ...]`; `--list` tells the names.

Progress goes to stderr; the tables go to `--out`, and the one of the ratios to stdout.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, report
from benchmarks.cases import Case, Run, RunResult, all_cases, unique
from benchmarks.datasets import DataSet, data_sets
from benchmarks.measure import RunFailedError, Work, measure
from benchmarks.reference import Reference
from benchmarks.systems import SYSTEMS, make_system
from benchmarks.systems.base import DataFiles

WARM_ROWS = 20_000
SPARE_BYTES = 2 * 10**9


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0 done (a target that is missed is no error), 2 wrong usage."""
    asked = _parse(sys.argv[1:] if arguments is None else arguments)
    known = {case.name: case for case in all_cases()}
    if asked.list:
        for case in known.values():
            print(f"{case.name:14} {case.title}{'' if case.by_default else ' (only when named)'}")
        return 0
    unknown = [name for name in asked.only if name not in known]
    if unknown or asked.rows < 1 or asked.repeats < 1:
        what = f"no such case: {unknown[0]}" if unknown else "--rows and --repeats must be at least 1"
        print(f"benchmarks: {what}. Cases: {', '.join(known)}", file=sys.stderr)
        return 2
    cases = [known[name] for name in asked.only] or [case for case in known.values() if case.by_default]
    outcome = run(cases, asked.rows, asked.repeats, Path(asked.data))
    written = report.write(outcome, Path(asked.out or Path(asked.data) / "results"))
    print(report.to_markdown(outcome).partition("## Times")[0])
    _tell(f"written: {', '.join(map(str, written))}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "streamgd-benchmarks"
    parser = argparse.ArgumentParser("python -m benchmarks", description="streamgd beside its peers.")
    parser.add_argument("--rows", type=int, default=5_000_000, metavar="N", help="rows of the data [5000000]")
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="cases to run")
    parser.add_argument("--repeats", type=int, default=3, metavar="K", help="runs of each system [3]")
    parser.add_argument("--data", default=str(cache), metavar="DIR", help=f"where data are kept between runs [{cache}]")
    parser.add_argument("--out", metavar="DIR", help="where RESULTS.md and results.json go [DATA/results]")
    parser.add_argument("--list", action="store_true", help="list the cases")
    return parser.parse_args(arguments)


def run(cases: list[Case], rows: int, repeats: int, directory: Path) -> report.Outcome:
    """Make the data, measure all runs of the cases in turn, and put the results together."""
    started = time.strftime("%Y-%m-%d %H:%M")
    directory.mkdir(parents=True, exist_ok=True)
    machine_facts = machine.describe(directory)
    sets = data_sets(rows)
    runs = unique(run for case in cases for run in case.runs)
    results = {run.label: RunResult(run, sets[run.data].rows) for run in runs}
    for result in results.values():
        result.skipped = SYSTEMS[result.run.system].skip_reason()
    made = _make_data(results, sets, directory)
    # In turn, so that whatever else the machine does hits all systems.
    with tempfile.TemporaryDirectory(prefix="_scratch-", dir=directory) as scratch:
        for repeat in range(repeats):
            for index, result in enumerate(results.values()):
                if result.run.data in made:
                    _measure(result, repeat, f"{repeat + 1}/{repeats}", made, Path(scratch) / f"{repeat}-{index}")
    memory_bytes = machine_facts["memory_bytes"]
    too_large = [name for name in made if sets[name].data_bytes + sets[name].block_bytes > 0.8 * memory_bytes]
    page_cache = "warm: all files of a run are read before its clock starts"
    if too_large:
        page_cache += f"; but {', '.join(too_large)} with its blocks does not fit in memory, so it is partly cold"
    return report.Outcome(
        command=f"python -m benchmarks {shlex.join(sys.argv[1:])}".strip(), started=started, machine=machine_facts,
        data_sets=sets,
        data={
            name: {"judged_by": work[2].kind, "page_checksums": machine.has_page_checksums(work[0].paths[0])}
            for name, work in made.items()
        },
        page_cache=page_cache,
        settings={run.label: _settings(run) for run in runs},
        cases=cases, results=results,
    )  # fmt: skip


Made = dict[str, tuple[DataFiles, DataFiles, Reference]]


def _make_data(results: dict[str, RunResult], sets: dict[str, DataSet], directory: Path) -> Made:
    """Files, those to warm up with, and reference of each data set that a run needs and that fits the disk."""
    made: Made = {}
    for name in dict.fromkeys(result.run.data for result in results.values() if result.skipped is None):
        data_set = sets[name]
        there = Path(data_set.files(directory).folder, "reference.json").exists()
        # Blocks are written twice for a moment, and Vowpal Wabbit's text and cache are as large as the data.
        needed = (0 if there else data_set.data_bytes) + 1.5 * data_set.data_bytes + SPARE_BYTES
        free = shutil.disk_usage(directory).free
        if free < needed:
            for result in results.values():
                if result.run.data == name:
                    result.skipped = f"needs {needed / 1e9:.0f} GB in {directory}, {free / 1e9:.0f} GB are free"
            continue
        _tell(f"data {name}: {data_set.title}")
        files, reference = data_set.make(directory)
        warm, _ = data_set.with_rows(min(data_set.rows, WARM_ROWS)).make(directory)
        made[name] = files, warm, reference
    return made


def _measure(result: RunResult, repeat: int, turn: str, made: Made, scratch: Path) -> None:
    """One repeat of one run; a failure is told and ends the repeats of this run."""
    run = result.run
    if result.skipped is not None:
        return
    files, warm, reference = made[run.data]
    work = Work(run.system, run.options, files, warm, reference)
    evaluate = repeat == 0 and SYSTEMS[run.system].trains
    try:
        found = measure(work, scratch, evaluate, warm_processes=repeat == 0)
    except RunFailedError as error:
        result.skipped = f"failed: {error}".replace("|", "/")
        _tell(f"{turn} {run.label}: {result.skipped}")
        return
    result.measurements.append(found)
    quality = "" if found.way_closed is None else f", {100 * found.way_closed:.3f} % of the way"
    memory = f"{found.peak_anonymous_bytes / 1e6:.0f} MB"
    _tell(f"{turn} {run.label}: {found.seconds:.3f} s, {memory}{quality}")


def _settings(run: Run) -> str:
    if (reason := SYSTEMS[run.system].skip_reason()) is not None:
        return reason
    return make_system(run.system, Path(), run.options).settings


def _tell(text: str) -> None:
    print(f"benchmarks: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
