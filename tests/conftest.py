"""Fixtures that several files of tests share: the real data, and generated data sets."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import settings
from mistakes import make_data
from numba.core.errors import NumbaError

from data_gen import generate
from streamgd import train
from streamgd.model import Model
from streamgd.precompile import precompile

Generated = Callable[..., Path]

# The first example of a test may have to wait for a loop that is compiled.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


def pytest_configure() -> None:
    """A shell that starts pytest in the background has it ignore Ctrl-C, which processes of tests would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Before the whole suite, its workers compile all loops, each a share: they would all compile the same ones.

    What is there before the first test stays to the end: frozen, it is not looked through for garbage again and again.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is not None and len(session.items) > 1_000:  # not before a few files of it
        with suppress(NumbaError):  # the tests of that loop tell it better
            precompile(int(worker["workerid"].removeprefix("gw")), worker["workercount"])
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data are not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def flights(shared_data: Path) -> Path:
    """1,272,648 departures in five files, in time order; ``late`` is null for 24,703 of them."""
    folder = shared_data / "flights"
    if not any(folder.glob("*.parquet")):
        pytest.skip("the flights are not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """``generated(rows=…, features=…, …)``: the folder of a data set of ``data_gen``, made once; not to be changed."""
    made: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("generated") / "data"
            generate(made[key], **options)
        return made[key]

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of ``mistakes``; commands run in it, with run directories below ``runs``."""
    made = tmp_path_factory.mktemp("bad_input")
    make_data(made)
    return made


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def flights_model(flights: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Trained on flights before July to half of the airports."""
    return train(
        str(flights), "late", run=tmp_path_factory.mktemp("flights") / "run", epochs=1,
        where="month < 7 and dest < 'M'", categorical="month",
        features="month,day,dep_time,distance,air_time,carrier,origin,dest",
    ).model  # fmt: skip


@pytest.fixture(scope="session")
def all_flights(flights: Path) -> pa.Table:
    """All flights: airports and months that the model does not know, nulls in numbers, and some carriers null."""
    table = ds.dataset(str(flights)).to_table()
    carriers = table["carrier"].to_pylist()
    carriers[::97] = [None] * len(carriers[::97])
    assert table["air_time"].null_count > 0
    return table.set_column(table.schema.get_field_index("carrier"), "carrier", pa.array(carriers))
