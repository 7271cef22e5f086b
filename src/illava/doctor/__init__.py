"""Checks of illava against the installed transformers: on tiny random models, and on a loaded model."""
