"""The authors' own Qwen code as a preset: its scores and steps against loops, and whole models against one
written out patch by patch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.evaluation.compared_methods import comparison_rows
from illava.methods.illava import Illava
from illava.methods.presets import make_method
from illava.methods.single_patches import PatchStep
from illava.methods.steps import Units
from illava.ops.own_rows import own_row_scores
from tests.battery.naive import blocks_of
from tests.battery.test_battery import inputs_of
from tests.core.loops import merge_loop
from tests.methods import naive_llm, whole
from tests.methods.authors_code_loops import llm, log_sum, own_rows
from tests.reference.step import rotate
from tests.tiny import tiny_model

CLOSE = 1e-4


@pytest.mark.parametrize("chunk", [2**20, 64])
@pytest.mark.parametrize("kind", ["none", "causal", "padding", "boolean", "additive"])
def test_scores_equal_the_loop(kind, chunk, monkeypatch):
    monkeypatch.setattr("illava.ops.scoring.CHUNK_BYTES", chunk)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 5, 3, generator=generator), torch.randn(2, 2, 7, 3, generator=generator)
    padding = torch.rand(2, 7, generator=generator) > 0.3
    seen = torch.rand(2, 1, 5, 7, generator=generator) > 0.3
    additive = torch.randn(2, 1, 5, 7, generator=generator)
    mask = {"padding": padding, "boolean": seen, "additive": additive}.get(kind)
    found = own_row_scores(query, key, 0.7, mask, 2.0, causal=kind != "none")
    for b in range(2):
        for i in range(5):
            total = 0.0
            for h in range(4):
                row = []
                for j in range(7):
                    z = 2 * math.tanh(0.7 * float(query[b, h, i] @ key[b, h // 2, j]) / 2)
                    hidden = {
                        "none": False,
                        "causal": j > i + 2,
                        "padding": j > i + 2 or not padding[b, j],
                        "boolean": not seen[b, 0, i, j],
                        "additive": False,
                    }[kind]
                    row.append(
                        -math.inf
                        if hidden
                        else z + (float(additive[b, 0, i, j]) if kind == "additive" else 0)
                    )
                total += log_sum(row) / 4
            assert float(found[b, i]) == pytest.approx(total, abs=1e-5)


def step_loop(patches: Tensor, scores: list[float], share: float, groups: str) -> tuple[Tensor, list[int]]:
    """(n, d) patches of one picture -> what is left, and which patches these are."""
    n = len(patches)
    p = max(1, round(share * n))
    if groups == "mixed":
        p = min(n, max(4, p - p % 4))
    if p == n:
        return patches, list(range(n))
    rows, kept, _ = merge_loop(patches, torch.tensor(scores), p, "recycle")
    if groups != "restored":
        return rows, kept
    every = {i: patches[i].double() for i in range(n)} | dict(zip(kept, rows, strict=True))
    left = [i for i in range(n) if any(j in kept for j in range(i // 4 * 4, i // 4 * 4 + 4))]
    return torch.stack([every[i] for i in left]), left


@pytest.mark.parametrize("share", [0.05, 0.3, 0.85, 0.95])
@pytest.mark.parametrize("groups", ["restored", "mixed"])
def test_steps_equal_the_loop(groups, share):
    generator = torch.Generator().manual_seed(1)
    lengths = (9, 1, 5, 0, 9)
    vectors, seen = torch.randn(24, 12, generator=generator), torch.randn(24, 4, generator=generator)
    found = PatchStep(share, groups=groups).reduce(Units(vectors, seen, lengths, lengths))
    patches, start, rows, kept, left = vectors.view(96, 3), 0, [], [], []
    for n in lengths:
        own = slice(4 * start, 4 * (start + n))
        if n:
            made, which = step_loop(patches[own], seen.flatten()[own].tolist(), share, groups)
            rows += list(made.double())
            kept += [4 * start + i for i in which]
            left.append(len(which) // 4)
        else:
            left.append(0)
        start += n
    assert found.lengths == tuple(left)
    torch.testing.assert_close(found.units.view(-1, 3).double(), torch.stack(rows), atol=1e-5, rtol=0)
    if groups == "mixed":
        assert found.tokens.tolist() == kept
    assert found.kept.tolist() == [i // 4 for i in kept[::4]]


@torch.no_grad()
def encoded(model: nn.Module, inputs: dict[str, Tensor], steps: dict[int, float], groups: str) -> list[Any]:
    """Per picture: features of what is left and its tapped features, by Qwen's encoder on single patches."""
    visual, caught = model.model.visual, {}
    blocks = list(blocks_of(model))
    hook = blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(kwargs, hidden_states=args[0]), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    lengths = [int(t * h * w) for t, h, w in inputs["image_grid_thw"].tolist()]
    cos, sin = (table.double().split(lengths) for table in caught["position_embeddings"])
    taps = getattr(visual, "deepstack_visual_indexes", [])
    out = []
    for number, hidden in enumerate(caught["hidden_states"].double().split(lengths)):
        c, s, tapped, names = cos[number], sin[number], [], torch.arange(len(hidden))
        for index, block in enumerate(blocks):
            attn, n = block.attn, len(hidden)
            query, key, value = attn.qkv(block.norm1(hidden)).view(n, 3, attn.num_heads, -1).unbind(1)
            query, key = rotate(query, c, s), rotate(key, c, s)
            scaling = query.shape[2] ** -0.5
            mixed = [
                (query[:, h] @ key[:, h].T * scaling).softmax(1) @ value[:, h] for h in range(attn.num_heads)
            ]
            hidden = hidden + attn.proj(torch.cat(mixed, 1))
            if index in steps:
                scores = own_rows(query, key, torch.ones(n, n, dtype=torch.bool), scaling)
                hidden, left = step_loop(hidden, scores, steps[index], groups)
                c, s, names = c[left], s[left], names[left]
            hidden = hidden + block.mlp(block.norm2(hidden))
            if index in taps:
                rows = visual.deepstack_merger_list[list(taps).index(index)](hidden)
                tapped.append(dict(zip(names[::4].tolist(), rows, strict=True)))
        # Taps of groups that later steps drop are dropped with them.
        left = names[::4].tolist()
        out.append((visual.merger(hidden), [torch.stack([rows[i] for i in left]) for rows in tapped]))
    return out


@torch.no_grad()
@pytest.mark.parametrize(("family", "groups"), [("qwen2_vl", "mixed"), ("qwen3_vl", "restored")])
def test_whole_models_equal_the_one_written_out(family, groups):
    model = tiny_model(family).double()
    rows = whole.rows_of(model, (2, 1))
    layer = 2 + (family == "qwen3_vl")
    method = illava.Illava(
        encoder_layers=(1, 2),
        encoder_keep=(0.5, 0.4),
        llm_layers=(layer,),
        llm_keep=0.6,
        experimental=Illava.authors_code().experimental,
    )
    with illava.accelerate(model, method) as handle:
        batch = model(**whole.inputs_of(model, rows)).logits
        report = handle.report
    left = 0
    for number, row in enumerate(rows):
        made = whole.entering(model, row)
        embeds = made.embeds.double().clone()
        taps = [torch.zeros_like(tap, dtype=torch.float64) for tap in made.taps]
        alive = torch.ones(len(embeds), dtype=torch.bool)
        runs = []
        start = 0
        for segment, (features, tapped) in zip(
            made.segments,
            encoded(model, whole.inputs_of(model, [row]), {1: 0.5, 2: 0.4}, groups),
            strict=True,
        ):
            alive[segment[len(features) :]] = False
            # The first places of the picture, not their own.
            embeds[segment[: len(features)]] = features
            runs.append(segment[: len(features)])
            for tap, rows_of_tap in zip(taps, tapped, strict=True):
                tap[start : start + len(features)] = rows_of_tap
            start += len(segment)
        expected = llm(model, made._replace(embeds=embeds, taps=taps), alive, runs, {layer: 0.6})
        assert (batch[number, -len(expected) :] - expected).abs().max() < CLOSE
        left += len(expected) - (len(embeds) - sum(map(len, made.segments)))
    assert report.final_tokens == left
    assert report.steps[0].before > report.steps[0].after > 0.5 * report.steps[0].before - 3


@torch.no_grad()
def test_where_units_are_patches_only_scores_and_places_differ():
    """LLaVA: the survivors are at the first places of the picture."""
    model = tiny_model("llava").double()
    inputs = inputs_of(model, "one", "single")
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    options = dict(encoder_layers=(1,), encoder_keep=0.4, llm_layers=())
    found = {}
    for placement in ("own", "first"):
        method = illava.Illava(**options, experimental={"encoder_score": "own_row", "placement": placement})
        with illava.accelerate(model, method) as handle:
            features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
            model(**inputs)
            found[placement] = torch.cat(list(features)), handle.report.pictures[0].kept[0]
    (own, kept), (first, same) = found["own"], found["first"]
    assert torch.equal(kept, same), "reports of the encoder show the patches themselves"
    alive = ~own[:, 0].isnan()
    count = int(alive.sum())
    assert torch.equal(first[:count], own[alive])
    assert bool(first[count:].isnan().all())
    assert not bool(alive[:count].all())


@pytest.mark.parametrize(
    "name", ["llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mistral3"]
)
def test_a_batch_decodes_from_the_cache_what_it_computes_anew(name):
    model = tiny_model(name)
    inputs = inputs_of(model, "two", "batch")
    plain = model(**inputs).logits
    options = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with illava.accelerate(model, Illava.authors_code()), torch.no_grad():
        cached = model.generate(**inputs, **options)
        anew = model.generate(**inputs, **options, use_cache=False)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(anew.logits), atol=1e-5, rtol=0)
    with illava.accelerate(model, Illava.authors_code(1.0)):
        assert torch.equal(model(**inputs).logits, plain)
    assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl"])
def test_bfloat16_and_rows_alone(name):
    model = tiny_model(name)
    rows = whole.rows_of(model, (2, 1))
    with illava.accelerate(model, Illava.authors_code(0.4)), torch.no_grad():
        together = model(**whole.inputs_of(model, rows)).logits[:, -1]
        alone = torch.cat([model(**whole.inputs_of(model, [row])).logits[:, -1] for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    half = tiny_model(name).bfloat16()
    with illava.accelerate(half, Illava.authors_code(0.4)), torch.no_grad():
        found = half(**whole.inputs_of(half, rows)).logits
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", ["internvl", "gemma3", "smolvlm"])
def test_batched_encoders_with_groups_are_refused(name):
    with pytest.raises(illava.UnsupportedError, match="single patches cannot be ranked in the encoder of"):
        illava.accelerate(tiny_model(name), Illava.authors_code())


def test_it_is_a_row_of_comparisons_and_survives_json():
    rows = comparison_rows(["illava-authors-code"], [1 / 3, 1 / 9])
    assert [row.method for row in rows if row.name == "illava-authors-code"] == [
        Illava.authors_code(1 / 3),
        Illava.authors_code(1 / 9),
    ]
    assert make_method("illava-authors-code", 0.5) == Illava.authors_code(0.5)
    naive_llm.json_round_trip(Illava.authors_code(0.5))
    with pytest.raises(ValueError, match="select='diverse' needs scores >= 0"):
        illava.Illava(keep=0.5, select="diverse", experimental={"encoder_score": "own_row"})
    sized = illava.Illava(encoder_layers=(), llm_layers=(2,), llm_keep=0.5, reduce="fold", proportional="llm")
    first = illava.Illava(
        encoder_layers=(2,), encoder_keep=0.5, llm_layers=(), experimental={"placement": "first"}
    )
    with pytest.raises(ValueError, match="placement='first' does not carry sizes to the LLM"):
        illava.accelerate(tiny_model("qwen2_vl"), illava.Compose((first, sized)))
