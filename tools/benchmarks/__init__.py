"""Parts of ``tools/benchmark.py``: ratios to raw physics, the sweep over worlds, comparisons, plots, memory."""
