"""Sizes in the LLM for every family: decoding, batches, attentions, static caches, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CompileConfig, StaticCache

import illava
from illava.runtime.llm import sizes as llm_sizes
from tests.battery.test_battery import inputs_of
from tests.flash import Kernels, kernels, use
from tests.methods import whole
from tests.test_llm_sizes import BOTH, ENCODER, FOLD, RECURRENT, RESAMPLED
from tests.test_static import GROWING, generated
from tests.test_synchronisation import MOST, on_device, passes
from tests.tiny import ALL, WITH_VIDEO, tiny_model

__all__ = ["kernels"]

CELLS = [
    # A batch of two images is the hardest form; the others are slow.
    pytest.param(name, shown, rows, marks=() if shown == "two" else pytest.mark.slow)
    for name in ALL
    if name not in RECURRENT
    for shown, rows in (("one", "single"), ("two", "batch"), ("video", "single"))
    if shown != "video" or name in WITH_VIDEO
]


def method_of(model: nn.Module) -> illava.Illava:
    first = max(2, len(getattr(model.config.vision_config, "deepstack_visual_indexes", ())) + 1)
    return illava.Illava(
        encoder_layers=(1,),
        encoder_keep=0.5,
        llm_layers=(first,),
        llm_keep=0.5,
        **FOLD,
        proportional="both",
    )


@pytest.mark.parametrize(("name", "shown", "rows"), CELLS)
def test_every_family_decodes_from_the_cache_what_it_computes_anew(name, shown, rows):
    model = tiny_model(name)
    inputs = inputs_of(model, shown, rows)
    method = method_of(model)
    with illava.accelerate(model, illava.Illava.from_dict({**method.to_dict(), "proportional": None})):
        without, _ = generated(model, inputs)
    with illava.accelerate(model, method):
        found, _ = generated(model, inputs)
        anew, _ = generated(model, inputs, use_cache=False)
        if not (shown == "video" and name.startswith("glm")):
            # The plain model cannot search with beams there.
            options = dict(max_new_tokens=3, do_sample=False, num_beams=2)
            beams = model.generate(**inputs, **options)
            assert torch.equal(beams, model.generate(**inputs, **options, use_cache=False))
    torch.testing.assert_close(found, anew, atol=3e-5, rtol=0)
    assert (found[0] - without[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in ALL if name not in (*RECURRENT, *RESAMPLED)])
def test_every_family_gives_all_features_sizes_that_sum_to_its_units(name, monkeypatch):
    """Rows that a family adds count 1, and sizes of dropped features 0."""
    model, seen = tiny_model(name), []
    read = llm_sizes.feature_sizes

    def kept(modules: Any, run: Any) -> Tensor:
        seen.append((run, sizes := read(modules, run)))
        return sizes

    monkeypatch.setattr(llm_sizes, "feature_sizes", kept)
    monkeypatch.setattr(llm_sizes, "SMALLEST", 0.0)
    with illava.accelerate(model, ENCODER), torch.no_grad():
        model(**inputs_of(model, "two", "single"))
    assert seen
    for run, sizes in seen:
        assert len(sizes) == run.features
        added = len(sizes) - sum(run.full_lengths)
        if run.mixing is None:
            assert float(sizes.sum()) == sum(run.full_lengths) + added
            assert int((sizes == 0).sum()) == sum(run.full_lengths) - sum(run.lengths)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_rows_of_a_batch_equal_their_runs_alone(name):
    model = tiny_model(name)
    rows = whole.rows_of(model, (2, 1))
    with illava.accelerate(model, BOTH), torch.no_grad():
        together = model(**whole.inputs_of(model, rows)).logits[:, -1]
        alone = torch.cat([model(**whole.inputs_of(model, [row])).logits[:, -1] for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_other_attentions_agree_with_sdpa(name, attention, kernels: Kernels):
    model = tiny_model(name)
    other = tiny_model(name, "eager") if attention == "eager" else use(tiny_model(name), attention)
    for rows in ("single", "batch"):
        inputs = inputs_of(model, "two", rows)
        with illava.accelerate(model, BOTH):
            expected, _ = generated(model, inputs)
        with illava.accelerate(other, BOTH):
            found, _ = generated(other, inputs)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("rows", ["single", "batch"])
@pytest.mark.parametrize(
    "name", [name for name in ("llava", "qwen2_vl", "llava_onevision") if name not in GROWING]
)
def test_static_layers_hold_sizes_too(name, rows):
    model = tiny_model(name)
    inputs = inputs_of(model, "two", rows)
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=300)
    with illava.accelerate(model, BOTH):
        want, _ = generated(model, inputs)
        for _ in range(2):
            # The second prompt overwrites the tables of the first.
            cache.reset()
            got, _ = generated(model, inputs, past_key_values=cache, disable_compile=True)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_compiled_decoding_reads_the_sizes_of_each_prompt():
    model = tiny_model("llava")
    with illava.accelerate(model, BOTH):
        for seed in (0, 1):
            inputs = whole.inputs_of(model, whole.rows_of(model, (2, 1), seed))
            want, _ = generated(model, inputs)
            got, _ = generated(
                model,
                inputs,
                cache_implementation="static",
                compile_config=CompileConfig(backend="eager", fullgraph=False, mode=None),
            )
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["llava", "llava_onevision", "llava-windows", "qwen2_vl", "qwen2_5_vl", "internvl"]
)
def test_the_host_waits_no_more(name):
    model, inputs = on_device(tiny_model(name))
    for options in ({}, {"cache_implementation": "static"}):
        with illava.accelerate(model, BOTH):
            (prefill, *decoding), _ = passes(model, inputs, **options)
        assert len(prefill.ours()) <= MOST, prefill.places()
        assert not [wait for step in decoding for wait in step.ours()]


def test_a_second_prompt_on_the_cache_keeps_the_sizes_of_the_first():
    model = tiny_model("llava")
    row = whole.rows_of(model, (1,))[0]
    inputs = whole.inputs_of(model, [row])
    more = torch.tensor([[11, 12, 13, 14]])
    ids = torch.cat([inputs["input_ids"], more], 1)
    joined = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    # Scores of the encoder do not depend on the text.
    with illava.accelerate(model, ENCODER), torch.no_grad():
        expected = model(**joined).logits[:, -1]
        first = model(**inputs, use_cache=True)
        found = model(
            input_ids=more, attention_mask=joined["attention_mask"], past_key_values=first.past_key_values
        ).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_keeping_all_and_removal_change_no_bit(name):
    model = tiny_model(name)
    inputs = inputs_of(model, "two", "batch")
    with torch.no_grad():
        plain = model(**inputs).logits
        for method in (
            illava.Illava(keep=1.0, **FOLD, proportional="both"),
            illava.Illava(
                encoder_layers=(1,),
                encoder_keep=0.999,
                llm_layers=(2,),
                llm_keep=0.999,
                **FOLD,
                proportional="both",
            ),
        ):
            with illava.accelerate(model, method):
                assert torch.equal(model(**inputs).logits, plain)
        handle = illava.accelerate(model, BOTH)
        assert model(**inputs).logits.shape != plain.shape
        handle.remove()
        assert torch.equal(model(**inputs).logits, plain)


def test_bfloat16():
    model = tiny_model("qwen2_vl")
    inputs = inputs_of(model, "two", "batch")
    with illava.accelerate(model, ENCODER), torch.no_grad():
        expected = model(**inputs).logits[:, -1]
    half = tiny_model("qwen2_vl").bfloat16()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with illava.accelerate(half, ENCODER), torch.no_grad():
        found = half(**inputs).logits[:, -1]
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()
    assert (found.float() - expected).abs().mean() < 0.1 * expected.std()


def test_gradients_with_and_without_checkpoints():
    found = []
    for checkpoints in (False, True):
        model = tiny_model("qwen2_vl").double().train()
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        inputs = whole.inputs_of(model, whole.rows_of(model, (2,)))
        with illava.accelerate(model, BOTH):
            model(**inputs, use_cache=False).logits[:, -1].square().sum().backward()
        found.append(model.model.language_model.layers[0].self_attn.k_proj.weight.grad)
    torch.testing.assert_close(found[1], found[0], atol=1e-9, rtol=1e-7)
    assert found[0].abs().max() > 0


SIZED = illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=(), **FOLD, proportional="llm")


def test_heads_too_wide_for_flash_attention_are_refused(monkeypatch):
    model = use(tiny_model("llava"), "flash_attention_2")
    monkeypatch.setattr(model.model.language_model.config, "head_dim", 256)
    with pytest.raises(illava.UnsupportedError, match=r"heads of at most 256 channels, .* LLM's 256: load"):
        illava.accelerate(model, SIZED)
    monkeypatch.setattr(model.model.language_model.config, "head_dim", 246)
    illava.accelerate(model, SIZED).remove()


def test_refusals():
    with pytest.raises(illava.UnsupportedError, match="layers of qwen3_5 without attention cannot weigh"):
        illava.accelerate(tiny_model("qwen3_5"), SIZED)
    for value in (1, True, "all"):
        with pytest.raises(ValueError, match="proportional must be one of encoder, llm, both, got"):
            illava.Illava(proportional=value)


def test_both_is_the_encoder_alone_where_layers_of_the_llm_have_no_attention():
    model = tiny_model("qwen3_5")
    sized = illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=(), **FOLD, proportional="both")
    with illava.accelerate(model, sized) as handle:
        assert not handle.plan.llm_size_bias
        assert all(step.proportional_attention for step in handle.plan.encoder.values())
