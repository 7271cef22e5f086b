"""Which loaded models are accepted: by their class, their adapters, and whether they are split."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn
from transformers.models.auto import modeling_auto

from ..errors import UnsupportedError

# For these tasks, peft's wrapper reads outputs by position, for every model.
HEAD_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def accepted_classes(model_type: str) -> tuple[str, ...]:
    """Class names of a family's bare and image-text-to-text models, from the mappings of transformers."""
    names = (
        modeling_auto.MODEL_MAPPING_NAMES.get(model_type),
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type),
    )
    return tuple(name for name in names if isinstance(name, str))


def check_class(model: nn.Module, model_type: str) -> None:
    """Raise UnsupportedError unless ``model`` is of an accepted class, or of a subclass of one."""
    inner = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    names, accepted = {kind.__name__ for kind in type(inner).__mro__}, accepted_classes(model_type)
    if names.isdisjoint(accepted):
        raise UnsupportedError(
            f"{type(inner).__name__} is not supported, because its head reads outputs at positions that "
            f"merging changes; supported classes of {model_type} are {' and '.join(accepted)}"
        )


def check_adapter(model: nn.Module) -> None:
    """Raise UnsupportedError for adapters of peft that change more than weights."""
    config: Any = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise UnsupportedError(
            "prompt learning is not supported: peft's virtual tokens shift the pictures of a prompt; "
            "use LoRA or another adapter of weights"
        )
    task = getattr(config, "task_type", None)
    if task in HEAD_TASKS:
        raise UnsupportedError(
            f"peft's task_type={str(getattr(task, 'value', task))!r} is not supported, because its head "
            "reads outputs at positions that merging changes; supported are 'CAUSAL_LM' and None"
        )


def check_whole(model: nn.Module) -> None:
    """Raise UnsupportedError if this process holds only a part of the model.

    ``from_pretrained`` with ``tp_plan`` or ``distributed_config`` sets ``_tp_size`` on the model and
    ``distributed_config`` on its config, and makes parameters DTensors. torch's ``parallelize_module`` and
    ``fully_shard`` only make parameters DTensors.
    """
    config: Any = getattr(getattr(model, "config", None), "distributed_config", None)
    sizes = [getattr(model, "_tp_size", None)]
    sizes += [getattr(config, f"{kind}_size", None) for kind in ("tp", "pp", "ep")]
    if any((size or 1) > 1 for size in sizes) or _has_sharded_parameters(model):
        raise UnsupportedError(
            "tensor parallelism and sharded weights are not supported: each process would score with its own "
            "attention heads and keep different tokens; load the whole model in every process, or "
            "in one with device_map='auto'"
        )


def _has_sharded_parameters(model: nn.Module) -> bool:
    # Importing the module takes a second; if it has not been imported, there is no DTensor.
    sharded = sys.modules.get("torch.distributed.tensor")
    return sharded is not None and any(isinstance(weight, sharded.DTensor) for weight in model.parameters())
