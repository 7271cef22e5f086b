"""The models of the laboratory by name, readable by transformers' Auto classes.

``zoo/S`` and ``zoo/L`` ship with it: tiny, trained from scratch. ``zoo/R`` is made on request, by
:mod:`illava_lab.real`.
"""

from pathlib import Path

from .. import real

_MODELS = Path(__file__).parent / "models"


def names() -> list[str]:
    """Return the names that :func:`path` accepts, sorted, for example ``["zoo/L", "zoo/S"]``."""
    return sorted([*_shipped(), *real.names()])


def path(name: str) -> Path:
    """Return the folder of the model ``name``, ready for ``from_pretrained``.

    Raises ValueError for a name that is unknown, listing those that are known, and for a model that has to be
    made first, saying how.
    """
    if name in real.NAMES:
        return real.path(name)
    if name not in _shipped():
        raise ValueError(f"no model named {name!r} in the zoo; it holds {', '.join([*_shipped(), *real.NAMES])}")
    return _MODELS / name.removeprefix("zoo/")


def _shipped() -> list[str]:
    return sorted(f"zoo/{config.parent.name}" for config in _MODELS.glob("*/config.json"))
