"""Separate random streams for training, validation and test."""

import numpy as np

SPLITS = ("train", "val", "test")


def scene_rng(seed: int, split: str, *place: int) -> np.random.Generator:
    """Return the generator of one scene: a pure function of seed, split and place (for example stage, step).

    Splits have separate streams. Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    return np.random.default_rng([seed, SPLITS.index(split), *place])
