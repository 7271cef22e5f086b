"""Run a model reproducibly: decode forced tokens, and restore the model's state afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..models.located import LocatedModules
from ..models.placeholders import placeholder_ids
from ..models.tiny_configs import PAD
from ..models.tiny_prompts import like, marks

STEPS = 8
"""The number of decoded tokens."""
# transformers stores the last prompt's M-RoPE offset on the base model.
LEFT_BY_TRANSFORMERS = ("rope_deltas",)


def words(modules: LocatedModules, count: int) -> list[int]:
    """Ids of ordinary tokens: no placeholders, no marks around images, no end tokens."""
    config = modules.config
    special: set[int | None] = {*marks(config), *placeholder_ids(config)}
    for source in (config, config.get_text_config(), getattr(modules.model, "generation_config", None)):
        end = getattr(source, "eos_token_id", None)
        special.update(end if isinstance(end, (list, tuple)) else [end])
    return [token for token in range(5, 5 + count + len(special)) if token not in special][:count]


def decode(
    modules: LocatedModules, inputs: dict[str, Tensor], forced: list[int], cached: bool = True
) -> Tensor:
    """(steps, B, V) fp32 logits after a prompt and after each of the ``forced`` tokens but the last.

    Tokens are forced, so that near ties between tokens neither hide nor exaggerate a difference.

    Args:
        cached: False recomputes the whole sequence at every step.
    """
    model: Any = modules.model
    length = inputs["input_ids"].shape[1]
    out = model.generate(
        **like(model, inputs),
        max_new_tokens=len(forced),
        do_sample=False,
        use_cache=cached,
        output_logits=True,
        return_dict_in_generate=True,
        logits_processor=LogitsProcessorList([_ForceTokens(length, forced)]),
    )
    return torch.stack(out.logits).float()


class _ForceTokens(LogitsProcessor):
    """Forces the tokens that ``generate`` chooses."""

    def __init__(self, prompt_length: int, tokens: list[int]) -> None:
        self.prompt_length, self.tokens = prompt_length, tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        out = torch.full_like(scores, float("-inf"))
        out[:, self.tokens[input_ids.shape[1] - self.prompt_length]] = 0
        return out


@contextmanager
def undisturbed(modules: LocatedModules) -> Iterator[None]:
    """Within the block: eval mode, no gradients, greedy defaults. All are restored, also after an error."""
    model, base = modules.model, modules.base
    training = [(module, module.training) for module in model.modules()]
    settings = model.__dict__.get("generation_config")
    left = {name: getattr(base, name) for name in LEFT_BY_TRANSFORMERS if hasattr(base, name)}
    try:
        model.eval()
        model.generation_config = GenerationConfig(pad_token_id=PAD)  # type: ignore[assignment, no-untyped-call]
        with torch.no_grad():
            yield
    finally:
        for module, was in training:
            module.training = was
        model.generation_config = settings  # type: ignore[assignment]
        for name in LEFT_BY_TRANSFORMERS:
            if name in left:
                setattr(base, name, left[name])
            else:
                base.__dict__.pop(name, None)


State = dict[str, dict[str, Any]]


def state_of(model: nn.Module) -> State:
    """The state that acceleration could alter: module name -> attribute name -> identity of the value."""
    out: State = {}
    for name, module in model.named_modules():
        here: dict[str, Any] = {}
        for key, value in vars(module).items():
            if key.endswith("_hooks"):
                # Only registered hooks; torch creates the dictionaries on demand.
                here.update({key: tuple(value)} if value else {})
            elif key not in LEFT_BY_TRANSFORMERS:
                here[key] = id(value)
        out[name] = here
    return out


def left_behind(before: State, after: State) -> list[str]:
    """The attributes that differ, as ``module.attribute``."""
    return [
        f"{name or 'the model'}.{key}"
        for name in after
        for key in {**before.get(name, {}), **after[name]}
        if before.get(name, {}).get(key) != after[name].get(key)
    ]
