"""Plugin for vLLM: Qwen2-VL, Qwen2.5-VL and Qwen3-VL whose image encoders merge visual tokens.

vLLM calls :func:`register` in each of its processes. Without settings, or with ``keep=1``, the models are
upstream's.
"""

from __future__ import annotations

__version__ = "0.1.0"

MODELS = {
    "Qwen2VLForConditionalGeneration": "illava_vllm.qwen2_vl:MergedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "illava_vllm.qwen2_5_vl:MergedQwen2_5_VL",
    "Qwen3VLForConditionalGeneration": "illava_vllm.qwen3_vl:MergedQwen3VL",
}
"""Architectures by their names in checkpoints, and the classes that replace vLLM's."""


def register() -> None:
    """Register the models, and let vLLM read the settings. Can be called several times."""
    from vllm import ModelRegistry

    from .settings import read_with_engine_args

    for architecture, path in MODELS.items():
        ModelRegistry.register_model(architecture, path)
    read_with_engine_args()
