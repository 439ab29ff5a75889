"""Blocks that --keep-blocks leaves in --blocks-dir serve every run that would make the same; no run harms another."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Generated
from displays import Listener

from streamgd.data import blocks, scatter
from streamgd.errors import StorageError
from streamgd.training import stochastic_session
from streamgd.training.train import Result, train


@pytest.fixture
def data(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 400)
    return str(generated(rows=4_000, features=5, categorical=2, files=2, row_group_rows=900, loss="squared", seed=7))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The --blocks-dir."""
    return tmp_path / "blocks"


def fit(data: str, run: Path, place: Path, listener: Listener | None = None, **options: Any) -> Result:
    return train(
        data,
        "y",
        run=str(run),
        display=listener,
        **{"blocks_dir": str(place), "epochs": 2, "batch_size": 64, **options},
    )


def names(place: Path) -> list[str]:
    return sorted(os.listdir(place)) if place.exists() else []


@pytest.fixture
def kept(data: str, place: Path, tmp_path: Path) -> Result:
    """A run that kept its blocks."""
    result = fit(data, tmp_path / "first", place, keep_blocks=True)
    assert len(names(place)) == 1
    return result


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("a row group was decoded")

    monkeypatch.setattr(scatter, "read_batches", decode)


@pytest.mark.parametrize(
    "options", [{}, {"keep_blocks": True}, {"optimizer": "adam"}, {"method": "sgd"}, {"l2": 0.1, "epochs": 3}], ids=str
)
def test_another_run_on_the_same_data_uses_them_without_decoding(
    options: dict[str, Any], data: str, place: Path, kept: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = fit(data, tmp_path / "alone", tmp_path / "elsewhere", **options)
    before = names(place)
    no_decoding(monkeypatch)
    listener = Listener()
    result = fit(data, tmp_path / "second", place, listener, **options)
    assert result.model.theta_sha256 == alone.model.theta_sha256
    assert [text for text in listener.told if "nothing is decoded" in text] == [
        f"blocks: those kept in {place / before[0]} are used, nothing is decoded"
    ]
    order = next(text for text in listener.told if text.startswith("order: "))
    assert order.endswith(f" in {place}"), "whose folder it will be is not known then"
    assert names(place) == before
    assert "prepared.safetensors" in names(place / before[0])


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"exclude": ["x0"]}, {"encode": "hash"}, {"dtype": "float64"}, {"holdout": 0.1}, {"l1": 1e-3},
     {"batch_size": 32}, {"where": "x0 > 0"}],
    ids=str,
)  # fmt: skip
def test_a_run_whose_blocks_differ_makes_its_own_and_removes_them(
    options: dict[str, Any], data: str, place: Path, kept: Result, tmp_path: Path
) -> None:
    before = names(place)
    alone = fit(data, tmp_path / "alone", tmp_path / "elsewhere", **options)
    listener = Listener()
    assert fit(data, tmp_path / "second", place, listener, **options).model.theta_sha256 == alone.model.theta_sha256
    assert not any("nothing is decoded" in text for text in listener.told)
    assert names(place) == before


@pytest.mark.parametrize("keep", [True, False])
def test_a_run_beside_one_that_makes_them_works_for_itself(
    keep: bool, data: str, place: Path, kept: Result, tmp_path: Path
) -> None:
    (folder,) = names(place)
    os.remove(place / folder / "prepared.safetensors")
    descriptor = os.open(place / folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another run that prepares
    before = (place / folder / "blocks-0.bin").stat()
    result = fit(data, tmp_path / "second", place, keep_blocks=keep)
    os.close(descriptor)
    assert result.model.theta_sha256 == kept.model.theta_sha256
    assert names(place) == [folder]
    after = (place / folder / "blocks-0.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_a_killed_run_left_of_them_is_made_whole_by_the_next_that_keeps(
    data: str, place: Path, kept: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = names(place)
    (place / folder / "prepared.safetensors").write_bytes(b"half")
    result = fit(data, tmp_path / "second", place, keep_blocks=True)
    assert result.model.theta_sha256 == kept.model.theta_sha256
    no_decoding(monkeypatch)
    assert fit(data, tmp_path / "third", place).model.theta_sha256 == kept.model.theta_sha256


@pytest.mark.parametrize("where", ["_make_encoding", "_new_state", "train"])
@pytest.mark.parametrize("ready", [True, False])
def test_a_run_that_fails_removes_its_own_blocks_and_no_others(
    ready: bool, where: str, data: str, place: Path, kept: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise StorageError("the machine fell over")

    before = names(place)
    monkeypatch.setattr(stochastic_session.StochasticSession, where, fails)
    with pytest.raises(StorageError, match="fell over"):
        fit(data, tmp_path / "second", place, seed=0 if ready else 1)
    assert names(place) == before
    assert "prepared.safetensors" in names(place / before[0])


@pytest.mark.parametrize("options", [{"shuffle": "window"}, {"method": "batch"}, {}], ids=str)
def test_blocks_that_a_killed_start_left_elsewhere_are_removed_by_the_next(
    options: dict[str, Any], data: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(stochastic_session.StochasticSession, "train", killed)
        patch.setattr(stochastic_session.StochasticSession, "close", lambda *_, **__: None)
        with pytest.raises(KilledError):
            fit(data, tmp_path / "run", place)
    assert len(names(place)) == 1
    fit(data, tmp_path / "run", tmp_path / "elsewhere", **options)
    assert names(place) == names(tmp_path / "elsewhere") == []


def test_blocks_that_were_written_to_since_are_made_anew(data: str, kept: Result, place: Path, tmp_path: Path) -> None:
    (folder,) = place.iterdir()
    file = next(folder.glob("blocks-*.bin"))
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])
    for uses_them in (False, True):
        listener = Listener()
        again = fit(data, tmp_path / str(uses_them), place, listener, keep_blocks=True)
        assert any("nothing is decoded" in text for text in listener.told) == uses_them
        assert again.model.theta_sha256 == kept.model.theta_sha256


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "batch"}, "--method batch makes its own anew."),
        ({"shuffle": "window"}, "--shuffle window has none."),
    ],
)
def test_a_run_that_has_nothing_to_keep_says_so(
    data: str, place: Path, tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    said = f"--keep-blocks keeps nothing here: the blocks are those of --shuffle full, {why}"
    listener = Listener()
    fit(data, tmp_path / "run", place, listener, keep_blocks=True, **options)
    assert said in listener.warnings
    assert names(place) == []


def test_a_run_that_keeps_blocks_has_nothing_to_say(data: str, place: Path, tmp_path: Path) -> None:
    listener = Listener()
    fit(data, tmp_path / "run", place, listener, keep_blocks=True)
    assert not [text for text in listener.warnings if "--keep-blocks" in text]
