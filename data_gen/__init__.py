"""Data sets with known truth, streamed to Parquet: `python -m data_gen --out DIR --rows N --features D`.

sparse      a list column of indices of very many columns
generator   what the rows are: the population, its true coefficients, and chunks of rows drawn from it
ordering    in which order they come: as drawn, or sorted by the target, in constant memory
writer      where they go: Parquet files, and `truth.json` beside them
"""

from data_gen.writer import generate

__all__ = ["generate"]
