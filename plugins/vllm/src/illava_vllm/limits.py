"""What the plugin refuses, each with one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from illava.errors import UnsupportedError
from illava.methods import Illava

from . import MODELS
from .schedule import make_schedule


def check_model(vllm_config: Any, method: Illava) -> bool:
    """Whether the method drops anything on this model. Raises UnsupportedError for other models."""
    model = vllm_config.model_config
    architectures = getattr(model.hf_config, "architectures", None) or ["unknown"]
    if not any(name in MODELS for name in architectures):
        if method.keep == 1:
            return False
        raise UnsupportedError(
            f"illava-vllm merges in {', '.join(MODELS)}; this model is {', '.join(architectures)}"
        )
    return make_schedule(model.hf_config, method) is not None


def check_server(vllm_config: Any) -> None:
    """Raise UnsupportedError for options of vLLM that do not go together with merging."""
    for fault in _faults(vllm_config):
        raise UnsupportedError(f"illava-vllm: {fault}")


def without_whole_graphs(vllm_config: Any) -> None:
    """Let every step run the model's ``forward``, which adds to the positions.

    vLLM replays a graph of the whole model for steps of one token a request, and this can be a visual token
    where a chunk of a prompt ends. Graphs of pieces stay.
    """
    compilation = vllm_config.compilation_config
    if compilation.cudagraph_mode is not None:
        compilation.cudagraph_mode = compilation.cudagraph_mode.mixed_mode()


def _faults(vllm_config: Any) -> Iterator[str]:
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    vision = model.multimodal_config
    if parallel.tensor_parallel_size > 1 or parallel.pipeline_parallel_size > 1:
        yield "a model split over several devices is not supported; run replicas (--data-parallel-size)"
    if getattr(parallel, "use_ubatching", False):
        yield "steps in two batches (--enable-dbo) are not supported"
    if vllm_config.speculative_config is not None:
        yield "speculative decoding is not supported, whose drafts would need the positions of survivors"
    if getattr(vllm_config, "ec_transfer_config", None) is not None:
        yield "an encoder in a process of its own (--ec-transfer-config) is not supported"
    if vision is None or getattr(vision, "language_model_only", False):
        yield "this model runs without pictures; leave out the settings of illava"
        return
    if vision.is_multimodal_pruning_enabled():
        yield "leave out --video-pruning-rate: videos are merged already"
    if getattr(vision, "enable_mm_embeds", False):
        yield "precomputed embeddings of pictures (--enable-mm-embeds) are not supported"
    if vllm_config.lora_config is not None and vllm_config.lora_config.enable_tower_connector_lora:
        yield "adapters of the image encoder are not supported; leave out --enable-tower-connector-lora"
    compilation = vllm_config.compilation_config
    if getattr(compilation, "compile_mm_encoder", False):
        yield "a compiled image encoder (compile_mm_encoder) is not supported"
    if getattr(compilation, "cudagraph_mm_encoder", False):
        yield "CUDA graphs of the image encoder (cudagraph_mm_encoder) are not supported"
    graphs = compilation.cudagraph_mode
    if graphs is not None and graphs.mixed_mode().name == "FULL":
        yield "prompts in one CUDA graph are not supported; give cudagraph_mode PIECEWISE"
