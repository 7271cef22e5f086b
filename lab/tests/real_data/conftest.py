"""The folder of picture sets, which other machines do not have, made up once for all tests."""

import numpy as np
import pytest
from illava_lab.real.data import photographs

from . import made_up


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sets")
    made_up.photo_sets(place)
    made_up.card_set(place, np.random.default_rng(1))
    made_up.nlvr_set(place, np.random.default_rng(2))
    made_up.local_sets(place)
    return place


@pytest.fixture
def seen(monkeypatch):
    """The files of all pictures that were loaded."""
    paths, load = set(), photographs.load
    monkeypatch.setattr(photographs, "load", lambda path, side=None: (paths.add(path), load(path, side))[1])
    return paths
