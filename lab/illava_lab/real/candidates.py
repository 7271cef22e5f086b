"""Candidates for the preset, at zoo/R's depths.

What differs is what docs/pretrained.md found to matter in a pretrained encoder, of which zoo/R's is the
first nine blocks: how many steps, and where; what chooses beside distance; whether later attention knows how
many patches a token stands for; and how much is left to the LLM. At 448 pixels ToMe, which merges a little
at every block, keeps most in that encoder; so some candidates have a step at every block from 2 or 4 on. The
encoder takes about 15 % of zoo/R's time to the first token, so that late steps cost little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from illava import Illava

EVEN, LATE, EACH, LATE_EACH = (2, 4, 6), (4, 6, 8), (2, 3, 4, 5, 6, 7, 8), (4, 5, 6, 7, 8)
"""The encoder blocks (0-based) of the steps, of zoo/R's nine blocks."""
LLM_THIRD = (10,)
"""The layer at a third of the LLM's 30."""
BY_DISTANCE: Mapping[str, Any] = {"encoder_score": "none"}
"""Distance alone decides, without attention."""


def candidates(keep: float = 1 / 9) -> dict[str, Illava]:
    """Methods by name, at the budget ``keep``. A number such as 468 lists the encoder blocks of the steps.

    candidate-log has one step in the middle of the encoder and one in the middle of the LLM, and
    candidate-former is the same whose attention does not know how many patches a token stands for: the preset
    of 0.1. The others merge at other blocks of the encoder and not in the LLM, so that the whole LLM has few
    tokens, unless they end in -llm: those also have a mild step at a third of the LLM. In the encoder, they
    select by

    - size times distance: candidate-encoder, at blocks 2, 4 and 6, and candidate-size-...;
    - distance alone, coverage alone, or attention times distance: as they are called.
    """
    best = replace(Illava.best(keep), where="middle", encoder_share=0.5)

    def alone(blocks: tuple[int, ...], **changes: Any) -> Illava:
        given = {"encoder_share": 1.0, "llm_layers": (), "experimental": BY_DISTANCE, **changes}
        return replace(best, encoder_layers=blocks, **given)

    mild: dict[str, Any] = {"encoder_share": 0.75, "llm_layers": LLM_THIRD}
    by_size: dict[str, Any] = {"experimental": {"encoder_score": "size"}}
    return {
        "candidate-former": replace(best, proportional=None),
        "candidate-log": best,
        # "exact" as in docs/zoo-r.md, whose runs thus go on; no attention is observed.
        "candidate-encoder": alone(EVEN, score="exact", **by_size),
        "candidate-size-468": alone(LATE, **by_size),
        "candidate-size-45678": alone(LATE_EACH, **by_size),
        "candidate-size-2345678": alone(EACH, **by_size),
        "candidate-size-2345678-llm": alone(EACH, **by_size, **mild),
        "candidate-distance-468": alone(LATE),
        "candidate-coverage-468": alone(LATE, select="coverage"),
        "candidate-attention-468": alone(LATE, experimental={}),
    }
