"""Chunks: grouped by size alone, each with levels of its own, added up as if all rows had been one chunk."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import COLUMNS, LAYOUT, SCALE0, SHIFT0, encoding_of, written

from streamgd.data.columns import CategoricalColumn
from streamgd.data.encoder import RowChoice
from streamgd.data.source import Manifest, RowGroup
from streamgd.data.vocabulary import Vocabulary, final_levels
from streamgd.objective.losses import HalfSquaredError
from streamgd.objective.objective import Objective
from streamgd.objective.penalties import ElasticNet
from streamgd.stopwatch import Stopwatch
from streamgd.training import reduce
from streamgd.training.chunks import BlockWork, ChunkLevels, ChunkSurvey, SurveyWork
from streamgd.training.reduce import ThreadReduction, Work, grouped


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """200 rows in 20 row groups."""
    return written(tmp_path_factory.mktemp("data"), 200, 10)


def with_row_groups(manifest: Manifest, rows: list[int]) -> Manifest:
    groups = tuple(RowGroup(0, index, each, 0) for index, each in enumerate(rows))
    return replace(manifest, row_groups=groups, n_rows=sum(rows))


# Grouping


@settings(max_examples=60)
@given(rows=st.lists(st.integers(1, 400_000), min_size=1, max_size=200), n_columns=st.integers(1, 500))
def test_chunks_hold_each_row_group_once_in_order_and_are_neither_small_nor_many(
    rows: list[int], n_columns: int, manifest: Manifest
) -> None:
    made = with_row_groups(manifest, rows)
    chunks = grouped(made, n_columns)
    values = [sum(group.rows for group in chunk) * n_columns for chunk in chunks]
    assert [group for chunk in chunks for group in chunk] == list(made.row_groups)
    assert all(each >= reduce.SMALLEST_CHUNK_VALUES for each in values[:-1])
    assert len(chunks) <= 1 + sum(values) / reduce.CHUNK_VALUES + reduce.FEWEST_CHUNKS
    # A row group less would be too few.
    for chunk, each in zip(chunks, values, strict=True):
        assert each - chunk[-1].rows * n_columns < max(reduce.CHUNK_VALUES, sum(values) // reduce.MOST_CHUNKS)


def test_the_largest_data_have_few_chunks(manifest: Manifest) -> None:
    large = with_row_groups(manifest, [1_000_000] * 50_000)
    assert len(grouped(large, 1_000)) <= reduce.MOST_CHUNKS + 1
    assert len(grouped(replace(large, row_groups=large.row_groups[:200], n_rows=200_000_000), 1)) <= 33


# Surveys


def survey_work(manifest: Manifest, max_levels: int = 100) -> SurveyWork:
    choice = RowChoice(seed=3, holdout=0.2)
    return SurveyWork(manifest, COLUMNS, LAYOUT, SHIFT0, SCALE0, "impute", choice, max_levels, 16)


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, 19)))
def test_surveys_of_chunks_add_up_to_the_survey_of_all(cuts: set[int], manifest: Manifest) -> None:
    work = survey_work(manifest)
    ends = [0, *sorted(cuts), 20]
    chunks = [manifest.row_groups[start:stop] for start, stop in pairwise(ends)]
    parts = [work.opened(None, Stopwatch()).result(None, chunk) for chunk in chunks]
    total: ChunkSurvey = parts[0]
    for part in parts[1:]:
        total = total + pickle.loads(pickle.dumps(part))
    whole: ChunkSurvey = work.opened(None, Stopwatch()).result(None, manifest.row_groups)
    assert (total.survey.train_rows, total.survey.holdout_rows) == (whole.survey.train_rows, whole.survey.holdout_rows)
    assert (total.survey.dropped, total.survey.nulls) == (whole.survey.dropped, whole.survey.nulls)
    np.testing.assert_allclose(total.survey.moments.mean, whole.survey.moments.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total.survey.moments.squares, whole.survey.moments.squares, rtol=1e-12)
    # The order of levels met does not depend on the cuts, their weights (halves) are exact.
    assert total.levels[0].levels.equals(whole.levels[0].levels)
    assert total.survey.level_counts[0].tolist() == whole.survey.level_counts[0].tolist()


class StoppedError(Exception):
    """What a signal raises."""


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_signal_stops_a_pass_within_a_chunk(stop_at: int, manifest: Manifest) -> None:
    """It is asked for at the chunk and at each of its 20 blocks."""
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == stop_at:
            raise StoppedError

    survey = survey_work(manifest)
    found: ChunkSurvey = survey.opened(None, Stopwatch()).result(None, manifest.row_groups)
    vocabulary = survey.vocabulary(COLUMNS.categorical[0])
    vocabulary.take_over(found.levels[0].levels, False)
    blocks = BlockWork(manifest, encoding_of(found.survey, [vocabulary]), LAYOUT, survey.choice)
    sums = partial(Objective(HalfSquaredError(), ElasticNet()).chunk_sums, hessian=False)
    works: list[tuple[Work, Any]] = [(survey, None), (blocks, (sums, np.zeros((blocks.encoding.n_dof, 1))))]
    for work, common in works:
        asked = 0
        assert len(work.chunks) == 1
        with pytest.raises(StoppedError):
            ThreadReduction(None, check, Stopwatch()).open(work, 1)(common)
        assert asked == stop_at


TEXTS = st.lists(st.lists(st.sampled_from([*"abcdefgh", None]), max_size=6), min_size=1, max_size=6)


@settings(max_examples=60)
@given(chunks=TEXTS, most=st.integers(2, 9))
def test_levels_of_chunks_are_merged_as_one_vocabulary_meets_them(chunks: list[list[Any]], most: int) -> None:
    column = CategoricalColumn("c", "string")

    def met(texts: list[Any]) -> Vocabulary:
        vocabulary = Vocabulary(column, most, 16)
        for text in texts:
            vocabulary.codes(pa.array([text], pa.string()))
        return vocabulary

    together = met([text for texts in chunks for text in texts])
    merged = ChunkLevels.of(met(chunks[0]), most)
    for texts in chunks[1:]:
        later = ChunkLevels.of(met(texts), most)
        merged, codes = merged.merge(later)
        if not merged.hashed:
            assert merged.levels.take(pa.array(codes)).equals(later.levels)
    assert merged.hashed == together.hashed
    if merged.hashed:
        assert len(merged.levels) == 0
    else:
        assert merged.levels.equals(together.levels)
        counts = np.arange(1.0, len(merged.levels) + 1)
        assert final_levels(together, counts).to_pylist()[::-1] == merged.levels.to_pylist()


def test_a_column_with_too_many_levels_over_all_chunks_is_hashed(manifest: Manifest, tmp_path: Path) -> None:
    work = survey_work(manifest, max_levels=3)
    opened = work.opened(None, Stopwatch())
    parts = [opened.result(None, manifest.row_groups[start : start + 2]) for start in range(0, 20, 2)]
    assert not all(part.levels[0].hashed for part in parts)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert total.levels[0].hashed
    assert len(total.levels[0].levels) == 0
    assert total.survey.train_rows == sum(part.survey.train_rows for part in parts)
