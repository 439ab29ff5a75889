"""Versions: whole or not there, and one rename between the old and the new."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import small_models
from faults import FaultyFiles, Killed

from streamgd import load
from streamgd import state as states
from streamgd.errors import ConfigError, NoInputError
from streamgd.jobs.ledger import Entry, Ledger
from streamgd.jobs.versions import Versions
from streamgd.model import Model


def model_of(number: int) -> Model:
    return small_models.model(theta=small_models.THETA + number)


def ledger_of(number: int) -> Ledger:
    return Ledger().with_files([Entry(f"{k}.parquet", k, str(k)) for k in range(number)], {"x": "double"})


def publish(versions: Versions, number: int, replaced: int | None = None) -> None:
    facts = {"rows": number, "replaced": (replaced or number - 1) or None}
    versions.publish(number, model_of(number), ledger_of(number), {"steps": number}, facts)


def test_what_was_published_is_found_again(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "published")
    assert versions.current() is None
    assert versions.next_number() == 1
    publish(versions, 1)
    publish(versions, 2)
    current = Versions(tmp_path / "published").current()
    assert current is not None
    assert (current.number, current.facts["rows"], current.training) == (2, 2, {"steps": 2})
    assert current.ledger == ledger_of(2)
    assert load(tmp_path / "published" / "current").theta_sha256 == model_of(2).theta_sha256
    assert versions.next_number() == 3


def test_the_pointer_goes_back_and_forth(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    for number in (1, 2, 3):
        publish(versions, number)
    versions.point_to(versions.get(1))
    current = versions.current()
    assert current is not None
    assert current.number == 1
    assert current.ledger == ledger_of(1)
    assert versions.next_number() == 4  # no number is used twice
    with pytest.raises(NoInputError, match=r"no version 9 in .* There are: 1, 2, 3"):
        versions.get(9)


def test_old_ones_are_pruned_but_not_the_published_one_and_what_it_replaced(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    for number in range(1, 6):
        publish(versions, number)
    versions.prune(keep=4)
    assert [version.number for version in versions.all()] == [2, 3, 4, 5]
    versions.point_to(versions.get(3))
    versions.prune(keep=2)
    assert [version.number for version in versions.all()] == [2, 3, 4, 5]
    assert versions.next_number() == 6  # had the newest been deleted, its number would be used twice
    publish(versions, 6, replaced=3)
    versions.prune(keep=3)
    assert [version.number for version in versions.all()] == [2, 3, 6]


def test_a_version_without_facts_is_pruned_by_its_number(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    for number in range(1, 5):
        publish(versions, number)
    (tmp_path / "000003" / "version.json").write_text("[]")
    versions.prune(keep=3)
    assert [version.number for version in versions.all()] == [2, 3, 4]


def test_a_pointer_to_nothing_is_told(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    publish(versions, 1)
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("000007")
    with pytest.raises(ConfigError, match="'000007', which is no version"):
        versions.current()


def test_killed_at_every_operation_the_old_or_the_new_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, found = 0, set()
    while True:
        n += 1
        folder = tmp_path / str(n)
        publish(Versions(folder), 1)
        files = FaultyFiles(n, Killed())
        monkeypatch.setattr(states, "files", files)
        done = False
        try:
            publish(Versions(folder), 2)
            done = True
        except Killed:
            pass
        monkeypatch.setattr(states, "files", states.FileSystem())
        current = Versions(folder).current()
        assert current is not None
        number = current.number
        found.add(number)
        # Model, ledger and training state are those of one version.
        assert load(folder / "current").theta_sha256 == model_of(number).theta_sha256
        assert current.ledger == ledger_of(number)
        assert current.training == {"steps": number}
        # The next night publishes under the same number, and leaves nothing of the one that was killed.
        if number == 1:
            publish(Versions(folder), 2)
        assert sorted(os.listdir(folder)) == ["000001", "000002", "current"]
        if done:
            break
    assert found == {1, 2}
    assert n > 15


def test_theta_is_the_models(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    publish(versions, 4)
    current = versions.current()
    assert current is not None
    np.testing.assert_array_equal(current.model().theta, model_of(4).theta)
