"""What is measured: pictures, numbers of them, budgets and blocks. Fixed before the first measurement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KEEPS = {"1/2": 1 / 2, "1/3": 1 / 3, "1/6": 1 / 6, "1/9": 1 / 9}
DEEP_KEEPS = ("1/3", "1/9")
"""Budgets of the single steps at each depth."""
ALIKE_KEEP = "1/9"
"""Budget at which reference photographs are merged, too."""
SEED = 0
CELLS = 6
"""Photographs a side of a board: each is 1/36 of the picture, 2.8 %."""
KINDS = {"clothing": "class", "grocery": "class_coarse", "digits_sign": "digit"}
"""The data sets, and the kind of question whose answer is the class of a photograph."""


@dataclass(frozen=True)
class Amounts:
    """Numbers of pictures, boards and rounds at one size of pictures."""

    sets: tuple[str, ...]
    """Data sets of which single photographs are measured."""
    keeps: tuple[str, ...]
    """Budgets at which they are."""
    references: int
    """Photographs of each set's train part with plain features."""
    photographs: int
    """Photographs of each set's val part."""
    alike_sets: tuple[str, ...]
    """Data sets of which reference photographs are merged, too."""
    alike: int
    """How many of each."""
    teaching_boards: int
    """Boards of train photographs, plain, for the linear probe."""
    boards: int
    """Boards of val photographs."""
    blocks: tuple[int, ...]
    """Blocks (0-based) at which single steps are measured, on boards."""
    rounds: int
    """Timed rounds of all rows."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


LAYERS = {"train": 120, "val": 80}
"""Clothing photographs whose features after every block are read, at the smallest size."""

AMOUNTS = {
    224: Amounts(
        sets=tuple(KINDS),
        keeps=tuple(KEEPS),
        references=160,
        photographs=16,
        alike_sets=("clothing",),
        alike=40,
        teaching_boards=80,
        boards=12,
        blocks=tuple(range(1, 12)),
        rounds=3,
    ),
    448: Amounts(
        sets=tuple(KINDS),
        keeps=("1/9",),
        references=160,
        photographs=16,
        alike_sets=(),
        alike=0,
        teaching_boards=80,
        boards=12,
        blocks=tuple(range(1, 12)),
        rounds=3,
    ),
}
"""By pixels a side: 256 and 1024 patches."""
