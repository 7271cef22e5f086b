"""Measurements behind the documentation, each a command: ``python -m illava_lab.benchmarks.NAME``."""
