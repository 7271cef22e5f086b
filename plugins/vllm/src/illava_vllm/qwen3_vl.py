"""Qwen3-VL, whose LLM also receives features from inside the encoder, and videos frame by frame."""

from typing import ClassVar

from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .model import Merging
from .processing import ShortPrompts


class Processor(ShortPrompts, Qwen3VLMultiModalProcessor):
    """Its multimodal processor."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class MergedQwen3VL(Merging, Qwen3VLForConditionalGeneration):
    """vLLM's model, with merging in its image encoder."""

    frames_apart: ClassVar[bool] = True
