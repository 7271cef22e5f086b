"""The zoo's model: a small Qwen2-VL, its starting weights and its export."""

from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from .text import MERGE, PATCH, TEMPORAL

SIZES = {
    "S": {"width": 96, "depth": 6, "heads": 4, "kv_heads": 2, "intermediate": 288, "vision_depth": 6},
    "L": {"width": 160, "depth": 6, "heads": 4, "kv_heads": 2, "intermediate": 480, "vision_depth": 6},
    # for tests only
    "micro": {"width": 32, "depth": 2, "heads": 2, "kv_heads": 1, "intermediate": 48, "vision_depth": 2},
}

# Initial attention offsets of the heads of the first vision blocks; without them, shapes take far longer to
# learn.
OFFSETS = (
    [(-1, 0), (1, 0), (0, -1), (0, 1)],
    [(-1, -1), (-1, 1), (1, -1), (1, 1)],
    [(-2, 0), (2, 0), (0, -2), (0, 2)],
    [(-2, -2), (-2, 2), (2, -2), (2, 2)],
)
STRENGTH = 3.0


def build_config(size: str, processor: Qwen2VLProcessor) -> Qwen2VLConfig:
    """Return the configuration of ``size`` (a key of ``SIZES``; ValueError otherwise)."""
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; the sizes are {', '.join(SIZES)}")
    s, token = SIZES[size], processor.tokenizer.convert_tokens_to_ids
    half = s["width"] // s["heads"] // 2
    # Time turns fastest and width slowest, in this order. What row a token is in, a causal LLM can tell from
    # how much it sees; its column it can tell from these turns alone, so width gets the most of them.
    time, high = half // 10, half // 5 + half // 20
    return Qwen2VLConfig(
        text_config={
            "vocab_size": -(-len(processor.tokenizer) // 8) * 8,
            "hidden_size": s["width"],
            "intermediate_size": s["intermediate"],
            "num_hidden_layers": s["depth"],
            "num_attention_heads": s["heads"],
            "num_key_value_heads": s["kv_heads"],
            "max_position_embeddings": 4096,
            # Qwen's 1e6 would leave the width part unturned over 12 columns: left would look like right. A
            # base as small as 20 turns all parts so far that like things at different places no longer look
            # alike to a query, and counting is not learnt.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100.0,
                "mrope_section": [time, high, half - time - high],
            },
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": s["vision_depth"],
            "embed_dim": s["width"],
            "hidden_size": s["width"],
            "num_heads": s["heads"],
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_model(size: str, processor: Qwen2VLProcessor, seed: int) -> Qwen2VLForConditionalGeneration:
    """Return a float32 model with fresh weights that depend on ``seed`` only."""
    generator = torch.Generator().manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(build_config(size, processor))
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                # At these widths transformers' 0.02 shrinks the signal; 1/sqrt(fan_in) preserves its
                # variance.
                weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
        for layer in model.model.language_model.layers:
            _look_for_likeness(layer.self_attn)
        for block, offsets in zip(model.model.visual.blocks, OFFSETS, strict=False):
            _look_at(block.attn.qkv.bias, offsets, model.model.visual.rotary_pos_emb.inv_freq)
    return model


def _look_for_likeness(attention: torch.nn.Module) -> None:
    """Start an LLM layer's attention near "look for what is like you and copy it" (Trockman, Kolter 2023).

    Queries begin as a mixture with the keys of their group, outputs with the transposed values: what a
    question about a picture needs first, and long in coming from a random start.
    """
    width = attention.k_proj.weight.shape[1]
    key, value = (
        layer.weight.view(-1, attention.head_dim, width).repeat_interleave(attention.num_key_value_groups, 0)
        for layer in (attention.k_proj, attention.v_proj)
    )
    attention.q_proj.weight.mul_(0.5).add_(key.flatten(0, 1), alpha=0.7)
    attention.o_proj.weight.mul_(0.5).add_(value.flatten(0, 1).T, alpha=0.5)


def _look_at(bias: torch.Tensor, offsets: list[tuple[int, int]], frequencies: torch.Tensor) -> None:
    """Set a fused query-key-value bias so that head i attends to the patch at ``offsets[i]`` (rows, columns).

    Under rotary positions a query bias of (a, 0) and a key bias of a (cos fd, -sin fd) per frequency f
    add a**2 sum cos(f (distance - d)) to the attention, which peaks at distance d: a convolution's taps.
    """
    query, key, _ = bias.view(3, -1, 4 * len(frequencies))
    for head, offset in enumerate(offsets[: len(query)]):
        angle = torch.cat([frequencies * d for d in offset])
        query[head] = STRENGTH * torch.cat([torch.ones_like(angle), torch.zeros_like(angle)])
        key[head] = STRENGTH * torch.cat([angle.cos(), -angle.sin()])


def export(model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, folder: Path) -> None:
    """Write the model as bfloat16 safetensors, and its processor, in the files transformers reads."""
    copy = Qwen2VLForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.tie_weights()
    copy.generation_config = model.generation_config
    folder.mkdir(parents=True, exist_ok=True)
    copy.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes files only their owner can read
