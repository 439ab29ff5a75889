"""The report of a run: one HTML page that needs no network, and the same figures in matplotlib.

run directory ── facts ─┬─ figures ── charts ─┬─ svg ── page (jinja2) ── RUN/report.html
data (one pass) ─ diagnosis                   └─ plots ── matplotlib

A chart says what is drawn, in numbers and words; ``svg`` and ``plots`` draw it. Nothing here imports jinja2 or
matplotlib before they are needed.
"""
