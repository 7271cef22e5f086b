"""Kernels run on the graphics card where there is one, and in Triton's interpreter elsewhere."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Read when Triton is imported, which PyTorch may do at any time.
    os.environ.setdefault("TRITON_INTERPRET", "1")
