"""Published sizes: as many weights as published, cut as said, and models with random weights that run."""

from __future__ import annotations

import copy

import pytest
import torch

import illava
from illava.bench import prompts, published, random_weights
from illava.bench.memory import free_bytes
from illava.io.pictures import InputError

from .conftest import FAMILIES

CPU = torch.device("cpu")

# Billions of parameters, as the checkpoints' pages on the hub state them.
COUNTS = {
    "qwen2-vl-2b": 2.21,
    "qwen2-vl-7b": 8.29,
    "qwen2.5-vl-3b": 3.75,
    "qwen2.5-vl-7b": 8.29,
    "qwen3-vl-2b": 2.13,
    "qwen3-vl-4b": 4.44,
    "qwen3-vl-8b": 8.77,
    "llava-onevision-0.5b": 0.894,
    "llava-onevision-7b": 8.03,
    "internvl2.5-1b": 0.938,
    "internvl2.5-2b": 2.21,
    "internvl2.5-4b": 3.71,
    "internvl2.5-8b": 8.08,
    "internvl2.5-26b": 25.5,
    "internvl3-1b": 0.938,
    "internvl3-2b": 2.09,
    "internvl3-8b": 7.94,
}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_shape_has_a_published_count():
    assert set(COUNTS) == set(published.SHAPES)


@pytest.mark.parametrize("name", COUNTS)
def test_a_shape_has_as_many_weights_as_published(name):
    model = random_weights.on_meta(published.config(name))
    assert count(model) / 1e9 == pytest.approx(COUNTS[name], rel=0.005)
    assert random_weights.weight_bytes(model) == pytest.approx(4 * count(model), rel=0.001)


@pytest.mark.parametrize("name", COUNTS)
def test_a_slice_is_of_that_many_layers_and_takes_the_published_schedule(name):
    before = copy.deepcopy(published.SHAPES[name].config)
    model = random_weights.on_meta(published.config(name, 4))
    with illava.accelerate(model, illava.Illava()) as handle:
        modules = handle.modules
        assert (len(modules.blocks), len(modules.layers)) == (4, 4)
        assert handle.plan.encoder
        assert handle.plan.llm
    assert published.SHAPES[name].config == before


def test_what_depends_on_depth_is_cut_with_it():
    full = {
        n: published.config("qwen2.5-vl-3b", n).vision_config.fullatt_block_indexes for n in (1, 4, 8, 20)
    }
    assert full == {1: [0], 4: [3], 8: [7], 20: [7, 15]}
    # 3 taps in 24 blocks.
    taps = {n: published.config("qwen3-vl-2b", n).vision_config.deepstack_visual_indexes for n in (2, 8, 16)}
    assert taps == {2: [0], 8: [1], 16: [3, 7]}
    assert published.config("qwen3-vl-2b").vision_config.deepstack_visual_indexes == [5, 11, 17]


def test_a_slice_deeper_than_one_part_leaves_that_whole():
    cut = published.config("qwen2-vl-2b", 30)
    assert (cut.vision_config.depth, cut.text_config.num_hidden_layers) == (30, 28)


@pytest.mark.parametrize("layers", [0, -1, 33])
def test_layers_that_a_shape_has_not(layers):
    with pytest.raises(InputError, match=f"--layers {layers}: give a number from 1 to 32"):
        published.config("qwen2-vl-2b", layers)


def test_another_name_lists_the_names():
    with pytest.raises(InputError, match=r"--shape no: .*qwen2-vl-2b, .*internvl3-8b"):
        published.config("no")


@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_run(tiny_shapes, family, layers):
    dtype = torch.bfloat16 if layers else torch.float32
    name = f"tiny-{family}"
    model = random_weights.build(name, layers, dtype, CPU)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    again = random_weights.build(name, layers, dtype, CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    inputs = prompts.make(model.config, (40, 40), text_tokens=10, dtype=dtype)
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.isfinite().all()
    # Not all the same: attention and pictures say something.
    assert logits.std() > 0.1
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 5


def test_weights_that_do_not_fit():
    # Counted by hand on the meta device: bfloat16 takes two bytes a weight.
    needed = 2 * count(random_weights.on_meta(published.config("internvl2.5-26b")))
    five, six = (2 * count(random_weights.on_meta(published.config("internvl2.5-26b", n))) for n in (5, 6))

    def check(free, layers=None):
        random_weights.check_fits("internvl2.5-26b", layers, torch.bfloat16, free)

    check(2 * needed)
    check(None)
    with pytest.raises(InputError, match=r"take 51 GB in bfloat16, and .* are free; give --layers 5 or less"):
        check((five + six) // 2)
    check((five + six) // 2, layers=5)
    with pytest.raises(InputError, match="not even --layers 1 fits"):
        check(10**6)


def test_free_memory_is_known_here():
    free = free_bytes(CPU)
    assert free is None or 10**6 < free < 10**14
