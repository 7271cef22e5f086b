"""The model on training batches: transformers' computation with pictures batched and questions packed."""

from typing import NamedTuple

import torch
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb

from .batches import Batch
from .text import MERGE


def encode_pictures(model: Qwen2VLForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Run the vision tower on equally large square pictures at once.

    The same computation as ``model.model.visual``, which loops over pictures: here attention is batched
    and the patch convolution is one matrix product. Returns (batch, units, hidden size).
    """
    visual = model.model.visual
    batch, patches, _ = pixels.shape
    grid = torch.tensor([[1, int(patches**0.5), int(patches**0.5)]])
    weight = visual.patch_embed.proj.weight
    x = pixels @ weight.view(weight.shape[0], -1).T
    cos, sin = visual.rotary_pos_emb(x, _vision_positions(grid))
    cos, sin = cos[:, None].transpose(0, 1), sin[:, None].transpose(0, 1)  # (1, patches, head dim)
    half = cos.shape[-1] // 2
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(batch, patches, 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = (z * cos + torch.cat((-z[..., half:], z[..., :half]), -1) * sin for z in (q, k))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + attention.proj(mixed.transpose(1, 2).reshape(batch, patches, -1))
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x).view(batch, patches // MERGE**2, -1)


def _vision_positions(grid: torch.Tensor) -> torch.Tensor:
    from transformers.vision_utils import get_vision_position_ids

    return get_vision_position_ids(grid, MERGE)


class Hidden(NamedTuple):
    """What the language model makes of a packed batch.

    last and middle: hidden states (batch, T, width). looks: (M, n * units), how much the pointing head wants
    to attend from every mention to every visual token of its row, before the softmax. tally: (M, n * units
    + 1), the logarithms of how much the counting head attends to each of them and, last, to all else.
    """

    last: torch.Tensor
    middle: torch.Tensor
    looks: torch.Tensor
    tally: torch.Tensor


def packed_hidden(model: Qwen2VLForConditionalGeneration, features: torch.Tensor, batch: Batch) -> Hidden:
    """Run the language model on a packed batch.

    Every question sees the pictures' part and, causally, itself, so it is computed as if asked alone.
    """
    language = model.model.language_model
    embeds = language.embed_tokens(batch.ids)
    embeds = embeds.index_copy(1, batch.visual, features.reshape(len(embeds), -1, features.shape[-1]))
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    causal = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool).tril()
    seen = ((query == key) | ((key == 0) & (query > 0))) & causal
    mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None]
    out = language(
        inputs_embeds=embeds,
        attention_mask={"full_attention": mask},
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    middle = len(language.layers) // 2
    looks, counts = _from_mentions(language, middle - 1, out.hidden_states[middle - 1], batch, seen)
    visual = torch.zeros(counts.shape[1], dtype=torch.bool).index_fill(0, batch.visual, True)
    shares = counts.log_softmax(-1)
    tally = torch.cat([shares[:, visual], shares[:, ~visual].logsumexp(-1, keepdim=True)], dim=1)
    return Hidden(out.last_hidden_state, out.hidden_states[middle], looks[:, visual], tally)


def _from_mentions(
    language: torch.nn.Module, index: int, hidden: torch.Tensor, batch: Batch, seen: torch.Tensor
) -> list[torch.Tensor]:
    """Attention logits (M, T) from the mentions in two heads of a layer: the first, and the one half-way.

    The half-way head has keys of its own where keys are shared by half of the heads.
    """
    layer = language.layers[index]
    attention, width = layer.self_attn, layer.self_attn.head_dim
    hidden = layer.input_layernorm(hidden)
    cos, sin = language.rotary_emb(hidden, batch.positions)
    row, place = batch.mentions.T[:2]
    heads = len(attention.q_proj.bias) // width
    found = []
    for head in (0, heads // 2):
        query, key = (
            torch.nn.functional.linear(hidden, part.weight[start:][:width], part.bias[start:][:width])[
                :, None
            ]
            for part, start in (
                (attention.q_proj, head * width),
                (attention.k_proj, head // attention.num_key_value_groups * width),
            )
        )
        query, key = (part[:, 0] for part in apply_rotary_pos_emb(query, key, cos, sin))
        logits = torch.einsum("md,mtd->mt", query[row, place], key[row]) * attention.scaling
        # What is not seen: finite, as the losses multiply it by 0.
        found.append(logits.masked_fill(~seen[row, place], -1e4))
    return found
