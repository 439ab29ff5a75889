"""Parts of dates and times, against Python's own calendar."""

import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgd.data.timestamps import parts_of, timestamp_part

UTC = datetime.UTC
MOMENTS = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)).map(
    lambda t: t.replace(microsecond=0)
)


@given(st.lists(st.none() | MOMENTS, min_size=1, max_size=20), st.sampled_from(["s", "ms", "us", "ns"]))
def test_parts_of_timestamps_agree_with_the_calendar(moments: list[datetime.datetime | None], unit: str) -> None:
    array = pa.array(moments, pa.timestamp(unit))
    expected = {
        "epoch": lambda t: t.replace(tzinfo=UTC).timestamp(),
        "hour": lambda t: t.hour,
        "weekday": lambda t: t.weekday(),
        "month": lambda t: t.month,
        "yearday": lambda t: t.timetuple().tm_yday,
    }
    assert set(expected) == set(parts_of(array.type))
    for part, of in expected.items():
        result = timestamp_part(array, part)
        assert result.type == pa.float64()
        assert result.to_pylist() == pytest.approx([None if t is None else of(t) for t in moments])


@pytest.mark.parametrize("arrow_type", [pa.date32(), pa.date64()], ids=str)
def test_dates_have_no_hour_and_begin_at_midnight(arrow_type: pa.DataType) -> None:
    day = datetime.date(2024, 12, 31)  # a Tuesday, day 366 of a leap year
    array = pa.array([day, None], arrow_type)

    assert {part: timestamp_part(array, part).to_pylist() for part in parts_of(arrow_type)} == {
        "epoch": [datetime.datetime(2024, 12, 31, tzinfo=UTC).timestamp(), None],
        "weekday": [1.0, None],
        "month": [12.0, None],
        "yearday": [366.0, None],
    }


def test_parts_are_local_to_the_time_zone_and_epoch_is_not() -> None:
    array = pa.array([datetime.datetime(2024, 1, 1, 2, tzinfo=UTC)], pa.timestamp("us", "America/New_York"))

    assert timestamp_part(array, "hour").to_pylist() == [21.0]
    assert timestamp_part(array, "month").to_pylist() == [12.0]
    assert timestamp_part(array, "epoch").to_pylist() == [1704074400.0]


@pytest.mark.parametrize(
    ("array", "seconds"),
    [
        (pa.array([datetime.time(1, 0, 2)], pa.time32("ms")), 3602.0),
        (pa.array([datetime.time(1, 0, 2, 500_000)], pa.time64("ns")), 3602.5),
        (pa.array([datetime.timedelta(milliseconds=-1500)], pa.duration("ms")), -1.5),
    ],
    ids=["time32", "time64", "duration"],
)
def test_times_and_durations_are_seconds(array: pa.Array, seconds: float) -> None:
    assert parts_of(array.type) == ("epoch",)
    assert timestamp_part(array, "epoch").to_pylist() == [seconds]
