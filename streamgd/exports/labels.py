"""What holds of labels in every format that has numbers as doubles."""

from __future__ import annotations

import re

from streamgd.data.kinds import python_values
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError
from streamgd.model import Model

#: How Arrow writes dates, times and decimals as texts.
_NOT_TEXTS = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?|\d\d:\d\d(:\d\d(\.\d+)?)?|-?\d+\.\d+")


def check_told_apart(to: str, column: CategoricalEncoding) -> None:
    """Refuse labels that are integers which a double does not hold.

    Raises
    ------
    ConfigError
    """
    if column.column.values != "int":
        return
    beyond = [level for level in python_values(column.levels.drop_null()) if abs(level) > 2**53]
    if beyond:
        raise ConfigError(
            f"--to {to}: column '{column.column.name}' has the level {beyond[0]}, and labels beyond 2**53 are no longer"
            f" told apart as doubles. Make them text in the data, or choose --to json."
        )


def remarks_on_labels(model: Model, to: str) -> list[str]:
    """A line for each column of texts that may be something else in the data, which a model does not know."""
    told = []
    for column in model.encoding.categorical:
        levels = python_values(column.levels.drop_null()) if column.column.values == "string" else []
        if levels and all(_NOT_TEXTS.fullmatch(level) for level in levels):
            told.append(
                f"--to {to}: column '{column.column.name}' has the labels {levels[0]!r} and the like, and takes them as"
                f" text. Where they are dates, times or decimals in the data, make them text as Arrow does"
                f" (column.cast(pyarrow.string())): others count as labels that are not listed."
            )
    return told
