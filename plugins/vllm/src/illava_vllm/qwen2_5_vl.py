"""Qwen2.5-VL, whose encoder attends in windows in most blocks."""

from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .model import Merging
from .processing import ShortPrompts


class Processor(ShortPrompts, Qwen2_5_VLMultiModalProcessor):
    """Its multimodal processor."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class MergedQwen2_5_VL(Merging, Qwen2_5_VLForConditionalGeneration):
    """vLLM's model, with merging in its image encoder."""
