"""The file of trained weights: what is read, what is refused in one line."""

import pytest
import torch
from illava_lab.real import trained

from .tiny_parts import TEXT, write_trained

Q = "language_model.layers.0.self_attn.q_proj"


def test_changes_are_merged_with_alpha_over_rank(tmp_path):
    write_trained(tmp_path / "t.safetensors", rank=4)
    read = trained.read(tmp_path / "t.safetensors")
    weight, x = torch.randn(TEXT, TEXT), torch.randn(3, TEXT)
    down, up = read.changes[Q]
    expected = x @ weight.T + 6 / 4 * ((x @ down.T) @ up.T)
    merged = read.merged(Q, weight)
    torch.testing.assert_close(x @ merged.T, expected, rtol=1e-4, atol=1e-4)
    assert read.merged("embed_tokens", weight) is weight


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"multi_modal_projector.linear_2.bias": None}, "it lacks multi_modal_projector.linear_2.bias"),
        ({f"{Q}.lora_A": None}, "q_proj needs lora_A"),
        ({f"{Q}.lora_B": torch.ones(TEXT, 5)}, "q_proj needs lora_A"),
        ({f"{Q}.lora_A": torch.full((4, TEXT), torch.inf)}, "q_proj.lora_A is not finite"),
        ({"language_model.layers.0.input_layernorm.lora_A": torch.ones(4, TEXT)}, "is no weight of the"),
        ({"vision_tower.layernorm.weight": torch.ones(TEXT)}, "is no weight of the"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changed, message):
    file = tmp_path / "t.safetensors"
    write_trained(file, **changed)
    with pytest.raises(ValueError, match=message) as caught:
        trained.read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_cut_file_is_refused(tmp_path):
    file = tmp_path / "t.safetensors"
    with pytest.raises(ValueError, match="there are no trained weights"):
        trained.read(file)
    write_trained(file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        trained.read(file)
