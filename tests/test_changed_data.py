"""Data that are bad or change under a run: named, the checkpoint kept, and the two ways to go on all the same."""

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
from mistakes import contents, here, message

from streamgd.data import blocks
from streamgd.errors import DataChangedError, PausedError, RunMismatchError
from streamgd.model import Model
from streamgd.objective.penalties import ElasticNet
from streamgd.show import show
from streamgd.training.carry import carried_theta
from streamgd.training.rundir import RunDirectory
from streamgd.training.train import Result, train
from streamgd.training.trainstate import TrainState

WAYS: dict[str, dict[str, Any]] = {
    "blocks": {}, "window": {"shuffle": "window", "optimizer": "adam"}, "sgd": {"method": "sgd"},
    "batch": {"method": "batch"},
}  # fmt: skip


@pytest.fixture
def data(generated: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of 4,000 rows in two files of two row groups, which a test may change; blocks have 400 rows."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 400)
    made = generated(rows=4_000, features=4, categorical=1, files=2, row_group_rows=1_000, loss="squared", seed=3)
    return Path(shutil.copytree(made, tmp_path / "data"))


def fit(data: Path, run: Path, **options: Any) -> Result:
    return train(str(data), "y", run=str(run), **{"epochs": 3, **options})


def last_file(data: Path) -> Path:
    return sorted(data.glob("*.parquet"))[-1]


def replaced(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.slice(1).append_column("new", table["y"].slice(1)), path, row_group_size=1_000)


CHANGES = {
    "replaced": replaced,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shuffle", ["window", "none"])
def test_a_file_that_changes_in_mid_epoch_is_named_and_the_checkpoint_is_kept(
    shuffle: str, change: str, data: Path, tmp_path: Path
) -> None:
    victim, run = last_file(data), tmp_path / "run"
    kept = victim.read_bytes()
    straight = fit(data, tmp_path / "straight", shuffle=shuffle)
    display = Listener("epoch 2/", lambda: CHANGES[change](victim))
    with pytest.raises(DataChangedError, match=victim.name) as caught:
        fit(data, run, shuffle=shuffle, display=display)
    assert caught.value.exit_code == 65
    stands = show(run)
    assert (stands["state"], stands["epochs"]) == ("unfinished", 1)
    victim.write_bytes(kept)
    assert fit(data, run, shuffle=shuffle).model.theta_sha256 == straight.model.theta_sha256


# Going on with data that changed


def stopped_in(epoch: int, data: Path, run: Path, **options: Any) -> dict[str, Any]:
    def stop() -> None:
        raise RuntimeError("the machine fell over")

    with pytest.raises(RuntimeError):
        fit(data, run, **{"checkpoint_every": 1e-9, **options}, display=Listener(f"epoch {epoch}/", stop))
    return show(run)


def stopped_in_the_second_epoch(data: Path, run: Path, **options: Any) -> dict[str, Any]:
    return stopped_in(2, data, run, **options)


@pytest.mark.parametrize("way", ["blocks", "window", "sgd"])
def test_changed_data_are_refused_with_a_list_and_gone_on_with_from_the_next_epoch(
    way: str, data: Path, tmp_path: Path
) -> None:
    run, first = tmp_path / "run", sorted(data.glob("*.parquet"))[0]
    before = stopped_in_the_second_epoch(data, run, **WAYS[way])
    table = pq.read_table(first)
    pq.write_table(table.slice(0, 1_500), first, row_group_size=1_000)
    pq.write_table(table.slice(1_500), data / "more.parquet", row_group_size=1_000)
    untouched = contents(run)
    with pytest.raises(DataChangedError, match=rf"new: more\.parquet; changed: {first.name}.*--accept-data-change"):
        fit(data, run, **WAYS[way])
    assert contents(run) == untouched

    result = fit(data, run, accept_data_change=True, epochs=5, **WAYS[way])
    # What was begun counts as an epoch, though only a part of it was trained on.
    assert result.facts["epochs"] == 5
    in_the_middle = before["rows_seen"] % 4_000 > 0
    assert result.facts["rows_seen"] == before["rows_seen"] + (3 if in_the_middle else 4) * 4_000
    told = [line for line in result.history if line["event"] == "data changed"]
    assert len(told) == 1
    assert "more.parquet" in told[0]["text"]
    # The rows are the same: it ends where a run on them alone ends.
    fresh = fit(data, tmp_path / "fresh", epochs=5, **WAYS[way])
    found = {c.name: c.standardised for c in result.model.coefficients()}
    expected = {c.name: c.standardised for c in fresh.model.coefficients()}
    assert set(found) == set(expected)
    assert max(abs(found[name] - expected[name]) for name in expected) < 0.1 * max(map(abs, expected.values()))
    # What was accepted is what the run is on now.
    assert fit(data, run, epochs=5, **WAYS[way]).to_json()["already_finished"]


def test_coefficients_are_carried_over_in_decorrelated_coordinates(tmp_path: Path) -> None:
    rng, run = np.random.default_rng(4), tmp_path / "run"
    (tmp_path / "data").mkdir()

    def write(name: str, rows: int) -> pa.Table:
        common = rng.normal(size=rows)
        x = {f"x{j}": common + 0.3 * rng.normal(size=rows) for j in range(4)}
        table = pa.table({**x, "y": x["x0"] - 2.0 * x["x1"] + 0.1 * rng.normal(size=rows)})
        pq.write_table(table, tmp_path / "data" / name)
        return table

    table = write("a.parquet", 3_000)
    old = fit(tmp_path / "data", run).model
    write("b.parquet", 2_000)
    stopped_in(4, tmp_path / "data", run, accept_data_change=True, epochs=5, checkpoint_every=3_600)
    latest = RunDirectory(run).checkpoints.latest()
    assert latest is not None
    state = TrainState.from_state(latest.state)
    assert len(state.rotation) == 4
    encoding, theta = state.encoding.without_base_rows(state.result(True, ElasticNet()))
    batch = table.drop_columns("y").to_batches()[0]
    found = Model.of_training(old.loss, theta, encoding, {}).predict_batch(batch)
    np.testing.assert_allclose(found, old.predict_batch(batch), atol=1e-9)


def with_a_new_file(data: Path) -> None:
    shutil.copy(last_file(data), data / "zzz.parquet")


@pytest.mark.parametrize("way", ["blocks", "batch"])
def test_the_consent_to_changed_data_is_for_one_start(way: str, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(data, run, **WAYS[way])
    with_a_new_file(data)
    fit(data, run, accept_data_change=True, epochs=4, **WAYS[way])
    last_file(data).unlink()
    message(here("resume", run, "--epochs", "5", "--quiet", "--json"), 65, "gone: zzz.parquet")


@pytest.mark.parametrize("way", ["blocks", "batch"])
def test_a_finished_run_wants_more_epochs_for_changed_data(way: str, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(data, run, **WAYS[way])
    with_a_new_file(data)
    untouched = contents(run)
    command = ["resume", run, "--quiet", "--json"]
    message(here(*command), 78, "new: zzz.parquet", "--accept-data-change and more --epochs")
    message(here(*command, "--accept-data-change"), 78, "new: zzz.parquet", "more --epochs than 3")
    assert contents(run) == untouched
    last_file(data).unlink()
    table = pq.read_table(last_file(data))
    pq.write_table(table.slice(1), last_file(data), row_group_size=1_000)
    message(here(*command), 65, "--accept-data-change and more --epochs")
    assert json.loads(here(*command, "--accept-data-change", "--epochs", "4").out)["epochs"] == 4


@pytest.mark.parametrize("way", ["blocks", "batch"])
def test_changed_data_are_refused_where_no_epoch_is_left_for_them(way: str, data: Path, tmp_path: Path) -> None:
    run, options = tmp_path / "run", {"epochs": 2, **WAYS[way]}
    if way == "batch":
        fit(data, run, **{**options, "max_time": 1e-9})
        options["epochs"] = 1
    else:
        stopped_in_the_middle(data, run, **options)
    assert show(run)["stopped_by"] in (None, "max_time")
    with_a_new_file(data)
    untouched = contents(run)
    with pytest.raises(RunMismatchError, match=r"zzz\.parquet.*more --epochs than") as caught:
        fit(data, run, accept_data_change=True, **options)
    assert caught.value.exit_code == 78
    assert contents(run) == untouched
    assert fit(data, run, accept_data_change=True, **{**options, "epochs": 3}).facts["epochs"] == 3


def stopped_in_the_middle(data: Path, run: Path, **options: Any) -> None:
    """Stop in the second epoch, after its first block."""
    display = Listener("epoch 2/", lambda: display.then(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(PausedError):
        fit(data, run, **options, display=display)


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_small_changes_of_the_loss_are_told_after_a_change_of_the_data(
    holdout: float, data: Path, tmp_path: Path
) -> None:
    options = {"tol_loss": 1e-12, "epochs": 5, "holdout": holdout}
    stopped_in_the_middle(data, tmp_path / "run", **options)
    with_a_new_file(data)
    result = fit(data, tmp_path / "run", accept_data_change=True, **options)
    assert result.facts["epochs"] > 2


def with_slope(slope: float, noise: float, rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, rows))
    return pa.table({"x": x[0], "z": x[1], "y": slope * x[0] + x[1] + noise * rng.normal(size=rows)})


@pytest.mark.parametrize("method", ["sgd", "minibatch"])
@pytest.mark.parametrize(("slope", "noise"), [(15.0, 9.0), (-20.0, 1.0)], ids=["harder", "the other way round"])
def test_data_that_are_predicted_worse_are_learned_all_the_same(
    slope: float, noise: float, method: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(with_slope(20.0, 0.1, 20_000, 0), tmp_path / "data" / "a.parquet")
    options: dict[str, Any] = {"method": method, "epochs": 2}
    fit(tmp_path / "data", tmp_path / "old", **options)
    pq.write_table(with_slope(slope, noise, 60_000, 1), tmp_path / "data" / "a.parquet")

    fresh = fit(tmp_path / "data", tmp_path / "fresh", **options)
    begun = fit(tmp_path / "data", tmp_path / "begun", **options, from_=str(tmp_path / "old"))
    gone_on = fit(tmp_path / "data", tmp_path / "old", **{**options, "epochs": 4}, accept_data_change=True)
    for result in (begun, gone_on):
        assert result.facts["rollbacks"] == 0
        missing = result.facts["train_loss"] - fresh.facts["train_loss"]
        assert missing < 0.02 * (fresh.facts["base_loss"] - fresh.facts["train_loss"])


@pytest.mark.parametrize("slope", [0.1, -20.0])
def test_a_run_from_a_model_that_is_far_off_may_take_several_epochs(slope: float, tmp_path: Path) -> None:
    pq.write_table(with_slope(20.0, 0.1, 20_000, 0), tmp_path / "a.parquet")
    pq.write_table(with_slope(slope, 1.0, 3_000, 1), tmp_path / "b.parquet")
    options: dict[str, Any] = {"method": "minibatch", "epochs": 8}
    fit(tmp_path / "a.parquet", tmp_path / "old", **options)
    begun = fit(tmp_path / "b.parquet", tmp_path / "begun", **options, from_=str(tmp_path / "old"))
    assert begun.facts["rollbacks"] == 0
    assert begun.facts["train_loss"] < 0.3 * (20.0 - slope) ** 2 / 2.0


@pytest.mark.parametrize("init", ["best", "zeros"])
def test_the_base_loss_of_full_batch_is_that_of_the_best_constant_of_changed_data(
    init: str, data: Path, tmp_path: Path
) -> None:
    run, options = tmp_path / "run", {"method": "batch", "init": init}
    fit(data, run, **options)
    table = pq.read_table(last_file(data))
    place = table.schema.get_field_index("y")
    pq.write_table(table.set_column(place, "y", pa.array(table["y"].to_numpy() * 2.0 + 3.0)), last_file(data))
    found = fit(data, run, accept_data_change=True, **{**options, "epochs": 5})
    fresh = fit(data, tmp_path / "fresh", **options)
    assert found.facts["base_loss"] == pytest.approx(fresh.facts["base_loss"], rel=1e-12)


def test_full_batch_goes_on_with_changed_data_to_their_optimum(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {"method": "batch", "l2": 1e-3, "tol_gradient": 1e-9, "epochs": 300}
    fit(data, run, **{**options, "epochs": 20})
    table = pq.read_table(last_file(data))
    shifted = table.set_column(table.schema.get_field_index("x0"), "x0", pa.array(table["x0"].to_numpy() + 3.0))
    pq.write_table(shifted, last_file(data))
    gone_on = fit(data, run, accept_data_change=True, **options)
    fresh = fit(data, tmp_path / "fresh", **options)
    assert gone_on.facts["objective"] == pytest.approx(fresh.facts["objective"], rel=1e-9)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_what_is_carried_over_predicts_the_same_for_columns_and_levels_that_both_know(
    loss: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)

    def rows(n: int, levels: list[str | None], shift: float) -> pa.Table:
        x, level = rng.normal(shift, 1.0 + shift, n), rng.choice(np.array(levels, object), n)
        y = x + (level == "b") * 2.0 + rng.normal(size=n) + shift
        target = y if loss == "squared" else (y > shift).astype(np.int8)
        return pa.table({"x": x, "level": pa.array(level, pa.string()), "y": target})

    pq.write_table(rows(500, ["a", "b", "b", None], 0.0), tmp_path / "before.parquet")
    pq.write_table(rows(700, ["c", "c", "b", "a", None], 5.0), tmp_path / "after.parquet")
    options = {"epochs": 2, "loss": loss, "holdout": 0.1}
    old = train(tmp_path / "before.parquet", "y", run=tmp_path / "old", **options).model
    new = train(tmp_path / "after.parquet", "y", run=tmp_path / "new", **options).model
    wide = new.encoding.with_base_rows()
    narrow = carried_theta(old.encoding, old.theta, new.encoding)
    encoding, from_wide = wide.without_base_rows(carried_theta(old.encoding, old.theta, wide))
    batch = rows(100, ["a", "b", None], 2.0).to_batches()[0]
    expected = old.predict_batch(batch)
    for theta in (narrow, from_wide):
        found = type(new)(loss, theta, encoding).predict_batch(batch)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


# Skipping what cannot be decoded


def spoilt(path: Path, row_group: int) -> None:
    """Flip a byte in the data of one row group, which a page checksum notices."""
    pq.write_table(pq.read_table(path), path, row_group_size=1_000, write_page_checksum=True)
    chunk = pq.read_metadata(path).row_group(row_group).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_row_group_is_skipped_counted_and_listed_where_it_is_asked_for(
    way: str, data: Path, tmp_path: Path
) -> None:
    victim, run, rows = last_file(data), tmp_path / "run", tmp_path / "rows"
    spoilt(victim, 1)
    options = [data, "--target", "y", "--epochs", "2", "--quiet", "--json", "--row-log", rows]
    options += [f"--{name}={value}" for name, value in WAYS[way].items()]
    message(here("train", *options, "--run", run), 65, f"{victim.name}, row group 1", "--on-bad-data skip")
    ending = here("train", *options, "--run", run, "--on-bad-data", "skip")
    assert ending.exit_code == 0, ending.err
    facts = json.loads(ending.out)
    assert (facts["rows"], facts["train_rows"], facts["skipped_row_groups"], facts["skipped_rows"]) == (
        4_000, 3_000, 1, 1_000,
    )  # fmt: skip
    assert len([text for text in facts["warnings"] if f"{victim.name}, row group 1" in text]) == 1
    assert [line["event"] for line in facts["history"]][:3] == [
        "prepare",
        "skipped",
        "pass" if way == "batch" else "epoch",
    ]
    told = [line["text"] for line in facts["history"] if line["event"] == "skipped"]
    assert len(told) == 1
    assert "1,000 rows are skipped" in told[0]
    if way != "batch":
        assert set(np.fromfile(rows, "<u8").tolist()) == set(range(3_000))
    again = here("train", *options, "--run", run, "--on-bad-data", "skip")
    assert json.loads(again.out)["already_finished"]


def test_what_is_skipped_decides_the_result_and_not_where_the_run_was_stopped(data: Path, tmp_path: Path) -> None:
    spoilt(last_file(data), 0)
    options = {"shuffle": "window", "on_bad_data": "skip"}
    straight = fit(data, tmp_path / "straight", **options)
    stopped_in_the_second_epoch(data, tmp_path / "run", **options)
    assert fit(data, tmp_path / "run", **options).model.theta_sha256 == straight.model.theta_sha256


def test_a_row_group_that_went_bad_in_mid_run_is_skipped_from_the_next_epoch(data: Path, tmp_path: Path) -> None:
    spoilt(last_file(data), 0)
    bad = last_file(data).read_bytes()
    good = bytearray(bad)
    chunk = pq.read_metadata(last_file(data)).row_group(0).column(0)
    good[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    last_file(data).write_bytes(good)
    run, options = tmp_path / "run", ["--shuffle", "window", "--epochs", "3", "--quiet", "--json"]
    stopped_in_the_second_epoch(data, run, shuffle="window")
    last_file(data).write_bytes(bad)
    command = ["train", data, "--target", "y", "--run", run, *options]
    message(here(*command), 65, "row group 0")
    message(here(*command, "--on-bad-data", "skip"), 65, f"changed: {last_file(data).name}", "--accept-data-change")
    ending = here(*command, "--on-bad-data", "skip", "--accept-data-change")
    assert ending.exit_code == 0, ending.err
    facts = json.loads(ending.out)
    assert (facts["epochs"], facts["skipped_rows"]) == (3, 1_000)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_skips_is_gone_on_with_by_skipping(finished: bool, data: Path, tmp_path: Path) -> None:
    spoilt(last_file(data), 1)
    run, options = tmp_path / "run", {"on_bad_data": "skip", "epochs": 2}
    if finished:
        fit(data, run, **options)
    else:
        stopped_in_the_second_epoch(data, run, **options)
    untouched = contents(run)
    command = ["train", data, "--target", "y", "--run", run, "--epochs", "3", "--quiet", "--json"]
    told = message(here(*command), 78, f"{last_file(data).name}, row group 1", "--on-bad-data skip")
    assert "changed" not in told
    assert contents(run) == untouched
    assert json.loads(here(*command, "--on-bad-data", "skip").out)["epochs"] == 3


def test_where_nothing_can_be_decoded_nothing_is_skipped(data: Path, tmp_path: Path) -> None:
    for path in data.glob("*.parquet"):
        spoilt(path, 0)
        spoilt_again = bytearray(path.read_bytes())
        chunk = pq.read_metadata(path).row_group(1).column(0)
        spoilt_again[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
        path.write_bytes(spoilt_again)
    options = ["--target", "y", "--quiet", "--json", "--on-bad-data", "skip", "--run", tmp_path / "run"]
    message(here("train", data, *options), 65, "no row group can be decoded", "row group 0")
    assert not (tmp_path / "run").exists()
