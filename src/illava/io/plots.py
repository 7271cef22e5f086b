"""Colours, markers and messages that all plots share."""

from __future__ import annotations

HINT = "no plot: matplotlib is not installed; pip install 'illava[eval]'"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The colours of Okabe and Ito, which suit colour blindness, without yellow, which is pale on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""Their number and that of the colours are coprime, so that 66 methods look different."""
