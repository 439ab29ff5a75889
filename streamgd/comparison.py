"""Two models on the same rows, in one streamed pass: their metrics, and the paired difference of their losses.

    row groups ── threads: decode once, encode and predict for both ── in order ──> sums, row group after row group

A row is compared where both models have a prediction. The sums are taken in the order of the rows, so the result does
not depend on threads; memory does not depend on the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamgd.data.agreement import check_columns
from streamgd.data.reader import read_batches
from streamgd.data.scaler import Moments
from streamgd.data.source import Manifest, RowGroup, discover
from streamgd.data.stream import can_hold_rows, origin_of
from streamgd.errors import ConfigError
from streamgd.evaluation import Part, add_counts, check_any_left, check_part, in_part, part_choice, shown_pass
from streamgd.markup import table
from streamgd.model import Model, model_of
from streamgd.objective.metrics import Result
from streamgd.objective.multiclass import metrics_for
from streamgd.option_values import parse_sources
from streamgd.plain import plain_number
from streamgd.training.display import Display

#: Half the width of a 95 % interval, in standard errors.
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes
    ----------
    rows, weight : int, float
        Rows that were compared, and their total weight.
    dropped : dict, reason -> rows
        Rows passed over, as in ``evaluate``.
    metrics : (dict, dict)
        Of the first model and of the second, as in ``evaluate``.
    difference : float
        Weighted mean of the second model's loss less the first's, row by row: below zero the second is better.
    standard_error : float or None
        Of that mean, weights being frequencies: ``sqrt(sum w (d - mean d)^2 / ((W - 1) W))``, W their sum; None where
        W is not above 1. It tells how much the rows scatter, not how much the models would if trained again.
    """

    rows: int
    weight: float
    dropped: dict[str, int]
    metrics: tuple[Result, Result]
    difference: float
    standard_error: float | None

    def _repr_html_(self) -> str:
        """The metrics of both, and how far apart their losses are, for notebooks."""
        facts = self.to_json()
        first, second = facts["first"], facts["second"]
        metrics = [name for name in first if not name.startswith("base_")]
        rows = [[name.replace("_", " "), first[name], second[name], first.get(f"base_{name}")] for name in metrics]
        apart = [[name.replace("_", " "), value] for name, value in facts["second_less_first"].items()]
        sides = table([f"{self.rows:,} rows", "first", "second", "base rate"], rows)
        return sides + table(["second less first", "row by row"], apart)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``z`` is the difference in standard errors, ``lower`` and ``upper`` its 95 % interval."""
        error = self.standard_error
        reach = math.nan if error is None else _NORMAL_95 * error
        difference = {
            "loss": self.difference, "standard_error": error, "z": self.difference / error if error else None,
            "lower": self.difference - reach, "upper": self.difference + reach,
        }  # fmt: skip
        first, second = (_finite(result) for result in self.metrics)
        return {
            "rows": self.rows, "weight": self.weight, "dropped": self.dropped, "first": first, "second": second,
            "second_less_first": _finite(difference),
        }  # fmt: skip


def _finite(values: Result) -> Result:
    return {name: None if value is None else plain_number(value) for name, value in values.items()}


def compare(
    first: Model | str | Path,
    second: Model | str | Path,
    data: Sequence[str] | str,
    where: str | None = None,
    threads: int | None = None,
    check: Callable[[], None] = lambda: None,
    display: Display | None = None,
    *,
    part: Part = "all",
    filesystem: Any = None,
) -> Comparison:
    """Compare two models of the same target on ``data``, weighted as in training.

    Parameters
    ----------
    first, second : as for ``evaluate``
        Their features may differ; target, classes, loss and weight column may not.
    data : str or sequence of str
        Files, directories, globs or URIs, best of rows that neither was trained on.
    where : str, optional
        Only the rows that meet this condition.
    threads : int, optional
        One for each core if not given; the result does not depend on it.
    check : callable
        Called between slices; what it raises ends the work.
    display : Display, optional
    part : {"all", "train", "holdout"}
        Only the rows that both runs trained on, or that both held out, as for ``evaluate``.
    filesystem : pyarrow.fs.FileSystem or fsspec.AbstractFileSystem, optional
        Where ``data`` are.

    Raises
    ------
    ConfigError
        The models do not predict the same thing; ``where`` cannot be read.
    NoInputError, CorruptFileError, DataChangedError, SchemaError, DataError, TargetError
        As ``evaluate``.
    """
    models = (model_of(first), model_of(second))
    check_comparable(*models)
    check_part(part)
    for name, model in zip(("first", "second"), models, strict=True):
        if part != "all" and not model.facts.get("holdout"):
            raise ConfigError(
                f"--part {part}: the {name} run held out no rows. Train both with the same --holdout and --seed."
            )
    texts = [name for model in models for name in model.encoding.columns.text_labels]
    manifest = discover(parse_sources(data), filesystem, texts=texts)
    pairs = _Pairs(models, manifest, where, part)
    metrics, differences = [metrics_for(model.loss, model.n_outputs) for model in models], Moments.empty(1)
    dropped: dict[str, int] = {}
    with closing(shown_pass("compare", manifest, pairs.pieces, threads, check, display)) as pieces:
        for piece in pieces:
            for sums, prediction, raw, offset in zip(metrics, piece.prediction, piece.raw, piece.offset, strict=True):
                sums.add(piece.target, prediction, raw, piece.weight, offset)
            differences = differences.merge(piece.differences)
            add_counts(dropped, piece.dropped)
    weight = metrics[0].weight
    check_any_left(weight, dropped, to="compare")
    error = math.sqrt(float(differences.squares[0]) / (weight - 1.0) / weight) if weight > 1.0 else None
    results = (metrics[0].result(), metrics[1].result())
    return Comparison(metrics[0].rows, weight, dropped, results, float(differences.mean[0]), error)


def _loss_and_settings(model: Model) -> str:
    settings = zip(model.loss.setting_names, model.loss_settings, strict=True)
    return ", ".join([model.loss_name, *(f"{name} {value:g}" for name, value in settings)])


def check_comparable(first: Model, second: Model) -> None:
    """Refuse models whose losses on a row cannot be set side by side.

    Raises
    ------
    ConfigError
    """
    told = [
        (what, one, other)
        for what, one, other in (
            ("target", _target_name(first), _target_name(second)),
            ("classes", first.classes, second.classes),
            ("loss", _loss_and_settings(first), _loss_and_settings(second)),
            ("weight column", first.encoding.columns.weight, second.encoding.columns.weight),
        )
        if one != other
    ]
    if told:
        what, one, other = told[0]
        raise ConfigError(f"the models cannot be compared: the {what} of the first is {one}, of the second {other}.")


def _target_name(model: Model) -> str | None:
    target = model.encoding.columns.target
    return target.name if target else None


@dataclass(frozen=True)
class _Piece:
    """Rows of a slice: arrays ``(n_rows,)`` of those that are compared, ``raw``, ``prediction`` and ``offset`` of each.

    ``differences`` are moments of the second model's loss less the first's.
    """

    rows_read: int
    dropped: dict[str, int]
    target: np.ndarray
    raw: list[np.ndarray]
    prediction: list[np.ndarray]
    offset: list[np.ndarray]
    weight: np.ndarray
    differences: Moments


class _Pairs:
    """Makes pieces from the row groups of a data set."""

    def __init__(self, models: tuple[Model, ...], manifest: Manifest, where: str | None, part: Part):
        self._models = models
        self._manifest = manifest
        self._part = part
        choices = [part_choice(model, manifest, where, part) for model in models]
        for choice in choices:
            manifest.check_same(choice.where.columns if choice.where is not None else ())
        self._encoders = [
            model.encoder(with_target=True, choice=choice) for model, choice in zip(models, choices, strict=True)
        ]
        for encoder in self._encoders:
            check_columns(encoder.columns, manifest)
        self._columns = _each_once([encoder.read_columns for encoder in self._encoders])
        self._dictionary_columns = _each_once([encoder.dictionary_columns for encoder in self._encoders])
        self._slice_rows = min(model.slice_rows(encoder) for model, encoder in zip(models, self._encoders, strict=True))

    def pieces(self, row_group: RowGroup) -> Iterator[_Piece]:
        """The rows of one row group, slice by slice."""
        manifest = self._manifest
        if not all(can_hold_rows(manifest, row_group, each.encoder) for each in self._encoders):
            none = np.empty(0)
            yield _Piece(
                row_group.rows,
                {"where": row_group.rows},
                none,
                [none] * 2,
                [none] * 2,
                [none] * 2,
                none,
                Moments.empty(1),
            )
            return
        start = 0
        for batch in read_batches(manifest, row_group, self._columns, self._dictionary_columns, self._slice_rows):
            origin = origin_of(manifest, row_group, start)
            (block, found), (other, other_found) = (encoder.encode(batch, origin) for encoder in self._encoders)
            chosen = in_part(found, self._part) & in_part(other_found, self._part)
            kept, dropped = found.kept & other_found.kept & chosen, dict(found.survey.dropped)
            lacking = int((found.kept & ~other_found.kept & chosen).sum())
            if lacking:  # of target, weight and condition, which are the same, the first has told already
                dropped["null feature"] = dropped.get("null feature", 0) + lacking
            blocks = (block.chosen(kept), other.chosen(kept))
            target, weight = blocks[0].target, blocks[0].weight
            weight = weight if self._encoders[0].layout.has_weight else np.ones(len(target))
            raw = [model.raw_prediction(block) for model, block in zip(self._models, blocks, strict=True)]
            prediction = [model.compared_prediction(each) for model, each in zip(self._models, raw, strict=True)]
            losses = np.empty((2, len(target)))
            for model, each, out in zip(self._models, raw, losses, strict=True):
                model.loss.losses_of_rows(target, each, model.loss.settings, out)
            differences = _moments(losses[1] - losses[0], weight)
            yield _Piece(
                batch.num_rows, dropped, target, raw, prediction, [each.offset for each in blocks], weight, differences
            )
            start += batch.num_rows


def _moments(values: np.ndarray, weight: np.ndarray) -> Moments:
    """Of one column ``(n_rows,)``, without BLAS, whose threads would be in the way of ours."""
    total = weight.sum()
    if total == 0.0:
        return Moments.empty(1)
    mean = (weight * values).sum() / total
    squares = (weight * (values - mean) ** 2).sum()
    return Moments(np.array([total]), np.array([mean]), np.array([squares]), np.zeros(1))


def _each_once(names: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for each in names for name in each))
