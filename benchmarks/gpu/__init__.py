"""Proof and measurement on a GPU, in minutes: `python -m benchmarks.gpu`; see `__main__.py`."""
