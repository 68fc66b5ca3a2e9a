"""Measurements; pytest does not collect them. `python -m tests.bench` makes all and writes docs/performance.md."""
