"""The attention sequences and rotary tables of an encoder whose units become fewer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Sequences:
    """What the blocks get beside hidden states, for the tokens that are left."""

    def __init__(self, visual: Any, metadata: dict[str, Any], group: int) -> None:
        """``metadata``: of the encoder for all tokens."""
        self.group = group
        self.rotary = (metadata["rotary_pos_emb_cos"], metadata["rotary_pos_emb_sin"])
        self.ends = {"full": metadata["cu_seqlens"]}
        """Boundaries of the sequences among all tokens: of frames, and of windows."""
        if "cu_window_seqlens" in metadata:
            self.ends["window"] = metadata["cu_window_seqlens"]
        self.full_blocks = getattr(visual, "fullatt_block_indexes", None)
        # Blocks of Qwen2-VL do not take them. No backend that is supported reads them.
        self.more = (
            {} if not any("sequence_lengths" in name for name in metadata) else {"sequence_lengths": None}
        )
        self._left: dict[str, Any] = {}
        self.keep(None)

    def keep(self, kept: Tensor | None) -> None:
        """Only the units ``kept``, (P,) int64, are left; None: all are."""
        rotary, ends = self.rotary, self.ends
        if kept is not None:
            tokens = (kept[:, None] * self.group + torch.arange(self.group, device=kept.device)).flatten()
            rotary = (rotary[0][tokens], rotary[1][tokens])
            alive = torch.zeros(len(self.rotary[0]) + 1, dtype=torch.int64, device=tokens.device)
            alive[tokens + 1] = 1
            alive = alive.cumsum(0)
            # A window that lost all of its tokens is no sequence.
            ends = {kind: alive[at.long()].unique_consecutive().to(at.dtype) for kind, at in ends.items()}
        shared = {"rotary_pos_emb_cos": rotary[0], "rotary_pos_emb_sin": rotary[1], **self.more}
        self._left = {
            kind: {**shared, "cu_seqlens": at, "max_seqlen": at.diff().max().to("cpu", torch.int32)}
            for kind, at in ends.items()
        }

    def arguments(self, block: int) -> dict[str, Any]:
        """The keyword arguments of a block (0-based)."""
        windowed = self.full_blocks is not None and block not in self.full_blocks
        return self._left["window" if windowed else "full"]
