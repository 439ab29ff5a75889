"""A state that is carried over to a moved scaling predicts the same and steps as if it had always been there."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import moments_of

from streamgd.data.blocks import NO_ENTRIES
from streamgd.data.columns import CategoricalColumn, Columns, NumericColumn, TargetColumn
from streamgd.data.encoding import Encoding
from streamgd.data.scaler import Scaling
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.kernels import stochastic as kernels
from streamgd.objective.losses import LOSSES
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.full_batch import FULL_BATCH_OPTIMIZERS
from streamgd.optim.stochastic import OPTIMIZERS
from streamgd.state import CorruptStateError, join, split
from streamgd.training.batch_state import BatchState
from streamgd.training.trainstate import TrainState

N_NUMERIC, LEVELS = 3, 4
N_DOF = N_NUMERIC + LEVELS + 1
RANGES = np.array([[N_NUMERIC, N_NUMERIC + LEVELS]])
NONE = NO_ENTRIES[np.dtype(float)].arrays()
BEFORE = (np.array([0.3, -2.0, 5.0]), np.array([1.0, 0.2, 3.0]))
NO_BOUNDS = np.empty(0, np.int64)


def encoding_of(mean: np.ndarray, deviation: np.ndarray) -> Encoding:
    carrier = CategoricalColumn("c", "string")
    columns = Columns(
        tuple(NumericColumn(f"x{j}", f"x{j}") for j in range(N_NUMERIC)), (carrier,), TargetColumn("y", (0, 1))
    )
    zeros, ones = np.zeros(N_NUMERIC), np.ones(N_NUMERIC)
    scaling = Scaling(zeros, ones, np.asarray(mean, float), np.asarray(deviation, float), zeros)
    levels = CategoricalEncoding(carrier, N_NUMERIC, pa.array(["a", "b", "c", "d"]), False, 0, base_row=True)
    return Encoding(columns, scaling, (levels,), "impute")


def raw_rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    raw = BEFORE[0] + BEFORE[1] * rng.normal(size=(n, N_NUMERIC))
    codes = rng.integers(N_NUMERIC, N_NUMERIC + LEVELS, (n, 1)).astype(np.int32)
    return raw, codes, (rng.random(n) < 0.4).astype(float)


def features(raw: np.ndarray, encoding: Encoding) -> np.ndarray:
    return np.ascontiguousarray((raw - encoding.scaling.mean) / encoding.scaling.deviation)


def survey_of(rows: np.ndarray) -> Survey:
    """What has been seen after these rows."""
    counts, weight = [np.full(LEVELS, 2.0)], np.ones(len(rows))
    return Survey(len(rows), 0, {}, moments_of(rows, weight), moments_of(rows[:, :1], weight), counts)


def predictions(theta: np.ndarray, raw: np.ndarray, codes: np.ndarray, encoding: Encoding) -> np.ndarray:
    return features(raw, encoding) @ theta[:N_NUMERIC, 0] + theta[codes[:, 0], 0] + theta[-1, 0]


def sizes(theta: np.ndarray, raw: np.ndarray, codes: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Predictions without signs: what rounding is relative to."""
    parts = np.abs(features(raw, encoding)) @ np.abs(theta[:N_NUMERIC, 0])
    return parts + np.abs(theta[codes[:, 0], 0]) + np.abs(theta[-1, 0])


def train(state: TrainState, optimizer: str, n: int, seed: int, steps: int) -> None:
    raw, codes, target = raw_rows(n, seed)
    bounds = np.linspace(0, n, steps + 1).round().astype(np.int64)
    kernels.train_minibatches(
        features(raw, state.encoding), codes, *NONE, target, np.empty(0), np.empty(0), bounds,
        np.full(steps, 0.1), state.steps, 1.0, 0.0, 0.0, True, False, state.coordinates, RANGES, state.level_sums,
        NO_BOUNDS,
        state.rotation, np.array(OPTIMIZERS[optimizer].settings), np.empty((2, n)),
        np.zeros(N_DOF, np.int32), np.zeros(N_DOF + 1, np.int32),
        LOSSES["logistic"].settings, LOSSES["logistic"].residuals_of_rows,
        OPTIMIZERS[optimizer].update,
    )  # fmt: skip
    state.steps += steps


def started(optimizer: str, expected: float = 0.0, seed: int = 0) -> TrainState:
    theta = np.random.default_rng(seed).normal(size=(N_DOF, 1)) * 0.3
    slots = OPTIMIZERS[optimizer].init(np.full(N_DOF, expected))
    return TrainState.start(
        encoding_of(*BEFORE),
        theta,
        slots,
        rotation=np.empty((0, 0)),
        learning_rate=0.1,
        best_constant=0.0,
        mean_weight=1.0,
        key="k",
    )


moved_scalings = st.builds(
    lambda shift, factor: encoding_of(BEFORE[0] + BEFORE[1] * np.array(shift), BEFORE[1] * np.array(factor)),
    st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3),
    st.lists(st.floats(0.2, 5.0), min_size=3, max_size=3),
)


@settings(max_examples=25)
@given(encoding=moved_scalings, optimizer=st.sampled_from(sorted(OPTIMIZERS)), seed=st.integers(0, 1000))
def test_a_move_of_the_scaling_changes_no_prediction(encoding: Encoding, optimizer: str, seed: int) -> None:
    state = started(optimizer, 0.01, seed)
    # Levels that are rare are behind with their average: it must be right all the same.
    train(state, optimizer, 60, seed, 20)
    raw, codes, _ = raw_rows(50, seed + 1)
    before = state.encoding
    thetas = (state.theta.copy(), state.result(True, ElasticNet()))
    assert state.reexpress(encoding, OPTIMIZERS[optimizer]) == []

    assert state.encoding is encoding
    for old, new in zip(thetas, (state.theta, state.result(True, ElasticNet())), strict=True):
        error = np.abs(predictions(new, raw, codes, encoding) - predictions(old, raw, codes, before))
        assert (error <= 1e-9 * (sizes(new, raw, codes, encoding) + sizes(old, raw, codes, before))).all()


@settings(max_examples=25)
@given(encoding=moved_scalings, optimizer=st.sampled_from(sorted(OPTIMIZERS)), seed=st.integers(0, 1000))
def test_slots_are_those_computed_from_scratch_in_the_new_scale(encoding: Encoding, optimizer: str, seed: int) -> None:
    """The gradient of each step, taken again in the new features, at the very same predictions."""
    state = started(optimizer, 0.0, seed)
    rule = OPTIMIZERS[optimizer]
    raw, codes, target = raw_rows(48, seed)
    gradients = []
    for step in range(12):
        rows = slice(4 * step, 4 * step + 4)
        residual = 1 / (1 + np.exp(-predictions(state.theta, raw[rows], codes[rows], state.encoding))) - target[rows]
        gradient = np.zeros(N_DOF)
        gradient[:N_NUMERIC] = features(raw[rows], encoding).T @ residual / 4
        np.add.at(gradient, codes[rows, 0], residual / 4)
        gradient[-1] = residual.sum() / 4
        gradients.append(gradient)
        bounds = np.array([0, 4])
        kernels.train_minibatches(
            features(raw[rows], state.encoding), codes[rows], *NONE, target[rows], np.empty(0), np.empty(0),
            bounds, np.array([0.1]), state.steps, 1.0, 0.0, 0.0, True, False, state.coordinates, RANGES,
            state.level_sums, NO_BOUNDS, state.rotation, np.array(rule.settings), np.empty((2, 4)),
            np.zeros(N_DOF, np.int32), np.zeros(N_DOF + 1, np.int32),
            LOSSES["logistic"].settings, LOSSES["logistic"].residuals_of_rows,
            rule.update,
        )  # fmt: skip
        state.steps += 1
    state.reexpress(encoding, rule)

    touched = np.zeros((12, N_DOF), bool)
    touched[:, [*range(N_NUMERIC), -1]] = True
    for step in range(12):
        touched[step, codes[4 * step : 4 * step + 4, 0]] = True
    g = np.array(gradients)
    products = {"gradient": g, "squares": g**2, "cross": g * g[:, -1:]}
    for slot, kind in enumerate(rule.slots):
        if kind in ("displacement", "penalty"):
            continue
        keep = {"adam": {"gradient": 0.9}.get(kind, 0.999), "rmsprop": 0.99}.get(optimizer)
        expected = np.zeros(N_DOF)
        for step in range(12):
            now = products[kind][step]
            value = expected + now if keep is None else keep * expected + (1 - keep) * now
            expected = np.where(touched[step], value, expected)
        size = np.abs(products[kind]).sum(axis=0).max() * np.maximum(1.0, 1.0 / np.abs(g).max())
        np.testing.assert_allclose(state.slots[slot], expected, rtol=1e-8, atol=1e-11 * max(1.0, size))


def test_a_velocity_moves_predictions_as_before() -> None:
    state = started("momentum")
    train(state, "momentum", 60, 1, 20)
    raw, codes, _ = raw_rows(50, 2)
    before, velocity = state.encoding, state.slots[0][:, None].copy()
    after = encoding_of(BEFORE[0] + 0.5, BEFORE[1] * [2.0, 0.5, 1.5])
    state.reexpress(after, OPTIMIZERS["momentum"])

    np.testing.assert_allclose(
        predictions(state.slots[0][:, None], raw, codes, after), predictions(velocity, raw, codes, before), rtol=1e-9
    )


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_two_moves_are_as_good_as_one(optimizer: str) -> None:
    """Also from what an optimizer expects before its first step."""
    middle = encoding_of(BEFORE[0] + BEFORE[1] * [0.9, -0.5, 0.1], BEFORE[1] * [0.5, 2.0, 1.3])
    last = encoding_of(BEFORE[0] + BEFORE[1] * [-0.4, 0.2, 0.7], BEFORE[1] * [1.5, 0.9, 0.4])
    for steps in (0, 20):
        twice, once = started(optimizer, 0.01), started(optimizer, 0.01)
        for state in (twice, once):
            if steps:
                train(state, optimizer, 60, 1, steps)
        twice.reexpress(middle, OPTIMIZERS[optimizer])
        twice.reexpress(last, OPTIMIZERS[optimizer])
        once.reexpress(last, OPTIMIZERS[optimizer])

        np.testing.assert_allclose(twice.theta, once.theta, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(twice.slots, once.slots, rtol=1e-10, atol=1e-13)


def test_a_column_that_had_been_nearly_constant_restarts_at_zero() -> None:
    state = started("adagrad", 0.01)
    train(state, "adagrad", 60, 1, 20)
    kept = state.theta.copy()
    after = encoding_of(BEFORE[0], BEFORE[1] * [1.0, 10.5, 9.5])

    assert state.reexpress(after, OPTIMIZERS["adagrad"]) == [1]
    assert (state.theta[1, 0], state.average[1, 0]) == (0.0, 0.0)
    assert state.slots[:, 1].tolist() == [0.0, 0.0]
    # The others are carried over; no part of the forgotten coefficient goes to the intercept.
    assert state.theta[2, 0] == pytest.approx(9.5 * kept[2, 0], rel=1e-14)
    np.testing.assert_array_equal(state.theta[[0, 3, 4, 5, 6, 7]], kept[[0, 3, 4, 5, 6, 7]])


def test_going_back_restores_the_snapshot_and_halves_the_step() -> None:
    state = started("adam")
    train(state, "adam", 60, 1, 20)
    state.survey = survey_of(raw_rows(60, 1)[0])
    state.epoch, state.position, state.rows_seen, state.sums[:] = 1, 3, 60, [1.0, 2.0, 3.0, 4.0]
    state.take_snapshot()
    good = {name: np.copy(getattr(state, name)) for name in ("theta", "average", "slots", "clock", "sums")}
    good_scaling, good_moments = state.encoding.scaling, state.survey.moments.mean.copy()
    for attempt in (1, 2):
        state.survey = state.survey.merge(survey_of(np.full((5, 3), 99.0)))
        state.reexpress(encoding_of(BEFORE[0] + 1.0, BEFORE[1] * 2.0), OPTIMIZERS["adam"])
        train(state, "adam", 60, 2, 20)
        state.position, state.rows_seen, state.theta[0] = 9, 120, np.nan
        state.sums += 5.0
        state.go_back(whole_epoch=False)

        for name, value in good.items():
            np.testing.assert_array_equal(getattr(state, name), value)
        assert (state.epoch, state.position, state.steps, state.rows_seen) == (1, 3, 20, 60)
        np.testing.assert_array_equal(state.encoding.scaling.mean, good_scaling.mean)
        np.testing.assert_array_equal(state.encoding.scaling.deviation, good_scaling.deviation)
        assert state.survey.train_rows == 60
        np.testing.assert_array_equal(state.survey.moments.mean, good_moments)
        assert state.learning_rate == 0.1 * 0.5**attempt
        assert state.rollbacks == attempt


def test_a_state_comes_back_from_what_is_written_down() -> None:
    state = started("adam", 0.01)
    train(state, "adam", 60, 1, 20)
    state.survey = survey_of(raw_rows(60, 1)[0])
    state.take_snapshot()
    again = TrainState.from_state(state.state())
    for one in (state, again):
        train(one, "adam", 60, 2, 20)

    for name in ("theta", "average", "slots", "clock"):
        assert getattr(again, name).tobytes() == getattr(state, name).tobytes()
    assert again.encoding.categorical == state.encoding.categorical
    assert again.survey is not None
    np.testing.assert_array_equal(again.survey.moments.mean, state.survey.moments.mean)
    assert (again.steps, again.learning_rate) == (40, 0.1)


@pytest.mark.parametrize(
    "values",
    [
        {"coordinates": np.zeros((N_DOF, 3))}, {"coordinates": np.zeros((N_DOF - 1, 7))}, {"level_sums": np.zeros(2)},
        {"rotation": np.eye(2)}, {"rotation": np.eye(4)}, {"rotation": np.empty((0, 3))}, {"rotation": np.ones((3, 2))},
        {"best": {"epoch": 1, "loss": None, "theta": np.zeros((N_DOF - 1, 1))}}, {"best": {"epoch": 1, "loss": 0.5}},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_whose_shapes_do_not_suit_its_encoding_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(CorruptStateError):
        TrainState.from_state(started("adam", 0.01).state() | values)


@pytest.mark.parametrize("path", [
    ("encoding", "target_shift"), ("encoding", "target_scale"), ("encoding", "nulls"), ("epoch_losses", 0, "rows"),
    ("epoch_losses", 0, "progressive"), ("best", "loss"), ("best", "epoch"), ("steps",), ("learning_rate",),
    ("sums",),
])  # fmt: skip
@pytest.mark.parametrize("value", ["x", [], {"a": 1}], ids=str)
def test_a_state_with_a_value_of_another_type_is_refused(path: tuple[Any, ...], value: Any) -> None:
    state = started("adam", 0.01)
    state.take_snapshot()
    state.epoch_losses.append({"epoch": 1, "rows": 60, "progressive": 0.5, "constant": 0.7, "holdout": None})
    state.best = {"epoch": 1, "loss": None, "theta": np.zeros((N_DOF, 1))}
    written: Any = join(*split(state.state()))
    TrainState.from_state(written)
    part = written
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(CorruptStateError):
        TrainState.from_state(written)


@pytest.mark.parametrize(
    "values", [{"alpha": "x"}, {"value": []}, {"theta": None}, {"trial": np.zeros(N_DOF)}, {"gradient": np.zeros(3)}],
    ids=str,
)  # fmt: skip
def test_a_state_of_full_batch_with_another_optimizer_is_refused(values: dict[str, Any]) -> None:
    optimizer = FULL_BATCH_OPTIMIZERS["backtracking"].init(np.zeros((N_DOF, 1)), 0.1, np.ones((N_DOF, 1)))
    state = BatchState(started("adam", 0.01).encoding, optimizer, 0.1, None, "key").state()
    assert BatchState.from_state(state).optimizer["alpha"] == 0.1
    with pytest.raises(CorruptStateError):
        BatchState.from_state(state | {"optimizer": optimizer | values})
    with pytest.raises(CorruptStateError):
        BatchState.from_state(state | {"certificate": {"gradient": 1.0}})


def test_a_rotation_of_all_numeric_columns_comes_back() -> None:
    state = started("adam", 0.01).state() | {"rotation": np.eye(3)}
    assert len(TrainState.from_state(state).rotation) == 3


def test_the_result_is_the_average_or_theta_itself() -> None:
    state = started("plain")
    first = state.theta.copy()
    np.testing.assert_array_equal(state.result(True, ElasticNet()), first)
    train(state, "plain", 60, 1, 20)

    np.testing.assert_array_equal(state.result(False, ElasticNet()), state.theta)
    assert not np.array_equal(state.result(True, ElasticNet()), state.theta)
    kept = state.theta.copy()
    state.result(False, ElasticNet())[:] = 9.0
    np.testing.assert_array_equal(state.theta, kept)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_move_of_the_scaling_changes_no_prediction_of_several_classes(optimizer: str) -> None:
    rng, rule = np.random.default_rng(4), OPTIMIZERS[optimizer]
    target = TargetColumn("y", ("a", "b", "c"))

    def of_classes(encoding: Encoding) -> Encoding:
        return replace(encoding, columns=replace(encoding.columns, target=target))

    before = of_classes(encoding_of(*BEFORE))
    after = of_classes(encoding_of(BEFORE[0] + [0.4, -0.1, 2.0], BEFORE[1] * [2.0, 0.5, 1.5]))
    theta = rng.normal(size=(N_DOF, 3))
    slots = np.concatenate([rule.init(np.full(N_DOF, 0.01)) for _ in range(3)], axis=1)
    state = TrainState.start(
        before, theta, slots, rotation=np.empty((0, 0)), learning_rate=0.1, best_constant=np.zeros(3),
        mean_weight=1.0, key="k",
    )  # fmt: skip
    one_by_one = [
        TrainState.start(
            encoding_of(*BEFORE), theta[:, k : k + 1], slots[:, k * N_DOF : (k + 1) * N_DOF],
            rotation=np.empty((0, 0)), learning_rate=0.1, best_constant=0.0, mean_weight=1.0, key="k",
        )
        for k in range(3)
    ]  # fmt: skip
    raw, codes, _ = raw_rows(50, 0)
    assert state.reexpress(after, rule) == []

    for k, single in enumerate(one_by_one):
        single.reexpress(encoding_of(after.scaling.mean, after.scaling.deviation), rule)
        np.testing.assert_array_equal(state.tables[k], single.tables[0])
        found = predictions(state.theta[:, k : k + 1], raw, codes, after)
        np.testing.assert_allclose(found, predictions(theta[:, k : k + 1], raw, codes, before), rtol=1e-10, atol=1e-12)
    parts, arrays = split(state.state())
    again = TrainState.from_state(join(parts, arrays))
    assert (again.coordinates == state.coordinates).all()
    with pytest.raises(CorruptStateError):
        TrainState.from_state({**state.state(), "best_constant": 0.0})
