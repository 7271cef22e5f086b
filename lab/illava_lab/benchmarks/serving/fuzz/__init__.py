"""Requests that a client should not send, and whether the server stands them.

    python -m illava_lab.benchmarks.serving.fuzz --requests 10000 --seed 0

Request NUMBER of a seed is always the same; ``--only NUMBER`` sends it alone and shows it.
"""
