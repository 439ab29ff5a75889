"""Compile every loop, for machines and images whose runs shall find them ready: ``python -m streamgd.precompile``.

A run compiles what it calls and finds it in numba's cache the next time. This fills the cache with all there is.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

import click

from streamgd import kernels
from streamgd.kernels.compile import compile_all
from streamgd.kernels.row_by_row import rows_loop
from streamgd.objective.losses import LOSSES
from streamgd.plain import count_noun


def precompile(share: int = 0, n_shares: int = 1) -> str:
    """Compile all loops, losses and update rules that are not in the cache; returns a line that says what was done.

    Of several processes, each may do one share of ``n_shares``.
    """
    for module in pkgutil.iter_modules(kernels.__path__):
        import_module(f"{kernels.__name__}.{module.name}")
    import_module("streamgd.optim.stochastic")
    for loss in LOSSES.values():
        if not loss.has_many_outputs:
            for only_numbers in (False, True):
                rows_loop(loss.pointwise_gradient, only_numbers)
    n_loops, n_compiled, folders = compile_all(share, n_shares)
    if None in folders:
        where = "not kept, as no folder for them can be written: set NUMBA_CACHE_DIR to one"
    else:
        where = f"kept in {', '.join(sorted(map(str, folders)))}"
    return f"{count_noun(n_loops, 'loop')}, {n_compiled} of them compiled now, {where}"


@click.command()
def main() -> None:
    """Compile all loops that are not in numba's cache (NUMBA_CACHE_DIR), which takes a minute or two."""
    click.echo("compiling all loops, for a minute or two …", err=True)
    click.echo(precompile())


if __name__ == "__main__":
    main()
