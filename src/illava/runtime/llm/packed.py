"""Rows that hold several prompts, which merged prompts do not support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import UnsupportedError

BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx")
"""Arguments with the boundaries of packed prompts."""


def check_packed(given: Mapping[str, Any]) -> None:
    """Raise UnsupportedError if rows hold several prompts, by position ids that start again or by boundaries.

    Without an attention mask and a cache, transformers reads position ids that start again as several prompts
    which must not attend to each other. The positions of tokens that are left have gaps, so that an explicit
    mask is needed, and the prompts would become one.
    """
    if any(given.get(name) is not None for name in BOUNDARIES) or _starts_again(given):
        raise UnsupportedError(
            "packed rows (position_ids that start again, or cu_seq_lens) are not supported with pictures on "
            "an accelerated model: give one prompt in each row, padded, with its attention_mask"
        )


def _starts_again(given: Mapping[str, Any]) -> bool:
    positions = given.get("position_ids")
    if given.get("attention_mask") is not None or not isinstance(positions, Tensor):
        return False
    # Of M-RoPE the first row is that of text, or of time: neither falls within a prompt.
    row = positions[0] if positions.dim() == 3 else positions
    return bool((row.diff(dim=-1) < 0).any())
