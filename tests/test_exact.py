"""What an accelerated model must share with the plain one, bit for bit or within 1e-5 in fp32."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessor

import illava
from tests.tiny import FAMILIES, picture, pictures, prompt, tiny_model

BOTH = illava.Illava(encoder_layers=(1, 3), encoder_keep=0.7, llm_layers=(1, 3), llm_keep=0.7)
ENCODER = illava.Illava(encoder_layers=(1, 2), encoder_keep=0.6, llm_layers=())
LLM = illava.Illava(encoder_layers=(), llm_layers=(2, 4), llm_keep=0.5)
METHODS = {"both": BOTH, "encoder": ENCODER, "llm": LLM}

every_model = pytest.mark.parametrize(
    ("family", "attention"), [(family, attention) for family in FAMILIES for attention in ("sdpa", "eager")]
)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)

TEXTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]


def single(model):
    return prompt(model, [(TEXTS[0], pictures(model, 1))])


def several(model):
    return prompt(model, [(TEXTS[0], pictures(model, 3))])


def batch_rows(model):
    """Unequal numbers and sizes of pictures, unequal text, and a row without any picture."""
    parts = pictures(model, 3)
    return [(TEXTS[0], parts[:1]), (TEXTS[1], parts[1:]), (TEXTS[2], [])]


def batch(model):
    return prompt(model, batch_rows(model))


def long_text(model):
    """The row without a picture is the longest, so the batch stays as long as it was."""
    parts = pictures(model, 3)
    return prompt(model, [([*range(3, 80)] * 3, []), (TEXTS[0], parts[:1]), (TEXTS[1], parts[1:])])


def equal_rows(model):
    """Rows of equal length, one of them without a picture: nothing is padded until tokens go."""
    parts = pictures(model, 1)
    length = len(prompt(model, [(TEXTS[0], parts)])["input_ids"][0])
    return prompt(model, [(TEXTS[0], parts), ([7] * (length - 1), [])])


def text_only(model):
    return prompt(model, [(TEXTS[0], []), (TEXTS[1], [])])


PROMPTS = {
    "single": single,
    "several": several,
    "batch": batch,
    "long": long_text,
    "equal": equal_rows,
    "text": text_only,
}
every_prompt = pytest.mark.parametrize("make", PROMPTS.values(), ids=PROMPTS)


class Dictate(LogitsProcessor):
    """Makes generation write a given text, so that near ties between tokens cannot hide or fake errors."""

    def __init__(self, prompt_length):
        self.prompt_length = prompt_length

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.prompt_length
        tokens = torch.full((len(scores),), 3 + 17 * step % 80)
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0)


def logits_of_steps(model, inputs, steps=8, **options):
    """(steps, B, V) logits along a dictated text."""
    options["logits_processor"] = [Dictate(inputs["input_ids"].shape[1])]
    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    return torch.stack(out.logits), out


@every_model
@every_prompt
def test_keep_one_is_the_plain_model_bit_for_bit(family, attention, make):
    model = tiny_model(family, attention)
    inputs = make(model)
    with torch.no_grad():
        plain = model(**inputs).logits
    plain_steps, _ = logits_of_steps(model, inputs)
    for method in (illava.Illava(keep=1.0), illava.Illava(encoder_keep=1.0, llm_keep=1.0)):
        with illava.accelerate(model, method), torch.no_grad():
            assert torch.equal(model(**inputs).logits, plain)
            assert torch.equal(logits_of_steps(model, inputs)[0], plain_steps)


@every_model
@every_method
def test_text_only_prompts_are_the_plain_models_bit_for_bit(family, attention, method):
    model = tiny_model(family, attention)
    inputs = text_only(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        plain_steps, _ = logits_of_steps(model, inputs)
        with illava.accelerate(model, method):
            assert torch.equal(model(**inputs).logits, plain)
            assert torch.equal(logits_of_steps(model, inputs)[0], plain_steps)


@every_model
def test_a_picture_too_small_to_drop_anything_changes_no_bit(family, attention):
    model = tiny_model(family, attention)
    size = (24, 24) if family == "llava_onevision" else (1, 2)
    inputs = prompt(model, [(TEXTS[0], [picture(model, size)])])
    # round(0.99 * n) == n for every segment of these pictures.
    method = illava.Illava(encoder_layers=(1,), encoder_keep=0.99, llm_layers=(2,), llm_keep=0.995)
    plain_steps, _ = logits_of_steps(model, inputs)
    with illava.accelerate(model, method):
        assert torch.equal(logits_of_steps(model, inputs)[0], plain_steps)


@every_model
@every_method
@every_prompt
def test_cached_decoding_equals_recomputing_without_a_cache(family, attention, method, make):
    model = tiny_model(family, attention)
    inputs = make(model)
    with illava.accelerate(model, method):
        cached, _ = logits_of_steps(model, inputs)
        recomputed, _ = logits_of_steps(model, inputs, use_cache=False)
    torch.testing.assert_close(cached, recomputed, atol=1e-5, rtol=0)


@every_model
@every_method
def test_a_batch_row_equals_its_single_run(family, attention, method):
    model = tiny_model(family, attention)
    rows = batch_rows(model)
    with illava.accelerate(model, method):
        together, _ = logits_of_steps(model, prompt(model, rows))
        for index, row in enumerate(rows):
            alone, _ = logits_of_steps(model, prompt(model, [row]))
            torch.testing.assert_close(together[:, index], alone[:, 0], atol=1e-5, rtol=0)


@every_model
@pytest.mark.parametrize("make", [long_text, equal_rows])
def test_filler_in_a_batch_that_gets_no_shorter_is_never_seen(family, attention, make):
    model = tiny_model(family, attention)
    inputs = make(model)
    parts = pictures(model, 3)
    row = 1 if make is long_text else 0
    with illava.accelerate(model, BOTH):
        together, _ = logits_of_steps(model, inputs)
        alone, _ = logits_of_steps(model, prompt(model, [(TEXTS[0], parts[:1])]))
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=1e-5, rtol=0)
        if make is equal_rows:
            # Decoding by hand, without any mask.
            del inputs["attention_mask"]
            with torch.no_grad():
                cache = model(**inputs, use_cache=True).past_key_values
                after = model(input_ids=torch.tensor([[3], [3]]), past_key_values=cache).logits
            torch.testing.assert_close(after[0, -1], alone[1, 0], atol=1e-5, rtol=0)


@every_model
def test_forward_gives_the_logits_that_generate_starts_from(family, attention):
    model = tiny_model(family, attention)
    inputs = batch(model)
    with illava.accelerate(model, BOTH), torch.no_grad():
        first = model(**inputs).logits[:, -1]
        steps, _ = logits_of_steps(model, inputs, steps=1)
    torch.testing.assert_close(first, steps[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_and_eager_agree(family):
    steps = []
    for attention in ("sdpa", "eager"):
        model = tiny_model(family, attention)
        with illava.accelerate(model, BOTH):
            steps.append(logits_of_steps(model, batch(model))[0])
    torch.testing.assert_close(steps[0], steps[1], atol=1e-5, rtol=0)


@every_model
def test_a_beam_of_one_sequence_scores_as_the_sequence_recomputed(family, attention):
    """Beam search reorders a merged cache; its scores must be those of its own sequences."""
    model = tiny_model(family, attention)
    inputs = batch(model)
    length = inputs["input_ids"].shape[1]
    options = dict(num_beams=3, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    with illava.accelerate(model, BOTH), torch.no_grad():
        cached = model.generate(**inputs, output_scores=True, **options)
        recomputed = model.generate(**inputs, output_scores=True, use_cache=False, **options)
    assert torch.equal(cached.sequences, recomputed.sequences)
    assert cached.sequences.shape[1] == length + 5
    torch.testing.assert_close(cached.sequences_scores, recomputed.sequences_scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_draws_from_the_merged_models_distribution(family):
    """Same seed, same logits (cached or not), so the same draw; several answers a prompt."""
    model = tiny_model(family)
    inputs = several(model)
    drawn = []
    with illava.accelerate(model, BOTH), torch.no_grad():
        for use_cache in (True, False):
            torch.manual_seed(3)
            options = dict(do_sample=True, num_return_sequences=3, max_new_tokens=6, use_cache=use_cache)
            drawn.append(model.generate(**inputs, **options))
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape[0] == 3


@every_model
def test_half_precision_runs_and_stays_close_to_fp32(family, attention):
    model = tiny_model(family, attention)
    inputs = batch(model)
    with illava.accelerate(model, ENCODER), torch.no_grad():
        exact = model(**inputs).logits[:, -1]
    model = model.to(torch.bfloat16)
    with illava.accelerate(model, ENCODER), torch.no_grad():
        rounded = model(**inputs).logits[:, -1]
    assert rounded.dtype == torch.bfloat16
    assert rounded.isfinite().all()
    # A text-only row does not depend on which tokens rounding selects.
    torch.testing.assert_close(rounded[2].float(), exact[2], atol=0.3, rtol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_double_and_single_precision_agree(family):
    model = tiny_model(family)
    inputs = batch(model)
    with illava.accelerate(model, BOTH), torch.no_grad():
        single_precision = model(**inputs).logits[:, -1]
    with illava.accelerate(model.double(), BOTH), torch.no_grad():
        double_precision = model(**inputs).logits[:, -1]
    assert double_precision.dtype == torch.float64
    torch.testing.assert_close(single_precision.double(), double_precision, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_through_an_accelerated_model(family):
    model = tiny_model(family)
    with illava.accelerate(model, BOTH):
        model(**single(model)).logits[:, -1].sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 50
    assert all(g.isfinite().all() for g in gradients)
