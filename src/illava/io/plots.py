"""What plots have in common."""

from __future__ import annotations

HINT = "no plot: matplotlib is missing; pip install 'illava[eval]'"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which people with any kind of colour vision tell apart; without yellow, pale on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""As their number and that of the colours have no common divisor, 66 methods look different."""
