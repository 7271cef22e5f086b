"""DINOv2 out of ONNX: the converted model computes what the graph computes."""

import numpy as np
import onnx
import pytest
import torch
from illava_lab.real import dinov2
from onnx.reference import ReferenceEvaluator
from transformers import Dinov2Model

from .tiny_parts import DEPTH, GRID, HEADS, PATCH, PREFIX, WIDTH, write_onnx


@pytest.mark.parametrize("grid", [GRID, GRID - 2])
def test_it_computes_what_the_graph_computes(tmp_path, grid):
    """Also where the positions are interpolated."""
    side = PATCH * grid
    write_onnx(tmp_path / "tiny.onnx", side)
    dinov2.convert(tmp_path / "tiny.onnx", tmp_path / "out")
    model, info = Dinov2Model.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = np.random.default_rng(1).standard_normal((1, 3, side, side)).astype(np.float32)
    expected = ReferenceEvaluator(str(tmp_path / "tiny.onnx")).run(["features"], {"pixels": pixels})[0]
    with torch.no_grad():
        features = model.eval()(torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert features.shape == (1, 1 + grid * grid, WIDTH)
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_the_config_is_read_from_the_shapes(tmp_path):
    write_onnx(tmp_path / "tiny.onnx", PATCH)
    dinov2.convert(tmp_path / "tiny.onnx", tmp_path / "out")
    config = Dinov2Model.from_pretrained(tmp_path / "out").config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (WIDTH, DEPTH, HEADS)
    assert (config.patch_size, config.image_size, config.mlp_ratio) == (PATCH, PATCH * GRID, 4)
    assert (config.layer_norm_eps, config.use_mask_token) == (1e-6, False)


@pytest.mark.parametrize("op", ["Reshape", "Concat"])
def test_another_graph_is_refused(tmp_path, op):
    """Without position embeddings."""
    file = tmp_path / "tiny.onnx"
    write_onnx(file, PATCH)
    model = onnx.load(str(file))
    nodes = [node for node in model.graph.node if node.op_type != op]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(file))
    with pytest.raises(ValueError, match=r"tiny.onnx: its graph is not an exported DINOv2: 0 constants go into"):
        dinov2.convert(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_linear_layer_is_refused(tmp_path):
    file = tmp_path / "tiny.onnx"
    write_onnx(file, PATCH)
    model = onnx.load(str(file))
    bias = next(item for item in model.graph.initializer if item.name == f"{PREFIX}encoder.layer.1.mlp.fc1.bias")
    for node in model.graph.node:
        if bias.name in node.input:
            node.op_type = "Sub"
    onnx.save(model, str(file))
    with pytest.raises(ValueError, match=r"tiny.onnx: .*: missing encoder.layer.1.mlp.fc1.weight"):
        dinov2.convert(file, tmp_path / "out")
