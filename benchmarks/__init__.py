"""The experiments, as scripts: run them from the repository, e.g. ``benchmarks/compare.py``."""
