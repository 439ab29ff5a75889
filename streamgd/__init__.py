"""streamgd: linear models by gradient descent on Parquet data that do not fit in memory.

The layers, each importing only those above it:

    errors, config, state     the face's words; nested state <-> arrays and JSON
    stopwatch                 where the time goes
    kernels                   all compiled loops
    data                      source, plan, reader, encoder, scaler, blocks: the way of a row
    objective                 losses, penalties, their mean over rows
    optim                     stochastic and full-batch optimizers, schedules
    inference                 errors, tests and intervals of coefficients
    model                     the frozen result
    training                  the loops, checkpoints, and ``train()``
    prediction, evaluation, inspection, show
    jobs                      the scheduled job: learn what is new, judge, publish
    face, cli_job, cli        thin faces

>>> import streamgd
>>> streamgd.__all__
['Model', 'Result', 'TrainConfig', 'errors', 'evaluate', 'inspect', 'load', 'predict', 'train']
"""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from streamgd import errors
    from streamgd.config import TrainConfig
    from streamgd.evaluation import evaluate
    from streamgd.inspection import inspect
    from streamgd.model import Model, load
    from streamgd.prediction import predict
    from streamgd.training.train import Result, train

__all__ = ["Model", "Result", "TrainConfig", "errors", "evaluate", "inspect", "load", "predict", "train"]

_HOMES = {
    "Model": "streamgd.model",
    "Result": "streamgd.training.train",
    "TrainConfig": "streamgd.config",
    "evaluate": "streamgd.evaluation",
    "inspect": "streamgd.inspection",
    "load": "streamgd.model",
    "predict": "streamgd.prediction",
    "train": "streamgd.training.train",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``streamgd --help`` answers at once."""
    from importlib import import_module

    if name == "errors":
        return import_module("streamgd.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'streamgd' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__name__", "__path__"]
