"""The time of one step on many ranks, on paper: docs/scaling.md.

    python -m benchmarks.scaling             prints every table of the page (no GPU, seconds)
    python -m benchmarks.scaling.calibrate   measures what the model needs of this machine

model.py      formulas alone: frames that travel, step time, efficiency, the fit of a link
published.py  figures of others, each with its source
subjects.py   models by size: what they exchange and compute, traced by shape
here.py       this machine: predicted cost of each part beside the measured one
paper.py      the paper's own scheme and its table
tables.py     the page's tables
"""
