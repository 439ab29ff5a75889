"""A model of some of the flights, and all flights to predict."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from streamgd import train
from streamgd.model import Model


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
