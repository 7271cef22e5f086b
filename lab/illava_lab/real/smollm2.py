"""SmolLM2 out of a GGUF file: weights, tokenizer and config as a folder that transformers reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

END, START, PAD = "<|im_end|>", "<|im_start|>", "<|endoftext|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Turns without the system prompt that the file's own template inserts: it says nothing about pictures."""

_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(source: Path, folder: Path) -> None:
    """Write a GGUF file of the Llama architecture as safetensors (float16), with tokenizer and configs.

    float16 holds dequantised 4-bit weights more closely than bfloat16, of the same size.

    Args:
        source: the GGUF file.
        folder: where to write; created.

    Raises ValueError for another architecture or tokenizer.
    """
    reader = gguf.GGUFReader(str(source))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = fields.get("general.architecture"), fields.get("tokenizer.ggml.pre")
    if kind != ("llama", "smollm"):
        raise ValueError(f"{source}: its architecture and tokenizer are {kind}; expected ('llama', 'smollm')")
    config = _config(fields)
    tensors = dict(_tensors(reader, config))
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer = _tokenizer(fields)
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    ).save_pretrained(folder)


def _tensors(reader: gguf.GGUFReader, config: LlamaConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Names of transformers and values of float16."""
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        name, suffix = tensor.name.rsplit(".", 1)
        if name.startswith("blk."):
            _, layer, part = name.split(".")
            if part in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
                values = _halves_of_heads(values, heads)
            name = f"model.layers.{layer}.{_INSIDE[part]}"
        else:
            name = _OUTSIDE[name]
        yield f"{name}.{suffix}", np.ascontiguousarray(values, np.float16)


def _halves_of_heads(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows for rotary embeddings: GGUF rotates neighbours, transformers the two halves of a head.

    ``weight``: (heads x head_dim, in).
    """
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _config(fields: dict[str, Any]) -> LlamaConfig:
    def of(name: str) -> Any:
        return fields[f"llama.{name}"]

    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=of("embedding_length"),
        intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"),
        num_attention_heads=of("attention.head_count"),
        num_key_value_heads=of("attention.head_count_kv"),
        max_position_embeddings=of("context_length"),
        # The file holds float32; 9.999999747e-06 was written as 1e-5.
        rms_norm_eps=float(f"{of('attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": float(of("rope.freq_base"))},
        bos_token_id=fields["tokenizer.ggml.tokens"].index(START),
        eos_token_id=fields["tokenizer.ggml.tokens"].index(END),
        pad_token_id=fields["tokenizer.ggml.tokens"].index(PAD),
        architectures=["LlamaForCausalLM"],
        dtype="float16",
    )


def _tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Byte-level BPE after splitting off every digit, which is what ``tokenizer.ggml.pre = smollm`` stands for.

    transformers' own reading of the file leaves the digits' rule out.
    """
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    control = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
        if kind == gguf.TokenType.CONTROL
    ]
    backend.add_special_tokens(control)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
