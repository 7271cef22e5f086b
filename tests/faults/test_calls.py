"""What a call leaves behind: nothing that the next one, or another thread's, could take for its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import illava
from tests.battery.test_battery import method_of
from tests.memory import tensors_made
from tests.test_exact import BOTH, TEXTS, single
from tests.tiny import ALL, MIXED_WINDOWS, pictures, prompt, tiny_model

OPTIONS = dict(max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True)


def answer(model, inputs, **options):
    """(steps, B, V) logits of a greedy answer."""
    with torch.no_grad():
        return torch.stack(model.generate(**inputs, **{**OPTIONS, **options}).logits)


class Failure(Exception):
    pass


def fail(*_):
    raise Failure


def test_the_report_is_of_a_pass_that_succeeded():
    model = tiny_model("qwen2_vl")
    one, three = single(model), prompt(model, [(TEXTS[0], pictures(model, 3))])
    with illava.accelerate(model, BOTH) as handle, torch.no_grad():
        hook = model.model.language_model.layers[4].register_forward_pre_hook(fail)
        with pytest.raises(Failure):
            model(**one)
        with pytest.raises(ValueError, match="no report yet"):
            _ = handle.report
        hook.remove()
        model(**one)
        before = handle.report.visual_tokens
        model.model.language_model.layers[4].register_forward_pre_hook(fail)
        with pytest.raises(Failure):
            model(**three)
        assert handle.report.visual_tokens == before


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_two_threads(name):
    model = tiny_model(name)
    prompts = [prompt(model, [(TEXTS[i % 3], pictures(model, 1 + i % 2, seed=i))]) for i in range(6)]

    def forward(inputs):
        with torch.no_grad():
            return model(**inputs).logits

    with illava.accelerate(model, BOTH):
        expected = [(forward(inputs), answer(model, inputs)) for inputs in prompts]
        with ThreadPoolExecutor(4) as pool:
            logits = [pool.submit(forward, inputs) for inputs in prompts * 4]
            answers = [pool.submit(answer, model, inputs) for inputs in prompts * 2]
            for i, future in enumerate(logits):
                assert torch.equal(future.result(), expected[i % 6][0])
            for i, future in enumerate(answers):
                assert torch.equal(future.result(), expected[i % 6][1])


def test_a_thread_that_was_interrupted_lets_others_in():
    model = tiny_model("llava")
    inputs = single(model)

    def interrupt(*_):
        raise KeyboardInterrupt

    with illava.accelerate(model, BOTH):
        expected = answer(model, inputs)
        hook = model.model.language_model.layers[2].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            answer(model, inputs)
        hook.remove()
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(answer, model, inputs).result(timeout=60)
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "qwen2_5_vl", "llava_onevision", "internvl", "gemma3", "mistral3"]
)
def test_nothing_of_a_pass_outlives_it(name):
    """No states, masks or tables: the report keeps indices, and sizes of units."""
    model = tiny_model(name)
    inputs = prompt(model, [(TEXTS[0], pictures(model, 2))])
    illava.accelerate(model, BOTH)

    with tensors_made() as alive:
        with torch.no_grad():
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        found = alive()
    new = [t for t in found if t.dim() > 1 and t.is_floating_point()]
    new += [t for t in found if t.dtype == torch.bool and t.dim() > 2]
    assert not [tuple(t.shape) for t in new]


@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_a_generate_that_failed_leaves_no_note(name):
    model = tiny_model(name)
    long, short = prompt(model, [([5, 6, 7, 8] * 3, pictures(model, 1))]), single(model)
    with illava.accelerate(model, BOTH), torch.no_grad():
        expected = model(**long).logits
        # Before anything that reads notes.
        hook = model.register_forward_pre_hook(fail)
        with pytest.raises(Failure):
            model.generate(**short, prompt_lookup_num_tokens=3, max_new_tokens=4)
        hook.remove()
        assert torch.equal(model(**long).logits, expected)
        # Notes of a call that went well are gone likewise.
        model.generate(**short, prompt_lookup_num_tokens=3, max_new_tokens=4)
        model.generate(**short, use_cache=False, max_new_tokens=4)
        assert torch.equal(model(**long).logits, expected)
        wanted = model(**long, use_cache=False).logits
        model(**short, use_cache=False)
        assert torch.equal(model(**long, use_cache=False).logits, wanted)


# Layers that slide or are recurrent cannot take back what an assistant proposed.
ASSISTED = [
    name
    for name in ALL
    if not name.startswith(("qwen3_5", "gemma3", "llava-windows", "paligemma-2", *MIXED_WINDOWS))
]


@pytest.mark.parametrize("name", ASSISTED)
def test_a_model_that_assists_itself(name):
    model = tiny_model(name)
    model.generation_config.num_assistant_tokens = 3
    for seed in range(3):
        inputs = prompt(model, [(TEXTS[seed], pictures(model, 1, seed=seed))])
        with illava.accelerate(model, method_of(name)), torch.no_grad():
            greedy = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            helped = model.generate(**inputs, max_new_tokens=8, do_sample=False, assistant_model=model)
            assert torch.equal(helped, greedy)


@pytest.mark.parametrize("name", ASSISTED)
def test_a_model_that_exits_early(name):
    model = tiny_model(name)
    # transformers reads and sets this on the outer config, which few families have it on.
    type(model.config).num_hidden_layers = property(
        lambda self: self.get_text_config().num_hidden_layers,
        lambda self, value: setattr(self.get_text_config(), "num_hidden_layers", value),
    )
    try:
        inputs = single(model)
        with illava.accelerate(model, method_of(name)), torch.no_grad():
            greedy = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            helped = model.generate(**inputs, max_new_tokens=8, do_sample=False, assistant_early_exit=3)
            assert torch.equal(helped, greedy)
    finally:
        del type(model.config).num_hidden_layers


@pytest.mark.parametrize("helper", ["itself", "lookup"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
def test_an_assistant_and_a_static_cache(name, helper):
    """As far as transformers lets them go together, which it does from 5.24 on."""
    model = tiny_model(name)
    model.generation_config.num_assistant_tokens = 3
    inputs = single(model)
    options = {"assistant_model": model} if helper == "itself" else {"prompt_lookup_num_tokens": 3}
    options |= {"cache_implementation": "static", "max_new_tokens": 8, "do_sample": False}
    with torch.no_grad():
        try:
            model.generate(**inputs, **options)
            possible = True
        except ValueError:
            possible = False
        with illava.accelerate(model, method_of(name)):
            greedy = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            if possible:
                assert torch.equal(model.generate(**inputs, **options), greedy)
            else:
                with pytest.raises(ValueError, match=r"[Ss]tatic"):
                    model.generate(**inputs, **options)


def test_an_option_of_a_call_that_never_reached_the_model():
    model = tiny_model("llava")
    inputs = single(model)
    words = {"input_ids": torch.tensor([[5, 6, 7]])}
    with illava.accelerate(model, BOTH), torch.no_grad():
        expected = model.model(**inputs).last_hidden_state
        # Text alone may have labels.
        model(**words, labels=words["input_ids"])
        assert torch.equal(model.model(**inputs).last_hidden_state, expected)


def test_options_by_position():
    model = tiny_model("qwen2_vl")
    inputs = single(model)
    names = ("input_ids", "attention_mask")
    rest = {name: value for name, value in inputs.items() if name not in names}
    with illava.accelerate(model, BOTH), torch.no_grad():
        expected = model(**inputs).logits
        assert torch.equal(model(*(inputs[name] for name in names), **rest).logits, expected)
