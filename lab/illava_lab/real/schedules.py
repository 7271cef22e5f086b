"""The published schedule at zoo/R's depths.

The schedule published for Qwen3-VL stands at the printed layers, and at layers in proportion. The authors'
script merges in blocks 5 to 8 of the encoder's 27 and before layers 15, 17, 19 and 21 of the
LLM's 36. zoo/R has 9 blocks and 30 layers, so the same numbers are its encoder's last blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from illava import Illava

from . import BLOCKS as BLOCKS_OF_R
from .candidates import candidates

BLOCKS, DEPTH = (5, 6, 7, 8), 27
LAYERS, LLM_DEPTH = (15, 17, 19, 21), 36
KEEP, LLM_KEEP = 0.9, 0.85
"""What one step keeps, of the encoder's and of the LLM's."""
OWN = (BLOCKS_OF_R, 30)
"""Blocks and layers of zoo/R."""
REPORTED = ("candidate-encoder",)
"""Candidates that the tables on test questions include."""


def in_proportion(layers: Sequence[int], depth: int, to_depth: int) -> tuple[int, ...]:
    """Layer l becomes floor(l * to_depth / depth); one that is taken becomes the next free one."""
    found: list[int] = []
    for layer in layers:
        found.append(max(layer * to_depth // depth, found[-1] + 1 if found else 0))
    return tuple(found)


def schedules(keep: float = 1 / 9) -> dict[str, Illava]:
    """Methods by name: to the budget ``keep``, and with the published shares (about a third is left)."""
    places = {
        "literal": (BLOCKS, LAYERS),
        "in-proportion": (in_proportion(BLOCKS, DEPTH, OWN[0]), in_proportion(LAYERS, LLM_DEPTH, OWN[1])),
    }
    # As the published shares divide the reduction, on a logarithmic scale.
    encoder = len(BLOCKS) * math.log(KEEP)
    share = encoder / (encoder + len(LAYERS) * math.log(LLM_KEEP))
    found = {}
    for name, (blocks, layers) in places.items():
        where = {"encoder_layers": blocks, "llm_layers": layers}
        found[f"published-{name}"] = Illava(keep, encoder_share=share, **where)
        found[f"published-{name}-shares"] = Illava(encoder_keep=KEEP, llm_keep=LLM_KEEP, **where)
    return found


def write(folder: Path, methods: Mapping[str, Illava] | None = None) -> list[Path]:
    """Write them for ``illava compare --method``, each into a folder of its name; returns those.

    Args:
        methods: by name; None: the published schedules and the candidates of docs/zoo-r.md.
    """
    few = {name: method for name, method in candidates().items() if name in REPORTED}
    paths = []
    for name, method in ({**schedules(), **few} if methods is None else methods).items():
        method.save_pretrained(folder / name)
        paths.append(folder / name)
    return paths
