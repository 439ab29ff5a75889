"""The text file for Prometheus, read by Prometheus's own parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from streamgd.jobs.prometheus import PREFIX, Prometheus

NIGHT_1, NIGHT_2, NIGHT_3 = "2026-01-05T02:00:00.000+00:00", "2026-01-06T02:00:00+00:00", "2026-01-07T02:00:00+00:00"
SECONDS_1, SECONDS_2 = 1767578400.0, 1767664800.0


def read(path: Path) -> dict[tuple[str, ...], float]:
    """(name, and the metric of a candidate) -> value; every family has help and is a gauge."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(path.read_bytes().decode()):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            labels = {**sample.labels}
            labels.pop("job")
            found[sample.name.removeprefix(PREFIX), *labels.values()] = sample.value
    return found


def night(path: Path, time: str, *events: dict[str, Any], job: str = "late", **end: Any) -> None:
    """All events of a run of a job, told to a sink of its own."""
    sink = Prometheus(path, job)
    last = {"event": "run_end", "exit_code": 0, "rows": 0, "seconds": 0.5, "newest_data_s": None} | end
    for told in ({"event": "run_start"}, *events, last):
        sink.event({"time": time, "job": job, **told})


def judged(**metrics: Any) -> dict[str, Any]:
    return {"event": "judged", "candidate": {"all": {"rows": 10, "weight": 10.0, "dropped": {}, **metrics}}}


PUBLISHED = {"event": "published", "version": 4}


def test_a_night_that_publishes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "made" / "late.prom"

    night(path, NIGHT_1, judged(log_loss=0.25, auc=0.75), PUBLISHED, rows=1000, seconds=2.5, newest_data_s=1767571200.0)

    assert read(path) == {
        ("last_run_timestamp_seconds",): SECONDS_1,
        ("last_success_timestamp_seconds",): SECONDS_1,
        ("last_publication_timestamp_seconds",): SECONDS_1,
        ("newest_data_timestamp_seconds",): 1767571200.0,
        ("last_run_rows",): 1000.0,
        ("last_run_duration_seconds",): 2.5,
        ("last_run_exit_code",): 0.0,
        ("published_version",): 4.0,
        ("candidate_metric", "rows"): 10.0,
        ("candidate_metric", "log_loss"): 0.25,
        ("candidate_metric", "auc"): 0.75,
    }
    assert [each.name for each in path.parent.iterdir()] == ["late.prom"]


def test_success_moves_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "late.prom"
    night(path, NIGHT_1, judged(auc=0.75), PUBLISHED, rows=1000, newest_data_s=5.0)

    night(path, NIGHT_2, judged(auc=0.5), exit_code=3)

    found = read(path)
    assert found["last_run_timestamp_seconds",] == SECONDS_2
    assert found["last_run_exit_code",] == 3
    assert found["last_success_timestamp_seconds",] == SECONDS_1
    assert found["last_publication_timestamp_seconds",] == SECONDS_1
    assert found["published_version",] == 4
    assert found["newest_data_timestamp_seconds",] == 5.0
    assert found["candidate_metric", "auc"] == 0.5


def test_a_night_with_nothing_new_is_a_success_without_a_publication(tmp_path: Path) -> None:
    path = tmp_path / "late.prom"
    night(path, NIGHT_1, judged(auc=0.75), PUBLISHED, rows=1000)

    night(path, NIGHT_2)

    found = read(path)
    assert found["last_success_timestamp_seconds",] == SECONDS_2
    assert found["last_publication_timestamp_seconds",] == SECONDS_1
    assert found["candidate_metric", "auc"] == 0.75
    assert found["last_run_rows",] == 0


def test_a_job_that_never_succeeded_has_an_age_that_alerts(tmp_path: Path) -> None:
    night(tmp_path / "late.prom", NIGHT_1, exit_code=65)

    found = read(tmp_path / "late.prom")
    assert found["last_success_timestamp_seconds",] == 0.0
    assert found["last_publication_timestamp_seconds",] == 0.0


def test_a_publication_is_told_at_once(tmp_path: Path) -> None:
    sink = Prometheus(tmp_path / "late.prom", "late")
    for told in ({"event": "run_start"}, PUBLISHED):
        sink.event({"time": NIGHT_1, "job": "late", **told})

    assert read(tmp_path / "late.prom")["last_publication_timestamp_seconds",] == SECONDS_1


def test_metrics_of_an_earlier_candidate_do_not_stay_beside_those_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "late.prom"
    night(path, NIGHT_1, judged(auc=0.75))
    night(path, NIGHT_2, judged(rmse=2.0, r2=None))

    found = read(path)
    assert ("candidate_metric", "auc") not in found
    assert ("candidate_metric", "r2") not in found
    assert found["candidate_metric", "rmse"] == 2.0


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"streamgd_job_last_run_rows{job=", b"other 1\n" * 3,
                                     b'streamgd_job_last_success_timestamp_seconds{job="late"} soon\n'])  # fmt: skip
def test_a_file_that_cannot_be_understood_is_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "late.prom"
    path.write_bytes(content)

    night(path, NIGHT_1, exit_code=3)

    assert read(path)["last_success_timestamp_seconds",] == 0.0


@settings(max_examples=50)
@given(
    job=st.text(st.characters(blacklist_categories=("Cs",))),
    value=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_name_and_number_come_back(tmp_path_factory: pytest.TempPathFactory, job: str, value: float) -> None:
    path = tmp_path_factory.mktemp("any") / "x.prom"

    night(path, NIGHT_1, judged(auc=value), PUBLISHED, job=job)
    night(path, NIGHT_2, exit_code=74, job=job)

    families = list(text_string_to_metric_families(path.read_bytes().decode()))
    assert {sample.labels["job"] for family in families for sample in family.samples} == {job}
    found = read(path)
    assert found["candidate_metric", "auc"] == value
    assert found["last_success_timestamp_seconds",] == SECONDS_1
