"""Published checkpoints: their sizes take the family's schedule, and loading one changes nothing.

Models of published sizes are made on the meta device, so they cost neither memory nor a download.
"""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import illava
from illava.models.families import FAMILIES
from tests import published_newer
from tests.published import CONFIGS
from tests.test_exact import single
from tests.test_handle import state_of
from tests.tiny import ALL, BROKEN, tiny_model

# The shares kept at the steps of the published schedules.
ONEVISION = (637 / 729, 545 / 637, 453 / 545, 361 / 453)
HALVES = (545 / 729, 361 / 545)  # two steps each
QWEN2, QWEN3 = (0.84,) * 4, (0.85,) * 4
SEVEN_TENTHS, THREE_TIMES, FOUR_TIMES = (0.7,), (0.9,) * 3, (0.9,) * 4

# Checkpoint: encoder blocks and LLM layers it has; tokens a unit and class tokens a tile; encoder blocks at
# which units merge and shares kept there; LLM layers likewise.
#
# Worked out by hand. Step l of a schedule for D layers stands at floor(l * depth / D), which is what the
# remarks give unrounded; in Qwen2.5-VL at the nearest block with full attention, in Gemma at the nearest LLM
# layer behind one that sees the whole prompt, the earlier of two as near. Steps on one layer become one.
SCHEDULES = {
    # Of OneVision, made for 26 blocks and 28 layers. 24: 4.6 5.5 6.5 7.4. 32: 9.1. 40: 11.4.
    "llava-hf/llava-1.5-7b-hf": (24, 32, 1, 1, (4, 5, 6, 7), ONEVISION, (9,), SEVEN_TENTHS),
    "mistral-community/pixtral-12b": (24, 40, 1, 0, (4, 5, 6, 7), ONEVISION, (11,), SEVEN_TENTHS),
    # Not behind block 5, whose output the LLM sees.
    "llava-hf/vip-llava-7b-hf": (24, 32, 1, 1, (2, 3, 4, 5), ONEVISION, (9,), SEVEN_TENTHS),
    "llava-hf/llava-v1.6-mistral-7b-hf": (24, 32, 1, 1, (4, 5, 6, 7), ONEVISION, (9,), SEVEN_TENTHS),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": (24, 32, 1, 1, (4, 5, 6, 7), ONEVISION, (9,), SEVEN_TENTHS),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (26, 28, 1, 0, (5, 6, 7, 8), ONEVISION, (8,), SEVEN_TENTHS),
    # 24: 6.9.
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (26, 24, 1, 0, (5, 6, 7, 8), ONEVISION, (6,), SEVEN_TENTHS),
    "mistralai/Mistral-Small-3.1-24B-Base-2503": (24, 40, 4, 0, (4, 5, 6, 7), ONEVISION, (11,), SEVEN_TENTHS),
    # 80 layers: 17.1 20 22.9.
    "Qwen/Qwen2-VL-7B-Instruct": (32, 28, 4, 0, (12, 13, 14, 15), QWEN2, (6, 7, 8), THREE_TIMES),
    "Qwen/Qwen2-VL-72B-Instruct": (32, 80, 4, 0, (12, 13, 14, 15), QWEN2, (17, 20, 22), THREE_TIMES),
    # Full attention at 7 15 23 31. 36 layers: 7.7 9 10.3.
    "Qwen/Qwen2.5-VL-7B-Instruct": (32, 28, 4, 0, (7, 15), (0.7056, 0.7056), (6, 7, 8), THREE_TIMES),
    "Qwen/Qwen2.5-VL-3B-Instruct": (32, 36, 4, 0, (7, 15), (0.7056, 0.7056), (7, 9, 10), THREE_TIMES),
    "Qwen/Qwen3-VL-8B-Instruct": (27, 36, 4, 0, (5, 6, 7, 8), QWEN3, (19, 21, 23, 25), FOUR_TIMES),
    # 24 blocks: 4.4 5.3 6.2 7.1. 28 layers: 14.8 16.3 17.9 19.4.
    "Qwen/Qwen3-VL-2B-Instruct": (24, 28, 4, 0, (4, 5, 6, 7), QWEN3, (14, 16, 17, 19), FOUR_TIMES),
    # 48 layers: 25.3 28 30.7 33.3.
    "Qwen/Qwen3-VL-30B-A3B-Instruct": (27, 48, 4, 0, (5, 6, 7, 8), QWEN3, (25, 28, 30, 33), FOUR_TIMES),
    "Qwen/Qwen3.5-9B": (27, 32, 4, 0, (5, 6, 7, 8), QWEN3, (), ()),
    # 12 blocks: 2.2 2.7 3.1 3.6.
    "Qwen/Qwen3.5-0.8B": (12, 24, 4, 0, (2, 3), (0.7225, 0.7225), (), ()),
    "Qwen/Qwen3.5-35B-A3B": (27, 40, 4, 0, (5, 6, 7, 8), QWEN3, (), ()),
    # 40 layers: 21.1 23.3 25.6 27.8. 46: 24.3 26.8 29.4 31.9.
    "zai-org/GLM-4.1V-9B-Thinking": (24, 40, 4, 0, (4, 5, 6, 7), QWEN3, (21, 23, 25, 27), FOUR_TIMES),
    "zai-org/GLM-4.5V": (24, 46, 4, 0, (4, 5, 6, 7), QWEN3, (24, 26, 29, 31), FOUR_TIMES),
    "glm46v of 9B": (24, 40, 4, 0, (4, 5, 6, 7), QWEN3, (21, 23, 25, 27), FOUR_TIMES),
    "OpenGVLab/InternVL3-1B-hf": (24, 24, 4, 1, (4, 5, 6, 7), ONEVISION, (6,), SEVEN_TENTHS),
    # 45 blocks: 8.7 10.4 12.1 13.8. 64 layers: 18.3.
    "OpenGVLab/InternVL3-38B-hf": (45, 64, 4, 1, (8, 10, 12, 13), ONEVISION, (18,), SEVEN_TENTHS),
    "OpenGVLab/InternVL3_5-2B-HF": (24, 28, 4, 1, (4, 5, 6, 7), ONEVISION, (8,), SEVEN_TENTHS),
    # 27 blocks: 5.2 6.2 7.3 8.3.
    "HuggingFaceM4/Idefics3-8B-Llama3": (27, 32, 4, 0, (5, 6, 7, 8), ONEVISION, (9,), SEVEN_TENTHS),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": (27, 24, 9, 0, (5, 6, 7, 8), ONEVISION, (6,), SEVEN_TENTHS),
    # 12 blocks: 2.3 2.8 3.2 3.7. 30 layers: 8.6.
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": (12, 30, 16, 0, (2, 3), HALVES, (8,), SEVEN_TENTHS),
    # Layers 5 11 17 ... see the whole prompt. 62 layers: 21.9, as near to 18 as to 24 once rounded down.
    "google/gemma-3-4b-it": (27, 34, 16, 0, (5, 6, 7, 8), ONEVISION, (12,), SEVEN_TENTHS),
    "google/gemma-3-27b-it": (27, 62, 16, 0, (5, 6, 7, 8), ONEVISION, (18,), SEVEN_TENTHS),
    # 18 layers: 5.1. 26 layers: 7.4, between 6 and 8, for here every odd layer sees the whole prompt.
    "google/paligemma-3b-pt-224": (27, 18, 1, 0, (5, 6, 7, 8), ONEVISION, (5,), SEVEN_TENTHS),
    "google/paligemma2-3b-pt-224": (27, 26, 1, 0, (5, 6, 7, 8), ONEVISION, (6,), SEVEN_TENTHS),
    # Layers 3 7 11 ... see the whole prompt. 64 layers: 18.3, as near to 16 as to 20 once rounded down.
    "CohereLabs/aya-vision-8b": (27, 32, 4, 0, (5, 6, 7, 8), ONEVISION, (8,), SEVEN_TENTHS),
    "CohereLabs/command-a-vision-07-2025": (27, 64, 4, 0, (5, 6, 7, 8), ONEVISION, (16,), SEVEN_TENTHS),
    "deepseek-community/deepseek-vl-1.3b-chat": (24, 24, 1, 0, (4, 5, 6, 7), ONEVISION, (6,), SEVEN_TENTHS),
    "deepseek-community/Janus-Pro-1B": (24, 24, 1, 0, (4, 5, 6, 7), ONEVISION, (6,), SEVEN_TENTHS),
    "thisisiron/Ovis2-1B-hf": (24, 24, 4, 0, (4, 5, 6, 7), ONEVISION, (6,), SEVEN_TENTHS),
    "lightonai/LightOnOCR-1B-1025": (24, 28, 4, 0, (4, 5, 6, 7), ONEVISION, (8,), SEVEN_TENTHS),
    # 36 layers: 10.3.
    "baidu/Qianfan-OCR": (24, 36, 4, 1, (4, 5, 6, 7), ONEVISION, (10,), SEVEN_TENTHS),
    # 16 layers: 8.4 9.3 10.2 11.1.
    "zai-org/GLM-OCR": (24, 16, 4, 0, (4, 5, 6, 7), QWEN3, (8, 9, 10, 11), FOUR_TIMES),
    "cosmos3_omni of 8B": (27, 36, 4, 0, (5, 6, 7, 8), QWEN3, (19, 21, 23, 25), FOUR_TIMES),
    # 40 layers: 21.1 23.3 25.6 27.8, of which the second and the third are nearest to 24.
    "cohere_compass of 32B": (27, 40, 4, 0, (5, 6, 7, 8), QWEN3, (20, 24, 28), (0.9, 0.81, 0.9)),
    **published_newer.SCHEDULES,
}


def empty(name, folder):
    """The model of a checkpoint's config.json, on the meta device."""
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))


def tapped(model):
    """(is in the LLM, layer) of every attention that hands out scores, by the modules' own names."""
    found = set()
    for name, module in model.named_modules():
        if getattr(getattr(module, "config", None), "_attn_implementation", None) == "illava":
            found.add(("vision" not in name and "visual" not in name, int(re.search(r"\.(\d+)\.", name)[1])))
    return found


def test_every_family_has_a_published_size():
    assert {config["model_type"] for config in CONFIGS.values()} == set(illava.supported_families())
    assert set(SCHEDULES) == set(CONFIGS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_published_size_merges_where_its_familys_schedule_says(name, tmp_path):
    blocks, layers, group, prefix, at_blocks, encoder_keep, at_layers, llm_keep = SCHEDULES[name]
    for package in FAMILIES[CONFIGS[name]["model_type"]].requires:
        pytest.importorskip(package)
    model = empty(name, tmp_path)
    assert all(parameter.is_meta for parameter in model.parameters())
    before = state_of(model)
    if CONFIGS[name]["model_type"] in BROKEN:
        with pytest.raises(illava.UnsupportedError, match="VipLlavaConfig lost its attribute"):
            illava.accelerate(model)
        return
    for keep in (None, 1 / 9):
        with illava.accelerate(model, illava.Illava(keep=keep)) as handle:
            modules, plan = handle.modules, handle.plan
            assert (len(modules.blocks), len(modules.layers)) == (blocks, layers)
            assert (modules.group, modules.prefix) == (group, prefix)
            assert (tuple(plan.encoder), tuple(plan.llm)) == (at_blocks, at_layers)
            expected = {(False, block) for block in at_blocks} | {(True, layer - 1) for layer in at_layers}
            assert tapped(model) == expected
            steps = [*plan.encoder.values(), *plan.llm.values()]
            shares, published = [step.share for step in steps], [*encoder_keep, *llm_keep]
            if keep is None:
                assert shares == pytest.approx(published)
            else:
                # Every step is harsher by the same power, and the last one counts to the budget itself.
                powers = [math.log(a) / math.log(b) for a, b in zip(shares, published, strict=True)]
                assert powers == pytest.approx([powers[0]] * len(powers))
                assert math.prod(shares) == pytest.approx(keep)
                assert steps[-1].of_all == keep
        assert state_of(model) == before


@pytest.mark.parametrize("name", ALL)
def test_a_saved_checkpoint_is_accelerated_as_the_model_in_memory(name, tmp_path):
    model = tiny_model(name)
    inputs = single(model)
    model.save_pretrained(tmp_path)
    options = dict(attn_implementation=model.config._attn_implementation)
    if "moe" in name:
        options["experts_implementation"] = "eager"
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32, **options)
    with torch.no_grad():
        plain = loaded(**inputs).logits
        for keep in (None, 0.4):
            merged = []
            for some in (model, loaded):
                with illava.accelerate(some, keep=keep):
                    merged.append(some(**inputs).logits)
            # Weights lie otherwise in memory when they come from a file, so kernels may round otherwise.
            torch.testing.assert_close(*merged, atol=1e-5, rtol=0)
            assert merged[0].shape[1] < plain.shape[1]
        assert torch.equal(loaded(**inputs).logits, plain)
