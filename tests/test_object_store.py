"""Data in an object store: the same model and predictions as from local files, whatever the store does meanwhile."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from displays import Listener
from object_store import KEY, SECRET, TOKEN, ObjectStore, always, at, environment, object_store, one_in
from processes import Process

import streamgd
from streamgd.data import asking
from streamgd.data.source import check_identity, discover
from streamgd.data.stores import StoreFile, file_state, open_store
from streamgd.errors import AccessError, ConfigError, DataChangedError, NoInputError, StorageError, UnavailableError
from streamgd.jobs.config import load_job
from streamgd.jobs.job import run_job
from streamgd.training.display import Silent

OPTIONS = {"epochs": 2, "method": "minibatch", "holdout": "0.1", "seed": 3}
WINDOWS = {"epochs": 2, "method": "minibatch", "shuffle": "window"}


@dataclass(frozen=True)
class Data:
    """The same files, local and in the store."""

    folder: Path
    store: ObjectStore

    @property
    def uri(self) -> str:
        return self.store.uri("bucket/data")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    folder = tmp_path_factory.mktemp("object_store")
    random = np.random.default_rng(8)
    for number in range(2):
        x, place = random.normal(size=(20_000, 3)), random.integers(0, 7, 20_000)
        late = random.random(20_000) < 1 / (1 + np.exp(-x[:, 0] + 0.3 * place))
        table = pa.table(
            {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "place": [f"p{each}" for each in place], "late": late}
        )
        path = folder / "data" / f"part={number}" / "rows.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, row_group_size=10_000)
    with object_store(folder) as store:
        store.upload(folder / "data", "bucket/data")
        yield Data(folder / "data", store)


SHORT_PAUSES = {"FIRST_PAUSE_S": 0.02, "_POLL_S": 0.01}


@pytest.fixture(autouse=True)
def calm(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data.store.calm()
    for name, seconds in SHORT_PAUSES.items():
        monkeypatch.setattr(asking, name, seconds)


@pytest.fixture(scope="module")
def local(data: Data, tmp_path_factory: pytest.TempPathFactory) -> streamgd.Result:
    run = tmp_path_factory.mktemp("local") / "run"
    return streamgd.train(str(data.folder), "late", run=str(run), **OPTIONS)


def no_secret(*texts: object) -> None:
    for text in texts:
        assert SECRET not in str(text)
        assert TOKEN not in str(text)


def no_secret_below(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


# The same as from local files


def test_with_one_request_in_ten_failing_theta_is_that_of_local_files(data, local, tmp_path):
    data.store.fault = one_in(10)
    result = streamgd.train(data.uri, "late", run=str(tmp_path / "run"), **OPTIONS)
    assert data.store.failed >= 0.1 * len(data.store.requests) > 5
    assert result.model.theta_sha256 == local.model.theta_sha256
    no_secret_below(tmp_path)
    no_secret(result, result.to_json())


@pytest.mark.slow
def test_predictions_with_one_request_in_ten_failing_are_those_of_local_files(data, local, tmp_path):
    data.store.fault = one_in(10)
    streamgd.predict(local.model, data.uri, str(tmp_path / "store"), keep=["a"])
    assert data.store.failed > 0
    data.store.calm()
    streamgd.predict(local.model, str(data.folder), str(tmp_path / "local"), keep=["a"])
    names = [f"part={number}/rows.parquet" for number in range(2)]
    written = [[digest(tmp_path / of / name) for name in names] for of in ("store", "local")]
    assert written[0] == written[1]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_evaluation_and_inspection_with_failing_requests_are_those_of_local_files(data, local):
    data.store.fault = one_in(25)
    assert streamgd.evaluate(local.model, data.uri) == streamgd.evaluate(local.model, str(data.folder))
    assert streamgd.inspect(data.uri) == streamgd.inspect(str(data.folder))


def train_in_windows(uri: str, run: Path) -> None:
    """What the process does that is killed; it has the credentials in its environment."""
    vars(asking).update(SHORT_PAUSES)
    streamgd.train(uri, "late", run=str(run), checkpoint_every="1ms", **WINDOWS)


@pytest.mark.slow
def test_killed_on_the_store_and_run_again_theta_is_that_of_local_files(data, tmp_path):
    data.store.fault = one_in(10)
    run = tmp_path / "run"
    process = Process(train_in_windows, data.store.uri("bucket/data", secret=False), run, environment=environment())
    deadline_s = time.monotonic() + 120
    while not any(run.glob("checkpoints/*.safetensors")) and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "model.safetensors").exists()
    told = Listener()
    again = streamgd.train(data.uri, "late", run=str(run), display=told, **WINDOWS)
    assert any("going on from the last checkpoint" in each for each in told.told)
    whole = streamgd.train(str(data.folder), "late", run=str(tmp_path / "local"), **WINDOWS)
    assert again.model.theta_sha256 == whole.model.theta_sha256


def test_a_run_named_with_credentials_is_resumed_with_those_of_the_environment(data, local, tmp_path, monkeypatch):
    run = tmp_path / "run"
    streamgd.train(data.uri, "late", run=str(run), **{**OPTIONS, "epochs": 1})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    bare = data.store.uri("bucket/data", secret=False)
    assert json.loads((run / "config.json").read_text())["config"]["data"] == [bare]
    result = streamgd.train(bare, "late", run=str(run), **OPTIONS)
    assert result.model.theta_sha256 == local.model.theta_sha256


@pytest.mark.parametrize("source", ["bucket/data/*/rows.parquet", "bucket/data/part=0/rows.parquet", "bucket/data/**"])
def test_globs_and_single_objects_name_what_they_name_locally(data, source):
    there = discover([data.store.uri(source)])
    here = discover([str(data.folder.parent / source.removeprefix("bucket/"))])
    assert there.fingerprint == here.fingerprint


def test_the_endpoint_may_come_from_the_environment(data, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{data.store.endpoint}")
    assert discover([f"s3://{KEY}:{SECRET}@bucket/data?region=us-east-1"]).n_rows == 40_000


@pytest.mark.slow
def test_a_job_learns_what_arrives_in_the_store(data, tmp_path):
    for number in range(2):
        data.store.upload(data.folder / f"part={number}" / "rows.parquet", f"bucket/arriving/{number}.parquet")
    data.store.fault = one_in(25)
    text = f"""
source = "{data.store.uri("bucket/arriving")}"
state = "{tmp_path / "state"}"
[train]
target = "late"
[telemetry]
log = "{tmp_path / "job.jsonl"}"
"""
    (tmp_path / "job.toml").write_text(text)
    facts = run_job(load_job(tmp_path / "job.toml"), Silent())
    (tmp_path / "job.toml").unlink()
    no_secret(facts)
    no_secret_below(tmp_path)


# fsspec


def in_memory(folder: Path) -> fsspec.AbstractFileSystem:
    store = fsspec.filesystem("memory")  # one for the whole process
    if store.exists("/streamgd"):
        store.rm("/streamgd", recursive=True)
    store.put(str(folder), "/streamgd/data", recursive=True)
    return store


def test_a_file_system_of_fsspec_may_be_handed_over(data, local, tmp_path):
    store = in_memory(data.folder)
    result = streamgd.train("/streamgd/data", "late", run=str(tmp_path / "run"), filesystem=store, **OPTIONS)
    assert result.model.theta_sha256 == local.model.theta_sha256
    uri = "memory://streamgd/data"
    again = streamgd.train("/streamgd/data", "late", run=str(tmp_path / "run"), filesystem=store, **OPTIONS)
    assert again.facts["already_finished"]
    assert streamgd.evaluate(local.model, uri, filesystem=store) == streamgd.evaluate(local.model, str(data.folder))
    assert streamgd.inspect(uri, filesystem=store) == streamgd.inspect(str(data.folder))
    assert streamgd.predict(local.model, uri, str(tmp_path / "out"), filesystem=store)["rows"] == 40_000


class LibraryError(Exception):
    """What a store's library raises."""


LibraryError.__module__ = "some.store"


@pytest.mark.parametrize(
    "error", [LibraryError("Connection lost"), TimeoutError("too slow"), ConnectionResetError(104, "reset")]
)
def test_what_a_library_raises_for_the_moment_is_asked_again(data, monkeypatch, error):
    store = in_memory(data.folder)
    failures, fetch = [3], store.open

    def failing(*positional, **named):
        failures[0] -= 1
        if failures[0] >= 0:
            raise error
        return fetch(*positional, **named)

    monkeypatch.setattr(store, "open", failing)
    assert discover(["/streamgd/data"], filesystem=store).n_rows == 40_000
    assert failures[0] < 0


def test_a_file_of_fsspec_that_was_replaced_is_noticed(data):
    store = in_memory(data.folder)
    manifest = discover(["/streamgd/data"], filesystem=store)
    store.pipe(manifest.files[0].path, (data.folder / "part=1" / "rows.parquet").read_bytes())
    with pytest.raises(DataChangedError, match="changed since the run began"):
        check_identity(manifest, 0)


def test_what_is_no_file_system_is_refused(data):
    with pytest.raises(ConfigError, match=r"expected one of pyarrow.fs or fsspec, found str"):
        discover(["x"], filesystem="s3")
    with pytest.raises(ConfigError, match="give the path inside it, not a URI"):
        discover([data.uri], filesystem=data.store.filesystem())


# What the store does


def test_slow_answers_are_waited_for(data):
    # Longer than the 3 s without a byte after which pyarrow's client would give up by default.
    data.store.slow_s = 3.5
    data.store.fault = at(range(2, 3), "slow")
    assert discover([data.store.uri("bucket/data/part=0/rows.parquet")]).n_rows == 20_000
    assert len(data.store.requests) == 3


@pytest.mark.parametrize("fault", ["503", pytest.param("reset", marks=pytest.mark.slow), "cut"])
def test_a_read_that_fails_often_is_asked_again(data, fault):
    store, path = open_store(data.store.uri("bucket/data/part=0/rows.parquet"))
    file = StoreFile(store, path)
    data.store.calm()
    data.store.fault = at(range(1, 8), fault)
    assert file.read_at(100, 1000) == (data.folder / "part=0" / "rows.parquet").read_bytes()[1000:1100]
    assert data.store.failed == 7


def test_a_store_that_stays_away_ends_with_75_and_one_line(data, monkeypatch):
    monkeypatch.setattr(asking, "ASK_FOR_S", 0.05)
    data.store.fault = always("503")
    with pytest.raises(UnavailableError, match=r"the store does not answer .*Run the same command again") as caught:
        discover([data.uri])
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (75, False)
    no_secret(caught.value)


def test_a_signal_ends_the_asking(data):
    data.store.fault = always("503")
    asking.stop_asking.set()
    try:
        with pytest.raises(UnavailableError):
            discover([data.uri])
    finally:
        asking.stop_asking.clear()


def test_an_object_that_was_replaced_is_noticed_by_its_etag(data):
    data.store.upload(data.folder / "part=0" / "rows.parquet", "bucket/replaced/a.parquet")
    manifest = discover([data.store.uri("bucket/replaced")])
    before = manifest.files[0].identity
    etag = hashlib.md5((data.folder / "part=0" / "rows.parquet").read_bytes()).hexdigest()
    assert before == f'"{etag}"' or before.endswith('-1"')  # that of an upload in parts is another digest
    data.store.upload(data.folder / "part=0" / "rows.parquet", "bucket/replaced/a.parquet")
    check_identity(manifest, 0)  # the same bytes at another time
    table = pq.read_table(data.folder / "part=0" / "rows.parquet", partitioning=None)
    pq.write_table(table.take(np.arange(19_999, -1, -1)), data.folder.parent / "a.parquet", row_group_size=5_000)
    data.store.upload(data.folder.parent / "a.parquet", "bucket/replaced/a.parquet")
    assert file_state(manifest.filesystem, manifest.files[0].path).identity != before
    with pytest.raises(DataChangedError, match="changed since the run began"):
        check_identity(manifest, 0)


def test_an_object_that_is_gone_is_told(data):
    data.store.upload(data.folder / "part=0" / "rows.parquet", "bucket/gone/a.parquet")
    manifest = discover([data.store.uri("bucket/gone")])
    data.store.filesystem().delete_file("bucket/gone/a.parquet")
    with pytest.raises(DataChangedError, match="is gone since the run began"):
        check_identity(manifest, 0)
    with pytest.raises(NoInputError, match="no such file or directory: bucket/nowhere"):
        discover([data.store.uri("bucket/nowhere")])


# Credentials


@pytest.mark.parametrize(
    ("fault", "says"),
    [("refused", "Check the credentials (for S3 AWS_ACCESS_KEY_ID"), ("expired", "expired")],
)
@pytest.mark.parametrize("source", ["bucket/data", "bucket/data/part=0/rows.parquet"])
def test_credentials_that_are_refused_end_with_77_and_one_line(data, fault, says, source, tmp_path):
    data.store.fault = always(fault)
    with pytest.raises(AccessError) as caught:
        streamgd.train(data.store.uri(source), "late", run=str(tmp_path / "run"))
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (77, False)
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()
    no_secret(caught.value)


def test_a_token_that_expires_on_the_way_is_told_as_such(data, tmp_path):
    data.store.fault = at(range(13, 10**9), "expired")
    with pytest.raises(AccessError, match="credentials have expired"):
        streamgd.train(data.uri, "late", run=str(tmp_path / "run"), **OPTIONS)
    no_secret_below(tmp_path)


def test_the_command_ends_with_77_and_prints_no_secret(data):
    data.store.fault = always("expired")
    command = [sys.executable, "-m", "streamgd", "inspect", data.uri, "--json"]
    ended = subprocess.run(
        command, env=environment(AWS_SESSION_TOKEN=TOKEN), capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (77, 1)
    assert json.loads(ended.stdout)["error"]["exit_code"] == 77
    no_secret(ended.stdout, ended.stderr)


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://{KEY}:{SECRET}@bucket/data?regoin=x",
        f"s3://{KEY}:{SECRET[:9]}/{SECRET}@bucket/data",
        f"foo://{KEY}:{SECRET}@bucket/data",
        f"s3://bucket/data?secret_key={SECRET}",
    ],
)
def test_a_uri_that_cannot_be_opened_is_told_without_its_secret(uri, tmp_path):
    with pytest.raises((ConfigError, StorageError)) as caught:
        streamgd.train(uri, "late", run=str(tmp_path / "run"))
    assert caught.value.exit_code == 78
    no_secret(caught.value, repr(caught.value.__cause__), streamgd.TrainConfig(data=uri, target="late"))


def test_predictions_are_not_written_to_a_store(data, local):
    with pytest.raises(ConfigError, match="predictions are written to a local folder"):
        streamgd.predict(local.model, str(data.folder), data.store.uri("bucket/out"))
