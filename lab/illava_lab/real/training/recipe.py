"""What is trained on, in which order, for how many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..data import MIXTURE

RANK, ALPHA = 16, 32.0
"""Of the adapters at every linear layer of the LLM: 4.9 million weights, 10 MB in bfloat16."""


@dataclass(frozen=True)
class Stage:
    """One leg of the training."""

    name: str
    sizes: tuple[int, ...]
    """Pixels of the square that pictures are stretched to. A step has one of them; a stream's rows are
    divided evenly among those that :data:`LEAST` allows it."""
    tokens: int
    """About how many tokens a step has: the larger the pictures, the fewer rows."""
    steps: int
    mixture: Mapping[str, float]
    """The share of rows from each stream of :data:`illava_lab.real.data.STREAMS`."""
    rate: float = 1e-3
    """AdamW's learning rate for the adapters."""
    turns: int = 6
    """The most questions about one picture."""

    @property
    def text(self) -> bool:
        """Whether it shows text, so that the encoder must have learnt to read."""
        return not TEXT.isdisjoint(self.mixture)

    def rows(self, size: int) -> int:
        """The pictures of a step at ``size`` pixels."""
        return max(1, self.tokens // ((size // PATCH) ** 2 + TEXT_TOKENS))

    def streams(self, size: int) -> dict[str, float]:
        """The share of all rows that each stream has at ``size`` pixels; without streams that have none."""
        found = {}
        for name, share in self.mixture.items():
            allowed = [other for other in self.sizes if LEAST.get(name, 0) <= other]
            if size in allowed:
                found[name] = share / sum(self.mixture.values()) / len(allowed)
        return found

    def chances(self) -> dict[int, float]:
        """The probability of each size. Steps of large pictures have few rows, so there are more of them."""
        wanted = {size: sum(self.streams(size).values()) / self.rows(size) for size in self.sizes}
        return {size: share / sum(wanted.values()) for size, share in wanted.items()}


PATCH = 14
TEXT_TOKENS = 80
"""About what the questions about a picture take."""
LEAST = {
    "photo": 112,
    "four": 112,
    "big": 112,
    "cards": 224,
    "collage": 224,
    "nlvr": 224,
    "words": 224,
    "board": 336,
    "signs": 336,
    "receipts": 448,
    "forms": 448,
}
"""The smallest picture size, in pixels, at which a stream's questions can be answered: smaller ones teach to
guess. Then the smallest photograph of a collage, and each of four, has 4 x 4 patches."""
TEXT = {"big", "words", "receipts", "forms", "signs"}
"""The streams of printed text."""
PHOTOS = {"photo": 1.0}
PLACES = {"photo": 0.35, "four": 0.65}
SEVERAL = {"photo": 0.3, "four": 0.15, "collage": 0.3, "board": 0.13, "cards": 0.12}
READ = {"big": 0.5, "words": 0.1, "photo": 0.15, "four": 0.08, "collage": 0.12, "cards": 0.05}
LARGE = {
    **{"photo": 0.18, "four": 0.04, "collage": 0.16, "board": 0.12, "cards": 0.1},
    **{"big": 0.06, "words": 0.16, "signs": 0.1, "receipts": 0.05, "forms": 0.03},
}

RECIPES: dict[str, tuple[Stage, ...]] = {
    # Two cores for some hours, in several sittings. Names come first: they are learnt from small pictures as
    # well, and nothing else can be learnt without them. Places come next, from pictures that cost little, and
    # so does reading.
    "cpu": (
        Stage("photos", (112,), 1000, 400, PHOTOS),
        Stage("places", (112, 224), 1000, 700, PLACES, turns=12),
        Stage("several", (112, 224, 336), 1200, 900, SEVERAL, turns=12),
        Stage("read", (112, 224), 1600, 1000, READ, turns=12),
        Stage("large", (224, 336, 448), 2400, 1500, LARGE, rate=7e-4, turns=12),
        Stage("text", (224, 336, 448), 2400, 6000, MIXTURE, rate=5e-4, turns=12),
    ),
    # One card for eight minutes.
    "card": (
        Stage("photos", (112,), 6_000, 500, PHOTOS),
        Stage("places", (112, 224), 12_000, 400, PLACES, turns=12),
        Stage("several", (112, 224, 336), 12_000, 700, SEVERAL, turns=12),
        Stage("read", (112, 224), 12_000, 1000, READ, turns=12),
        Stage("large", (224, 336, 448), 20_000, 1000, LARGE, turns=12),
        Stage("text", (224, 336, 448), 20_000, 100_000, MIXTURE, rate=5e-4, turns=12),
    ),
}
"""By name. A run ends with its budget; what it has reached is kept, and the next run goes on there."""

NAMING_STEPS = 1600
"""Of the encoder's adapters, before all stages."""
READING_STEPS = 1600
"""Of the encoder's adapters on text, before the first stage that shows text."""
PROJECTOR_SHARE = 0.1
"""The projector's learning rate, as a share of the adapters'. At their own rate the closed form is lost
before the LLM has learnt to read it."""
WARMUP = 30
"""Steps over which the rate rises, at the start of a stage and after a restart, whose optimizer is new."""
AVERAGING = 0.995
"""Decay of the running average of the weights, which is what is shipped: it stands in for a falling rate."""


def text_begins(stages: tuple[Stage, ...]) -> int | None:
    """The first step of the first stage that shows text; None if none does."""
    first = 0
    for stage in stages:
        if stage.text:
            return first
        first += stage.steps
    return None


def place(stages: tuple[Stage, ...], step: int) -> tuple[Stage, int] | None:
    """The stage that ``step`` belongs to and the number of its first step; None after the last."""
    first = 0
    for stage in stages:
        if step < first + stage.steps:
            return stage, first
        first += stage.steps
    return None
