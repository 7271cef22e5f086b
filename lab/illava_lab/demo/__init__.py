"""Two images of the test split, which no model of the zoo has seen, and a photograph.

``illava ask demo/word.png``, ``illava ask demo/hopper.jpg``. README.md has sources and licences.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent
DRAWN = ("demo/number.png", "demo/word.png")
"""The images of the drawn tasks."""


def names() -> list[str]:
    """Return the names that :func:`path` accepts, sorted, for example ``["demo/number.png"]``."""
    return sorted(f"demo/{file.name}" for kind in ("png", "jpg") for file in _FOLDER.glob(f"*.{kind}"))


def path(name: str) -> Path:
    """Return the file of the image ``name``. Raises ValueError for an unknown name."""
    if name not in names():
        raise ValueError(f"no demo image named {name!r}; there are {', '.join(names())}")
    return _FOLDER / name.removeprefix("demo/")
