"""Candidates for the preset, each ``Illava.best`` with parts replaced, at zoo/R's depths.

What differs is what docs/pretrained.md found to matter in a pretrained encoder: how many steps, and where;
whether attention chooses; whether later attention knows how many patches a token stands for; and how much is
left to the LLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from illava import Illava

ONE, TWO, GENTLE, EARLY, EVERY = (4,), (3, 6), (2, 4, 6), (1, 3, 5), (1, 2, 3, 4, 5, 6, 7)
"""The encoder blocks of one to seven steps, of zoo/R's nine blocks."""
LLM_THIRD = (10,)
"""The layer at a third of the LLM's 30."""
BY_SIZE: Mapping[str, Any] = {"proportional": "both", "encoder_score": "size"}
"""Merge what costs least by distance and size, without attention; attention knows the sizes."""


def candidates(keep: float = 1 / 9) -> dict[str, Illava]:
    """Methods by name, at the budget ``keep``.

    candidate-log is ``Illava.best`` whose attention knows how many patches a token stands for;
    candidate-gentle also takes three steps in the encoder, which select by distance and size. The others are
    this without the LLM's step, so that the whole LLM has few tokens, with other blocks
    (candidate-one, -two, -encoder, -early, -every), another choice (-coverage, -coverage-attention,
    -attention, -pixels), without sizes in attention (-no-log), or with a mild step at a third of the LLM
    (-third).
    """
    best = Illava.best(keep)

    def alone(blocks: tuple[int, ...] = GENTLE, **changes: Any) -> Illava:
        experimental = {**BY_SIZE, **changes.pop("experimental", {})}
        given = {"encoder_share": 1.0, "llm_layers": (), "score": "exact", **changes}
        return replace(best, encoder_layers=blocks, experimental=experimental, **given)

    return {
        "candidate-log": replace(best, experimental={"proportional": "both"}),
        "candidate-gentle": replace(best, encoder_layers=GENTLE, score="exact", experimental=BY_SIZE),
        "candidate-one": alone(ONE),
        "candidate-two": alone(TWO),
        "candidate-encoder": alone(),
        "candidate-early": alone(EARLY),
        "candidate-every": alone(EVERY),
        "candidate-coverage": alone(select="coverage", experimental={"encoder_score": "none"}),
        "candidate-coverage-attention": alone(select="coverage", experimental={"encoder_score": "attention"}),
        "candidate-attention": alone(experimental={"encoder_score": "attention"}),
        "candidate-pixels": alone(experimental={"encoder_score": "pixels"}),
        "candidate-no-log": alone(experimental={"proportional": False}),
        "candidate-third": alone(encoder_share=0.75, llm_layers=LLM_THIRD),
    }
