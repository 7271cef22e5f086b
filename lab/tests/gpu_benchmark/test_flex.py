"""The models of tests/gpu that flex attention runs on a card: their heads are wide enough, and they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers.integrations.flex_attention as flex
import transformers.masking_utils as masking
from torch.nn.attention.flex_attention import flex_attention

from tests.battery.test_battery import inputs_of
from tests.flash import use
from tests.gpu.test_gpu import FLEX, merged, wide_heads

LEAST = 16
"""The least width of a head that torch's flex attention takes on a card."""


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", FLEX)
def test_wide_heads_run_with_flex_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, widths = masking.create_block_mask, []

    def attend(query: Any, *args: Any, training: bool, **kwargs: Any) -> Any:
        widths.append(query.shape[-1])
        return flex_attention(query, *args, **kwargs)

    # Uncompiled.
    monkeypatch.setattr(masking, "create_block_mask", lambda **kwargs: made(**{**kwargs, "_compile": False}))
    monkeypatch.setattr(flex, "compile_friendly_flex_attention", attend)
    model = wide_heads(name, monkeypatch)
    inputs = inputs_of(model, "one", "batch")
    expected, count = merged(model, name, inputs)
    assert not widths
    found, same = merged(use(model, "flex_attention"), name, inputs)
    assert same == count
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # Encoder and LLM.
    assert len(widths) >= 10
    assert min(widths) >= LEAST
