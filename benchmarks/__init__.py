"""streamgd side by side with its peers: `python -m benchmarks [--rows N] [--only NAME ...]`.

cases      what is shown: which runs belong to a case, which ratios are taken, and what they should reach
datasets   the data, made once and kept between runs of the benchmark
reference  what a model is measured by: base loss, optimum, and the way that was closed between them
systems    one class a system: settings, prepare (not timed), run (timed)
child      the process that a system runs in: warm-up, work, quality
measure    the parent of that process: page cache, clock, memory of the whole tree
machine    what the numbers depend on: processor, memory, disk, versions, page checksums
report     Markdown and JSON
"""
