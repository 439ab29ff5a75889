"""What holds of labels in every format that has numbers as doubles."""

from __future__ import annotations

from streamgd.data.kinds import python_values
from streamgd.data.vocabulary import CategoricalEncoding
from streamgd.errors import ConfigError


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
