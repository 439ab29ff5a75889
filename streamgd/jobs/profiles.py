"""What files hold, column by column: rows, nulls, means, standard deviations and new levels, in one streamed pass.

    files ── row groups on threads: decode, encode, sum ── in order ──> a profile of each file

A profile counts rows, all alike, that ``where`` keeps and that have a target. It does not depend on threads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from streamgd import state as states
from streamgd.data.agreement import check_columns
from streamgd.data.blocks import RecordLayout
from streamgd.data.encoder import Encoder, RowChoice
from streamgd.data.encoding import Encoding
from streamgd.data.filters import parse_where
from streamgd.data.source import Manifest, RowGroup, discover
from streamgd.data.stream import encoded_slices, one_pass
from streamgd.data.survey import Survey
from streamgd.errors import CorruptFileError
from streamgd.model import Model
from streamgd.stopwatch import Stopwatch
from streamgd.training.display import Display


@dataclass(frozen=True)
class Column:
    """What is known of one column, or of the target.

    Attributes
    ----------
    rows : rows that have a value
    nulls : rows that have none
    mean, deviation : of the rows that have a value, in the column's own units (of the population); None for levels and
        where there is no value
    new_levels : rows with a level that the model does not know; None for numbers and hashed levels
    """

    rows: int
    nulls: int
    mean: float | None = None
    deviation: float | None = None
    new_levels: int | None = None

    @property
    def null_share(self) -> float:
        return self.nulls / max(1, self.rows + self.nulls)

    @property
    def new_level_share(self) -> float | None:
        return None if self.new_levels is None else self.new_levels / max(1, self.rows + self.nulls)

    def merge(self, later: Column) -> Column:
        """Both together: Chan, Golub, LeVeque (1983), eq. 2.1, of standard deviations, which do not overflow."""
        rows, nulls = self.rows + later.rows, self.nulls + later.nulls
        if self.mean is None or later.mean is None:
            known = self if later.mean is None else later
            return Column(rows, nulls, known.mean, known.deviation)
        assert self.deviation is not None
        assert later.deviation is not None
        share = later.rows / rows
        moved = later.mean - self.mean
        deviation = math.hypot(
            math.sqrt(1.0 - share) * self.deviation, math.sqrt(share) * later.deviation,
            math.sqrt(share * (1.0 - share)) * moved,
        )  # fmt: skip
        return Column(rows, nulls, self.mean + share * moved, deviation)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Profile:
    """The columns of a file, or of all that was learned, by name of the feature; the target stands apart."""

    columns: dict[str, Column]
    target: Column

    def merge(self, later: Profile) -> Profile:
        """Both together, of the columns of the later one; a column that is new begins with it."""
        columns = {
            name: self.columns[name].merge(column) if name in self.columns else replace(column, new_levels=None)
            for name, column in later.columns.items()
        }
        return Profile(columns, self.target.merge(later.target))

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` is the inverse."""
        columns = {name: column.to_json() for name, column in self.columns.items()}
        return {"columns": columns, "target": self.target.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        columns = {name: Column(**column) for name, column in values["columns"].items()}
        return cls(columns, Column(**values["target"]))


class Profiles:
    """Makes the profiles of files of a source, and keeps them while a night goes on.

    Parameters
    ----------
    source : str
    kept : Path
        The file that they are kept in, so that a night that goes on does not read the files again.
    skip_bad : bool
        Pass over row groups that cannot be read, as training does.
    check, done : callable
        Called between slices, and when a file is done; the first may raise to stop.
    """

    def __init__(
        self, source: str, kept: Path, skip_bad: bool, threads: int | None, check: Callable[[], None],
        done: Callable[[], None], display: Display,
    ):  # fmt: skip
        self._source = source
        self._path = kept
        self._skip_bad = skip_bad
        self._threads = threads
        self._check = check
        self._done = done
        self._display = display

    def of(self, model: Model, files: dict[str, str]) -> dict[str, Profile]:
        """The profile of each file, by relative path, as ``model`` encodes it.

        Parameters
        ----------
        files : dict
            Relative path -> digest of the footer; what is kept of a file is used again while that is the same.

        Raises
        ------
        DataError
            Of one of its kinds, as in training.
        """
        kept = self._read()
        names = {relative: f"{model.theta_sha256} {digest} {relative}" for relative, digest in files.items()}
        missing = [relative for relative, name in names.items() if name not in kept]
        for relative, profile in self._made(model, missing):
            kept[names[relative]] = profile.to_json()
            states.make_folder(self._path.parent)
            states.write_atomically(self._path, json.dumps(kept).encode())
            self._done()
        return {relative: Profile.from_json(kept[name]) for relative, name in names.items()}

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):  # what is not there or is damaged is made again
            kept = json.loads(self._path.read_bytes())
            if isinstance(kept, dict):
                return kept
        return {}

    def _made(self, model: Model, files: list[str]) -> Iterator[tuple[str, Profile]]:
        if not files:
            return
        texts = model.encoding.columns.text_labels
        manifest = discover([self._source], skip_bad=self._skip_bad, only=files, texts=texts)
        encoder = _encoder(model, manifest)
        for index, file in enumerate(manifest.files):
            yield file.relative, _profile_of(self._survey(manifest, index, encoder), model.encoding, encoder)
        self._display.close()

    def _survey(self, manifest: Manifest, file_index: int, encoder: Encoder) -> Survey:
        """What is in one file."""
        groups = [group for group in manifest.row_groups if group.file_index == file_index]
        survey = Survey.empty(len(encoder.columns.numeric), len(encoder.columns.categorical))
        done_rows, relative = 0, manifest.files[file_index].relative

        def surveys(row_group: RowGroup) -> Iterator[Survey]:
            with suppress(*([CorruptFileError] if self._skip_bad else [])):
                for each in encoded_slices(manifest, row_group, encoder, encoder.layout.block_rows, Stopwatch()):
                    yield each.rows.survey

        if not groups:
            return survey
        with closing(one_pass(manifest, groups, surveys, self._threads, self._check)) as pieces:
            for _, piece in pieces:
                survey = survey.merge(piece)
                done_rows += piece.train_rows + sum(piece.dropped.values())
                self._display.progress(f"profile {relative}", done_rows, sum(group.rows for group in groups), None)
        return survey


def _encoder(model: Model, manifest: Manifest) -> Encoder:
    """The model's encoder, which also learns the moments of what it encodes; each row counts once, nulls too."""
    columns = replace(model.encoding.columns, weight=None, offset=None)
    encoding = replace(model.encoding, columns=columns, nulls="impute")
    layout = RecordLayout(len(columns.numeric), len(columns.categorical), "float64", False, False, False)
    where = model.facts.get("where")
    choice = RowChoice(where=parse_where(where, manifest.schema) if where else None)
    check_columns(columns, manifest)
    return Encoder.of_encoding(encoding, layout, choice)


def _profile_of(survey: Survey, encoding: Encoding, encoder: Encoder) -> Profile:
    moments, deviation = survey.moments, survey.moments.deviation()
    columns = {}
    for j, numeric in enumerate(encoding.columns.numeric):
        rows = int(moments.weight[j])
        nulls = survey.nulls.get(numeric.name, 0)
        if rows == 0:
            columns[numeric.name] = Column(0, nulls)
            continue
        spread = float(encoder.scale0[j] * deviation[j]) if moments.squares[j] > 0 else 0.0
        columns[numeric.name] = Column(
            rows, nulls, float(encoder.shift0[j] + encoder.scale0[j] * moments.mean[j]), spread
        )
    for each, counts in zip(encoding.categorical, survey.level_counts, strict=True):
        name = each.column.name
        nulls = survey.nulls.get(name, 0)
        known = int(counts.sum()) - (nulls if each.levels.null_count else 0)
        new = None if each.hashed else survey.train_rows - nulls - known
        columns[name] = Column(survey.train_rows - nulls, nulls, new_levels=new)
    target, nulls = survey.target_moments, survey.dropped.get("null target", 0)
    if survey.train_rows == 0:
        return Profile(columns, Column(0, nulls))
    if encoding.n_outputs > 1:  # the numbers of classes have no mean
        return Profile(columns, Column(survey.train_rows, nulls))
    spread = float(target.deviation()[0]) if target.squares[0] > 0 else 0.0
    return Profile(columns, Column(survey.train_rows, nulls, float(target.mean[0]), spread))
