"""Training of the projector and the adapters of ``zoo/R``: ``python -m illava_lab.real train``."""
