"""Evaluation: tasks, resumable runs, metrics and comparisons of methods."""
