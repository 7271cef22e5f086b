"""Qwen2-VL."""

from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .model import Merging
from .processing import ShortPrompts


class Processor(ShortPrompts, Qwen2VLMultiModalProcessor):
    """Its multimodal processor."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class MergedQwen2VL(Merging, Qwen2VLForConditionalGeneration):
    """vLLM's model, with merging in its image encoder."""
