"""The models that ship with illava: tiny, trained from scratch, readable by transformers' Auto classes."""

from pathlib import Path

_MODELS = Path(__file__).parent / "models"


def names() -> list[str]:
    """Return the names that :func:`path` accepts, sorted, for example ``["zoo/L", "zoo/S"]``."""
    return sorted(f"zoo/{config.parent.name}" for config in _MODELS.glob("*/config.json"))


def path(name: str) -> Path:
    """Return the folder of the shipped model ``name``, ready for ``from_pretrained``.

    Raises ValueError when no model of that name ships, naming those that do.
    """
    if name not in names():
        held = ", ".join(names()) or "nothing yet"
        raise ValueError(f"no model named {name!r} in the zoo; it holds {held}")
    return _MODELS / name.removeprefix("zoo/")
