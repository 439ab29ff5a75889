"""A stream that can be read once is learned in one pass, part by part, however it is cut into batches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import streamgd
from streamgd.cli import main
from streamgd.config import make_config
from streamgd.data import frames
from streamgd.errors import ConfigError, DataError, NoInputError, RunMismatchError, SchemaError, UsageError
from streamgd.show import format_show, show
from streamgd.training import parts
from streamgd.training.display import Silent
from streamgd.training.parts import stream_config
from streamgd.training.rundir import RunDirectory
from streamgd.training.train import Result, run

ROWS = 10_000


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 8 row groups of 256 rows."""
    monkeypatch.setattr(frames, "PART_GROUP_ROWS", 256)
    monkeypatch.setattr(frames, "PART_GROUPS", 8)


def table() -> pa.Table:
    """Sorted by a number whose scale grows; the last rows have a level that the first ones have not."""
    random = np.random.default_rng(3)
    x = np.sort(random.exponential(1.0, ROWS))
    level = np.where(np.arange(ROWS) > 9_000, "new", np.array(["a", "b"])[random.integers(0, 2, ROWS)])
    y = x - 2.0 * (level == "a") + random.normal(size=ROWS)
    return pa.table({"x": x, "level": level, "y": y})


def batches(rows: int = 1_000) -> Iterator[pa.RecordBatch]:
    return iter(table().to_batches(rows))


def train(stream: Any, run: Path, **options: Any) -> Result:
    return streamgd.train(stream, "y", run=run, **options)


STREAMS = {
    "batches of seven rows": lambda: batches(7),
    "long batches": lambda: batches(7_777),
    "a reader": lambda: table().to_reader(300),
    "pandas frames": lambda: (batch.to_pandas() for batch in batches()),
    "polars frames": lambda: (pl.DataFrame(pa.table(batch)) for batch in batches()),
    "tables": lambda: iter([table()]),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_gives_the_same_theta_however_it_comes(kind: str, tmp_path: Path) -> None:
    found = train(STREAMS[kind](), tmp_path / "found")
    assert found.model.theta_sha256 == expected_theta()


@cache
def expected_theta() -> str:
    """Of batches of a thousand rows."""
    with TemporaryDirectory() as folder:
        return train(batches(), Path(folder) / "run").model.theta_sha256


def test_every_row_is_learned_once_and_all_is_told(tmp_path: Path) -> None:
    result = train(batches(), tmp_path / "run")
    assert (result.facts["rows"], result.facts["rows_seen"], result.facts["parts"]) == (ROWS, ROWS, 5)
    assert sum(line["rows"] for line in result.history if line.get("event") == "epoch") == ROWS
    assert streamgd.load(tmp_path / "run").theta_sha256 == result.model.theta_sha256
    assert "level=new" in [each.name for each in result.model.coefficients()]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_one_pass_over_a_sorted_stream_comes_near_the_optimum(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "data.parquet")
    best = streamgd.train(tmp_path / "data.parquet", "y", run=tmp_path / "best", method="batch")
    losses = {
        name: streamgd.evaluate(model, [str(tmp_path / "data.parquet")]).to_json()
        for name, model in (("best", best.model), ("one pass", train(batches(), tmp_path / "run").model))
    }
    base, optimum = losses["best"]["base_loss"], losses["best"]["loss"]
    assert (base - losses["one pass"]["loss"]) / (base - optimum) > 0.97


def test_one_part_is_on_the_disk_at_a_time(tmp_path: Path) -> None:
    for path in frames.parts_of(batches(), tmp_path):
        assert list(tmp_path.iterdir()) == [path]
        assert pq.ParquetFile(path).metadata.num_rows <= 8 * 256
    assert list(tmp_path.iterdir()) == []


def breaking_off() -> Iterator[pa.RecordBatch]:
    yield from table().slice(0, 5_000).to_batches(1_000)
    raise pa.ArrowInvalid("the sender went away")


def test_a_stream_that_breaks_off_leaves_the_model_of_the_parts_before(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the sender went away"):
        train(breaking_off(), tmp_path / "run")
    assert streamgd.load(tmp_path / "run").facts["rows_seen"] == 2 * 8 * 256


def test_a_stream_whose_columns_change_is_refused(tmp_path: Path) -> None:
    other = table().rename_columns(["x", "level", "z"])
    with pytest.raises(SchemaError, match=r"z: double.*y: double"):
        train(iter([table(), other]), tmp_path / "run")


def test_text_may_come_as_text_and_as_a_dictionary(tmp_path: Path) -> None:
    level = table().column("level")
    mixed = (
        batch if number % 2 == text_first else batch.set_column(1, "level", batch["level"].dictionary_encode())
        for text_first in (0, 1)
        for number, batch in enumerate(table().slice(5_000 * text_first, 5_000).to_batches(1_000))
    )
    assert level.type == pa.string()
    assert train(mixed, tmp_path / "run").model.theta_sha256 == expected_theta()


def test_a_stream_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no rows"):
        train(iter([table().slice(0, 0)]), tmp_path / "run")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "batch"},
        {"epochs": 2},
        {"shuffle": "full"},
        {"shuffle": "none"},
        {"schedule": "cosine"},
        {"pause_after": "1s"},
        {"holdout": 0.1},
        {"tol_gradient": 0.1},
        {"certify": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_needs_data_that_can_be_read_again_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(options)).replace('_', '-')}.*read.*once|all rows at once"):
        train(batches(), tmp_path / "run", **options)


def test_a_stream_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    infinite = pa.record_batch({"x": [1.0, float("inf")], "y": [0.0, 1.0]})
    for stream, error in ((iter([]), NoInputError), (iter([infinite]), DataError)):
        with pytest.raises(error):
            train(stream, tmp_path / "deep" / "run")
        assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_blocks_dir_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--blocks-dir .*/file/below: .*/file is not a directory"):
        train(batches(), tmp_path / "run", blocks_dir=str(tmp_path / "file" / "below"))


def test_a_run_that_is_there_is_left_alone_unless_started_over(tmp_path: Path) -> None:
    first = train(batches(), tmp_path / "run")
    with pytest.raises(RunMismatchError, match="cannot be gone on with"):
        train(batches(), tmp_path / "run")
    assert train(batches(), tmp_path / "run", restart=True).model.theta_sha256 == first.model.theta_sha256


def with_infinity() -> Iterator[pa.RecordBatch]:
    yield from table().slice(0, 5_000).to_batches(1_000)
    yield pa.record_batch({"x": [float("inf")] * 10, "level": ["a"] * 10, "y": [0.0] * 10})


def test_bad_data_in_a_later_part_leave_the_model_of_the_parts_before(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found inf"):
        train(with_infinity(), tmp_path / "run")
    assert streamgd.load(tmp_path / "run").facts["parts"] == 2


def test_parts_without_a_row_to_use_are_passed_over(tmp_path: Path) -> None:
    result = train(batches(), tmp_path / "run", where="level == 'new'", exclude="level")
    assert result.facts["train_rows"] == ROWS - 9_001
    with pytest.raises(NoInputError, match="--where"):
        train(batches(), tmp_path / "other", where="level == 'none'", exclude="level")


def test_a_stream_starts_from_another_run_and_is_validated_on_files(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "data.parquet")
    first = train(batches(), tmp_path / "first", validation=str(tmp_path / "data.parquet"))
    again = train(batches(), tmp_path / "again", validation=str(tmp_path / "data.parquet"), from_=tmp_path / "first")
    assert again.facts["holdout_loss"] < first.facts["holdout_loss"]
    with pytest.raises(NoInputError, match="absent"):
        train(batches(), tmp_path / "other", validation=str(tmp_path / "absent.parquet"))


def test_what_is_made_of_a_run_is_made_of_one_on_a_stream(tmp_path: Path) -> None:
    run, data = str(tmp_path / "run"), str(tmp_path / "data.parquet")
    pq.write_table(table(), data)
    result = train(batches(), tmp_path / "run")
    assert f"{ROWS:,}" in result._repr_html_()
    assert [line["epoch"] for line in RunDirectory(tmp_path / "run").history() if line["event"] == "epoch"] == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip
    assert streamgd.write_report(run, data=[data])["rows"] == ROWS
    for to in ("json", "sklearn", "onnx"):
        streamgd.export(run, to, str(tmp_path / f"model.{to}"))
    (tmp_path / "predicted").mkdir()
    streamgd.predict(run, data, out=str(tmp_path / "predicted"))


def test_a_run_on_a_stream_cannot_be_gone_on_with(tmp_path: Path) -> None:
    train(batches(), tmp_path / "run")
    pq.write_table(table(), tmp_path / "data.parquet")
    config = stream_config(target="y", run=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="a stream, which is read once"):
        run(config, Silent())
    with pytest.raises(RunMismatchError, match="other options"):
        streamgd.train(tmp_path / "data.parquet", "y", run=tmp_path / "run")


def test_the_run_directory_names_the_stream_from_its_beginning(tmp_path: Path) -> None:
    directory, found = RunDirectory(tmp_path / "run"), []

    def watched() -> Iterator[pa.RecordBatch]:
        for batch in batches(256):
            stored = directory.read_config()
            found.append(stored and stored["config"]["data"])
            yield batch

    train(watched(), tmp_path / "run")
    assert found[:8] == [None] * 8
    assert found[8:] == [["-"]] * (len(found) - 8)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that is left behind is put in order."""


@pytest.mark.parametrize("phase", ["part 1", "between", "part 3"])
def test_a_run_that_was_killed_is_shown_as_unfinished(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killer(Silent):
        def progress(self, told: str, *rest: Any) -> None:
            if told == phase:
                raise Killed

    def stream() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches(256)):
            if phase == "between" and number == 2 * 8:
                raise Killed
            yield batch

    monkeypatch.setattr(parts._Learned, "written", lambda *_: None)
    with pytest.raises(Killed):
        train(stream(), tmp_path / "run", display=Killer())

    facts = show(tmp_path / "run")
    learned = 0 if phase == "part 1" else 2 * 8 * 256
    assert (facts["state"], facts["stopped_by"], facts["rows_seen"]) == ("unfinished", None, learned)
    assert facts["data"] == ["-"]
    text = format_show(facts)
    assert "A stream cannot be gone on with: begin anew with --restart" in text
    assert "streamgd resume" not in text
    assert ("the model is that of the parts before" in text) == (learned > 0)
    assert "streamgd resume" not in Path(streamgd.write_report(tmp_path / "run")["out"]).read_text()


def test_a_stream_that_broke_off_is_shown_as_unfinished(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the sender went away"):
        train(breaking_off(), tmp_path / "run")
    facts = show(tmp_path / "run")
    assert (facts["state"], facts["stopped_by"], facts["rows_seen"]) == ("unfinished", None, 2 * 8 * 256)


def test_a_stream_that_was_learned_anew_is_shown_as_finished(tmp_path: Path) -> None:
    for restart in (False, True):
        train(batches(), tmp_path / "run", restart=restart)
        facts = show(tmp_path / "run")
        assert (facts["state"], facts["stopped_by"], facts["rows_seen"]) == ("finished", "epochs", ROWS)


def test_the_command_reads_arrows_format_from_standard_input(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table(), 500)
    command = [sys.executable, "-m", "streamgd", "train", "-", "--target", "y", "--run", str(tmp_path / "run")]
    subprocess.run(command, input=sink.getvalue().to_pybytes(), check=True, timeout=120)
    assert streamgd.load(tmp_path / "run").facts["rows_seen"] == ROWS


def test_what_is_no_stream_on_standard_input_is_refused(tmp_path: Path) -> None:
    command = ["train", "-", "--target", "y", "--run", str(tmp_path / "run")]
    refused = CliRunner().invoke(main, command, input=b"a,b\n1,2\n")
    assert refused.exit_code == DataError.exit_code
    assert refused.stderr.startswith("streamgd: standard input is no Arrow IPC stream")
    refused = CliRunner().invoke(main, [*command, "--dry-run"], input=b"")
    assert (refused.exit_code, refused.stderr.count("\n")) == (UsageError.exit_code, 1)


def test_a_stream_that_is_cut_off_is_told_as_such(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table(), 500)
    short = pa.ipc.open_stream(sink.getvalue().slice(0, 100_000))
    with pytest.raises(DataError, match="the stream broke off"):
        train(short, tmp_path / "run")


def test_the_index_of_pandas_is_no_column() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "text": ["a", None]}, index=pd.Index(["u", "v"], name="id"))
    assert frames.table_of(frame).column_names == ["x", "text"]
    written = pa.Table.from_pandas(frame)  # as in a file, where it is a column like others
    assert frames.table_of(written).column_names == ["x", "text", "id"]
    for stream in (written.to_reader(), iter(written.to_batches())):
        assert next(frames.tables_of(stream)).column_names == ["x", "text", "id"]


def test_streams_and_frames_are_told_apart() -> None:
    assert frames.is_stream(table().to_reader())
    assert frames.is_stream(batches())
    assert frames.is_frame(table())
    assert frames.is_frame(table().to_pandas())
    for other in (table(), "data.parquet", ["a.parquet", "b.parquet"], np.zeros((2, 2)), [[1.0]], Path("a")):
        assert not frames.is_stream(other)
    assert make_config(data=Path("a"), target="y").data == ["a"]


def test_a_stream_that_breaks_off_leaves_the_old_model_to_a_restart(tmp_path: Path) -> None:
    old = train(batches(), tmp_path / "run").model

    with pytest.raises(DataError, match="the stream broke off"):
        train(breaking_off(), tmp_path / "run", restart=True)

    assert streamgd.load(tmp_path / "run").theta_sha256 == old.theta_sha256
    new = train(batches(), tmp_path / "run", restart=True, seed=1).model
    assert streamgd.load(tmp_path / "run").theta_sha256 == new.theta_sha256 != old.theta_sha256


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.phases: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def progress(
        self, phase: str, done_rows: int, total_rows: int, loss: float | None, bottleneck: str | None = None
    ) -> None:
        self.phases.append(phase)


def test_losses_so_far_are_those_of_all_rows_so_far(tmp_path: Path) -> None:
    listener = Listener()
    result = train(batches(), tmp_path / "run", display=listener)
    assert [phase for phase in dict.fromkeys(listener.phases) if phase.startswith(("part", "epoch"))] == [
        f"part {number}" for number in range(1, 6)
    ]
    assert listener.messages[-1] == f"so far: {ROWS:,} rows, progressive loss {result.facts['progressive_loss']:.6g}"
    assert "read once" in str(result.model.no_errors)
    page = streamgd.write_report(tmp_path / "run")["out"]
    text = Path(page).read_text()
    assert "A stream, which was read once." in text
    assert "5 parts of a stream" in text
    assert "part-00" not in text
    assert "progressive loss" in text
    assert "training loss" not in text
