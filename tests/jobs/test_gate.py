"""The gate's rules, each broken and kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_models
from displays import Listener

from streamgd.errors import CorruptFileError
from streamgd.evaluation import Evaluation, evaluate
from streamgd.jobs.config import GateConfig
from streamgd.jobs.gate import Gate, Scores, judge


def gate(**rules: Any) -> GateConfig:
    return GateConfig.model_validate(rules)


def found(rows: int = 1000, **metrics: float | None) -> Evaluation:
    return Evaluation(rows, float(rows), {}, {"loss": 0.5, "log_loss": 0.5, "auc": 0.7, **metrics})


def scores(known: Evaluation | None = None, **metrics: float | None) -> Scores:
    return Scores(found(**metrics), known)


@pytest.mark.parametrize(
    ("rules", "candidate", "broken"),
    [
        ({}, scores(), []),
        ({"max_log_loss": 0.5}, scores(), []),
        ({"max_log_loss": 0.49}, scores(), ["max_log_loss"]),
        ({"min_auc": 0.7}, scores(), []),
        ({"min_auc": "71%"}, scores(), ["min_auc"]),
        ({"min_auc": 0.1}, scores(auc=None), ["min_auc"]),
        ({"max_rmse": 2.0}, scores(), ["max_rmse"]),  # a classifier has none
        ({"max_rmse": 2.0}, scores(rmse=1.9), []),
        ({"min_r2": 0.5}, scores(r2=0.4), ["min_r2"]),
        ({"min_rows": 1001}, scores(), ["min_rows"]),
        ({"min_rows": 1000}, scores(), []),
        ({"max_log_loss": 0.1, "min_auc": 0.9}, scores(), ["max_log_loss", "min_auc"]),
    ],
)
def test_limits(rules: dict[str, Any], candidate: Scores, broken: list[str]) -> None:
    assert [each.rule for each in judge(gate(**rules), candidate, None)] == broken


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_not_finite_fails_without_any_rule(value: float | None) -> None:
    assert [each.rule for each in judge(gate(), scores(loss=value), None)] == ["loss"]


def test_no_row_to_judge_by_fails() -> None:
    assert [each.text for each in judge(gate(), Scores(None, None), None)] == ["there is no row to judge by"]


class TestAgainstThePublishedModel:
    """``max_worse``: a fraction of the published model's loss, on files that it has learned."""

    @pytest.mark.parametrize(("loss", "refused"), [(0.4, False), (0.505, False), (0.506, True), (math.nan, True)])
    def test_the_fraction(self, loss: float, refused: bool) -> None:
        broken = judge(gate(max_worse="1%"), Scores(found(), found(loss=loss)), Scores(found(), found()))
        assert ("max_worse" in [each.rule for each in broken]) == refused

    def test_files_that_only_the_candidate_has_learned_do_not_count(self) -> None:
        candidate = Scores(found(loss=0.2, log_loss=0.2), found(loss=0.9))
        assert judge(gate(max_worse=0.1), candidate, Scores(found(loss=0.6), found()))
        candidate = Scores(found(loss=0.9), found(loss=0.5))
        assert not judge(gate(max_worse=0.1), candidate, Scores(found(loss=0.6), found()))

    def test_where_it_has_learned_none_of_them_nothing_can_be_said(self) -> None:
        (broken,) = judge(gate(max_worse=0.1), scores(loss=0.1, log_loss=0.1), scores(loss=0.6))
        assert "to compare on" in broken.text

    def test_anything_finite_is_better_than_what_is_not(self) -> None:
        assert not judge(gate(max_worse=0.1), scores(found()), scores(found(loss=math.nan)))

    def test_the_first_candidate_has_nothing_to_be_worse_than(self) -> None:
        assert not judge(gate(max_worse=0.0), scores(), None)

    def test_it_says_by_how_much(self) -> None:
        (broken,) = judge(gate(max_worse="1%"), scores(found(loss=0.55)), scores(found()))
        assert broken.text == "loss 0.55 is 10.00% above the published model's 0.5, 1.00% is allowed"


class TestScores:
    """One pass over the files to judge on and those to compare on, whichever of them are in both."""

    def scores(self, folder: Path, files: list[str], known: list[str], skip_bad: bool = False) -> Scores:
        made = Gate(gate(on="newest"), str(folder), files, known, skip_bad, 2, lambda: None, Listener())
        return made.scores(small_models.model())

    def write(self, folder: Path) -> None:
        for seed, name in enumerate("abc"):
            small_models.write(small_models.table(400, seed), folder / f"{name}.parquet")

    @pytest.mark.parametrize(
        ("files", "known"), [("abc", "ab"), ("ab", "ab"), ("c", "ab"), ("bc", "ab"), ("c", ""), ("", "ab")]
    )
    def test_they_are_those_of_each_on_its_own(self, tmp_path: Path, files: str, known: str) -> None:
        self.write(tmp_path)
        of_all, of_known = ([f"{name}.parquet" for name in names] for names in (files, known))

        found = self.scores(tmp_path, of_all, of_known)

        for names, one in ((of_all, found.all), (of_known, found.known)):
            assert one == (evaluate(small_models.model(), str(tmp_path), only=names) if names else None)

    def test_a_row_group_that_cannot_be_read_is_passed_over_where_training_does_so(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        path = tmp_path / "b.parquet"
        start = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
        damaged = bytearray(path.read_bytes())
        damaged[start : start + 40] = b"\xff" * 40
        path.write_bytes(damaged)

        with pytest.raises(CorruptFileError):
            self.scores(tmp_path, ["a.parquet", "b.parquet"], ["b.parquet"])
        found = self.scores(tmp_path, ["a.parquet", "b.parquet"], ["b.parquet"], skip_bad=True)

        assert found.all is not None
        assert found.known is not None
        assert (found.all.rows, found.known.rows) == (700, 300)
