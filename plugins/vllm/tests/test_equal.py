"""Tokens and log-probabilities of engines: those of upstream without merging, of transformers with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import illava_vllm
import pytest
from engines import PROMPTS, Answer, Reference, difference, encoder_stage, engine
from vllm import ModelRegistry
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

from illava.methods import Illava
from illava.methods.base import method_from_dict

CLOSE = 1e-3
BLOCK = 32
"""Tokens in a block of the KV cache; the prefix cache has whole ones."""
NAMES = tuple(PROMPTS)
PICTURES = tuple(name for name in NAMES if name != "text")
UPSTREAM = (
    Qwen2VLForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
families = pytest.mark.parametrize("family", checkpoints.FAMILIES)


def ask(family: str, folder: Path, settings: dict[str, Any] | None, **options: Any) -> dict[str, Answer]:
    with engine(family, folder, settings, **options) as made:
        return dict(zip(NAMES, made.ask(list(PROMPTS.values())), strict=True))


def check(family: str, folder: Path, answers: dict[str, Answer], method: Illava) -> None:
    """Compare with transformers; and see that the plain model, and another budget, answer otherwise."""
    reference, other = Reference(folder), encoder_stage(0.8)
    for name, answer in answers.items():
        prompt = PROMPTS[name]
        expected = reference.logprobs(prompt, answer.tokens, method)
        assert difference(answer, expected) < CLOSE, (name, difference(answer, expected))
        if name == "text":
            continue
        for wrong in (None, other):
            assert difference(answer, reference.logprobs(prompt, answer.tokens, wrong)) > 20 * CLOSE, name


@families
def test_keeping_all_is_upstream(family: str, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint(family)
    illava_vllm.register()
    with_plugin = ask(family, folder, {"keep": 1})
    for model in UPSTREAM:
        ModelRegistry.register_model(model.__name__, model)
    try:
        without = ask(family, folder, None)
    finally:
        illava_vllm.register()
    assert with_plugin == without
    reference = Reference(folder)
    for name, answer in without.items():
        assert answer.prompt == len(PROMPTS[name].for_transformers(reference.processor)["input_ids"][0])
        assert difference(answer, reference.logprobs(PROMPTS[name], answer.tokens, None)) < CLOSE, name


@families
def test_merged_is_transformers(family: str, checkpoint: Callable[[str], Path]) -> None:
    """Whole prompts, without the prefix cache; together, and once more one by one."""
    folder, settings = checkpoint(family), {"keep": "2/5"}
    with engine(family, folder, settings, enable_prefix_caching=False) as made:
        together = dict(zip(NAMES, made.ask(list(PROMPTS.values())), strict=True))
        for name in PICTURES:
            (alone,) = made.ask([PROMPTS[name]])
            assert alone.tokens == together[name].tokens
            assert alone.cached == 0
    check(family, folder, together, encoder_stage(0.4))
    reference = Reference(folder)
    for name in PICTURES:
        inputs = PROMPTS[name].for_transformers(reference.processor)
        full = inputs["input_ids"]
        ids = [reference.model.config.image_token_id, reference.model.config.video_token_id]
        visual = sum(int((full == token).sum()) for token in ids)
        frames = [
            (rows * columns // 4)
            for grid in ("image_grid_thw", "video_grid_thw")
            for times, rows, columns in inputs.get(grid, [])
            for _ in range(int(times))
        ]
        left = sum(max(1, round(0.4 * int(units))) for units in frames)
        assert together[name].prompt == full.shape[1] - visual + left


@families
def test_chunks_and_prefix_cache(family: str, checkpoint: Callable[[str], Path]) -> None:
    """Chunks of 8 tokens end within pictures and just after their start; cached prefixes too."""
    folder = checkpoint(family)
    options = {"max_num_batched_tokens": 8, "enable_prefix_caching": True, "block_size": BLOCK}
    with engine(family, folder, {"keep": 0.4}, **options) as made:
        first = dict(zip(NAMES, made.ask(list(PROMPTS.values())), strict=True))
        again = dict(zip(NAMES, made.ask(list(PROMPTS.values())), strict=True))
    for name in PICTURES:
        assert first[name].cached == 0
        assert (again[name].cached > 0) == (first[name].prompt > BLOCK)
        assert again[name].tokens == first[name].tokens
    check(family, folder, first, encoder_stage(0.4))
    check(family, folder, again, encoder_stage(0.4))


STEPS = {
    "qwen2_vl": {"encoder_layers": [1, 3], "reduce": "fold", "select": "diverse", "similarity": "cosine"},
    # The first in windows. Later, ties would be left to rounding: a unit alone in its window has the score 1.
    "qwen2_5_vl": {"encoder_layers": [0, 2, 4]},
    # Before, between and after the layers whose features the LLM gets.
    "qwen3_vl": {"encoder_layers": [0, 2, 4], "reduce": "weighted"},
}


@families
def test_other_methods(family: str, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint(family)
    fields = {"method": "illava", "version": 2, "keep": 0.3, "llm_layers": [], **STEPS[family]}
    answers = ask(family, folder, {"config": fields})
    method = method_from_dict(fields)
    assert isinstance(method, Illava)
    check(family, folder, answers, method)
