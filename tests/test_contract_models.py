"""The contract, model by model: modules, config attributes, methods and fields that a release lost."""

from __future__ import annotations

import pytest

import illava
from illava.models.located import locate
from tests.renaming import model_of, refused, renamed
from tests.tiny import tiny_model


def test_what_a_plan_does_not_touch_is_not_asked_for(monkeypatch):
    """A norm before attention is called to look at a layer twice, an argument of attention is given then."""
    model = tiny_model("qwen2_vl")
    layer = model.model.language_model.layers[1]
    kind = type(layer.self_attn)
    modules = [x._modules for x in model.model.language_model.layers]
    for inside in modules:
        inside["pre_norm"] = inside.pop("input_layernorm")
    illava.accelerate(model, illava.FastV(layer=2, keep=0.5)).remove()
    with pytest.raises(illava.UnsupportedError, match="DecoderLayer has no module input_layernorm"):
        illava.accelerate(model, illava.PyramidDrop(layers=(2,)))
    for inside in modules:
        inside["input_layernorm"] = inside.pop("pre_norm")
    monkeypatch.setattr(kind, "forward", renamed(kind.forward, "position_embeddings", "tables"))
    illava.accelerate(model, illava.VisionZip(keep=0.5)).remove()
    with pytest.raises(illava.UnsupportedError, match="lost its argument position_embeddings"):
        illava.accelerate(model, illava.PyramidDrop(layers=(2,)))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llava", "vision_feature_layer"),
        ("llava_next", "vision_feature_select_strategy"),
        ("llava_onevision", "image_grid_pinpoints"),
        ("qwen2_vl", "video_token_id"),
        ("qwen2_5_vl", "vision_config.fullatt_block_indexes"),
        ("qwen3_vl", "vision_config.deepstack_visual_indexes"),
        ("qwen2_vl", "text_config.sliding_window"),
        ("qwen3_5", "text_config.layer_types"),
        ("glm4v", "image_token_id"),
        ("internvl", "downsample_ratio"),
        ("gemma3", "text_config.layer_types"),
    ],
)
def test_a_renamed_config_attribute_is_refused(family, name, monkeypatch):
    model = tiny_model(family)
    config = model.config
    *outer, last = name.split(".")
    for step in outer:
        config = getattr(config, step)
    last = config.attribute_map.get(last, last)
    for kind in type(config).__mro__:
        if last in vars(kind):
            monkeypatch.delattr(kind, last)
    del config.__dict__[last]
    refused(model, family, type(config).__name__, name.rpartition(".")[2])


def test_layers_of_a_new_type_are_refused():
    model = tiny_model("qwen2_vl")
    model.model.language_model.config.layer_types = ["full_attention"] * 4 + ["chunked_attention"]
    refused(model, "qwen2_vl", "layer_types", "'chunked_attention'")


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llava_next", "pack_image_features"),
        ("llava_onevision", "apply_pooling"),
        ("qwen2_vl", "get_video_features"),
        ("llava", "get_image_features"),
    ],
)
def test_a_lost_method_of_the_base_model_is_refused(family, name, monkeypatch):
    kind = next(k for k in type(locate(model_of(family)).base).__mro__ if name in vars(k))
    monkeypatch.delattr(kind, name)
    refused(model_of(family), family, f"lost its method {name}")


def test_a_renamed_field_of_the_encoder_is_refused(monkeypatch):
    kind = type(locate(model_of("qwen3_vl")).encoder)

    def forward(self, hidden_states, grid_thw, **kwargs):
        return self.output(last_hidden_state=hidden_states, pooler_output=hidden_states, tapped=[])

    monkeypatch.setattr(kind, "forward", forward)
    refused(model_of("qwen3_vl"), "qwen3_vl", f"{kind.__name__}.forward no longer uses deepstack_features")


def test_features_that_are_packed_elsewhere_are_refused(monkeypatch):
    kind = type(locate(model_of("llava_next")).base)

    def get_image_features(self, pixel_values, image_sizes, **kwargs):
        return self.vision_tower(pixel_values)

    monkeypatch.setattr(kind, "get_image_features", get_image_features)
    refused(model_of("llava_next"), "llava_next", "get_image_features no longer uses pack_image_features")
