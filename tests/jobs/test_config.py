"""Job files: every mistake is told with the file, the line and the field."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from streamgd.errors import ConfigError, NoInputError
from streamgd.jobs.config import LOSSES_OF_LIMITS, JobConfig, line_of, load_job
from streamgd.jobs.example import write_example
from streamgd.objective.losses import LOSSES
from streamgd.objective.multiclass import metrics_for

WHOLE = """\
source = "in"
state = "state/late"
mode = "continue"

[train]
target = "late"
exclude = "a,b"

[gate]
max_worse = "1%"
"""


def job_of(folder: Path, text: str) -> JobConfig:
    (folder / "late.toml").write_text(text)
    return load_job(folder / "late.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir("/")
    job = job_of(tmp_path / "jobs", WHOLE)
    assert job.source == str(tmp_path / "jobs" / "in")
    assert job.state_dir == tmp_path / "jobs" / "state" / "late"
    assert job.published_dir == job.state_dir / "published"
    assert job.log_path == tmp_path / "jobs" / "state" / "late.jsonl"
    assert job.name == "late"


def test_a_uri_stays_as_it_is(tmp_path: Path) -> None:
    assert job_of(tmp_path, WHOLE.replace('"in"', '"s3://bucket/in"')).source == "s3://bucket/in"


def test_units_are_those_of_train(tmp_path: Path) -> None:
    job = job_of(tmp_path, 'expect_new_within = "36h"\nmin_age = "5m"\n' + WHOLE)
    assert (job.expect_new_within, job.min_age, job.gate.max_worse) == (36 * 3600, 300, 0.01)


def test_training_options_are_those_of_train(tmp_path: Path) -> None:
    config = job_of(tmp_path, WHOLE).train_config(tmp_path / "run", ["x.parquet"])
    assert config.target == "late"
    assert config.exclude == ["a", "b"]
    assert config.only == ["x.parquet"]
    assert (config.epochs, config.shuffle, config.holdout) == (1, "window", 0.1)


def test_classes_are_weighed_where_all_rows_are_learned_anew(tmp_path: Path) -> None:
    text = WHOLE.replace('exclude = "a,b"', 'class_weight = "balanced"').replace('"continue"', '"retrain"')
    assert job_of(tmp_path, text).train_config(tmp_path / "run").class_weight == "balanced"
    job_of(tmp_path, WHOLE.replace('exclude = "a,b"', 'class_weight = "none"'))


def test_paths_among_training_options_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    text = WHOLE.replace('exclude = "a,b"', 'from = "runs/a"\nvalidation = ["v", "s3://b/v"]\nblocks-dir = "blocks"')
    config = job_of(tmp_path, text.replace("[gate]", '[gate]\non = "newest"')).train_config(tmp_path / "run")
    assert config.from_ == str(tmp_path / "runs/a")
    assert config.validation == [str(tmp_path / "v"), "s3://b/v"]
    assert config.blocks_dir == str(tmp_path / "blocks")


@pytest.mark.parametrize("loss", LOSSES)
def test_limits_are_known_by_the_metrics_of_each_loss(loss: str) -> None:
    metrics = metrics_for(LOSSES[loss], 3 if LOSSES[loss].has_many_outputs else 1)
    raw = np.zeros((4, 3)) if LOSSES[loss].has_many_outputs else np.zeros(4)
    metrics.add(np.array([0.0, 1.0, 1.0, 0.0]), LOSSES[loss].inverse_link(raw), raw, None)
    found = metrics.result()
    for rule, losses in LOSSES_OF_LIMITS.items():
        assert (rule.partition("_")[2] in found) == (loss in losses), rule


MISTAKES = [
    (WHOLE.replace("continue", "continu"), 3, "mode"),
    (WHOLE.replace("mode", "mood"), 3, "mood: no such field. Did you mean 'mode'?"),
    (WHOLE.replace("max_worse", "max_worst"), 10, "[gate] max_worst: no such field. Did you mean 'max_worse'?"),
    (WHOLE.replace('"1%"', '"one"'), 10, "[gate] max_worse"),
    (WHOLE.replace('"1%"', "-1"), 10, "[gate] max_worse"),
    (WHOLE.replace("exclude", "exclud"), 7, "[train] exclud: no such option. Did you mean 'exclude'?"),
    (WHOLE.replace('exclude = "a,b"', "l2 = -1"), 7, "[train] l2"),
    (WHOLE.replace('exclude = "a,b"', "epochs = 3"), 7, "[train] epochs"),
    (WHOLE.replace('exclude = "a,b"', 'method = "batch"'), 7, "[train] method"),
    (WHOLE.replace('exclude = "a,b"', 'class_weight = "balanced"'), 7, "[train] class_weight: with mode ="),
    (WHOLE.replace('exclude = "a,b"', 'data = "x"'), 7, "[train] data: the job decides it, by source"),
    (WHOLE.replace('exclude = "a,b"', "holdout = 0.1"), 7, "[train] holdout: the job decides it, by [gate] holdout"),
    (WHOLE + '[telemetry]\nlog = "state/late/log"\n', 12, "[telemetry] log: it lies inside the state directory"),
    (WHOLE + "[publish]\nkeep = 1\n", 12, "[publish] keep"),
    (WHOLE + "[publich]\nkeep = 1\n", 11, "publich: no such field. Did you mean 'publish'?"),
    (WHOLE.replace('target = "late"\n', ""), 5, "[train] target"),
    (WHOLE.replace('source = "in"\n', ""), None, "source: missing"),
    (WHOLE.replace("continue", "window"), None, "window_files"),
    (WHOLE.replace('"late"', '"late'), 6, "is not TOML"),
    (WHOLE.replace('"state/late"', '"s3://bucket/state"'), 2, "state: it must be on this machine"),
    (WHOLE + '[publish]\ndir = "s3://bucket/models"\n', 12, "[publish] dir: it must be on this machine"),
    (WHOLE + '[telemetry]\nlog = "s3://bucket/log"\n', 12, "[telemetry] log: it must be on this machine"),
    (WHOLE.replace('exclude = "a,b"', 'schedule = "cosine"'), 7, "[train] schedule: with mode ="),
    (WHOLE.replace('exclude = "a,b"', 'from = "r"\ninit = "zeros"'), 7, "[train] from: --from and --init zeros both"),
    (
        WHOLE.replace('exclude = "a,b"', 'loss = "squared"') + "min_auc = 0.6\n",
        11,
        "[gate] min_auc: it is about auc, which models of the squared loss do not have",
    ),
    (WHOLE.replace('exclude = "a,b"', 'loss = "multinomial"') + "min_auc = 0.6\n", 11, "[gate] min_auc"),
    (WHOLE.replace('exclude = "a,b"', 'loss = "logistic"') + "max_rmse = 2\n", 11, "[gate] max_rmse"),
    (WHOLE.replace('exclude = "a,b"', 'loss = "hinge"') + "max_log_loss = 2\n", 11, "[gate] max_log_loss"),
    (WHOLE.replace('exclude = "a,b"', 'loss = "poisson"') + "min_r2 = 0.5\n", 11, "[gate] min_r2"),
    (
        WHOLE.replace('exclude = "a,b"', 'loss = "multinomial"') + "[drift]\nwarn_target = 1\n",
        12,
        "[drift] warn_target: it is about a mean of the target",
    ),
]


@pytest.mark.parametrize(("text", "line", "told"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_told_with_line_and_field(tmp_path: Path, text: str, line: int | None, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job_of(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "late.toml") in message
    assert told in message
    assert line is None or f"line {line}" in message
    assert "\n" not in message


def test_state_among_the_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="state: it lies inside the source"):
        job_of(tmp_path, WHOLE.replace("state/late", "in/state"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"no\.toml"):
        load_job(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("text", "names", "line"),
    [
        ("a = 1\n[b]\na = 2\n", ["b", "a"], 3),
        ("a = 1\n[b]\na = 2\n", ["a"], 1),
        ("# a = 0\n a=1\n", ["a"], 2),
        ('[b]\n"a" = 1\n', ["b", "a"], 2),
        ("b.a = 1\n", ["b", "a"], 1),
        ("[b]\n", ["b", "a"], 1),
        ("x = 1\n", ["a"], None),
    ],
)
def test_line_of(text: str, names: list[str], line: int | None) -> None:
    assert line_of(text, names) == line


def test_the_example_is_a_whole_job(tmp_path: Path) -> None:
    write_example(tmp_path / "new" / "late.toml")
    job = load_job(tmp_path / "new" / "late.toml")
    assert job.mode == "continue"
    assert os.listdir(job.source) == []
    # What is commented out is right too.
    text = (tmp_path / "new" / "late.toml").read_text()
    lines = [line.removeprefix("# ") if "=" in line and line.startswith("# ") else line for line in text.splitlines()]
    lines = [line for line in lines if not line.startswith(("window_files", "A scheduled", "continue:"))]
    whole = "\n".join(line for line in lines if "[drift]" not in line).replace("warn_mean", "[drift]\nwarn_mean")
    assert job_of(tmp_path, whole).drift.fail_nulls == 0.2


def test_the_example_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "late.toml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        write_example(tmp_path / "late.toml")
    assert os.listdir(tmp_path) == ["late.toml"]
    assert (tmp_path / "late.toml").read_text() == "mine"
