"""What a night would end with is told before it trains, and ``job check`` tells what the run would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from small_jobs import HEAD, TRAIN, job, log_of

from streamgd.errors import StreamgdError
from streamgd.jobs.config import JobConfig
from streamgd.jobs.job import run_job
from streamgd.jobs.operations import check

CONTINUE = HEAD.replace("retrain", "continue")
GATE = '[gate]\nmax_worse = "50%"\n'


def write_day(config: JobConfig, day: int, rows: int = 2000, **changed: Any) -> None:
    """A file of columns x, z and late, but for those that are ``changed``; None leaves a column out."""
    rng = np.random.default_rng(day)
    x, z = rng.normal(size=(2, rows))
    y = (rng.random(rows) < 1.0 / (1.0 + np.exp(-2.0 * x))).astype(int)
    columns = {name: values for name, values in ({"x": x, "z": z, "late": y} | changed).items() if values is not None}
    pq.write_table(pa.table(columns), Path(config.source) / f"{day}.parquet")


def night(late: JobConfig, restart: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What a run ends with, and its warnings."""
    display = Listener()
    return run_job(late, display, restart), display.warnings


def both_refused(late: JobConfig, exit_code: int) -> str:
    """The one message of the check and of the run, which trains nothing."""
    told = []
    for each in (check, night):
        with pytest.raises(StreamgdError) as caught:
            each(late)
        assert caught.value.exit_code == exit_code
        told.append(str(caught.value))
    assert told[0] == told[1]
    events = [event["event"] for event in log_of(late)]
    began = len(events) - events[::-1].index("run_start")
    assert "trained" not in events[began:]
    return told[0]


CHANGES = {
    "type": {"z": np.arange(2000)}, "text": {"z": ["a", "b"] * 1000}, "missing": {"z": None},
    "new": {"v": np.zeros(2000)},
}  # fmt: skip


@pytest.mark.parametrize("mode", ["continue", "retrain"])
@pytest.mark.parametrize("on", ["holdout", "newest"])
@pytest.mark.parametrize("change", CHANGES)
def test_other_columns_are_refused_before_training(tmp_path: Path, mode: str, on: str, change: str) -> None:
    head = HEAD.replace("retrain", mode) + TRAIN
    late = job(tmp_path, GATE + f'on = "{on}"\n', head)
    write_day(late, 1)
    night(late)
    write_day(late, 2, **CHANGES[change])
    assert "2.parquet" in both_refused(late, 65)


@pytest.mark.parametrize("mode", ["continue", "retrain"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_way_out_that_is_told_works(tmp_path: Path, mode: str, change: str) -> None:
    """``exclude`` and ``--restart``; the published model is compared with on the files that have its columns."""
    head = HEAD.replace("retrain", mode) + TRAIN
    late = job(tmp_path, GATE, head)
    write_day(late, 1)
    night(late)
    write_day(late, 2, **CHANGES[change])
    assert "[train] exclude and train afresh with: streamgd job run --restart" in both_refused(late, 65)
    late = job(tmp_path, GATE, head + f'exclude = "{next(iter(CHANGES[change]))}"\n')
    if mode == "continue":
        message = both_refused(late, 78)
        assert "the stream was begun with other options: --exclude was none, now" in message
        assert "streamgd job run --restart" in message
    facts, warnings = night(late, restart=True)
    assert (facts["outcome"], facts["files"], warnings) == ("published", ["1.parquet", "2.parquet"], [])
    (judged,) = [event for event in log_of(late)[-5:] if event["event"] == "judged"]
    assert judged["current"]["known"]["loss"] > 0.0


def test_check_tells_all_rows_that_are_trained_on(tmp_path: Path) -> None:
    late = job(tmp_path)
    write_day(late, 1)
    night(late)
    write_day(late, 2)
    facts = check(late)
    assert (facts["would_learn"], facts["rows"]) == (["2.parquet"], 4000)


NUMBERS = np.random.default_rng(0).normal(size=2000)


@pytest.mark.parametrize(
    ("rule", "target"),
    [("[gate]\nmax_rmse = 2.0\n", NUMBERS > 0), ("[gate]\nmin_auc = 0.6\n", NUMBERS),
     ("[drift]\nfail_target = 1.0\n", ["a", "b", "c", "d"] * 500)],
    ids=["rmse", "auc", "drift"],
)  # fmt: skip
def test_a_rule_that_no_model_can_meet_is_told_when_the_loss_is_known(tmp_path: Path, rule: str, target: Any) -> None:
    late = job(tmp_path, rule)
    write_day(late, 1, late=target)
    message = both_refused(late, 78)
    assert f"{late.path}, line 7: " in message
    assert "leave it out" in message


def test_another_target_or_loss_is_not_compared_with(tmp_path: Path) -> None:
    late = job(tmp_path, GATE)
    write_day(late, 1, amount=np.random.default_rng(1).gamma(2.0, size=2000))
    night(late)
    head = HEAD + TRAIN.replace("late", "amount")
    for text, told in ((head, "the target of the first is late"), (head + 'loss = "gamma"\n', "the loss of the first")):
        late = job(tmp_path, GATE, text)
        facts, warnings = night(late, restart=True)
        assert facts["outcome"] == "published"
        assert len(warnings) == 1
        assert "max_worse does not apply" in warnings[0]
        assert told in warnings[0]


def test_other_rows_are_not_compared_with(tmp_path: Path) -> None:
    late = job(tmp_path, GATE)
    write_day(late, 1)
    night(late)
    late = job(tmp_path, GATE, HEAD + TRAIN + 'where = "x > 0"\n')
    _, warnings = night(late, restart=True)
    assert "the condition on rows of the first is None, of the second x > 0" in warnings[0]


def test_both_models_are_measured_by_the_loss_of_the_candidate(tmp_path: Path) -> None:
    """``delta`` of huber follows the data: it would be another one each night."""
    late = job(tmp_path, GATE, HEAD + TRAIN + 'loss = "huber"\n')
    for day in (1, 2):
        x = np.random.default_rng(day).normal(size=2000)
        write_day(late, day, x=x, late=x + day * np.random.default_rng(day).standard_t(3, size=2000))
        facts, warnings = night(late)
    assert (facts["version"], warnings) == (2, [])
    judged = [event for event in log_of(late) if event["event"] == "judged"]
    losses = [judged[-1][model]["known"]["loss"] for model in ("candidate", "current")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize(("mode", "is_told"), [("retrain", True), ("continue", False)])
def test_what_is_trained_without_a_changed_file_is_told(tmp_path: Path, mode: str, is_told: bool) -> None:
    late = job(tmp_path, head=HEAD.replace("retrain", mode) + 'on_changed = "ignore"\n' + TRAIN)
    write_day(late, 1)
    write_day(late, 2)
    night(late)
    write_day(late, 1, rows=2500)
    write_day(late, 3)
    assert check(late)["changed"] == (["1.parquet"] if is_told else [])
    facts, warnings = night(late)
    assert facts["files"] == ["3.parquet"]
    told = "trained afresh without files that have other content now than when they were learned: 1.parquet"
    assert warnings == ([told] if is_told else [])
