"""The method's arithmetic on tensors: scoring, merging, masks. Knows neither models nor transformers."""
