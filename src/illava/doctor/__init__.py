"""Checks of illava with the installed transformers: on tiny random models, and on a loaded model."""
