"""The models of the laboratory by name, readable by transformers' Auto classes.

``zoo/S`` and ``zoo/L`` ship with it: tiny, trained from scratch. ``zoo/R`` is made on request, by
:mod:`illava_lab.real`.
"""

from collections.abc import Sequence
from pathlib import Path

from .. import demo, real

_MODELS = Path(__file__).parent / "models"


def names() -> list[str]:
    """Return the names that :func:`path` accepts, the best first, for example ``["zoo/L", "zoo/S"]``."""
    return [*real.names(), *_shipped()]


def path(name: str) -> Path:
    """Return the folder of the model ``name``, ready for ``from_pretrained``.

    Raises ValueError for a name that is unknown, listing those that are known, and for a model that has to be
    made first, saying how.
    """
    if name in real.NAMES:
        return real.path(name)
    if name not in _shipped():
        raise ValueError(
            f"no model named {name!r} in the zoo; it holds {', '.join([*_shipped(), *real.NAMES])}"
        )
    return _MODELS / name.removeprefix("zoo/")


def default_for(images: Sequence[str]) -> str | None:
    """``zoo/R``, made or not; None for the drawn demo images, which the other models know better."""
    return None if set(images) <= set(demo.DRAWN) else real.NAMES[0]


def example(name: str) -> tuple[str, str] | None:
    """A photograph and a question for ``zoo/R``, None for the models of drawings."""
    return real.EXAMPLE if name in real.NAMES else None


def _shipped() -> list[str]:
    return sorted(f"zoo/{config.parent.name}" for config in _MODELS.glob("*/config.json"))
