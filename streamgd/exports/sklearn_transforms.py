"""Transforms of columns as scikit-learn has them: functions of numpy, so that a pipeline needs no streamgd."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from streamgd.data.transforms.bins import Bins
from streamgd.data.transforms.clip import Clip
from streamgd.data.transforms.log import Log
from streamgd.data.transforms.numbers import Steps
from streamgd.errors import ConfigError


def steps_of(steps: Steps) -> list[FunctionTransformer]:
    """The steps, of float64 in which NaN is null."""
    made = []
    for step in steps:
        if isinstance(step, Clip):
            made.append(FunctionTransformer(np.clip, kw_args={"a_min": step.low, "a_max": step.high}))
        elif isinstance(step, Log):
            made.append(FunctionTransformer(np.log))
        else:
            raise ConfigError(
                f"--to sklearn: there is nothing there for the transform '{step.kind}'. Choose --to onnx or json."
            )
    return made


def places_of(bins: Bins) -> list[FunctionTransformer | OneHotEncoder]:
    """Indicators of the bins, ascending, that of null last."""
    # NaN is put behind every number, so behind an edge that none reaches.
    edges = [*bins.edges, np.inf]
    place = FunctionTransformer(np.digitize, kw_args={"bins": edges})
    return [*steps_of(bins.steps), place, OneHotEncoder(categories=[np.arange(len(edges) + 1)])]
