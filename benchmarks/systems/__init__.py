"""The systems by name. A class names the packages it needs; where one is missing, its runs are skipped with a reason.

To add a system, write one class in a file of its own and name it here; `benchmarks.cases` says where it takes part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.systems.bare import BareDecode, PlainSum
from benchmarks.systems.base import Participant
from benchmarks.systems.dask_ml_lbfgs import DaskMlLbfgs
from benchmarks.systems.scikit_learn import (
    ScikitLearnHashing,
    ScikitLearnInMemory,
    ScikitLearnLoop,
    ScikitLearnProcess,
)
from benchmarks.systems.streamgd_runs import Streamgd, StreamgdDemo, StreamgdProcess
from benchmarks.systems.torch_linear import TorchLinear
from benchmarks.systems.vowpal_wabbit import VowpalWabbitCache, VowpalWabbitText

SYSTEMS: dict[str, type[Participant]] = {
    system.__name__: system
    for system in (
        BareDecode, PlainSum,
        Streamgd, StreamgdProcess, StreamgdDemo,
        ScikitLearnLoop, ScikitLearnProcess, ScikitLearnHashing, ScikitLearnInMemory,
        VowpalWabbitText, VowpalWabbitCache, DaskMlLbfgs, TorchLinear,
    )
}  # fmt: skip


def make_system(name: str, scratch: Path, options: dict[str, Any]) -> Participant:
    """The system of that name, with its files below `scratch`."""
    return SYSTEMS[name](scratch, **options)
