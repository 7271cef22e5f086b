"""Ways to decode: constrained, contrastive, by layers, by a loop of the user's own, from embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor

import illava
from tests.battery.test_battery import method_of
from tests.test_exact import batch, single, text_only
from tests.tiny import tiny_model

NAMES = ("llava", "qwen2_vl", "internvl", "gemma3")
every_model = pytest.mark.parametrize("name", NAMES)
OPTIONS = dict(max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True)


class Odd(LogitsProcessor):
    """Allows tokens of odd number only."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, ::2] = float("-inf")
        return scores


def allowed(row: int, ids: Tensor) -> list[int]:
    """Other tokens at every length, and in every row."""
    return [3 + len(ids) % 50, 60 + row, 70]


CONSTRAINTS = {
    "processor": dict(logits_processor=[Odd()]),
    "prefix_allowed_tokens_fn": dict(prefix_allowed_tokens_fn=allowed),
    "beams with prefixes": dict(prefix_allowed_tokens_fn=allowed, num_beams=3, num_return_sequences=2),
    "biases": dict(sequence_bias={(5,): 3.0, (7, 8): 2.0}, bad_words_ids=[[4]]),
    "repetition": dict(repetition_penalty=1.3, no_repeat_ngram_size=2),
    "stopping": dict(stopping_criteria=[lambda ids, _, **kw: torch.full((len(ids),), ids.shape[1] > 85)]),
}


@every_model
@pytest.mark.parametrize("options", CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_constrained_decoding(name, options):
    """Its texts and logits are those of merged prompts that are run anew for every token."""
    model = tiny_model(name)
    inputs = batch(model)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        plain = model.generate(**inputs, **OPTIONS, **options)
        with illava.accelerate(model, keep=1.0):
            assert torch.equal(model.generate(**inputs, **OPTIONS, **options).sequences, plain.sequences)
        with illava.accelerate(model, method_of(name)):
            found = model.generate(**inputs, **OPTIONS, **options)
            anew = model.generate(**inputs, **OPTIONS, **options, use_cache=False)
    assert torch.equal(found.sequences, anew.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(anew.logits), atol=1e-5, rtol=0)
    written = found.sequences[:, length:]
    if "logits_processor" in options:
        assert bool((written % 2 == 1).all())
    if "prefix_allowed_tokens_fn" in options:
        rows = len(found.sequences) // 3
        for index, text in enumerate(written.tolist()):
            for place, token in enumerate(text):
                assert token in allowed(index // rows, found.sequences[index, : length + place])


@pytest.mark.parametrize("make", [single, batch])
def test_guidance(make):
    """The prompt without its conditions runs in between, in the same model."""
    model = tiny_model("llava")
    inputs = make(model)
    with torch.no_grad(), illava.accelerate(model, method_of("llava")):
        found = model.generate(**inputs, **OPTIONS, guidance_scale=1.5)
        anew = model.generate(**inputs, **OPTIONS, guidance_scale=1.5, use_cache=False)
    assert torch.equal(found.sequences, anew.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(anew.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("main", [False, True], ids=["plain", "accelerated"])
def test_an_accelerated_assistant(name, main):
    """It proposes other tokens, and changes nothing that is written."""
    model, assistant = tiny_model(name), tiny_model(name)
    inputs = single(model)
    with torch.no_grad(), illava.accelerate(model, method_of(name) if main else illava.Illava(keep=1.0)):
        alone = model.generate(**inputs, **OPTIONS).sequences
        with illava.accelerate(assistant, method_of(name)) as handle:
            assert torch.equal(
                model.generate(**inputs, **OPTIONS, assistant_model=assistant).sequences, alone
            )
            assert handle.report.final_tokens < handle.report.visual_tokens


@pytest.mark.parametrize("how", ["argument", "config", "own loop"])
def test_contrastive_search_is_refused_with_pictures(how):
    model = tiny_model("qwen2_vl")
    options = dict(penalty_alpha=0.6, top_k=4, do_sample=False)
    if how == "own loop":
        options["custom_generate"] = lambda model, input_ids, **kwargs: input_ids
    if how == "config":
        model.generation_config.update(**options)
        options = {}
    with illava.accelerate(model, method_of("qwen2_vl")):
        with pytest.raises(illava.UnsupportedError, match="penalty_alpha") as error:
            model.generate(**single(model), max_new_tokens=2, **options)
        assert "\n" not in str(error.value)
        # Sampling and beams do not use it.
        model.generate(**single(model), max_new_tokens=2, **{**options, "do_sample": True, "top_k": 4})
        if how == "own loop":
            assert model.generate(**text_only(model), **options).shape == text_only(model)["input_ids"].shape


MODES = {
    "Dola": dict(dola_layers="low"),
    "Constrained Beam Search": dict(num_beams=2, force_words_ids=[[5]]),
    "Group Beam Search": dict(num_beams=2, num_beam_groups=2, diversity_penalty=0.5),
}


@pytest.mark.parametrize("mode", MODES)
def test_decoding_that_transformers_keeps_in_repositories_is_refused_as_by_the_plain_model(mode):
    """transformers 5 loads their code from the hub, if it is trusted."""
    model = tiny_model("llava")
    inputs, refusal = single(model), {}
    for state in ("plain", "merged"):
        handle = illava.accelerate(model, method_of("llava")) if state == "merged" else None
        with pytest.raises(ValueError, match=f"{mode}.*trust_remote_code") as error:
            model.generate(**inputs, max_new_tokens=2, **MODES[mode])
        refusal[state] = str(error.value)
        if handle is not None:
            handle.remove()
    assert refusal["plain"] == refusal["merged"]


def greedy_by_layers(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
    """A decoding loop of a user's: contrasts the last layer with an early one, as DoLa does."""
    kwargs.pop("synced_gpus", None)
    first, seen = True, []
    for _ in range(4):
        given = model.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=None if first or not kwargs.get("use_cache", True) else 1,
            is_first_iteration=first,
            **kwargs,
        )
        out = model(**given, output_hidden_states=True, return_dict=True)
        kwargs = model._update_model_kwargs_for_generation(out, kwargs)
        early = model.lm_head(out.hidden_states[2][:, -1]).log_softmax(-1)
        scores = out.logits[:, -1].log_softmax(-1) - 0.5 * early
        seen.append(scores)
        input_ids = torch.cat([input_ids, scores.argmax(-1)[:, None]], 1)
        first = not kwargs.get("use_cache", True)
    return torch.stack(seen)


@every_model
@pytest.mark.parametrize("make", [single, batch])
def test_a_loop_of_ones_own(name, make):
    model = tiny_model(name)
    inputs = make(model)
    with torch.no_grad():
        plain = model.generate(**inputs, custom_generate=greedy_by_layers)
        with illava.accelerate(model, keep=1.0):
            assert torch.equal(model.generate(**inputs, custom_generate=greedy_by_layers), plain)
        with illava.accelerate(model, method_of(name)):
            found = model.generate(**inputs, custom_generate=greedy_by_layers)
            anew = model.generate(**inputs, custom_generate=greedy_by_layers, use_cache=False)
    torch.testing.assert_close(found, anew, atol=1e-5, rtol=0)
    assert (found - plain).abs().max() > 1e-3


# Gemma 3's generate() takes no embeddings.
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
@pytest.mark.parametrize("make", [single, batch])
def test_generating_from_embeddings_and_pixels(name, make):
    """The placeholders are found among the embeddings."""
    model = tiny_model(name)
    inputs = make(model)
    given = dict(inputs)
    given["inputs_embeds"] = model.get_input_embeddings()(given.pop("input_ids")).detach()
    with torch.no_grad():
        plain = model.generate(**given, **OPTIONS)
        with illava.accelerate(model, keep=1.0):
            assert torch.equal(model.generate(**given, **OPTIONS).sequences, plain.sequences)
        with illava.accelerate(model, method_of(name)) as handle:
            expected = model.generate(**inputs, **OPTIONS)
            found = model.generate(**given, **OPTIONS)
            assert handle.report.final_tokens < handle.report.visual_tokens
    # From embeddings, generate() returns the new tokens alone, and runs Qwen at other positions.
    if name != "qwen2_vl":
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", [False, True])
def test_embeddings_that_hold_features_are_merged_where_their_places_are_known(encoder):
    """Qwen's are marked by mm_token_type_ids; LLaVA's unknown: a warning, or an error if some are lost."""
    method = illava.Illava(
        encoder_layers=(1,) if encoder else (), encoder_keep=0.5, llm_layers=(2,), llm_keep=0.5
    )
    for name in ("qwen2_vl", "llava"):
        model = tiny_model(name)
        inputs = single(model)
        shown = {key: inputs.pop(key) for key in list(inputs) if key.startswith(("pixel", "image"))}
        ids = inputs.pop("input_ids")
        with torch.no_grad(), illava.accelerate(model, method) as handle:
            parts = model.get_image_features(**shown).pooler_output
            features = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
            places = (ids == model.config.image_token_id)[..., None]
            embeds = model.get_input_embeddings()(ids)
            inputs["inputs_embeds"] = embeds.masked_scatter(places.expand_as(embeds), features)
            if name == "qwen2_vl":
                assert model(**inputs).logits.shape[1] < ids.shape[1]
                assert handle.report.final_tokens < handle.report.visual_tokens
            elif encoder:
                with pytest.raises(illava.UnsupportedError, match="inputs_embeds"):
                    model(**inputs)
            else:
                with pytest.warns(UserWarning, match="not merged"):
                    assert model(**inputs).logits.shape[1] == ids.shape[1]
