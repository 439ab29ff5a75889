"""``--from``: a new run starts at what the model of another one predicts, and says what it took over."""

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
from click.testing import CliRunner
from displays import Listener

from streamgd.cli import main
from streamgd.config import make_config
from streamgd.data import blocks
from streamgd.errors import ConfigError, NoInputError, PausedError, RunMismatchError
from streamgd.model import Model
from streamgd.training.rundir import RunDirectory
from streamgd.training.train import Result, train

#: Ways to train that move theta by next to nothing: what they end with is what they start from.
STANDING_STILL: dict[str, dict[str, Any]] = {
    "decorrelated": {"method": "minibatch", "optimizer": "adagrad"},
    "window": {"method": "minibatch", "shuffle": "window"},
    "sgd": {"method": "sgd"},
    "l1": {"method": "minibatch", "l1": 1e-9},
    "batch": {"method": "batch"},
}


def table(rows: int, seed: int, levels: str, mean: float) -> pa.Table:
    """Two numbers that go together, a level each row, a number ``y`` and whether that is ``high``."""
    random = np.random.default_rng(seed)
    x = random.normal(mean, 2.0, rows)
    z = 3.0 * x + random.normal(size=rows)
    level = random.choice(list(levels), rows)
    y = 2.0 * x - z + np.array([ord(each) % 5 for each in level]) + random.normal(size=rows)
    return pa.table({"x": x, "z": z, "level": level, "y": y, "high": (y > 2.0).astype(int)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``old.parquet`` and the run ``old`` on it; ``new.parquet`` has other means, a level more and two fewer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 400)
    pq.write_table(table(3000, 1, "abcd", 1.0), "old.parquet", row_group_size=500)
    pq.write_table(table(3000, 2, "bce", 5.0), "new.parquet", row_group_size=500)
    return tmp_path


def fit(data: str, run: str, target: str = "high", **options: Any) -> Result:
    return train(data, target, run=run, **{"features": "x,z,level", "method": "minibatch", "epochs": 2, **options})


def raw_predictions(model: Model, rows: pa.Table) -> np.ndarray:
    prediction = np.concatenate([model.predict_batch(batch) for batch in rows.to_batches()])
    return np.asarray(model.loss.link(prediction))


@pytest.mark.parametrize("target", ["high", "y"])
@pytest.mark.parametrize("way", STANDING_STILL)
def test_a_new_run_starts_at_the_predictions_of_the_old_one(way: str, target: str, folder: Path) -> None:
    old = fit("old.parquet", "old", target).model

    options = {"learning_rate": 1e-14, "epochs": 1, "dtype": "float64"} | STANDING_STILL[way]
    new = fit("new.parquet", "new", target, from_="old", **options).model

    known = table(500, 3, "bc", 3.0)
    np.testing.assert_allclose(raw_predictions(new, known), raw_predictions(old, known), rtol=1e-7, atol=1e-7)


def test_from_the_optimum_full_batch_has_nothing_left_to_do(folder: Path) -> None:
    old = fit("old.parquet", "old", method="batch", epochs=100)

    again = fit("old.parquet", "new", from_="old", method="batch", epochs=100)

    assert again.facts["epochs"] < old.facts["epochs"]
    np.testing.assert_allclose(again.model.theta, old.model.theta, rtol=1e-6)


def test_the_run_says_what_was_carried_over(folder: Path) -> None:
    old = fit("old.parquet", "old").model
    display = Listener()

    result = fit("new.parquet", "new", from_="old", display=display)

    # Of level=b, =c and =e one is the base level.
    (line,) = [line for line in display.told if line.startswith("starts from old: ")]
    assert line in (
        "starts from old: 3 of 4 coefficients are carried over; new: level=e",
        "starts from old: 4 of 4 coefficients are carried over",
    )
    (event,) = [each for each in result.history if each["event"] == "start"]
    assert (event["text"], event["theta_sha256"]) == (line, old.theta_sha256)


def test_a_run_that_goes_on_needs_the_old_one_no_more_and_ends_the_same(folder: Path) -> None:
    fit("old.parquet", "old")
    undisturbed = fit("new.parquet", "undisturbed", from_="old")
    stop = Listener("epoch 2", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(PausedError):
        fit("new.parquet", "new", from_="old", display=stop)
    assert RunDirectory(folder / "new").checkpoints.latest() is not None
    shutil.rmtree("old")

    result = fit("new.parquet", "new", from_="old")

    assert result.model.theta_sha256 == undisturbed.model.theta_sha256
    assert [each["event"] for each in result.history].count("start") == 1


def test_the_start_is_part_of_what_the_run_is(folder: Path) -> None:
    fit("old.parquet", "old")
    fit("new.parquet", "new", from_="old")

    with pytest.raises(RunMismatchError, match="--from was old, now not given"):
        fit("new.parquet", "new")


def test_a_start_that_cannot_be_leaves_no_run(folder: Path) -> None:
    fit("old.parquet", "old", "y")

    with pytest.raises(ConfigError, match="--from old: its loss is squared, that of this run is logistic"):
        fit("new.parquet", "new", from_="old")
    with pytest.raises(NoInputError, match="no run or model at none"):
        fit("new.parquet", "new", from_="none")
    with pytest.raises(ConfigError, match="--from and --init zeros both say where theta starts"):
        fit("new.parquet", "new", from_="old", init="zeros")
    assert not (folder / "new").exists()


def test_classes_the_other_way_round_are_refused(folder: Path) -> None:
    fit("old.parquet", "old")

    with pytest.raises(ConfigError, match=r"--from old: its classes .* are \(0, 1\), those of this run are \(1, 0\)"):
        fit("new.parquet", "new", from_="old", positive="0")
    assert not (folder / "new").exists()


def test_a_column_hashed_into_other_buckets_is_not_carried_over(folder: Path) -> None:
    hashed: dict[str, Any] = {"encode": "hash"}
    fit("old.parquet", "old", hash_buckets=8, **hashed)
    display = Listener()

    fit("new.parquet", "new", hash_buckets=16, from_="old", display=display, **hashed)

    (line,) = [line for line in display.told if line.startswith("starts from")]
    assert "2 of 18 coefficients are carried over; new: level#0, level#1" in line


@pytest.mark.parametrize("encode", ["onehot", "hash"])
@pytest.mark.parametrize("before", [pa.string(), pa.int64(), pa.float64()])
@pytest.mark.parametrize("after", [pa.string(), pa.int64(), pa.float64()])
def test_a_column_whose_labels_are_of_another_type_is_not_carried_over(
    before: pa.DataType, after: pa.DataType, encode: str, folder: Path
) -> None:
    for name, kind in (("old", before), ("new", after)):
        labels = pa.array([1, 2, 2, 3, 3, 3] * 500).cast(kind)
        rows = table(3000, 1, "b", 1.0)
        pq.write_table(rows.set_column(2, "level", labels), f"{name}.parquet", row_group_size=500)
    options: dict[str, Any] = {"categorical": "level", "encode": encode, "hash_buckets": 2}
    old = fit("old.parquet", "old", "y", **options).model
    display = Listener()

    standing = {"learning_rate": 1e-14, "epochs": 1, "dtype": "float64"}
    new = fit("new.parquet", "new", "y", from_="old", display=display, **options, **standing).model

    (line,) = [line for line in display.told if line.startswith("starts from old: ")]
    if before == after:
        assert line == "starts from old: 4 of 4 coefficients are carried over"
        np.testing.assert_allclose(new.theta, old.theta, rtol=1e-6, atol=1e-6)
    else:
        assert "2 of 4 coefficients are carried over; new: level" in line
        np.testing.assert_allclose(new.theta[2:-1], 0.0, atol=1e-6)


OTHERWISE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "edges of bins": ({"bins": "x=0,2"}, {"bins": "x=0,3"}, "x "),
    "bounds": ({"clip": "x=0:2"}, {"clip": "x=0:3"}, "x"),
    "knots, by the data": ({"spline": "x=3"}, {"spline": "x=3"}, "x spline"),
    "references, by the data": ({"bins": "x=3", "cross": "level:x"}, {"bins": "x=3", "cross": "level:x"}, "level:x "),
}


@pytest.mark.parametrize(("before", "after", "name"), OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_made_otherwise_is_not_carried_over(
    before: dict[str, Any], after: dict[str, Any], name: str, folder: Path
) -> None:
    fit("old.parquet", "old", "y", **before)
    display = Listener()

    standing = {"learning_rate": 1e-14, "epochs": 1, "dtype": "float64"}
    new = fit("new.parquet", "new", "y", from_="old", display=display, **standing, **after).model

    made = [each for each in new.coefficients() if each.name.startswith(name)]
    assert made
    np.testing.assert_allclose([each.value for each in made], 0.0, atol=1e-6)
    (line,) = [line for line in display.told if line.startswith("starts from old: ")]
    assert f"; new: {made[0].name}" in line or f", {made[0].name}" in line


def test_the_option_has_one_name_on_the_command_line_and_in_toml(folder: Path) -> None:
    fit("old.parquet", "old")
    (folder / "a.toml").write_text('data = "new.parquet"\ntarget = "high"\nfrom = "old"\n')
    options = ["--epochs", "1", "--features", "x,z,level", "--json"]

    for number, command in enumerate(
        (["new.parquet", "--target", "high", "--from", "old"], ["--config", "a.toml"]),
    ):
        run = f"run{number}"
        result = CliRunner().invoke(main, ["train", *command, *options, "--run", run])
        assert result.exit_code == 0, result.stderr
        assert json.loads((folder / run / "config.json").read_text())["config"]["from_"] == "old"
    assert Model.load("run0").theta_sha256 == Model.load("run1").theta_sha256
    assert make_config(data="d", target="y", from_=Path("old")).from_ == "old"
