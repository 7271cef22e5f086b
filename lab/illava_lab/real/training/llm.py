"""A Llama with low-rank adapters, written for training on few CPU cores.

It computes what transformers' ``LlamaModel`` computes (a test holds it to that) in bfloat16.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig

from ..trained import LLM
from .adapter import Adapter

PROJECTIONS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The linear layers with an adapter, relative to a layer of the LLM."""


class Rotation(NamedTuple):
    """(B, 1, T, head size) cosines and sines of the positions."""

    cos: Tensor
    sin: Tensor


class Layer(nn.Module):
    """A layer of the LLM."""

    def __init__(self, config: LlamaConfig, weights: dict[str, Tensor], rank: int, alpha: float):
        super().__init__()
        self.config = config
        for name in ("input_layernorm", "post_attention_layernorm"):
            self.register_buffer(name, weights[f"{name}.weight"], persistent=False)
        for name in PROJECTIONS:
            self.add_module(name.replace(".", "_"), Adapter(weights[f"{name}.weight"], rank, alpha))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D); ``mask`` (B, 1, T, T) is added to attention logits."""
        h = self._norm(x, self.input_layernorm)
        query = _rotate(self._heads(self.self_attn_q_proj(h)), rotation)
        key = _rotate(self._heads(self.self_attn_k_proj(h)), rotation)
        value = self._heads(self.self_attn_v_proj(h))
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        attend = products if x.device.type == "cpu" else F.scaled_dot_product_attention
        x = x + self.self_attn_o_proj(attend(query, key, value, mask).transpose(1, 2).flatten(2))
        h = self._norm(x, self.post_attention_layernorm)
        return x + self.mlp_down_proj(F.silu(self.mlp_gate_proj(h)) * self.mlp_up_proj(h))


class AdaptedLLM(nn.Module):
    """SmolLM2 with an adapter at every linear layer. Only the adapters are parameters."""

    def __init__(self, folder: Path, rank: int, alpha: float, dtype: torch.dtype):
        """Read the LLM in ``folder``, as ``LlamaForCausalLM`` saves it with tied embeddings."""
        super().__init__()
        self.config = LlamaConfig.from_pretrained(folder)
        tensors = {
            k.removeprefix("model."): v.to(dtype) for k, v in load_file(folder / "model.safetensors").items()
        }
        self.register_buffer("embedding", tensors["embed_tokens.weight"], persistent=False)
        self.register_buffer("norm", tensors["norm.weight"], persistent=False)
        base = self.config.rope_parameters["rope_theta"]
        steps = torch.arange(0, self.config.head_dim, 2) / self.config.head_dim
        self.register_buffer("frequencies", base**-steps, persistent=False)
        layers = []
        for number in range(self.config.num_hidden_layers):
            prefix = f"layers.{number}."
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            layers.append(Layer(self.config, own, rank, alpha))
        self.layers = nn.ModuleList(layers)

    def compile_layers(self) -> None:
        """Fuse what lies between the layers' matrix products, for any number of rows and tokens.

        Where a CPU multiplies bfloat16 matrices fast, those element by element operations are most of a step.
        """
        for layer in self.layers:
            layer.compile(dynamic=True)

    def embed(self, tokens: Tensor) -> Tensor:
        """(...) int64 to (..., D)."""
        return F.embedding(tokens, self.embedding)

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Hidden states after the last norm.

        Args:
            embeds: (B, T, D).
            positions: (B, T) int64.
            mask: (B, T, T) bool, True where a row attends to a column.
        """
        angles = positions[:, None, :, None] * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        rotation = Rotation(angles.cos().to(embeds.dtype), angles.sin().to(embeds.dtype))
        added = torch.zeros(mask.shape, dtype=embeds.dtype, device=mask.device)
        added = added.masked_fill_(~mask, torch.finfo(embeds.dtype).min)[:, None]
        for layer in self.layers:
            embeds = layer(embeds, rotation, added)
        return F.rms_norm(embeds, self.norm.shape, self.norm, self.config.rms_norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) to (N, vocabulary) float32."""
        return F.linear(hidden, self.embedding).float()

    def named_adapters(self) -> dict[str, nn.Parameter]:
        """The adapters' matrices, named as in the file of trained weights."""
        return {
            f"{LLM}.layers.{number}.{name}.{part}": getattr(getattr(layer, name.replace(".", "_")), part)
            for number, layer in enumerate(self.layers)
            for name in PROJECTIONS
            for part in ("lora_A", "lora_B")
        }


def products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """PyTorch's ``scaled_dot_product_attention`` with an additive mask, as two matrix products.

    On CPUs the backward pass of the fused attention is the slower one at these lengths. Elsewhere the fused
    one saves the memory for the weights and the time to write them.
    """
    logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + mask
    return logits.softmax(-1) @ value


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * rotation.cos + torch.cat([-second, first], dim=-1) * rotation.sin
