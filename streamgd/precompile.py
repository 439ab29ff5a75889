"""Compile every loop, for machines and images whose runs shall find them ready: ``python -m streamgd.precompile``.

A run compiles what it calls and finds it in numba's cache the next time. This fills the cache with all there is.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from streamgd import kernels
from streamgd.kernels.compile import compile_all
from streamgd.plain import count_noun


def precompile() -> int:
    """Compile all loops, losses and update rules that are not in the cache; returns how many there are."""
    for module in pkgutil.iter_modules(kernels.__path__):
        import_module(f"{kernels.__name__}.{module.name}")
    for name in ("streamgd.objective.losses", "streamgd.optim.stochastic"):
        import_module(name)
    return compile_all()


if __name__ == "__main__":
    print(f"{count_noun(precompile(), 'loop')} compiled")
