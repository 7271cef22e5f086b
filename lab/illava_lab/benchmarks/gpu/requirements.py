"""The packages that some parts need beside those that importing illava needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

NEEDED = {
    # transformers imports it with InternVL's image processor, which has the arrangement of tiles.
    "torchvision": ("suite", "times"),
    "pytest": ("suite",),
}
"""Package -> the parts that need it."""


def missing(parts: Sequence[str]) -> str | None:
    """One line that names the packages that the given parts lack; None if there are all."""
    lacking = {
        package: of
        for package, users in NEEDED.items()
        if (of := [part for part in parts if part in users]) and importlib.util.find_spec(package) is None
    }
    found = [f"{package} is not installed (needed by {', '.join(of)})" for package, of in lacking.items()]
    if not found:
        return None
    others = [part for part in parts if not any(part in of for of in lacking.values())]
    instead = f"; without: --parts {' '.join(others)}" if others else ""
    return "; ".join(found) + instead
