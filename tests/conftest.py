"""What all tests share: where kernels run, which models there are, and which variants are tested seldom."""

from __future__ import annotations

import os

import pytest
import torch

# No zoo/R that the user has made: it would change what there is by name.
os.environ["ILLAVA_CACHE"] = os.path.join(os.path.dirname(__file__), "no-such-cache")

if not torch.cuda.is_available():
    # Read when Triton is imported, which PyTorch may do at any time.
    os.environ.setdefault("TRITON_INTERPRET", "1")

SLOW_VARIANTS = frozenset(
    {
        "llava-dinov2-full",
        "vipllava-dinov2-registers",
        "llava_next-dinov2",
        "llava_next_video-dinov2",
        "llava_onevision-dinov2",
    }
)
"""Tiny models that join an encoder and a family which other variants test apart: all their tests are slow."""

SLOW_FAMILIES = frozenset(
    {
        "aria",
        "aya_vision",
        "cohere2_vision",
        "cohere_compass",
        "cosmos3_edge",
        "cosmos3_omni",
        "deepseek_ocr2",
        "deepseek_vl",
        "deepseek_vl_hybrid",
        "exaone4_5",
        "fast_vlm",
        "glm_ocr",
        "got_ocr2",
        "hyperclovax_vision_v2",
        "janus",
        "lighton_ocr",
        "muse_glimmer",
        "ovis2",
        "paddleocr_vl",
        "perception_lm",
        "qianfan_ocr",
        "qwen2_5_omni_thinker",
        "qwen3_omni_moe_thinker",
        "video_llava",
    }
)
"""Families whose mechanisms others test too: all of their tests are slow but the ones below."""
CORE = frozenset({"llava", "qwen2_vl", "qwen3_vl", "internvl", "gemma3", "qwen3_5"})
"""Families that between them have every mechanism: batched and packed encoders, projectors that join squares
of tokens, tensors added in LLM layers, sliding windows, linear attention."""
EVERY_FAMILY = frozenset(
    {
        "test_battery.py",
        "test_contract.py",
        "test_coverage.py",
        "test_families_one_entry.py",
        "test_joining.py",
        "test_learnt_positions.py",
        "test_published.py",
        "test_reference.py",
        "test_reference_more.py",
        "test_refusals.py",
        "test_resamplers.py",
    }
)
"""Files that test every family but the slow ones; in others all tiny models beyond the core are slow."""
QUICK = (
    ("test_battery.py", "test_cell", "-sdpa-two-batch"),
    ("test_contract.py", "test_the_contract_holds_on_the_installed_release", ""),
    ("test_families_one_entry.py", "", ""),
    ("test_coverage.py", "", ""),
)
"""(file, function, in the brackets) of tests that every family has; "" for any."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of a slow variant, most tests of a slow family, and what the core families test."""
    from illava.models.families import FAMILIES

    variants = (name for family in FAMILIES.values() for name in family.tiny)
    others = frozenset((*FAMILIES, *variants)) - CORE
    for item in items:
        values = [
            value
            for value in getattr(getattr(item, "callspec", None), "params", {}).values()
            if isinstance(value, str)
        ]
        seldom = SLOW_FAMILIES if item.path.name in EVERY_FAMILY else others
        slow = any(value in seldom for value in values) and not _is_quick(item)
        if slow or any(value in SLOW_VARIANTS for value in values):
            item.add_marker(pytest.mark.slow)


def _is_quick(item: pytest.Item) -> bool:
    return any(
        item.path.name == file and item.name.startswith(function) and within in item.name
        for file, function, within in QUICK
    )
