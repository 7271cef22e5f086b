"""DINOv2 out of an ONNX file: the backbone of a saliency model, as a folder that transformers reads.

An export by PyTorch keeps the names of biases and norms but folds each linear weight into a transposed, unnamed
constant, and the position embeddings into two. The graph tells which is which: a linear layer is a MatMul with a
constant whose output is added to a named bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file
from transformers import Dinov2Config, Dinov2Model

HEAD_DIM = 64
"""Width of an attention head in every published DINOv2."""


def convert(source: Path, folder: Path, prefix: str = "backbone.") -> None:
    """Write ``config.json`` and ``model.safetensors`` (float32) of the DINOv2 inside an ONNX file.

    Args:
        source: the ONNX file.
        folder: where to write; created.
        prefix: start of the names that belong to the backbone; everything else is left out.

    Raises ValueError if the graph is not a DINOv2 without registers or SwiGLU.
    """
    graph = onnx.load(str(source)).graph
    constants = {item.name: item for item in graph.initializer}
    tensors = {
        name.removeprefix(prefix): numpy_helper.to_array(item)
        for name, item in constants.items()
        if name.startswith(prefix)
    }
    for bias, weight in _linear_layers(graph):
        if bias.startswith(prefix):
            name = bias.removeprefix(prefix).removesuffix("bias") + "weight"
            tensors[name] = numpy_helper.to_array(constants[weight]).T
    try:
        patches = numpy_helper.to_array(constants[_constant_input(graph, "Reshape")])
        cls = numpy_helper.to_array(constants[_constant_input(graph, "Concat")])
        tensors["embeddings.position_embeddings"] = np.concatenate([cls, patches], axis=1)
        config = _config(tensors)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{source}: its graph is not an exported DINOv2: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(folder)
    _check(source, folder)


def _linear_layers(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """The names of bias and weight, shaped (in, out), of every linear layer."""
    constants = {item.name for item in graph.initializer}
    products = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    }
    for node in graph.node:
        if node.op_type == "Add":
            for bias, product in (node.input, reversed(node.input)):
                if bias in constants and product in products:
                    yield bias, products[product]


def _constant_input(graph: onnx.GraphProto, op_type: str) -> str:
    """The only constant with three dimensions that goes into an operation of this type."""
    constants = {item.name for item in graph.initializer if len(item.dims) == 3}
    found = {name for node in graph.node if node.op_type == op_type for name in node.input if name in constants}
    if len(found) != 1:
        raise ValueError(f"{len(found)} constants go into a {op_type}, where position embeddings need one")
    return found.pop()


def _config(tensors: dict[str, Any]) -> Dinov2Config:
    """The config that these tensors imply. Raises KeyError or ValueError for tensors that do not fit."""
    hidden, channels, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
    positions = tensors["embeddings.position_embeddings"].shape[1] - 1
    side = round(positions**0.5)
    if side * side != positions or hidden % HEAD_DIM:
        raise ValueError(f"{positions} positions and width {hidden}; expected a square and a multiple of 64")
    layers = {int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer.")}
    return Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=hidden // HEAD_DIM,
        mlp_ratio=tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // hidden,
        image_size=side * patch,
        patch_size=patch,
        num_channels=channels,
        layer_norm_eps=1e-6,
        use_mask_token=False,
        architectures=["Dinov2Model"],
        dtype="float32",
    )


def _check(source: Path, folder: Path) -> None:
    """Raise ValueError unless the folder holds exactly the weights of a model.

    The file keeps the names of the export, which transformers translates where a release has renamed modules.
    """
    _, info = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    for what in ("missing", "mismatched", "unexpected"):
        if names := sorted(map(str, info[f"{what}_keys"])):
            raise ValueError(f"{source}: its graph is not an exported DINOv2: {what} {names[0]}")
