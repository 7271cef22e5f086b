"""Mistakes found in other token mergers, each looked for here, from outside the library.

What a module is handed and what it returns are seen by hooks of the tests' own, scores are the attention
weights of transformers' eager functions. With ``reduce="drop"`` survivors are what they were without
merging, so looking a row up among those of the plain model tells which token it is.
"""

from __future__ import annotations

import sys

import pytest
import torch

import illava
from tests.tiny import ALL, END, IMAGE, START, picture, pictures, prompt, tiny_model
from tests.watching import attention_of, blocks, layers, lookup, run, weights

AT = 2
KEEP = 0.4


def encoder(keep=KEEP, **fields):
    return illava.Illava(encoder_layers=(AT,), encoder_keep=keep, llm_layers=(), **fields)


def llm(keep=KEEP, **fields):
    return illava.Illava(encoder_layers=(), llm_layers=(AT,), llm_keep=keep, **fields)


def one(model, size=None, seed=0, text=(5, 6, 7, 8)):
    """A prompt with one picture; ``size`` as in tests.tiny."""
    part = pictures(model, 1, seed)[0] if size is None else picture(model, size, seed)
    return prompt(model, [(list(text), [part])])


def survivors(model, inputs, method):
    """Columns of the prompt, in the order in which they enter layer AT."""
    _, [[(full, _)]] = run(model, inputs, layers(model)[AT])
    with illava.accelerate(model, method):
        _, [[(left, _)]] = run(model, inputs, layers(model)[AT])
    return lookup(left[0], full[0])


def patches(model, inputs, method):
    """Tokens of the first tile or packed picture, in the order in which they leave block AT; and how many."""
    _, [[(_, full)]] = run(model, inputs, blocks(model)[AT])
    with illava.accelerate(model, method):
        _, [[(_, left)]] = run(model, inputs, blocks(model)[AT])
    full, left = (x if x.dim() == 3 else x[None] for x in (full, left))
    return lookup(left[0], full[0]), full.shape[1]


def places(inputs):
    return (inputs["input_ids"][0] == IMAGE).nonzero().flatten().tolist()


def best(scores, among, keep=KEEP):
    """The round(keep n) of ``among`` that score highest."""
    return set(sorted(among, key=lambda i: -float(scores[i]))[: max(1, round(keep * len(among)))])


# -- FastV: the layer that gives the scores runs a second time, and its keys enter the cache twice --------


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl", "internvl", "idefics3", "paligemma"])
def test_every_layer_runs_once_and_caches_each_token_once(name):
    model = tiny_model(name)
    inputs = one(model)
    with illava.accelerate(model, llm()):
        out, calls = run(model, inputs, *layers(model))
        assert [len(seen) for seen in calls] == [1] * 5
        cache = out.past_key_values
        tokens = [seen[0][0].shape[1] for seen in calls]
        assert [layer.keys.shape[2] for layer in cache.layers] == tokens
        assert tokens[AT - 1] > tokens[AT]
        for keys in (layer.keys[0].transpose(0, 1).flatten(1) for layer in cache.layers):
            assert torch.pdist(keys).min() > 1e-4, "one token's key twice"
        following = dict(input_ids=torch.tensor([[7]]), past_key_values=cache)
        _, calls = run(model, following, *layers(model))
        assert [len(seen) for seen in calls] == [1] * 5
        assert [layer.keys.shape[2] for layer in cache.layers] == [n + 1 for n in tokens]


# -- UniPruneBench: indices from top-k left unsorted, so tokens go on in the order of their scores --------


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_vl", "qwen3_vl"])
def test_survivors_keep_the_order_of_the_prompt(name, monkeypatch):
    model = tiny_model(name, "eager")
    inputs = one(model)
    scores = weights(monkeypatch, model, inputs, attention_of(layers(model)[AT - 1])).mean(1)[0, -1]
    left = survivors(model, inputs, llm(reduce="drop"))
    by_score = sorted(left, key=lambda column: -float(scores[column]))
    assert left == sorted(left) != by_score


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_vl", "qwen3_vl"])
def test_survivors_keep_the_order_of_the_picture(name):
    model = tiny_model(name)
    left, before = patches(model, one(model), encoder(reduce="drop"))
    assert left == sorted(left)
    assert len(set(left)) == len(left) < before


# -- A port of FitPrune: the lowest scores stay ------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_vl", "qwen3_vl", "internvl", "gemma3"])
def test_what_the_last_token_looks_at_most_stays(name, monkeypatch):
    model = tiny_model(name, "eager")
    inputs = one(model)
    scores = weights(monkeypatch, model, inputs, attention_of(layers(model)[AT - 1])).mean(1)[0, -1]
    visual = places(inputs)
    text = set(range(inputs["input_ids"].shape[1])) - set(visual)
    assert set(survivors(model, inputs, llm(reduce="drop"))) == text | best(scores, visual)


@pytest.mark.parametrize("name", ["llava-siglip", "llava_onevision", "paligemma", "qwen2_vl", "qwen3_vl"])
def test_the_patches_that_are_looked_at_most_stay(name, monkeypatch):
    model = tiny_model(name, "eager")
    inputs = one(model)
    received = weights(monkeypatch, model, inputs, attention_of(blocks(model)[AT])).mean((1, 2))[0]
    group = 4 if "qwen" in name else 1
    units = best(received.view(-1, group).mean(1), range(len(received) // group))
    left, _ = patches(model, inputs, encoder(reduce="drop"))
    assert set(left) == {unit * group + i for unit in units for i in range(group)}


# -- VisionZip: a merged token is a sum where a mean is meant, so its norm doubles -------------------------


@pytest.mark.parametrize("reduce", ["recycle", "weighted"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl", "internvl"])
def test_merging_equal_tokens_gives_that_token(name, reduce):
    """In the LLM: visual tokens are all alike, and layers before the merge leave them so."""
    model = tiny_model(name)
    inputs = one(model)
    for layer in layers(model)[:AT]:
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(module.weight)
    same = torch.linspace(-1, 1, 32)
    for projector in [*getattr(getattr(model.model, "visual", None), "deepstack_merger_list", [])]:
        projector.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    projector = (
        model.model.visual.merger if hasattr(model.model, "visual") else model.model.multi_modal_projector
    )
    projector.register_forward_hook(lambda module, args, output: same.expand(output.shape))
    visual, n = places(inputs), inputs["input_ids"].shape[1]
    with illava.accelerate(model, llm(reduce=reduce, recycle=0.5)):
        _, [[(left, _)]] = run(model, inputs, layers(model)[AT])
    stay = best(torch.zeros(n), visual)
    assert left.shape[1] == n - len(visual) + len(stay)
    merged = left[0, visual[0] : visual[0] + len(stay)]
    torch.testing.assert_close(merged, same.expand(len(stay), -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reduce", ["recycle", "weighted"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
def test_merging_equal_patches_gives_that_patch(name, reduce):
    """In the encoder: a picture of one colour, without position embeddings."""
    model = tiny_model(name)
    inputs = one(model)
    inputs["pixel_values"] = torch.ones_like(inputs["pixel_values"])
    for parameter in (p for n, p in model.named_parameters() if "position_embedding" in n):
        torch.nn.init.zeros_(parameter)
    _, [[(_, full)]] = run(model, inputs, blocks(model)[AT])
    with illava.accelerate(model, encoder(reduce=reduce, recycle=0.5)):
        _, [[(_, left)]] = run(model, inputs, blocks(model)[AT])
    assert left.shape[-2] < full.shape[-2]
    assert left[..., -1, :].norm() > 1
    torch.testing.assert_close(left, full[..., : left.shape[-2], :], atol=1e-5, rtol=0)


# -- Many: the picture is taken to stand at columns 35 to 610 ---------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "smolvlm", "mistral3"])
@pytest.mark.parametrize("before", [0, 20, 40, 650])
def test_a_picture_is_found_wherever_it_stands(name, before):
    """Pictures of several sizes, the first behind ``before`` words, the second far behind that."""
    model = tiny_model(name)
    parts = pictures(model, 2)
    inputs = prompt(model, [([5, 6], parts)])
    ids = [
        1,
        *[5, 9, 7, 6] * (before // 4),
        START,
        *parts[0].ids,
        END,
        *[8, 11] * 12,
        START,
        *parts[1].ids,
        END,
        7,
        8,
    ]
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    left = set(survivors(model, inputs, llm(reduce="drop")))
    runs = []
    for column in places(inputs):
        if not runs or runs[-1][-1] != column - 1:
            runs.append([])
        runs[-1].append(column)
    assert left >= set(range(len(ids))) - set(places(inputs)), "text has gone"
    assert [len(left & set(columns)) for columns in runs] == [max(1, round(KEEP * len(c))) for c in runs]


# -- VisionZip on Qwen: the first patch is taken for a class token -----------------------------------------


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava-siglip", "mistral3"])
def test_without_a_class_token_the_first_patch_is_one_like_any_other(name):
    model = tiny_model(name)
    kept = []
    for seed in range(12):
        left, _ = patches(model, one(model, seed=seed), encoder(keep=0.5, reduce="drop"))
        kept.append(0 in left)
    assert 0 < sum(kept) < len(kept)


@pytest.mark.parametrize("name", [name for name in ("llava", "llava_next", "vipllava") if name in ALL])
def test_a_class_token_stays_and_is_not_counted(name, monkeypatch):
    model = tiny_model(name, "eager")
    inputs = one(model)
    received = weights(monkeypatch, model, inputs, attention_of(blocks(model)[AT])).mean((1, 2))[0]
    for keep in (0.02, KEEP, 0.9):
        left, before = patches(model, inputs, encoder(keep, reduce="drop"))
        assert before == 37
        assert set(left) == {0} | best(received, range(1, 37), keep)


# -- Many: a class is patched, so that every model of the process changes ----------------------------------


def namespaces(model):
    """What the classes of a model's modules, and the modules of code they come from, hold by which name."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    held = [(kind, vars(kind)) for kind in classes]
    held += [(name, vars(sys.modules[name])) for name in {kind.__module__ for kind in classes}]
    return {(owner, key): value for owner, names in held for key, value in names.items()}


@pytest.mark.parametrize(
    "name", ["llava", "llava_onevision", "llava_next_video", "qwen2_vl", "internvl", "gemma3"]
)
def test_a_class_is_never_patched(name):
    model, other = tiny_model(name), tiny_model(name)
    inputs = one(model)
    plain = run(other, inputs)[0].logits
    before = namespaces(model)
    method = illava.Illava(encoder_layers=(1,), encoder_keep=KEEP, llm_layers=(AT,), llm_keep=KEEP)
    with illava.accelerate(model, method):
        merged = run(model, inputs)[0].logits
        assert merged.shape[1] < plain.shape[1]
        for instance in (other, tiny_model(name)):
            assert torch.equal(run(instance, inputs)[0].logits, plain)
        during = namespaces(model)
    for now in (during, namespaces(model)):
        assert set(now) == set(before)
        assert [key for key, value in now.items() if value is not before[key]] == []


# -- iLLaVA's own code for Qwen3-VL: single tokens are chosen, then whole groups stay for each of them -----


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.85])
@pytest.mark.parametrize("name", ["qwen3_vl", "internvl", "smolvlm", "mistral3"])
def test_the_share_of_units_is_the_one_asked_for(name, keep):
    """A unit is 2 x 2 patches: four in a row for Qwen, a square of the grid for the others."""
    model = tiny_model(name)
    inputs = one(model)
    rows = {"qwen3_vl": 10, "mistral3": 10}.get(name, 6)  # of patches
    left, before = patches(model, inputs, encoder(keep, reduce="drop"))
    first = 1 if name == "internvl" else 0  # a class token
    before -= first
    columns = before // rows
    if name == "qwen3_vl":
        units = [set(range(i, i + 4)) for i in range(0, before, 4)]
    else:
        corners = [y * columns + x for y in range(0, rows, 2) for x in range(0, columns, 2)]
        units = [{corner + i for i in (0, 1, columns, columns + 1)} for corner in corners]
    tokens = {token - first for token in left if token >= first}
    whole = [unit for unit in units if unit <= tokens]
    assert len(whole) == max(1, round(keep * len(units)))
    assert set().union(*whole) == tokens
    with illava.accelerate(model, encoder(keep)) as handle:
        _, [[(entered, _)]] = run(model, inputs, layers(model)[0])
    n = inputs["input_ids"].shape[1]
    tiles = len(places(inputs)) // len(units)
    assert entered.shape[1] == n - tiles * (len(units) - len(whole))
    assert handle.report.final_tokens == tiles * len(whole)
