"""Shares of visual tokens, as users write them."""

from __future__ import annotations

from fractions import Fraction

LONGEST = 100
"""Characters. Longer numbers are no shares that anyone means, and exact fractions of them take long."""


def parse_share(value: float | str) -> float | None:
    """A share in (0, 1] from a number or a text such as "0.33" or "1/9"; None for anything else."""
    try:
        if isinstance(value, str):
            if len(value) > LONGEST:
                return None
            # Fraction("1e-99999999") would compute all its digits.
            value = float(value) if "e" in value.lower() else float(Fraction(value))
        return float(value) if 0 < value <= 1 else None
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
