"""Tiny DINOv2 and SmolLM2 files, written operation by operation and tensor by tensor, and trained weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import onnx
import torch
from illava_lab.real.carry import MANIFEST_BYTES
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

WIDTH, HEADS, DEPTH, PATCH, GRID = 128, 2, 2, 14, 5
TEXT, TEXT_HEADS, TEXT_KV, TEXT_LAYERS, TEXT_INNER = 64, 4, 2, 3, 96
BLOCK = (
    *(f"attention.attention.{part}" for part in ("query", "key", "value")),
    "attention.output.dense",
    *("mlp.fc1", "mlp.fc2"),
)
"""The linear layers of an encoder block as files name them."""
LINEAR = {
    "self_attn.q_proj": (TEXT, TEXT),
    "self_attn.k_proj": (TEXT // 2, TEXT),
    "self_attn.v_proj": (TEXT // 2, TEXT),
    "self_attn.o_proj": (TEXT, TEXT),
    "mlp.gate_proj": (TEXT_INNER, TEXT),
    "mlp.up_proj": (TEXT_INNER, TEXT),
    "mlp.down_proj": (TEXT, TEXT_INNER),
}
PREFIX = "backbone."
MOST = MANIFEST_BYTES + 50_000  # bytes of a part that travels
STEMS = ("test", "train0", "unused", "train1")  # pictures of each set of which some travel


class _Graph:
    """Collects the nodes of an ONNX graph; ``PREFIX`` names are kept, other weights get meaningless ones."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        name = name or f"onnx::{self.random.integers(10**9)}"
        self.weights[name] = value
        return name

    def normal(self, *shape: int, name: str | None = None, around: float = 0.0) -> str:
        values = around + self.random.standard_normal(shape) * 0.3
        return self.constant(values.astype(np.float32), name)

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def linear(self, x: str, wide: tuple[int, int], name: str) -> str:
        weight = self.constant(self.random.standard_normal(wide).astype(np.float32) * wide[0] ** -0.5)
        return self.add("Add", self.normal(wide[1], name=f"{name}.bias"), self.add("MatMul", x, weight))

    def norm(self, x: str, name: str) -> str:
        scale = self.normal(WIDTH, name=f"{name}.weight", around=1)
        bias = self.normal(WIDTH, name=f"{name}.bias")
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-6)


def write_onnx(file: Path, side: int, seed: int = 0) -> None:
    """A DINOv2 at ``side`` pixels with the last norm's output; a head that is no part of it follows."""
    graph = _Graph(seed)
    x = _embed(graph, side // PATCH)
    for layer in range(DEPTH):
        x = _block(graph, x, f"{PREFIX}encoder.layer.{layer}")
    x = graph.norm(x, f"{PREFIX}layernorm")
    graph.nodes[-1].output[0] = "features"
    graph.linear("features", (WIDTH, WIDTH), "decoder.linear")
    order = graph.random.permutation(list(graph.weights))
    made = helper.make_graph(
        graph.nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [None, 3, side, side])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(graph.weights[name], name) for name in order],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]), str(file))


def _embed(graph: _Graph, grid: int) -> str:
    patches = graph.add(
        "Conv",
        "pixels",
        graph.normal(WIDTH, 3, PATCH, PATCH, name=f"{PREFIX}embeddings.patch_embeddings.projection.weight"),
        graph.normal(WIDTH, name=f"{PREFIX}embeddings.patch_embeddings.projection.bias"),
        strides=[PATCH, PATCH],
    )
    rows = graph.add("Reshape", patches, graph.integers(0, WIDTH, -1))
    rows = graph.add("Transpose", rows, perm=[0, 2, 1])
    cls = graph.normal(1, 1, WIDTH, name=f"{PREFIX}embeddings.cls_token")
    x = graph.add("Concat", graph.add("Expand", cls, graph.integers(1, 1, WIDTH)), rows, axis=1)
    positions = graph.add(
        "Reshape", graph.normal(1, GRID * GRID, WIDTH), graph.integers(1, GRID, GRID, WIDTH)
    )
    positions = graph.add("Transpose", positions, perm=[0, 3, 1, 2])
    positions = graph.add(
        "Resize",
        positions,
        "",
        "",
        graph.integers(1, WIDTH, grid, grid),
        mode="cubic",
        cubic_coeff_a=-0.75,
        coordinate_transformation_mode="half_pixel",
    )
    positions = graph.add("Transpose", positions, perm=[0, 2, 3, 1])
    positions = graph.add("Reshape", positions, graph.integers(1, grid * grid, WIDTH))
    return graph.add("Add", x, graph.add("Concat", graph.normal(1, 1, WIDTH), positions, axis=1))


def _block(graph: _Graph, x: str, name: str) -> str:
    normed = graph.norm(x, f"{name}.norm1")
    key, query, value = (
        graph.add(
            "Transpose",
            graph.add(
                "Reshape",
                graph.linear(normed, (WIDTH, WIDTH), f"{name}.attention.attention.{part}"),
                graph.integers(0, 0, HEADS, WIDTH // HEADS),
            ),
            perm=[0, 2, 1, 3],
        )
        for part in ("key", "query", "value")
    )
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    scale = graph.constant(np.array((WIDTH // HEADS) ** 0.5, np.float32))
    mixed = graph.add("MatMul", graph.add("Softmax", graph.add("Div", scores, scale), axis=-1), value)
    mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = graph.add("Reshape", mixed, graph.integers(0, 0, WIDTH))
    mixed = graph.linear(mixed, (WIDTH, WIDTH), f"{name}.attention.output.dense")
    x = graph.add("Add", graph.add("Mul", mixed, graph.normal(WIDTH, name=f"{name}.layer_scale1.lambda1")), x)
    inner = graph.linear(graph.norm(x, f"{name}.norm2"), (WIDTH, 4 * WIDTH), f"{name}.mlp.fc1")
    root, one, half = (graph.constant(np.array(v, np.float32)) for v in (2**0.5, 1.0, 0.5))
    erf = graph.add("Add", graph.add("Erf", graph.add("Div", inner, root)), one)
    inner = graph.add("Mul", graph.add("Mul", inner, erf), half)
    inner = graph.linear(inner, (4 * WIDTH, WIDTH), f"{name}.mlp.fc2")
    return graph.add(
        "Add", graph.add("Mul", inner, graph.normal(WIDTH, name=f"{name}.layer_scale2.lambda1")), x
    )


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, in the order of the bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 1000))
    return [chr(byte if byte in shown else next(moved)) for byte in range(256)]


SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("1 2", "Ġ 1", "Ġ Ġ", "c a", "ca t", "Ġ cat")


def write_gguf(file: Path, architecture: str = "llama", seed: int = 0) -> None:
    """A SmolLM2 of three layers in Q4_1, Q8_0 and float32, with tokens for all bytes."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(file), architecture)
    words = [*SPECIAL, *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    writer.add_context_length(512)
    writer.add_embedding_length(TEXT)
    writer.add_block_count(TEXT_LAYERS)
    writer.add_feed_forward_length(TEXT_INNER)
    writer.add_head_count(TEXT_HEADS)
    writer.add_head_count_kv(TEXT_KV)
    writer.add_rope_freq_base(1e5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(words) - len(SPECIAL))
    writer.add_token_types(kinds)
    writer.add_token_merges(list(MERGES))
    for number, add in enumerate((writer.add_unk_token_id, writer.add_bos_token_id, writer.add_eos_token_id)):
        add(number)

    def tensor(name: str, kind: gguf.GGMLQuantizationType, *shape: int, around: float = 0.0) -> None:
        values = (around + random.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
        quantised = gguf.quantize(values, kind)
        writer.add_tensor(name, quantised, raw_shape=quantised.shape, raw_dtype=kind)

    types = gguf.GGMLQuantizationType
    tensor("token_embd.weight", types.Q8_0, len(words), TEXT)
    tensor("output_norm.weight", types.F32, TEXT, around=1)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for layer in range(TEXT_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{layer}.{norm}.weight", types.F32, TEXT, around=1)
        for name, shape in zip(names, LINEAR.values(), strict=True):
            tensor(f"blk.{layer}.{name}.weight", types.Q4_1, *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_trained(file: Path, rank: int = 4, seed: int = 0, **changed: torch.Tensor | None) -> None:
    """Random trained weights that fit the tiny parts; ``changed`` replaces tensors, None removes them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    tensors: dict[str, torch.Tensor | None] = {
        "multi_modal_projector.linear_1.weight": normal(TEXT, WIDTH),
        "multi_modal_projector.linear_1.bias": normal(TEXT),
        "multi_modal_projector.linear_2.weight": normal(TEXT, TEXT),
        "multi_modal_projector.linear_2.bias": normal(TEXT),
    }
    for layer in range(TEXT_LAYERS):
        for name, (high, wide) in LINEAR.items():
            tensors[f"language_model.layers.{layer}.{name}.lora_A"] = normal(rank, wide)
            tensors[f"language_model.layers.{layer}.{name}.lora_B"] = normal(high, rank)
    for block in range(DEPTH):
        for name in BLOCK:
            wide, high = (4 * WIDTH, WIDTH) if name == "mlp.fc2" else (WIDTH, WIDTH)
            prefix = f"vision_tower.encoder.layer.{block}.{name}"
            tensors[f"{prefix}.lora_A"] = normal(rank, wide)
            tensors[f"{prefix}.lora_B"] = normal(4 * WIDTH if name == "mlp.fc1" else high, rank)
    kept = {k: v.to(torch.bfloat16) for k, v in (tensors | changed).items() if v is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, file, {"rank": str(rank), "alpha": "6", "step": "1"})
