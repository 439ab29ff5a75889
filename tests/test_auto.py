"""``--method auto``, the default: an epoch of mini-batches, then passes to the optimum; or mini-batches, and why."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Generated
from displays import Listener
from histories import untimed
from mistakes import here, message
from oracles import Oracle, Rows
from processes import Process

from streamgd.config import make_config
from streamgd.data import blocks, scatter
from streamgd.errors import ConfigError, PausedError, RunMismatchError
from streamgd.show import format_show, show
from streamgd.training import certificate, memory
from streamgd.training.train import Result, plan, train

FEATURES = ["x0", "x1", "x2", "x3", "c0", "c1"]


@pytest.fixture(scope="module")
def data(generated: Generated) -> dict[str, Path]:
    options: dict[str, Any] = {"rows": 30_000, "features": 4, "categorical": 2, "levels": 9, "row_group_rows": 7_000}
    return {loss: generated(**options, loss=loss, badly_scaled=True, seed=11) for loss in ("squared", "logistic")}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 2_000)


def kinds(history: list[dict[str, Any]]) -> list[str]:
    return [line["event"] for line in history if line["event"] in ("epoch", "pass")]


# What it stands for


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"epochs": 1}, "--epochs is given"),
        ({"optimizer": "adam"}, "--optimizer is given"),
        ({"learning_rate": 0.3}, "--learning-rate is given"),
        ({"schedule": "cosine"}, "--schedule is given"),
        ({"batch_size": 64}, "--batch-size is given"),
        ({"average": "off"}, "--average is given"),
        ({"l1": 1e-3}, "--l1 is given"),
        ({"patience": 3, "holdout": 0.1}, "--patience is given"),
        ({"tol_loss": 1e-3}, "--tol-loss is given"),
        ({"shuffle": "window"}, "rows in order window are not kept for passes"),
        ({"blocks_max": 1_000}, "rows in order window are not kept for passes"),
        ({"max_levels": 2, "hash_buckets": 600}, "1,205 coefficients are more than 1,024"),
    ],
    ids=str,
)
def test_what_speaks_of_minibatches_or_is_dear_makes_it_minibatches(
    options: dict[str, Any], why: str, data: dict[str, Path], tmp_path: Path
) -> None:
    listener = Listener()
    found = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), display=listener, **options)
    assert any(text.startswith("method: minibatch") and why in text for text in listener.told), listener.told
    assert found.facts["method"] == "minibatch"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["resolved"]["method"] == "minibatch"
    asked = train(str(data["logistic"]), "y", run=str(tmp_path / "asked"), method="minibatch", **options)
    assert found.model.theta_sha256 == asked.model.theta_sha256
    assert found.facts["epochs"] == asked.facts["epochs"] == options.get("epochs", found.facts["epochs"])
    again = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), **options)
    assert again.facts["already_finished"]


def test_many_columns_make_it_minibatches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=500) for i in range(129)} | {"y": rng.normal(size=500)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    for features, method in ((None, "minibatch"), ([f"x{i}" for i in range(128)], "auto")):
        config = make_config(data=str(tmp_path / "data.parquet"), target="y", loss="squared", features=features)
        assert plan(config)["method"] == method


def test_minibatches_for_too_many_coefficients_go_on_with_more_epochs(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 10)
    first = train(str(data["logistic"]), "y", run=str(tmp_path / "run"))
    assert (first.facts["method"], first.facts["epochs"]) == ("minibatch", 5)
    longer = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), epochs=7)
    straight = train(str(data["logistic"]), "y", run=str(tmp_path / "straight"), epochs=7)
    assert longer.model.theta_sha256 == straight.model.theta_sha256


def test_what_it_is_stays_for_all_starts(data: dict[str, Path], tmp_path: Path, small_blocks: None) -> None:
    """An option that may change between starts would have made it mini-batches, had it been there at the first."""

    def fit(run: str, **options: Any) -> Result:
        return train(str(data["logistic"]), "y", run=str(tmp_path / run), **options)

    straight = fit("straight")
    with pytest.raises(RuntimeError, match="fell over"):
        fit("run", checkpoint_every=1e-9, display=Listener("pass 1", fall_over))
    gone_on = fit("run", tol_theta=1e-300, blocks_max="300GB")
    assert gone_on.model.theta_sha256 == straight.model.theta_sha256
    with pytest.raises(RunMismatchError, match=r"began without --epochs.*Leave --epochs out.*--restart") as caught:
        fit("run", epochs=9)
    assert caught.value.exit_code == 78
    message(here("resume", tmp_path / "run", "--epochs", "9", "--quiet", "--json"), 78, "began without --epochs")
    assert fit("run").facts["already_finished"]


def fall_over() -> None:
    raise RuntimeError("the machine fell over")


@pytest.mark.parametrize("name", ["tol_excess", "tol_gradient"])
def test_tolerances_of_full_batch_are_refused_where_it_is_minibatches(
    name: str, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = rf"--{name.replace('_', '-')} is for full batch, and --method auto is minibatch here: .*--method batch"
    for number, options in enumerate(({"epochs": 2}, {"l1": 1e-3}, {"shuffle": "window"}, {})):
        if not options:
            monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 10)
        with pytest.raises(ConfigError, match=told):
            train(str(data["logistic"]), "y", run=str(tmp_path / f"run-{number}"), **options, **{name: 1e-6})
        assert not (tmp_path / f"run-{number}").exists()


def test_workers_are_refused_with_the_way_out(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--workers is for --method batch only.*Add --method batch"):
        train(str(data["logistic"]), "y", run=str(tmp_path / "run"), workers=2)


def test_a_hessian_that_does_not_fit_the_memory_is_refused_before_training(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SOLVING_HESSIANS", 10**6)
    with pytest.raises(ConfigError, match=r"Hessian of 21 coefficients; .*, --epochs 5 does without it"):
        train(str(data["logistic"]), "y", run=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# Where it ends


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("options", [{}, {"dtype": "float64", "l2": 1e-3}, {"init": "random"}], ids=str)
def test_it_ends_at_the_optimum_with_the_certificate_and_errors_of_full_batch(
    options: dict[str, Any], loss: str, data: dict[str, Path], tmp_path: Path
) -> None:
    listener = Listener()
    found = train(str(data[loss]), "y", run=str(tmp_path / "auto"), display=listener, **options)
    batch = train(str(data[loss]), "y", run=str(tmp_path / "batch"), method="batch", **options)
    assert (found.facts["method"], found.facts["optimizer"], found.stopped_by) == ("auto", "newton", "tol_excess")
    assert found.facts["certificate"]["excess"] <= 1e-15 * found.facts["base_loss"]
    for name in ("objective", "base_loss", "train_loss"):
        assert found.facts[name] == pytest.approx(batch.facts[name], rel=1e-8)
    assert any(text.startswith("certificate: within") for text in listener.told)
    tolerance = 1e-6 if options.get("dtype") == "float64" else 1e-4
    ours, theirs = ({each["name"]: each for each in result.model.coefficient_rows()} for result in (found, batch))
    assert ours.keys() == theirs.keys()
    largest = max(abs(each["standardised"]) for each in theirs.values())
    for name, each in ours.items():
        assert each["standardised"] == pytest.approx(theirs[name]["standardised"], abs=tolerance * largest)
        expected = theirs[name]["standard_error"]  # none with a larger l2
        assert each["standard_error"] == (None if expected is None else pytest.approx(expected, rel=1e-3))
    assert Oracle.of(Rows.read(data[loss], "y", FEATURES)).way_closed(found.model) > 0.99


def test_epochs_steps_and_rows_count_on_through_the_passes(data: dict[str, Path], tmp_path: Path) -> None:
    result = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), holdout=0.2)
    facts = result.facts
    one = train(str(data["logistic"]), "y", run=str(tmp_path / "one"), holdout=0.2, epochs=1).facts
    passes = facts["epochs"] - 1
    assert kinds(result.history) == ["epoch", *["pass"] * passes]
    assert (facts["steps"], facts["rows_seen"]) == (one["steps"] + passes, facts["epochs"] * one["rows_seen"])
    lines = [line for line in result.history if line["event"] in ("epoch", "pass")]
    assert [line["epoch"] for line in lines] == list(range(1, passes + 2))
    assert [line["steps"] for line in lines] == [one["steps"] + number for number in range(passes + 1)]
    shown = show(tmp_path / "run")
    assert shown["method"] == "auto"
    assert [shown[name] for name in ("epochs", "steps", "rows_seen")] == [
        facts[name] for name in ("epochs", "steps", "rows_seen")
    ]
    assert shown["checkpoints"][-1]["steps"] == facts["steps"]
    assert "certificate: within" in format_show(shown)


@pytest.mark.parametrize("way", ["holdout", "validation"])
def test_the_holdout_loss_is_that_of_full_batch(way: str, data: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"holdout": 0.2} if way == "holdout" else {"validation": str(data["logistic"])}
    auto, batch = (
        train(str(data["logistic"]), "y", run=str(tmp_path / method), method=method, dtype="float64", **options)
        for method in ("auto", "batch")
    )
    last = [
        [line["holdout_loss"] for line in result.history if line["event"] == "pass"][-1] for result in (auto, batch)
    ]
    assert last[0] == pytest.approx(last[1], rel=1e-9)
    assert [result.facts["holdout_loss"] for result in (auto, batch)] == last


def test_weights_and_an_offset_count_in_the_passes(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(2), 20_000
    x, exposure = rng.normal(size=(2, n))
    level = rng.choice(["a", "b", "c"], n)
    y = (rng.random(n) < 1.0 / (1.0 + np.exp(-x - exposure + (level == "b")))).astype(np.int8)
    weight = rng.integers(1, 4, n).astype(float)
    pq.write_table(
        pa.table({"x": x, "level": level, "exposure": exposure, "weight": weight, "y": y}), tmp_path / "data.parquet"
    )
    options: dict[str, Any] = {"weight": "weight", "offset": "exposure", "dtype": "float64"}
    auto, batch = (
        train(tmp_path / "data.parquet", "y", run=tmp_path / method, method=method, **options)
        for method in ("auto", "batch")
    )
    assert auto.facts["objective"] == pytest.approx(batch.facts["objective"], rel=1e-12)
    assert auto.facts["base_loss"] == pytest.approx(batch.facts["base_loss"], rel=1e-9)
    assert auto.model.theta == pytest.approx(batch.model.theta, abs=1e-7)


def test_collinear_columns_and_levels_of_one_class_are_named_as_by_full_batch(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 12_000
    a, b = rng.normal(size=(2, n))
    rare = np.where(rng.random(n) < 0.002, "rare", np.array(["p", "q", "r"])[rng.integers(0, 3, n)])
    hashed = np.array([f"h{i}" for i in rng.integers(0, 90, n)])
    y = (a - b + rng.normal(size=n) > 0).astype(int)
    y[rare == "rare"] = 1
    table = pa.table({"a": a, "b": b, "again": 3.0 * a + 7.0, "rare": rare, "hashed": hashed, "y": y})
    pq.write_table(table, tmp_path / "data.parquet")
    auto, batch = (
        train(tmp_path / "data.parquet", "y", run=tmp_path / method, method=method, max_levels=50, hash_buckets=40)
        for method in ("auto", "batch")
    )
    assert sorted(auto.facts["warnings"]) == sorted(batch.facts["warnings"])
    assert "rare=rare" in "".join(auto.facts["warnings"])
    assert "again repeats a" in "".join(auto.facts["warnings"])
    assert np.isfinite(auto.model.theta).all()


def test_a_tolerance_ends_the_passes_sooner(data: dict[str, Path], tmp_path: Path) -> None:
    whole = train(str(data["logistic"]), "y", run=str(tmp_path / "whole"))
    sooner = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), tol_excess=1e-3)
    assert sooner.stopped_by == "tol_excess"
    assert sooner.facts["epochs"] == 2 < whole.facts["epochs"]
    assert sooner.facts["certificate"]["excess"] <= 1e-3


def test_robust_errors_are_asked_for_at_once_or_later(data: dict[str, Path], tmp_path: Path) -> None:
    at_once = train(str(data["logistic"]), "y", run=str(tmp_path / "at-once"), errors="robust")
    first = train(str(data["logistic"]), "y", run=str(tmp_path / "run"))
    later = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), errors="robust")
    assert later.model.theta_sha256 == first.model.theta_sha256 == at_once.model.theta_sha256
    assert later.model.closing is not None
    assert at_once.model.closing is not None
    assert later.model.closing.meat == pytest.approx(at_once.model.closing.meat)


def test_it_uses_blocks_that_are_kept_and_prepares_once(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"blocks_dir": str(tmp_path / "place"), "keep_blocks": True}
    one = train(str(data["logistic"]), "y", run=str(tmp_path / "one"), epochs=1, **options)

    def decode(*_: Any) -> None:
        raise AssertionError("a row group was decoded")

    monkeypatch.setattr(scatter, "read_batches", decode)
    auto = train(str(data["logistic"]), "y", run=str(tmp_path / "auto"), **options)
    assert auto.facts["objective"] < one.facts["objective"]


@pytest.mark.parametrize("errors", ["classical", "robust"])
def test_max_time_in_the_epoch_ends_with_a_model_that_goes_on_to_the_optimum(
    errors: str, data: dict[str, Path], tmp_path: Path, small_blocks: None
) -> None:
    straight = train(str(data["logistic"]), "y", run=str(tmp_path / "straight"), errors=errors)
    cut = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), max_time=1e-9, errors=errors)
    assert cut.stopped_by == "max_time"
    assert cut.facts["certificate"] is None
    assert "--max-time was over" in str(cut.model.no_errors)
    assert show(tmp_path / "run")["state"] == "unfinished"
    starts = 1
    while cut.stopped_by == "max_time" and starts < 100:
        cut = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), max_time=1e-9, errors=errors)
        starts += 1
    assert starts > 10  # 15 blocks and a few passes, one a start at least
    assert cut.stopped_by == straight.stopped_by
    gone_on = train(str(data["logistic"]), "y", run=str(tmp_path / "run"), errors=errors)
    assert gone_on.model.theta_sha256 == straight.model.theta_sha256
    assert gone_on.model.closing is not None


# Changed data


@pytest.mark.parametrize("moment", ["epoch 1/1", "pass 2", "finished"])
def test_changed_data_are_gone_on_with_to_their_optimum(
    moment: str, data: dict[str, Path], tmp_path: Path, small_blocks: None
) -> None:
    folder, run = Path(shutil.copytree(data["logistic"], tmp_path / "data")), tmp_path / "run"

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    if moment == "finished":
        train(str(folder), "y", run=str(run))
    else:
        with pytest.raises(PausedError):
            train(str(folder), "y", run=str(run), checkpoint_every=1e-9, display=Listener(moment, stop))
    before = show(run)
    shutil.copy(next(folder.glob("*.parquet")), folder / "zzz.parquet")
    with pytest.raises(RunMismatchError, match=r"zzz\.parquet.* go on with --accept-data-change\.$"):
        train(str(folder), "y", run=str(run))
    gone_on = train(str(folder), "y", run=str(run), accept_data_change=True)
    fresh = train(str(folder), "y", run=str(tmp_path / "fresh"))
    assert gone_on.facts["objective"] == pytest.approx(fresh.facts["objective"], rel=1e-9)
    assert gone_on.facts["base_loss"] == pytest.approx(fresh.facts["base_loss"], rel=1e-9)
    assert gone_on.facts["epochs"] > before["epochs"]
    assert gone_on.facts["certificate"]["excess"] < 1e-12
    assert "data changed" in [line["event"] for line in gone_on.history]
    assert train(str(folder), "y", run=str(run)).facts["already_finished"]


def test_passes_are_not_gone_on_with_where_changed_data_have_too_many_coefficients(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run = Path(shutil.copytree(data["logistic"], tmp_path / "data")), tmp_path / "run"
    train(str(folder), "y", run=str(run))
    table = pq.read_table(next(folder.glob("*.parquet")))
    more = pa.array([f"more-{i % 20}" for i in range(table.num_rows)])
    changed = table.set_column(table.schema.get_field_index("c0"), "c0", more.cast(table.schema.field("c0").type))
    pq.write_table(changed, folder / "zzz.parquet")
    monkeypatch.setattr(certificate, "MOST_HESSIAN_COLUMNS", 30)
    with pytest.raises(RunMismatchError, match=r"has made full-batch passes, and now .* coefficients are more"):
        train(str(folder), "y", run=str(run), accept_data_change=True)


# Killed in earnest

#: Phases, and how often they are told of before the process is gone; in between are the pass at the best constant and
#: the checkpoint that begins the passes.
MOMENTS = [
    ("finalise", 1), ("epoch 1/1", 1), pytest.param("epoch 1/1", 7, marks=pytest.mark.slow),
    pytest.param("epoch 1/1", 15, marks=pytest.mark.slow), pytest.param("constant", 1, marks=pytest.mark.slow),
    ("first save", 1), ("pass 1", 1), pytest.param("pass 2", 1, marks=pytest.mark.slow), ("closing", 1),
]  # fmt: skip


def die_in(moment: str, times: int, data: str, run: str) -> None:
    """What the child process does: it trains, and kills itself at the ``times``-th sign of the moment."""
    from streamgd.training.batch import BatchTrainer
    from streamgd.training.checkpoint import CheckpointStore

    left = times

    def sign() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Counting(Listener):
        def progress(self, phase: str, *rest: Any) -> None:
            if phase.startswith(moment):
                sign()

    for kind, name, place in (
        (BatchTrainer, "look_at_constant", "constant"), (BatchTrainer, "closing_sums", "closing"),
    ):  # fmt: skip
        if moment == place:
            setattr(kind, name, lambda *_: sign())
    begin = CheckpointStore.begin

    def begins(store: CheckpointStore, state: dict[str, Any]) -> None:
        if moment == "first save" and "optimizer" in state:
            sign()
        begin(store, state)

    CheckpointStore.begin = begins  # type: ignore[method-assign]
    blocks.BLOCK_ROWS = 2_000
    train(data, "y", run=run, row_log=f"{run}.rows", checkpoint_every=1e-9, display=Counting())


@pytest.mark.parametrize(("moment", "times"), MOMENTS)
def test_a_kill_in_either_part_or_between_them_changes_no_bit(
    moment: str, times: int, data: dict[str, Path], tmp_path: Path, small_blocks: None
) -> None:
    def fit(run: Path) -> Result:
        return train(str(data["logistic"]), "y", run=str(run), row_log=f"{run}.rows")

    straight, run = fit(tmp_path / "straight"), tmp_path / "run"
    child = Process(die_in, moment, times, str(data["logistic"]), str(run))
    told = child.communicate()
    assert child.returncode == -signal.SIGKILL, told
    assert show(run)["state"] == "unfinished"
    again = fit(run)
    assert again.model.theta_sha256 == straight.model.theta_sha256
    # Preparing is told of once, by the start that came to its end.
    told = [[untimed(line) for line in result.history] for result in (again, straight)]
    assert told[0] == told[1]
    names = ("epochs", "steps", "rows_seen", "stopped_by", "certificate", "base_loss", "objective", "key")
    assert [again.facts[name] for name in names] == [straight.facts[name] for name in names]
    assert Path(f"{run}.rows").read_bytes() == Path(f"{tmp_path / 'straight'}.rows").read_bytes()


def test_passes_begin_at_the_best_constant_where_the_epoch_ends_far_off(tmp_path: Path) -> None:
    """One step on an unscaled column may end anywhere, and is not judged: its rows were predicted before it."""
    random = np.random.default_rng(0)
    columns = {"x": random.normal(size=40) * 1e4, "y": random.poisson(1.5, 40)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    options: dict[str, Any] = {"loss": "poisson", "scale": "none"}
    exploded = train(tmp_path / "data.parquet", "y", run=tmp_path / "epoch", epochs=1, **options)
    assert exploded.facts["objective"] > 1e100
    exact = train(tmp_path / "data.parquet", "y", run=tmp_path / "batch", method="batch", **options)
    found = train(tmp_path / "data.parquet", "y", run=tmp_path / "auto", **options)

    assert found.facts["objective"] == pytest.approx(exact.facts["objective"], rel=1e-6)
    assert found.facts["objective"] < found.facts["base_loss"]
