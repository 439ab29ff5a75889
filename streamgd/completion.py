"""What the shell offers at the place of an argument or of an option's value; click asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def paths(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and folders, found by the shell itself."""
    return [CompletionItem(incomplete, type="file")]


def one_of(choices: Sequence[str]) -> Completion:
    """Those of the choices that begin with what is typed already."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]

    return complete
