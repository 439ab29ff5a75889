"""A stream that goes on with new files is one stream in all that counts, and making room changes no prediction."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from histories import untimed
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import Process

from streamgd.config import make_config
from streamgd.data import blocks
from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Scaling
from streamgd.data.source import discover
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError, PausedError, RunMismatchError, SchemaError
from streamgd.kernels import coordinates as kernels
from streamgd.model import Model
from streamgd.objective.losses import LOSSES
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.stochastic import OPTIMIZERS
from streamgd.training.increment import extended, grown_coordinates, next_state, resolved_before
from streamgd.training.interrupt import Interrupt
from streamgd.training.progress import RunContext
from streamgd.training.rundir import RunDirectory
from streamgd.training.setup import make_task
from streamgd.training.train import Result, run
from streamgd.training.trainstate import TrainState

ROOT = Path(__file__).resolve().parents[2]


# Without files: no prediction changes


def level_column(name: str, first_row: int, levels: list[str], base_row: bool) -> CategoricalEncoding:
    column = CategoricalColumn(name, "string")
    return CategoricalEncoding(column, first_row, pa.array(levels, pa.string()), True, 0, base_row)


def small_encoding(base_rows: bool) -> Encoding:
    """Two numbers, two columns of levels around one that is hashed."""
    numbers = tuple(NumericColumn(name, name) for name in ("x", "k"))
    categorical = [level_column("c", 2, ["a", "b", "d"], base_rows)]
    end = 2 + categorical[0].n_rows
    categorical.append(
        CategoricalEncoding(CategoricalColumn("h", "string", True), end, pa.array([], pa.string()), False, 4)
    )
    categorical.append(level_column("e", end + 4, ["p"], base_rows))
    columns = Columns(numbers, tuple(each.column for each in categorical), TargetColumn("y"))
    scaling = Scaling(np.zeros(2), np.ones(2), np.array([0.5, 10.0]), np.array([2.0, 30.0]), np.zeros(2))
    encoding = Encoding(columns, scaling, tuple(categorical), "impute")
    encoding.check()
    return encoding


def trained_state(encoding: Encoding, optimizer: str, seed: int) -> TrainState:
    """A state in the midst of training: levels were touched at different steps, and owe penalty."""
    rng, n_dof = np.random.default_rng(seed), encoding.n_dof
    slots = OPTIMIZERS[optimizer].init(rng.random(n_dof))
    state = TrainState.start(
        encoding, rng.normal(size=(n_dof, 1)), slots, rotation=np.empty((0, 0)), learning_rate=0.1,
        best_constant=0.0, mean_weight=1.0, key="k", steps=100,
    )  # fmt: skip
    state.average[:] = rng.normal(size=(n_dof, 1))
    state.clock[:] = rng.integers(0, 101, n_dof)
    state.clock[[0, 1, -1]] = 100  # every mini-batch touches these
    state.coordinates[:, kernels.RATE] = rng.random(n_dof)
    state.slots[:] = rng.random(state.slots.shape)
    return state


ROWS = pa.record_batch({
    "x": np.linspace(-3, 3, 40), "k": np.linspace(-50, 70, 40),
    "c": pa.array(["a", "b", "d", "new", "newer", "never", None, "b"] * 5),
    "h": pa.array(["u", "v", "w", None] * 10), "e": pa.array(["p", "q", "r", "s", None] * 8),
})  # fmt: skip


def predictions(encoding: Encoding, theta: np.ndarray) -> np.ndarray:
    found = Model.of_training(LOSSES["squared"], *reversed(encoding.without_base_rows(theta)), {}).predict_batch(ROWS)
    return np.asarray(found, float)


@settings(max_examples=40)
@given(
    c=st.lists(st.sampled_from(["new", "newer", None, "other one"]), unique=True),
    e=st.lists(st.sampled_from(["q", "r", None]), unique=True),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    penalty=st.sampled_from([ElasticNet(), ElasticNet(0.0, 1e-3), ElasticNet(1e-3, 1e-3)]),
    shift=st.floats(-30, 30), factor=st.floats(0.2, 5.0), seed=st.integers(0, 1000),
)  # fmt: skip
def test_neither_new_levels_nor_a_moved_scaling_change_a_prediction(
    c: list[str | None],
    e: list[str | None],
    optimizer: str,
    penalty: ElasticNet,
    shift: float,
    factor: float,
    seed: int,
) -> None:
    old = trained_state(small_encoding(base_rows=penalty.l1 == 0), optimizer, seed)
    new = {"c": pa.array(c, pa.string()), "e": pa.array(e, pa.string())}
    encoding, rows, is_new = extended(old.encoding, new)
    encoding.check()
    assert is_new.sum() == len(c) + len(e)
    slots = OPTIMIZERS[optimizer].init(np.full(encoding.n_dof, 0.25))
    anew = OPTIMIZERS[optimizer].takes_penalty_anew
    coordinates = grown_coordinates(old, rows, is_new, slots, penalty, anew)
    state = TrainState(
        encoding, coordinates, np.zeros(3), old.rotation, 0.1, 0.0, 1.0, "k", steps=old.steps
    )  # fmt: skip
    np.testing.assert_array_equal(state.slots[anew:, is_new], slots[anew:, is_new])
    # What the known ones have, they keep to the bit.
    np.testing.assert_array_equal(state.coordinates[~is_new], old.coordinates)
    for step in range(2):
        for averaging in (True, False):
            expected = predictions(old.encoding, old.result(averaging, penalty, anew))
            found = predictions(state.encoding, state.result(averaging, penalty, anew))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        scaling = state.encoding.scaling
        moved = Scaling(scaling.shift0, scaling.scale0, scaling.mean + shift, scaling.deviation * factor, scaling.fill)
        if step == 0 and penalty.l1 == 0:  # a threshold on theta depends on the scale
            state.reexpress(state.encoding.with_scaling(moved), OPTIMIZERS[optimizer])


def test_levels_that_are_known_keep_their_order_and_the_new_ones_follow() -> None:
    encoding, rows, is_new = extended(small_encoding(base_rows=True), {"e": pa.array(["z", None, "q"], pa.string())})
    assert encoding.row_names() == [
        "x", "k", "c=a", "c=b", "c=d", "c=(other)", "h#0", "h#1", "h#2", "h#3",
        "e=p", "e=z", "e=null", "e=q", "e=(other)", "(intercept)",
    ]  # fmt: skip
    assert rows.tolist() == [*range(11), 11, 11, 11, 11, 12]
    assert np.flatnonzero(is_new).tolist() == [11, 12, 13]


# With files


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files a, b, c of 1,500 rows each; blocks have 200 rows. Each file has levels of its own, a has one for itself."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 200)
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate("abc"):
        write(folder / f"{name}.parquet", 1_500, number)
    return folder


EFFECTS = {"l0": 0.0, "l1": 1.0, "l2": -1.0, "only-a": 0.5, "new-b": 3.0, "new-c": -3.0}


def table(rows: int, number: int) -> pa.Table:
    """The numbers drift from file to file; labels are numbers that every file has anew."""
    rng = np.random.default_rng(number)
    levels = ["l0", "l1", "l2", ["only-a", "new-b", "new-c"][number]]
    x = rng.normal(loc=number, scale=1 + number, size=rows)
    c = rng.choice(levels, rows, p=[0.4, 0.2, 0.2, 0.2])
    y = 0.5 * x + np.array([EFFECTS[level] for level in c]) + 0.1 * rng.normal(size=rows)
    missing = rng.random(rows) < 0.02
    return pa.table({
        "x": pa.array(x, mask=missing), "z": rng.normal(size=rows), "c": c,
        "label": rng.integers(10 * number, 10 * number + 20, rows), "y": y, "w": rng.choice([0.5, 1.0, 2.0], rows),
    })  # fmt: skip


def write(path: Path, rows: int, number: int) -> None:
    pq.write_table(table(rows, number), path, row_group_size=400)


def fit(
    data: Path, name: str, before: dict[str, Any] | None = None, only: list[str] | None = None, **options: Any
) -> Result:
    """A run on one file of the folder, in a directory of its own beside it."""
    defaults = {
        "features": ["x", "z", "c", "label"], "categorical": ["label"], "weight": "w", "shuffle": "window",
        "epochs": 1, "batch_size": 20, "run": str(data.parent / name), "row_log": str(data.parent / "rows"),
    }  # fmt: skip
    display, interrupt = options.pop("display", Listener()), options.pop("interrupt", None)
    restart = options.pop("restart", False)
    chosen = only or [f"{name[0]}.parquet"]
    config = make_config(data=[str(data)], target="y", only=chosen, **(defaults | options))
    return run(config, display, restart, interrupt, before)


def state_of(result: Result | Path) -> dict[str, Any]:
    loaded = RunDirectory(result if isinstance(result, Path) else result.run_dir).checkpoints.latest()
    assert loaded is not None
    state: dict[str, Any] = loaded.state
    return state


def began(data: Path, name: str, before: dict[str, Any], **options: Any) -> TrainState:
    """The state from which a run on a file would begin."""
    config = make_config(data=[str(data)], **{**before["options"], **options})
    manifest = discover([str(data)], only=[f"{name}.parquet"])
    task = make_task(config, manifest, None, resolved=resolved_before(before, config, manifest))
    context = RunContext(RunDirectory(data.parent / "nowhere"), Listener(), Interrupt(), 60.0)
    return TrainState.from_state(next_state(before, task, context))


def coefficient(state: TrainState, column: str, level: str) -> float:
    return float(state.theta[state.encoding.row_names().index(f"{column}={level}"), 0])


WAYS: dict[str, dict[str, Any]] = {
    "adagrad": {}, "adam": {"optimizer": "adam"}, "momentum": {"optimizer": "momentum"}, "l1": {"l1": 1e-3},
    "sgd": {"method": "sgd"}, "holdout": {"holdout": 0.2, "where": "x > -1.5", "epochs": 2},
    "hashed": {"encode": "hash", "hash_buckets": 32}, "raw": {"scale": "none"}, "drop": {"nulls": "drop"},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_a_run_begins_with_predicts_what_the_run_before_predicted(way: str, data: Path) -> None:
    before = fit(data, "a", **WAYS[way])
    state = began(data, "b", state_of(before), **{name: value for name, value in WAYS[way].items() if name == "epochs"})
    averaging = way != "l1"
    task_penalty = ElasticNet(before.facts["l1"] / state.encoding.target_scale, before.facts["l2"])
    encoding, theta = state.encoding.without_base_rows(state.result(averaging, task_penalty))
    after = Model.of_training(LOSSES["squared"], theta, encoding, {})
    for name in "abc":
        batch = pq.read_table(data / f"{name}.parquet").drop_columns(["y", "w"]).combine_chunks().to_batches()[0]
        found = after.predict_batch(batch)
        expected = before.model.predict_batch(batch)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_three_files_one_after_another_are_one_stream(data: Path) -> None:
    results, states = [], []
    before: dict[str, Any] | None = None
    for name in "abc":
        results.append(fit(data, name, before))
        before = state_of(results[-1])
        states.append(TrainState.from_state(before))
    assert [result.facts["rows_seen"] for result in results] == [1_500, 3_000, 4_500]
    assert [result.facts["train_rows"] for result in results] == [1_500, 1_500, 1_500]
    assert [result.facts["epochs"] for result in results] == [1, 1, 1]
    steps = [result.facts["steps"] for result in results]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]
    assert len({state.learning_rate for state in states}) == 1
    assert [line["rows"] for result in results for line in result.history if line["event"] == "epoch"] == [1_500] * 3
    # The numbers of rows are those of each run's own file.
    used = np.fromfile(data.parent / "rows", "<u8").reshape(3, 1_500)
    for rows in used:
        assert sorted(rows) == list(range(1_500))
        assert rows.tolist() != sorted(rows)

    whole = pa.concat_tables([pq.read_table(data / f"{name}.parquet") for name in "abc"])
    weight = whole["w"].to_numpy()
    for number, column in enumerate(("x", "z")):
        values = whole[column].to_numpy()
        known = ~np.isnan(values)
        mean = np.average(values[known], weights=weight[known])
        variance = np.average((values[known] - mean) ** 2, weights=weight[known])
        scaling = states[-1].encoding.scaling
        assert scaling.shift[number] == pytest.approx(mean, rel=1e-12, abs=1e-12)
        assert scaling.scale[number] == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_a_new_level_gets_a_coefficient_of_its_own_and_one_that_is_gone_keeps_its(data: Path) -> None:
    first = fit(data, "a")
    second = fit(data, "b", state_of(first))
    third = fit(data, "c", state_of(second))
    states = [TrainState.from_state(state_of(result)) for result in (first, second, third)]
    levels = [state.encoding.categorical[0].levels.to_pylist() for state in states]
    assert set(levels[0]) == {"l0", "l1", "l2", "only-a"}
    assert levels[1] == [*levels[0], "new-b"]
    assert levels[2] == [*levels[1], "new-c"]
    for later in states[1:]:
        assert coefficient(later, "c", "only-a") == coefficient(states[0], "c", "only-a")
        assert coefficient(later, "c", "(other)") == coefficient(states[0], "c", "(other)")
    assert coefficient(states[2], "c", "new-b") == coefficient(states[1], "c", "new-b")
    found = {each.level: each.value for each in third.model.coefficients() if each.column == "c"}
    found.setdefault(levels[0][0], 0.0)
    assert (max(found, key=found.__getitem__), min(found, key=found.__getitem__)) == ("new-b", "new-c")


def test_levels_are_put_in_order_by_how_often_they_occur_and_not_by_who_meets_them(data: Path) -> None:
    before = state_of(fit(data, "a"))
    labels = pq.read_table(data / "b.parquet")
    weights: dict[int, float] = {}
    for label, weight in zip(labels["label"].to_pylist(), labels["w"].to_pylist(), strict=True):
        weights[label] = weights.get(label, 0.0) + weight
    new = sorted((label for label in weights if label >= 20), key=lambda label: (-weights[label], label))
    for threads in (1, 4):
        found = began(data, "b", before, threads=threads).encoding.categorical[1].levels.to_pylist()
        assert found[20:] == new


@pytest.mark.parametrize("way", ["adagrad", "l1", "sgd", pytest.param("holdout", marks=pytest.mark.slow)])
def test_neither_threads_nor_pauses_change_a_bit(way: str, data: Path) -> None:
    before = state_of(fit(data, "a", **WAYS[way]))
    expected = fit(data, "b", before, **WAYS[way])
    rows = (data.parent / "rows").read_bytes()
    for number, machine in enumerate([{"threads": 1}, {"threads": 4}, {"memory": "4GB", "checkpoint_every": "1ms"}]):
        assert (
            fit(data, f"b-{number}", before, **WAYS[way], **machine).model.theta_sha256 == expected.model.theta_sha256
        )
    pauses = 0
    while True:
        try:
            # Later starts need not know the run before any more.
            options = {**WAYS[way], "pause_after": 0.002 * 1.2**pauses}
            found = fit(data, "b-paused", before if pauses < 2 else None, **options)
            break
        except PausedError:
            pauses += 1
    assert pauses >= 2
    assert found.model.theta_sha256 == expected.model.theta_sha256
    assert [untimed(line) for line in found.history] == [untimed(line) for line in expected.history]
    assert (data.parent / "rows").read_bytes() == rows


@pytest.mark.parametrize("way", ["adagrad", "l1", "sgd", pytest.param("holdout", marks=pytest.mark.slow)])
def test_going_on_from_any_checkpoint_gives_the_same_rest(way: str, data: Path) -> None:
    before = state_of(fit(data, "a", **WAYS[way]))
    whole = fit(data, "b", before, **WAYS[way], checkpoint_every=1e-9, keep_checkpoints=1_000)
    checkpoints = sorted((whole.run_dir / "checkpoints").glob("*.safetensors"))
    assert len(checkpoints) >= 4
    for number, newest in enumerate(checkpoints):
        again = data.parent / f"b-{number}"
        shutil.copytree(whole.run_dir, again, ignore=shutil.ignore_patterns("checkpoints", "model.safetensors"))
        (again / "checkpoints").mkdir()
        shutil.copy(newest, again / "checkpoints")
        found = fit(data, again.name, before, **WAYS[way])
        assert found.model.theta_sha256 == whole.model.theta_sha256
        assert {**found.facts, "seconds": 0} == {**whole.facts, "seconds": 0}
        assert [untimed(line) for line in found.history] == [untimed(line) for line in whole.history]


def learn_2013(learned: Path, name: Path, flights: Path) -> None:
    """What the process does that is killed."""
    options = {"features": "month,day,dep_time,distance,air_time,carrier,origin,dest", "shuffle": "window", "epochs": 1}
    config = make_config(
        data=[str(flights)], target="late", only=["2013.parquet"], run=str(name), checkpoint_every="0.02s", **options
    )
    print(run(config, Listener(), before=state_of(learned)).model.theta_sha256)


def test_killed_at_any_moment_it_ends_in_the_same_theta(flights: Path, tmp_path: Path) -> None:
    options = {"target": "late", "features": "month,day,dep_time,distance,air_time,carrier,origin,dest"}
    config = make_config(
        data=[str(flights)], only=["2011.parquet"], run=str(tmp_path / "a"), shuffle="window", epochs=1, **options
    )
    run(config, Listener())

    def start(name: str) -> Process:
        return Process(learn_2013, tmp_path / "a", tmp_path / name, flights)

    def checkpoints() -> set[Path]:
        return set((tmp_path / "killed" / "checkpoints").glob("*.safetensors"))

    # Before the first checkpoint, and at two moments after one.
    reached = [(tmp_path / "killed" / "config.json").exists, checkpoints, lambda: checkpoints() - known]
    for moment in reached:
        known, process = checkpoints(), start("killed")
        while not moment() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    assert checkpoints()
    found, expected = (start(name).communicate(timeout=120)[0] for name in ("killed", "straight"))
    assert found == expected != ""


def test_it_starts_from_the_run_before_again_where_there_is_no_checkpoint_yet(data: Path) -> None:
    before = state_of(fit(data, "a"))
    expected = fit(data, "b", before).model.theta_sha256
    for phase in ("levels", "epoch 1/1"):

        def fall_over() -> None:
            raise RuntimeError("the machine fell over")

        with pytest.raises(RuntimeError):
            fit(data, "b-again", before, display=Listener(phase, fall_over))
        assert not list((data.parent / "b-again" / "checkpoints").glob("*"))
        assert fit(data, "b-again", before).model.theta_sha256 == expected
        shutil.rmtree(data.parent / "b-again")


def test_a_finished_run_says_so_and_changes_nothing(data: Path) -> None:
    before = state_of(fit(data, "a"))
    first = fit(data, "b", before)
    assert fit(data, "b", before).to_json()["already_finished"]
    again = fit(data, "b", before, restart=True)
    assert again.model.theta_sha256 == first.model.theta_sha256


def test_the_interrupt_of_the_caller_stops_it(data: Path) -> None:
    before, expected = state_of(fit(data, "a")), None
    with Interrupt() as interrupt:
        expected = fit(data, "b", before, interrupt=interrupt).model.theta_sha256
        handler = signal.getsignal(signal.SIGTERM)
        # An own one would have put back the handler of before.
        assert handler == interrupt._receive

        def stop() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(PausedError):
            fit(data, "b-stopped", before, interrupt=interrupt, display=Listener("levels", stop))
    assert fit(data, "b-stopped", before).model.theta_sha256 == expected


def test_a_file_of_one_class_is_learned_as_any_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, late in (("a", rng.random(900) < 0.3), ("b", np.ones(300, bool))):
        x = rng.normal(size=len(late))
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"x": x, "y": np.where(late, "late", "in time")}), tmp_path / "data" / f"{name}.parquet"
        )
    options = {"features": None, "categorical": [], "weight": None, "positive": "late"}
    first = fit(tmp_path / "data", "a", **options)
    second = fit(tmp_path / "data", "b", state_of(first), **options)
    assert second.facts["loss"] == "logistic"
    assert second.model.coefficients()[-1].value > first.model.coefficients()[-1].value


@pytest.mark.parametrize("loss", ["poisson", "tweedie"])
def test_a_file_without_claims_lowers_the_predictions_of_its_levels(loss: str, tmp_path: Path) -> None:
    rng, options = np.random.default_rng(0), {"categorical": [], "weight": None, "features": ["c"], "loss": loss}
    (tmp_path / "data").mkdir()
    for name, claims, levels in (("a", rng.poisson(0.3, 900), ["u", "v"]), ("b", np.zeros(300, int), ["u", "new"])):
        rows = pa.table({"c": rng.choice(levels, len(claims)), "y": claims})
        pq.write_table(rows, tmp_path / "data" / f"{name}.parquet")
    first = fit(tmp_path / "data", "a", **options)
    second = fit(tmp_path / "data", "b", state_of(first), **options)
    batch = pa.record_batch({"c": ["u", "v", "new"]})
    before, after = (np.asarray(each.model.predict_batch(batch)) for each in (first, second))
    assert (after > 0.0).all()
    assert (after[[0, 2]] < before[[0, 2]]).all()


# What is refused


def changed(path: Path, change: Any) -> None:
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop_columns(["z"]), r"b\.parquet lacks a column .*'z'"),
        (lambda t: t.set_column(1, "z", t["c"]), r"b\.parquet, column 'z': found string, .*a number"),
        (lambda t: t.set_column(2, "c", t["z"]), r"b\.parquet, column 'c': found double, .*text as labels"),
        (lambda t: t.drop_columns(["w"]), r"b\.parquet lacks a column .*'w'"),
        (lambda t: t.append_column("more", t["z"]), r"b\.parquet has a column .*: 'more'.*--exclude more"),
    ],
)
def test_other_columns_are_an_error_that_names_file_and_column(data: Path, change: Any, told: str) -> None:
    before = state_of(fit(data, "a", features=None))
    changed(data / "b.parquet", change)
    with pytest.raises(SchemaError, match=told):
        fit(data, "b", before, features=None)
    assert not (data.parent / "b").exists()


def test_a_column_that_was_left_out_as_an_id_is_not_a_new_one(data: Path) -> None:
    for name in "ab":
        changed(data / f"{name}.parquet", lambda t: t.append_column("id", pa.array(np.arange(1_500))))
    first = fit(data, "a", features=None)
    before = state_of(first)
    assert list(before["left_out"]) == ["id"]
    fit(data, "b", before, features=None)


def test_other_options_are_refused_and_named(data: Path) -> None:
    before = state_of(fit(data, "a"))
    with pytest.raises(RunMismatchError, match=r"--l2 was 1e-06, now 0\.5; --batch-size was 20, now 30"):
        fit(data, "b", before, l2=0.5, batch_size=30)


def test_more_levels_than_max_levels_are_refused_and_may_be_raised(data: Path) -> None:
    before = state_of(fit(data, "a", max_levels=25))
    with pytest.raises(ConfigError, match=r"column 'label': with those .* --max-levels 25 levels"):
        fit(data, "b", before, max_levels=25)
    assert not (data.parent / "b").exists()
    fit(data, "b", before, max_levels=30)


@pytest.mark.parametrize("options", [{"shuffle": "full"}, {"shuffle": "none"}, {"method": "batch", "shuffle": "auto"}])
def test_only_windows_go_on(data: Path, options: dict[str, Any]) -> None:
    before = state_of(fit(data, "a", **options))
    with pytest.raises(ConfigError, match="in windows alone"):
        fit(data, "b", before, **options)


@pytest.mark.parametrize("schedule", ["inverse", "cosine"])
def test_a_schedule_that_counts_on_an_end_is_refused(data: Path, schedule: str) -> None:
    before = state_of(fit(data, "a", schedule=schedule))
    with pytest.raises(ConfigError, match=f"--schedule {schedule} counts on the end of a run"):
        fit(data, "b", before, schedule=schedule)


def test_a_run_that_has_not_come_to_its_end_is_refused(data: Path) -> None:
    cut_short = fit(data, "a", max_time=1e-9)
    with pytest.raises(ConfigError, match="has not come to its end"):
        fit(data, "b", state_of(cut_short))


def test_a_run_that_began_a_stream_does_not_go_on_with_one(data: Path) -> None:
    before = state_of(fit(data, "a"))
    with pytest.raises(RunMismatchError, match="began a stream"):
        fit(data, "a", before)


def test_changed_files_are_refused_where_a_stream_went_on_with_them(data: Path) -> None:
    before = state_of(fit(data, "a"))
    fit(data, "b", before)
    with pytest.raises(RunMismatchError, match=r"new: c\.parquet"):
        fit(data, "b", before, only=["b.parquet", "c.parquet"])
    with pytest.raises(RunMismatchError, match="they changed"):
        fit(data, "b", before, only=["b.parquet", "c.parquet"], accept_data_change=True, epochs=2)
