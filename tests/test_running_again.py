"""The same command again: nothing where all is done, the rest where it is not, a refusal where it is another run."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Generated
from displays import Listener

from streamgd.data import blocks, scatter
from streamgd.errors import DataChangedError, PausedError, RunMismatchError
from streamgd.model import Model
from streamgd.training.train import Result, train


@pytest.fixture
def data(generated: Generated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of 4,000 rows in two files, which a test may change; blocks have 400 rows."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 400)
    return Path(
        shutil.copytree(generated(rows=4_000, features=5, files=2, row_group_rows=900, seed=7), tmp_path / "data")
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def fit(data: Path, run: Path, **options: Any) -> Result:
    return train(str(data), "y", run=str(run), **{"epochs": 2, **options})


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of every file; the lock is there to be taken."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def fall_over() -> None:
    raise RuntimeError("the machine fell over")


def epochs_of(history: list[dict[str, Any]]) -> list[int]:
    return [line["epoch"] for line in history if line["event"] in ("epoch", "pass")]


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": "window"}, {"method": "batch"}, {"epochs": 1}, {"epochs": None}], ids=str
)
def test_a_finished_run_says_so_and_changes_nothing(options: dict[str, Any], data: Path, run: Path) -> None:
    first = fit(data, run, **options)
    before, listener = contents(run), Listener()
    again = fit(data, run, **options, display=listener)
    assert contents(run) == before
    assert len(listener.told) == 1
    assert "is finished" in listener.told[0]
    assert "nothing was changed" in listener.told[0]
    assert again.model.theta_sha256 == first.model.theta_sha256
    assert again.history == first.history
    assert again.stopped_by == first.stopped_by
    # The machine's options may be others.
    assert fit(data, run, **options, threads=1, memory="1GB", checkpoint_every=1).to_json()["already_finished"]
    assert contents(run) == before


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adam", "shuffle": "window"}, {"method": "sgd"}, {"method": "batch"}, {"keep_blocks": True}],
    ids=str,
)
def test_more_epochs_go_on_and_equal_a_straight_longer_run(options: dict[str, Any], data: Path, run: Path) -> None:
    first = fit(data, run, **options)
    gone_on = fit(data, run, **options, epochs=5)
    straight = fit(data, run.with_name("straight"), **options, epochs=5)
    assert gone_on.facts["epochs"] == 5
    assert gone_on.model.theta_sha256 == straight.model.theta_sha256 != first.model.theta_sha256
    assert epochs_of(gone_on.history) == epochs_of(straight.history)
    assert Model.load(run).theta_sha256 == straight.model.theta_sha256


def test_fewer_epochs_change_nothing(data: Path, run: Path) -> None:
    fit(data, run, epochs=3)
    before = contents(run)
    assert fit(data, run, epochs=2).facts["epochs"] == 3
    assert contents(run) == before


def test_options_that_would_give_another_model_are_refused_and_listed(data: Path, run: Path) -> None:
    fit(data, run, learning_rate=0.3)
    before = contents(run)
    with pytest.raises(RunMismatchError) as caught:
        fit(data, run, learning_rate=0.4, features="x0,x1", seed=3, threads=1)
    message = str(caught.value)
    assert caught.value.exit_code == 78
    assert "--learning-rate was 0.3, now 0.4" in message
    assert "--features was not given, now x0,x1" in message
    assert "--seed was 0, now 3" in message
    assert "--threads" not in message
    assert "--restart" in message
    assert "\n" not in message
    assert contents(run) == before


def test_other_options_are_told_where_nothing_was_trained_yet(data: Path, run: Path) -> None:
    with pytest.raises(RuntimeError, match="fell over"):
        fit(data, run, seed=3, display=Listener("prepare", fall_over))
    listener = Listener()
    begun_anew = fit(data, run, l2=1e-3, display=listener)
    told = [text for text in listener.told if "nothing was trained in it yet" in text]
    assert len(told) == 1
    assert "--seed was 3, now 0" in told[0]
    assert "--l2 was 1e-06, now 0.001" in told[0]
    assert begun_anew.model.theta_sha256 == fit(data, run.with_name("fresh"), l2=1e-3).model.theta_sha256


@pytest.mark.parametrize("options", [{}, {"shuffle": "window"}, {"method": "batch"}], ids=str)
@pytest.mark.parametrize("finished", [True, False])
def test_within_an_epoch_a_run_stays_in_its_blocks(
    finished: bool, options: dict[str, Any], data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other versions may have blocks of other rows; sums of full batch are over all of them."""
    if finished:
        fit(data, run, **options)
    else:
        falling = Listener("pass 2" if "method" in options else "epoch 2/2", fall_over)
        with pytest.raises(RuntimeError, match="fell over"):
            fit(data, run, **options, checkpoint_every=1e-9, display=falling)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 500)
    if not finished and "method" not in options:
        with pytest.raises(RunMismatchError, match="in whose blocks were 400 rows; now they have 500"):
            fit(data, run, **options)
        return
    assert epochs_of(fit(data, run, **options, epochs=3).history) == [1, 2, 3]


def test_another_target_and_other_data_are_refused(data: Path, run: Path, tmp_path: Path) -> None:
    fit(data, run)
    before = contents(run)
    with pytest.raises(RunMismatchError, match="--target was y, now x1"):
        train(str(data), "x1", run=str(run), epochs=2)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x0": np.arange(10.0), "y": np.arange(10) % 2}), other)
    with pytest.raises(RunMismatchError, match=r"other\.parquet"):
        fit(other, run)
    assert contents(run) == before


def stop_in_the_second_epoch(data: Path, run: Path, **options: Any) -> None:
    with pytest.raises(RuntimeError, match="fell over"):
        fit(data, run, **options, checkpoint_every=1e-9, display=Listener("epoch 2/2", fall_over))


@pytest.mark.parametrize("finished", [True, False])
def test_new_files_are_refused_by_name(finished: bool, data: Path, run: Path) -> None:
    if finished:
        fit(data, run)
    else:
        stop_in_the_second_epoch(data, run)
    before = contents(run)
    shutil.copy(sorted(data.glob("*.parquet"))[0], data / "tuesday.parquet")
    with pytest.raises(RunMismatchError, match=r"new.*tuesday\.parquet.*--restart") as caught:
        fit(data, run)
    assert caught.value.exit_code == 78
    assert contents(run) == before
    all_rows = fit(data, run, restart=True)
    assert all_rows.facts["rows"] == 6_000


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("change", ["changed", "gone"])
def test_changed_and_missing_files_are_refused_by_name(change: str, finished: bool, data: Path, run: Path) -> None:
    if finished:
        fit(data, run)
    else:
        stop_in_the_second_epoch(data, run)
    before = contents(run)
    victim = sorted(data.glob("*.parquet"))[1]
    table = pq.read_table(victim)
    victim.unlink()
    if change == "changed":
        # As many rows, and one value is another.
        x0 = table["x0"].to_numpy().copy()
        x0[7] += 1.0
        pq.write_table(table.set_column(table.schema.get_field_index("x0"), "x0", pa.array(x0)), victim)
    with pytest.raises(DataChangedError, match=f"{change}: {victim.name}") as caught:
        fit(data, run)
    assert caught.value.exit_code == 65
    assert contents(run) == before


def test_a_touched_file_is_looked_at_again_and_found_to_be_the_same(data: Path, run: Path) -> None:
    stop_in_the_second_epoch(data, run)
    for path in data.glob("*.parquet"):
        path.touch()
    straight = fit(data, run.with_name("straight"))
    assert fit(data, run).model.theta_sha256 == straight.model.theta_sha256


def test_restart_keeps_the_old_model_until_the_new_one_is_whole(data: Path, run: Path) -> None:
    old = fit(data, run)
    for phase in ("prepare", "finalise", "epoch 1/2", "epoch 2/2"):
        with pytest.raises(RuntimeError, match="fell over"):
            fit(data, run, seed=3, restart=True, checkpoint_every=1e-9, display=Listener(phase, fall_over))
        assert Model.load(run).theta_sha256 == old.model.theta_sha256
    new = fit(data, run, seed=3)
    fresh = fit(data, run.with_name("fresh"), seed=3)
    assert new.model.theta_sha256 == fresh.model.theta_sha256 != old.model.theta_sha256
    assert Model.load(run).theta_sha256 == fresh.model.theta_sha256
    assert epochs_of(new.history) == [1, 2]


def test_a_restart_of_a_finished_run_trains_again(data: Path, run: Path) -> None:
    first = fit(data, run)
    again = fit(data, run, restart=True)
    assert "already_finished" not in again.to_json()
    assert again.model.theta_sha256 == first.model.theta_sha256


# The holdout


def rows_used(path: Path) -> set[int]:
    return set(np.fromfile(path, "<u8").tolist())


def test_held_out_rows_are_chosen_stably_and_never_trained_on(data: Path, tmp_path: Path) -> None:
    """Neither the order, the epochs, the method nor a new file changes which rows of the old files are held out."""
    used = []
    for number, options in enumerate([{}, {"shuffle": "window", "epochs": 4}, {"shuffle": "none"}, {"method": "sgd"}]):
        log = tmp_path / f"rows-{number}"
        result = fit(data, tmp_path / f"run-{number}", holdout=0.2, row_log=str(log), **options)
        used.append(rows_used(log))
        assert 0.15 < 1 - len(used[-1]) / 4_000 < 0.25
        assert result.facts["rows_seen"] == len(used[-1]) * result.facts["epochs"]
        assert result.facts["train_rows"] == len(used[-1])
        assert result.facts["holdout_rows"] == 4_000 - len(used[-1])
    assert all(each == used[0] for each in used)

    other_seed = tmp_path / "rows-seed"
    fit(data, tmp_path / "run-seed", holdout=0.2, seed=1, row_log=str(other_seed))
    assert rows_used(other_seed) != used[0]

    shutil.copy(sorted(data.glob("*.parquet"))[0], data / "zzz.parquet")
    more = tmp_path / "rows-more"
    fit(data, tmp_path / "run-more", holdout=0.2, row_log=str(more))
    assert {row for row in rows_used(more) if row < 4_000} == used[0]
    assert any(row >= 4_000 for row in rows_used(more))


@pytest.mark.parametrize(
    "way",
    [
        {}, {"shuffle": "window"}, {"method": "batch"}, {"holdout": 0.2}, {"shuffle": "window", "holdout": 0.2},
        {"method": "batch", "holdout": 0.2}, {"on_bad_data": "skip"}, {"epochs": None},
        {"epochs": None, "holdout": 0.2},
    ],
)  # fmt: skip
def test_starts_that_are_paused_at_once_come_to_an_end_all_the_same(tmp_path: Path, way: dict[str, Any]) -> None:
    random = np.random.default_rng(3)
    columns = {"x": random.normal(size=3_000), "y": (random.random(3_000) < 0.4).astype(np.int8)}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet", row_group_size=500)
    options = {"run": tmp_path / "run", "epochs": 2, **way}

    pauses, result = 0, None
    while result is None and pauses < 60:
        try:
            result = train(tmp_path / "data.parquet", "y", pause_after=1e-6, **options)
        except PausedError:
            pauses += 1

    undisturbed = train(tmp_path / "data.parquet", "y", **{**options, "run": tmp_path / "undisturbed"})
    assert pauses > 1
    assert result is not None
    assert result.model.theta_sha256 == undisturbed.model.theta_sha256


def test_starts_that_are_paused_at_once_come_past_a_long_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scatter, "LONG_ROW_GROUP_VALUES", 1)
    columns = {"x": np.arange(3_000) % 7 - 3.0, "y": np.arange(3_000) % 2}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    pauses = 0
    while pauses < 60:
        try:
            train(tmp_path / "data.parquet", "y", run=tmp_path / "run", epochs=1, pause_after=1e-6)
            break
        except PausedError:
            pauses += 1
    assert 1 < pauses < 60
