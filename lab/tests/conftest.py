"""What all tests of the laboratory share."""

import os

import pytest
import torch

# No zoo/R that the user has made: it would change what there is by name.
os.environ["ILLAVA_CACHE"] = os.path.join(os.path.dirname(__file__), "no-such-cache")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
