"""Kernels run on the graphics card where there is one, and in Triton's interpreter elsewhere."""

from __future__ import annotations

import os

import torch

# No zoo/R that the user has made: it would change what there is by name.
os.environ["ILLAVA_CACHE"] = os.path.join(os.path.dirname(__file__), "no-such-cache")

if not torch.cuda.is_available():
    # Read when Triton is imported, which PyTorch may do at any time.
    os.environ.setdefault("TRITON_INTERPRET", "1")
