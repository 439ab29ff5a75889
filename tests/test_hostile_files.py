"""Model and checkpoint files made to do harm: their checksum is true, what they hold is not what was ever saved."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamgd.errors import StreamgdError
from streamgd.evaluation import evaluate
from streamgd.model import Model
from streamgd.prediction import predict
from streamgd.state import CorruptStateError, deserialize, serialize
from streamgd.training.train import train

GONE = object()
WRONG: list[Any] = [
    GONE, None, "x", -1, 2**40, float("nan"), [], {}, [[]], np.zeros(0), np.zeros((2, 3)), np.zeros(5, np.uint8),
]  # fmt: skip
WAYS = {"blocks": {}, "window": {"shuffle": "window"}, "batch": {"method": "batch"}, "auto": {"epochs": None}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    level, x = random.choice(["a", "b", "c"], 400), random.normal(size=400)
    table = pa.table({"x": x, "z": random.normal(size=400), "level": level, "y": x + random.normal(size=400)})
    pq.write_table(table, tmp_path / "data.parquet")
    return tmp_path / "data.parquet"


def places(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested dicts and lists."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def altered(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    state = copy.deepcopy(state)
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return state


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"method": "batch", "errors": "robust"}, marks=pytest.mark.slow)],
    ids=["minibatch", "batch"],
)
def test_a_model_with_any_part_replaced_is_loaded_or_refused_in_one_line(
    options: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    train(data, "y", run=tmp_path / "run", epochs=1, **options)
    path = tmp_path / "run" / "model.safetensors"
    state = deserialize(path.read_bytes(), "model", "the model")
    loaded = tried = 0
    for place in places(state):
        for value in WRONG:
            path.write_bytes(serialize(altered(state, place, value), "model"))
            tracemalloc.start()
            model = None
            with suppress(CorruptStateError):
                model = Model.load(path)
            _, most_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert most_bytes < 10_000_000, (place, value)
            tried += 1
            if model is not None:
                loaded += 1
                # What is loaded can be used, or is refused by what it is used on.
                with suppress(StreamgdError):
                    predict(model, str(data), str(tmp_path / "out"), threads=1)
                with suppress(StreamgdError):
                    evaluate(model, str(data), threads=1)
                with suppress(StreamgdError):
                    model.coefficient_rows()
    assert tried - loaded > 200


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if way in ("window", "batch", "auto") else ()) for way in WAYS]
)
def test_a_checkpoint_with_any_part_replaced_is_gone_on_from_or_refused(way: str, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(data, "y", run=run, **{"epochs": 1, **WAYS[way]})
    for older in sorted((run / "checkpoints").iterdir())[:-1]:
        older.unlink()
    (path,) = (run / "checkpoints").iterdir()
    whole = path.read_bytes()
    state = deserialize(whole, "checkpoint", "the checkpoint")
    refused = 0
    for field in state:
        for value in WRONG:
            for each in path.parent.iterdir():
                each.unlink()
            path.write_bytes(serialize(altered(state, (field,), value), "checkpoint"))
            if way == "auto":  # knows no more epochs, but makes the model anew
                (run / "model.safetensors").unlink(missing_ok=True)
            try:
                train(data, "y", run=run, **{"epochs": 2, **WAYS[way]})
            except CorruptStateError:
                refused += 1
            except StreamgdError:
                pass
    assert refused > 50
