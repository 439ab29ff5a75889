"""Where the stochastic loop gets its rows: shuffled blocks, or windows of a stream.

Both give portions: rows that are trained on together, after the scaler has learned them if it still learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from streamgd.data.blocks import Block
from streamgd.data.encoding import Encoding, Finisher
from streamgd.data.entries import EntriesFinisher
from streamgd.data.plan import block_order
from streamgd.data.prepared import PreparedBlocks
from streamgd.data.scaler import Moments, Scaling
from streamgd.data.sparse import SparseEncoding
from streamgd.data.survey import Survey
from streamgd.data.vocabulary import Vocabulary
from streamgd.data.window import Window, WindowStream
from streamgd.stopwatch import Stopwatch


class Portion(Protocol):
    """Rows that are trained on together."""

    @property
    def survey(self) -> Survey | None:
        """What was found in the rows, where the scaler learns from them."""
        ...

    def with_scales(self, encoding: Encoding) -> Encoding:
        """The encoding with the units of values that occur here for the first time."""
        ...

    def block(self, encoding: Encoding) -> Block:
        """The rows under an encoding."""
        ...


class PortionSource(Protocol):
    """The portions of each epoch."""

    def portions(self, epoch: int, first: int) -> Iterator[Portion]:
        """The portions of an epoch, from number ``first`` on."""
        ...

    def learned(self, encoding: Encoding, moments: Moments) -> Encoding:
        """The encoding after the scaler has learned ``moments``."""
        ...


class _BlockPortion:
    survey = None

    def __init__(self, block: Block):
        self._block = block

    def with_scales(self, encoding: Encoding) -> Encoding:
        return encoding

    def block(self, encoding: Encoding) -> Block:  # noqa: ARG002
        return self._block


class ShuffledBlocks:
    """The blocks of a prepared data set, in the order of each epoch; the encoding is final."""

    def __init__(self, prepared: PreparedBlocks, seed: int, stopwatch: Stopwatch):
        self.prepared = prepared
        self._seed = seed
        self._stopwatch = stopwatch

    def portions(self, epoch: int, first: int) -> Iterator[Portion]:
        order = [int(index) for index in block_order(self._seed, epoch, self.prepared.n_blocks)[first:]]
        yield from map(_BlockPortion, self.prepared.train_blocks(order, self._stopwatch, alone=True))

    def learned(self, encoding: Encoding, moments: Moments) -> Encoding:  # noqa: ARG002
        return encoding


class _WindowPortion:
    def __init__(self, window: Window, source: StreamedWindows):
        self._window = window
        self._source = source

    @property
    def survey(self) -> Survey:
        return self._window.survey

    def with_scales(self, encoding: Encoding) -> Encoding:
        window, finisher = self._window, self._source.entries_finisher(encoding)
        if finisher is None or window.entries is None or not encoding.columns.has_sparse_values:
            return encoding
        return encoding.with_sparse_scales(finisher.largest(window.entries, window.order))

    def block(self, encoding: Encoding) -> Block:
        with self._source.stopwatch.timed("finalise"):
            return self._window.block(self._source.finisher(encoding), self._source.entries_finisher(encoding))


class StreamedWindows:
    """The windows of a stream.

    During the first epoch the scaler starts from ``look`` and learns each window before it is trained on. Then it has
    seen every row, and its moments are exact.

    Parameters
    ----------
    look : Moments
        Of slices of row groups from all over the data; or, where the stream ``goes_on``, of the rows of earlier runs,
        which count with those of the windows to the end.
    """

    def __init__(
        self,
        stream: WindowStream,
        encoder_vocabularies: list[Vocabulary],
        look: Moments,
        standardise: bool,
        stopwatch: Stopwatch,
        goes_on: bool = False,
    ):
        self.stopwatch = stopwatch
        self._stream = stream
        self._vocabularies = encoder_vocabularies
        self._sparse = stream.sparse
        self._look = look
        self._standardise = standardise
        self._goes_on = goes_on
        self._finished_as: tuple[SparseEncoding, ...] = ()
        self._finisher: Finisher | None = None
        self._entries_finisher: EntriesFinisher | None = None

    def portions(self, epoch: int, first: int) -> Iterator[Portion]:
        for window in self._stream.windows(epoch, first):
            yield _WindowPortion(window, self)

    def finisher(self, encoding: Encoding) -> Finisher:
        """Of each window another one, but the rows of all levels are looked up once."""
        kept = self._finisher.under(encoding) if self._finisher is not None else None
        self._finisher = kept or Finisher(self._stream.layout, encoding, self._vocabularies)
        return self._finisher

    def entries_finisher(self, encoding: Encoding) -> EntriesFinisher | None:
        """Kept until the columns have other units: each window asks for it twice."""
        if encoding.sparse and encoding.sparse is not self._finished_as:
            self._finished_as = encoding.sparse
            self._entries_finisher = EntriesFinisher(encoding.sparse, self._sparse, self._stream.layout.feature_type)
        return self._entries_finisher

    def learned(self, encoding: Encoding, moments: Moments) -> Encoding:
        return self._scaled(encoding, self._look.merge(moments))

    def exact(self, encoding: Encoding, moments: Moments) -> Encoding:
        """The encoding when every row has been seen once."""
        return self._scaled(encoding, self._look.merge(moments) if self._goes_on else moments)

    def _scaled(self, encoding: Encoding, moments: Moments) -> Encoding:
        scaling = encoding.scaling
        learned = Scaling.from_moments(scaling.shift0, scaling.scale0, moments, self._standardise)
        return replace(encoding, scaling=learned)
