"""Faults made on purpose, and the tools that make them and that tell the truth about what a range holds."""
