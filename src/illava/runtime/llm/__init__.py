"""Merging inside the LLM, during prefill."""
