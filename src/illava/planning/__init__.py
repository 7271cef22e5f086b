"""Predicts the cost of a schedule and chooses one, given the config of a model."""
