"""TRL's trainers. These tests need the environment of ``make test-training``; in others they are skipped."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Read when the libraries are imported: nothing is fetched.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

if not all(map(find_spec, ("trl", "datasets"))):
    collect_ignore_glob = ["test_*.py"]
