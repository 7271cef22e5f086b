"""Tensor operations: scoring, merging and masks. They depend on neither models nor transformers."""
