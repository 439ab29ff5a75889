"""Transforms of columns that are part of the model: what is learned from, and predicted from, is made of the data here.

    column ── clip ── log ──┬── number
                            ├── spline ── several numbers
                            └── bins ── levels ──┐
    part of a date ── cycle ── number
    column of labels ────────────────────────────┴── cross ── levels

One class in one file each: a number becomes a number by a ``NumberTransform`` (registered in ``numbers``), columns
become levels by a ``Labels`` (registered in ``labels``). They are frozen, decided once by ``data.resolve``, and stored
with the columns of a model.
"""
