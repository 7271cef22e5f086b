"""A number that is not finite in the image encoder must reach the logits, whatever was dropped."""

from __future__ import annotations

import pytest
import torch

import illava
from tests.battery.test_battery import method_of
from tests.test_exact import BOTH, ENCODER, single
from tests.tiny import ALL, pictures, prompt, tiny_model, video, video_prompt

METHODS = {
    "both": BOTH,
    "encoder": ENCODER,
    "visionzip": illava.VisionZip(keep=0.3),
    "fastervlm": illava.FasterVLM(keep=0.3),
    "vispruner": illava.VisPruner(keep=0.3),
    "prumerge": illava.PruMergePlus(keep=0.3),
    "divprune": illava.DivPrune(keep=0.3),
    "mmtok": illava.MMTok(keep=0.3),
    "random": illava.Random(keep=0.3),
    "random llm": illava.Random(keep=0.3, stage="llm"),
    "tome": illava.ToMe(keep=0.5),
    "fastv": illava.FastV(keep=0.5),
    "pool": illava.Pool(keep=0.25),
}


def last_logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits[:, -1]


def spoil(module, value=torch.nan):
    """The first row that the projector returns holds one number that is not finite."""

    def put(module, args, output):
        output = output.clone()
        output.view(-1, output.shape[-1])[0, 0] = value
        return output

    return module.register_forward_hook(put)


def projector(model):
    from illava.models.families import family_of

    return model.model.get_submodule(family_of(model.config).projector)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ALL)
def test_one_feature(name, value):
    model = tiny_model(name)
    spoil(projector(model), value)
    inputs = single(model)
    assert last_logits(model, inputs).isnan().all()
    if name == "ovis2":
        # A softmax behind its projector spreads NaN over the row, which then looks like a dropped one.
        lost = pytest.raises(RuntimeError, match="features of dropped tokens that reached")
        with illava.accelerate(model, method_of(name)), lost:
            last_logits(model, inputs)
        return
    with illava.accelerate(model, method_of(name)):
        assert last_logits(model, inputs).isnan().all()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", ["qwen2_vl", "llava_onevision"])
def test_one_feature_and_every_method(name, method):
    model = tiny_model(name)
    spoil(projector(model))
    inputs = single(model)
    with illava.accelerate(model, method):
        assert last_logits(model, inputs).isnan().all()


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "internvl", "idefics3", "mistral3"])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_overflow_in_the_encoder(name, at):
    """float16: one token's state overflows in a block, before, at and behind those that merge."""
    model = tiny_model(name).half()
    from illava.models.located import locate

    block = locate(model).blocks[at]

    def overflow(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[..., -1, :] *= 60000
        hidden[..., -1, :] *= 60000
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    block.register_forward_hook(overflow)
    inputs = {k: v.half() if v.is_floating_point() else v for k, v in single(model).items()}
    plain = last_logits(model, inputs)
    with illava.accelerate(model, BOTH):
        merged = last_logits(model, inputs)
    assert plain.isnan().all()
    assert merged.isnan().all()


def test_only_the_row_whose_picture_it_is():
    model = tiny_model("llava")
    parts = pictures(model, 2)
    inputs = prompt(model, [([5, 6, 7], parts[:1]), ([8, 9, 10], parts[1:])])
    spoil(projector(model))
    with illava.accelerate(model, illava.DivPrune(keep=0.3)):
        merged = last_logits(model, inputs)
    assert merged[0].isnan().all()
    assert merged[1].isfinite().all()


def test_a_word_that_is_not_a_number_stays():
    model = tiny_model("qwen2_vl")
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = torch.nan
    inputs = single(model)
    assert 5 in inputs["input_ids"]
    with illava.accelerate(model, BOTH), torch.no_grad():
        assert model(**inputs).logits[:, -1].isnan().all()


def spoiled_rows(module):
    """Before each pass the caller says which row that the module gets holds a NaN."""
    at = [0]

    def put(module, args, kwargs):
        args, kwargs = list(args), dict(kwargs)
        x = (args[0] if args else next(iter(kwargs.values()))).clone(memory_format=torch.contiguous_format)
        # Rows that are marked already stand for nothing.
        rows = x.view(-1, x.shape[-1])
        alive = (~rows.isnan().any(1)).nonzero().flatten()
        rows[alive[at[0] % len(alive)], -1] = torch.nan
        if args:
            args[0] = x
        else:
            kwargs[next(iter(kwargs))] = x
        return tuple(args), kwargs

    module.register_forward_pre_hook(put, with_kwargs=True)
    return at


@pytest.mark.parametrize("keep", [0.995, 0.6, 0.4])
@pytest.mark.parametrize("name", ["llava_next_video", "llava_onevision", "qwen2_vl", "glm4v"])
def test_every_feature_of_a_video(name, keep):
    """Averaged rows too: pooled before the projector, or after it."""
    model = tiny_model(name)
    inputs = video_prompt(model, [5, 6, 7], [], video(model, 2))
    method = illava.Illava(encoder_layers=(1,), encoder_keep=keep, llm_layers=())
    with illava.accelerate(model, method):
        at = spoiled_rows(projector(model))
        for at[0] in range(12):
            assert last_logits(model, inputs).isnan().all(), at


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "method", [method_of("qwen3_vl"), illava.VisionZip(keep=0.3)], ids=["illava", "visionzip"]
)
def test_every_feature_that_is_tapped(method, dtype):
    model = tiny_model("qwen3_vl").to(dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in single(model).items()}
    taps = model.model.visual.deepstack_merger_list
    with illava.accelerate(model, method):
        at = spoiled_rows(taps[1])
        for at[0] in range(8):
            assert last_logits(model, inputs).isnan().all(), at
