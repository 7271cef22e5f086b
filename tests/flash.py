"""A stand-in for flash attention's kernels, so that transformers' code around them runs on a CPU.

The kernels proper compute softmax(QK^T)V with the causal part aligned at the lower right; that is written out
here, in full precision. What is tested with it is everything else: which masks and sequence boundaries reach
the kernels, and that scores are read beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers.modeling_flash_attention_utils as utils
from torch import Tensor, nn
from transformers import PreTrainedModel


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    """(L, H, h) queries on (K, H_kv, h) keys."""
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q, k) * scale
    if causal:
        rows, columns = logits.shape[1:]
        seen = torch.ones(rows, columns, dtype=torch.bool, device=logits.device).tril(columns - rows)
        logits = logits.masked_fill(~seen, float("-inf"))
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), v)


@dataclass
class Kernels:
    """What the stand-ins were called with."""

    names: list[str] = field(default_factory=list)
    packed: list[list[int]] = field(default_factory=list)
    """Query boundaries of each call on packed sequences."""
    dense: int = 0

    def flash(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        self.dense += 1
        self._check(options)
        scale, causal = options["softmax_scale"], options["causal"]
        return torch.stack([_attend(*row, causal, scale) for row in zip(q, k, v, strict=True)])

    def flash_varlen(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **options: Any
    ) -> Tensor:
        self._check(options)
        # An upper bound is enough, but the host has to know it.
        assert type(options["max_seqlen_q"]) is int
        assert options["max_seqlen_q"] >= int(cu_seqlens_q.diff().max())
        assert int(cu_seqlens_q[-1]) == len(q)
        assert int(cu_seqlens_k[-1]) == len(k)
        self.packed.append(cu_seqlens_q.tolist())
        lengths = (cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist(), cu_seqlens_k.diff().tolist())
        rows = zip(*(t.split(n) for t, n in zip((q, k, v), lengths, strict=True)), strict=True)
        return torch.cat([_attend(*row, options["causal"], options["softmax_scale"]) for row in rows])

    @staticmethod
    def _check(options: dict[str, Any]) -> None:
        assert options.get("window_size", (-1, -1)) == (-1, -1)
        assert not options.get("softcap")

    def lazy_import(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.names.append(name)
        functions = (self.flash, self.flash_varlen, None, utils._pad_input, utils._unpad_input)
        return functions, (_options, dict)


def _options(**options: Any) -> dict[str, Any]:
    causal = options["is_causal"] and options["query_length"] > 1
    return {
        "causal": causal,
        "softmax_scale": options["softmax_scale"],
        **{name: options[name] for name in ("max_seqlen_q", "max_seqlen_k") if name in options},
        "window_size": (-1, -1)
        if options.get("sliding_window") is None
        else (options["sliding_window"],) * 2,
        "softcap": options.get("softcap"),
    }


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    made = Kernels()
    monkeypatch.setattr(utils, "lazy_import_flash_attention", made.lazy_import)
    return made


def use(model: nn.Module, backend: str) -> nn.Module:
    """Choose an attention backend without the check that its package is installed."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            parts = [module.config]
            parts += [getattr(module.config, part, None) for part in ("text_config", "vision_config")]
            for config in parts:
                if config is not None:
                    config._attn_implementation_internal = backend
    return model
