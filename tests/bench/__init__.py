"""Measurements; pytest does not collect them. `python -m tests.bench.read` prints a table."""
