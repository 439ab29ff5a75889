"""The tables: Markdown for people, JSON for machines; both from the same values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import Case, RunResult
from benchmarks.datasets import DataSet

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """All that a benchmark found.

    Attributes
    ----------
    data : dict
        Data sets by name, each with what its quality refers to and whether its files carry page checksums.
    """

    command: str
    started: str
    machine: dict[str, Any]
    data_sets: dict[str, DataSet]
    data: dict[str, dict[str, Any]]
    page_cache: str
    settings: dict[str, str]
    cases: list[Case]
    results: dict[str, RunResult]

    def ratios(self) -> list[dict[str, Any]]:
        """A row for each comparison; `value` and `reached` are None where a run is missing."""
        rows = []
        for case in self.cases:
            for comparison in case.comparisons:
                value = comparison.value(self.results)
                skipped = [self.results[run.label].skipped for run in case.runs]
                rows.append({
                    "case": case.name, "title": case.title, "what": comparison.what, "value": value,
                    "unit": comparison.unit, "at_least": comparison.at_least, "at_most": comparison.at_most,
                    "reached": None if value is None else comparison.reached(value),
                    "missing": None if value is not None else "; ".join(filter(None, skipped)) or "not measured",
                    "numerator": comparison.numerator.value(self.results),
                    "denominator": comparison.denominator and comparison.denominator.value(self.results),
                })  # fmt: skip
        return rows

    def times(self) -> list[dict[str, Any]]:
        """A row for each run."""
        rows = []
        for result in self.results.values():
            seconds = result.values("seconds")
            row: dict[str, Any] = {
                "run": result.run.label, "data": result.run.data, "rows": result.rows, "skipped": result.skipped,
                "settings": self.settings[result.run.label], "repeats": len(seconds),
            }  # fmt: skip
            if seconds:
                names = sorted({name for each in result.measurements for name in each.measures})
                row |= {
                    "seconds": median(seconds), "fastest_s": min(seconds), "slowest_s": max(seconds),
                    "rows_per_s": result.rows / median(seconds),
                    "peak_anonymous_bytes": result.typical("peak_anonymous_bytes"),
                    "way_closed": result.way_closed, "measures": {name: result.typical(name) for name in names},
                    "measurements": [asdict(each) for each in result.measurements],
                }  # fmt: skip
            rows.append(row)
        return rows


def write(outcome: Outcome, out: Path) -> tuple[Path, Path]:
    """Write `RESULTS.md` and `results.json`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    markdown, machine_readable = out / "RESULTS.md", out / "results.json"
    markdown.write_text(to_markdown(outcome), encoding="utf-8")
    machine_readable.write_text(json.dumps(to_json(outcome), indent=1) + "\n", encoding="utf-8")
    return markdown, machine_readable


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values."""
    return {
        "schema_version": SCHEMA_VERSION, "command": outcome.command, "started": outcome.started,
        "machine": outcome.machine, "page_cache": outcome.page_cache,
        "data": {name: {**asdict(outcome.data_sets[name]), **about} for name, about in outcome.data.items()},
        "ratios": outcome.ratios(), "runs": outcome.times(),
    }  # fmt: skip


def to_markdown(outcome: Outcome) -> str:
    """The page."""
    parts = [_head(outcome), _ratio_table(outcome), _time_table(outcome), _settings_table(outcome)]
    return "\n".join(parts)


def _head(outcome: Outcome) -> str:
    machine = outcome.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        "# streamgd beside its peers", "",
        "Written by this command; every figure is a median of the same run of it.", "",
        f"    {outcome.command}", "",
        f"- {outcome.started}, commit {machine['commit']}",
        f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.1f} GB, Linux"
        f" {machine['kernel']}, load {machine['load_at_start']:.2f} at the start",
        f"- disk: {machine['disk_write_mb_per_s']:,} MB/s written (with fsync), {machine['disk_read_mb_per_s']:,} MB/s"
        " read (page cache dropped)",
        f"- page cache: {outcome.page_cache}",
        f"- versions: {versions}",
        "- clock: inside a process that is warm (imports, compiled loops), but for whole processes; systems take turns"
        " in each repeat",
        "- memory: largest anonymous memory (RssAnon) of the process and its children, looked at every 20 ms",
        "- way closed: (base − loss) / (base − optimum), mean log loss without penalty, against what the data's line"
        " names; base is the best constant",
    ]  # fmt: skip
    for name, about in outcome.data.items():
        checksums = "with" if about["page_checksums"] else "without"
        lines.append(
            f"- data `{name}`: {outcome.data_sets[name].title}, snappy, row groups of 131,072 rows, {checksums} page"
            f" checksums; quality against {about['judged_by']}"
        )
    return "\n".join(lines) + "\n"


def _ratio_table(outcome: Outcome) -> str:
    lines = ["## What should be reached", "", "| case | what | measured | target | |", "|---|---|---|---|---|"]
    for row in outcome.ratios():
        if row["at_least"] is not None:
            target = f"at least {row['at_least']:g} {row['unit']}"
        else:
            target = "" if row["at_most"] is None else f"at most {row['at_most']:g} {row['unit']}"
        measured = "–" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
        verdict = {None: "", True: "reached", False: "**not reached**"}[row["reached"]]
        verdict = f"skipped: {row['missing']}" if row["value"] is None else verdict
        lines.append(f"| {row['case']} | {row['title']}: {row['what']} | {measured} | {target} | {verdict} |")
    return "\n".join(lines) + "\n"


def _time_table(outcome: Outcome) -> str:
    lines = [
        "## Times", "",
        "| run | data | seconds, median (fastest … slowest) | M rows/s | peak anonymous MB | way closed | parts |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in outcome.times():
        if not row["repeats"]:
            lines.append(f"| {row['run']} | {row['data']} | skipped: {row['skipped']} | | | | |")
            continue
        span = f"{row['seconds']:.3f} ({row['fastest_s']:.3f} … {row['slowest_s']:.3f})"
        quality = "" if row["way_closed"] is None else f"{100 * row['way_closed']:.3f} %"
        memory = f"{row['peak_anonymous_bytes'] / 1e6:.0f}"
        parts = ", ".join(_part(name, value) for name, value in row["measures"].items())
        if row["skipped"]:
            parts = f"{parts} (a repeat failed: {row['skipped']})"
        rate = f"{row['rows_per_s'] / 1e6:.2f}"
        lines.append(f"| {row['run']} | {row['data']} | {span} | {rate} | {memory} | {quality} | {parts} |")
    return "\n".join(lines) + "\n"


def _part(name: str, value: float) -> str:
    if "bytes_per_s" in name:
        return f"{name.replace('bytes_per_s', 'GB/s').replace('_', ' ')} {value / 1e9:.2f}"
    if not name.endswith("_s"):
        return f"{name.replace('_', ' ')} {value:,.0f}"
    return f"{name.removesuffix('_s').replace('_', ' ')} {value:.4f} s"


def _settings_table(outcome: Outcome) -> str:
    lines = ["## Settings", "", "| run | settings |", "|---|---|"]
    # A bar would end the cell.
    lines += [f"| {label} | {text.replace('|', chr(92) + '|')} |" for label, text in outcome.settings.items()]
    return "\n".join(lines) + "\n"
