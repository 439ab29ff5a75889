"""Streamed windows: each row once an epoch, the same windows whatever the threads and wherever they begin."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_data import (
    COLUMNS,
    LAYOUT,
    SCALE0,
    SHIFT0,
    SmallLayout,
    encoding_of,
    expected_codes,
    expected_features,
    growing_encoder,
    table,
    written,
)

from streamgd.data import sample
from streamgd.data import window as module
from streamgd.data.encoder import Encoder, RowChoice
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.filters import parse_where
from streamgd.data.plan import file_order, window_order, window_rows_order
from streamgd.data.source import Manifest
from streamgd.data.survey import Survey
from streamgd.data.window import WindowStream, count_lanes, first_look
from streamgd.stopwatch import Stopwatch

ROWS = 330


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return written(tmp_path / "data", ROWS, 35)


def frozen(manifest: Manifest, choice: RowChoice | None = None) -> tuple[Encoder, Encoding]:
    """An encoder and encoding that know all training rows."""
    encoder = growing_encoder(choice)
    survey, _ = first_look(manifest, encoder, lambda _: False, lambda: None, Stopwatch(), 2)
    encoding = encoding_of(survey, encoder.vocabularies)
    return Encoder.of_encoding(encoding, LAYOUT, choice), encoding


def row_numbers(
    manifest: Manifest, epoch: int, first: int = 0, lanes: int = 4, threads: int = 2, choice: RowChoice | None = None
) -> list[list[int]]:
    encoder, encoding = frozen(manifest, choice)
    stream = WindowStream(manifest, encoder, 3, lanes, threads, Stopwatch())
    finisher = Finisher(LAYOUT, encoding, encoder.vocabularies)
    return [window.block(finisher).row_numbers.tolist() for window in stream.windows(epoch, first)]


def trained(manifest: Manifest) -> np.ndarray:
    return np.array([value is not None for value in table(ROWS)["y"].to_pylist()])


@pytest.mark.parametrize("lanes", [0, 1, 3, 4, 10, 24, 64])
def test_each_row_is_used_once_an_epoch(manifest: Manifest, lanes: int) -> None:
    for epoch in range(2):
        windows = row_numbers(manifest, epoch, lanes=lanes)
        used = [row for window in windows for row in window]
        assert sorted(used) == np.flatnonzero(trained(manifest)).tolist()


@pytest.mark.parametrize("lanes", [1, 4, 7])
def test_a_window_is_what_the_plan_says_in_its_permuted_order(manifest: Manifest, lanes: int) -> None:
    kept, found = trained(manifest), row_numbers(manifest, 1, lanes=lanes)
    plan = list(window_order(manifest, 3, 1, lanes, 24 // lanes))
    assert len(found) == len(plan)
    for index, (pieces, window) in enumerate(zip(plan, found, strict=True)):
        rows = [piece.row_group.first_row + row for piece in pieces for row in range(piece.start, piece.stop)]
        rows = [row for row in rows if kept[row]]
        place = window_rows_order(3, 1, index, len(rows))
        assert window == [rows[i] for i in np.argsort(place)]


def test_without_lanes_the_rows_come_in_the_order_of_the_files(manifest: Manifest) -> None:
    windows = row_numbers(manifest, 0, lanes=0)

    assert [row for window in windows for row in window] == np.flatnonzero(trained(manifest)).tolist()
    assert len(windows) == len(file_order(manifest, 24))


@pytest.mark.parametrize("lanes", [0, 1, 4])
def test_windows_from_any_number_on_are_those_of_the_whole_epoch(manifest: Manifest, lanes: int) -> None:
    whole = row_numbers(manifest, 1, lanes=lanes)
    for first in range(len(whole) + 1):
        assert row_numbers(manifest, 1, first, lanes=lanes) == whole[first:]


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(manifest: Manifest, threads: int) -> None:
    assert row_numbers(manifest, 0, threads=threads) == row_numbers(manifest, 0, threads=2)


def test_epochs_have_orders_of_their_own(manifest: Manifest) -> None:
    assert row_numbers(manifest, 0) != row_numbers(manifest, 1)


def test_features_and_codes_are_those_of_the_rows(manifest: Manifest) -> None:
    encoder, encoding = frozen(manifest)
    rows, train = table(ROWS), trained(manifest)
    features, codes = expected_features(rows, train), expected_codes(rows, train)
    finisher = Finisher(LAYOUT, encoding, encoder.vocabularies)
    survey = Survey.empty(2, 1)
    for window in WindowStream(manifest, encoder, 3, 4, 2, Stopwatch()).windows(0, 0):
        block = window.block(finisher)
        numbers = block.row_numbers.astype(int)
        np.testing.assert_allclose(block.features, features[numbers], rtol=1e-11, atol=1e-12)
        np.testing.assert_array_equal(block.codes[:, 0], codes[numbers])
        np.testing.assert_array_equal(block.target, rows["y"].take(numbers).to_numpy())
        survey = survey.merge(window.survey)

    assert survey.train_rows == train.sum()
    k = np.flatnonzero(train)
    weight = rows["w"].to_numpy()[train]
    assert 100.0 + 50.0 * survey.moments.mean[1] == pytest.approx(np.average(k, weights=weight), rel=1e-13)


def test_rows_held_out_and_filtered_are_not_trained_on(manifest: Manifest) -> None:
    where = parse_where("k >= 100 and k < 300", manifest.schema)
    used = [row for window in row_numbers(manifest, 0, choice=RowChoice(5, where, 0.8, 0.3)) for row in window]
    others = [row for window in row_numbers(manifest, 0, choice=RowChoice(5, where, 0.8, 0.0)) for row in window]

    assert len(set(used)) == len(used) > 40
    assert set(used) < set(others)
    assert {100 <= row < 300 for row in others} == {True}


def test_no_row_group_is_decoded_twice(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = frozen(manifest)
    opened = []
    read = module.read_batches

    def recording(manifest: Manifest, row_group: object, *arguments: object) -> Iterator[object]:
        opened.append(row_group)
        return read(manifest, row_group, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_batches", recording)
    list(WindowStream(manifest, encoder, 3, 4, 2, Stopwatch()).windows(0, 0))

    assert len(opened) == len(set(opened)) == len(manifest.row_groups)


# Before streaming begins


def test_the_first_look_sees_every_row_group(manifest: Manifest) -> None:
    encoder = growing_encoder()
    survey, pieces = first_look(manifest, encoder, lambda _: True, lambda: None, Stopwatch(), 2)
    looked_at = np.concatenate([np.arange(piece.origin.first_row, piece.origin.first_row + 24) for piece in pieces])

    assert [piece.origin.first_row for piece in pieces] == [group.first_row for group in manifest.row_groups]
    assert survey.train_rows <= len(looked_at)
    # The levels come later and later in the files; all are seen.
    assert set(encoder.vocabularies[0].levels.to_pylist()) == {*(f"l{i}" for i in range(7) if i != 5), None}


def test_more_row_groups_are_looked_at_where_levels_are_to_be_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "SPREAD_BYTES", 1)
    manifest = written(tmp_path, ROWS, 5)
    of_numbers = Encoder(
        replace(COLUMNS, categorical=()), SmallLayout(2, 0, "float64", True, True, True), SHIFT0, SCALE0, []
    )
    for encoder, expected in ((of_numbers, 16), (growing_encoder(), 64)):
        _, pieces = first_look(manifest, encoder, lambda _: True, lambda: None, Stopwatch(), 2)
        assert len(pieces) == expected
        assert pieces[0].origin.first_row == 0
        assert pieces[-1].origin.first_row == manifest.row_groups[-1].first_row


def test_where_a_look_is_not_enough_every_row_is_surveyed(manifest: Manifest) -> None:
    survey, pieces = first_look(manifest, growing_encoder(), lambda _: False, lambda: None, Stopwatch(), 2)

    assert survey.train_rows == trained(manifest).sum()
    assert pieces


def test_a_look_keeps_rows_alone(manifest: Manifest) -> None:
    """… not what was counted in each piece: a number for each level that had been met."""
    encoder = growing_encoder()
    survey, pieces = first_look(manifest, encoder, lambda _: False, lambda: None, Stopwatch(), 2)

    assert all(len(counts) for counts in survey.level_counts)
    assert not any(len(counts) for piece in pieces for counts in piece.rows.survey.level_counts)


def test_a_look_changes_nothing_from_one_start_to_the_next(manifest: Manifest) -> None:
    def look(threads: int) -> tuple[np.ndarray, dict[object, float]]:
        encoder = growing_encoder()
        survey, _ = first_look(manifest, encoder, lambda _: True, lambda: None, Stopwatch(), threads)
        return survey.moments.mean, dict(
            zip(encoder.vocabularies[0].levels.to_pylist(), survey.level_counts[0], strict=True)
        )

    (first_mean, first_counts), (second_mean, second_counts) = look(1), look(4)

    np.testing.assert_array_equal(first_mean, second_mean)
    assert first_counts == second_counts


def test_lanes_are_as_many_as_fit_and_there_is_always_one(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["x", "k", "c", "y"]
    assert count_lanes(manifest, columns) == len(manifest.row_groups)
    monkeypatch.setattr(module, "MAX_LANES", 3)
    assert count_lanes(manifest, columns) == 3
    monkeypatch.setattr(module, "LANES_BYTES", 2 * 4 * (65_536 + 500))
    assert count_lanes(manifest, columns) in (1, 2)
    monkeypatch.setattr(module, "LANES_BYTES", 1)
    assert count_lanes(manifest, columns) == 1
