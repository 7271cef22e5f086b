"""What Illava can do past the paper, on tiny models against loops over what the plain model computes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.naive import attention_of, blocks_of, entering, highest, layers_of, weights_of
from tests.core.loops import alike
from tests.core.test_folding import diverse_loop
from tests.tiny import IMAGE, pictures, prompt, tiny_model

KEEP = 0.4


def units_between(model: nn.Module, inputs: dict[str, Tensor], block: int) -> list[list[list[float]]]:
    """Between attention and MLP of a block: per picture its units, tokens side by side; no class tokens."""
    rows: list[Tensor] = []
    found = blocks_of(model)[block]
    norm = next(getattr(found, name) for name in ("norm2", "layer_norm2") if hasattr(found, name))
    with entering(norm, rows):
        model(**inputs)
    if model.config.model_type == "qwen2_vl":
        lengths = [int(h * w) for _, h, w in inputs["image_grid_thw"].tolist()]
        tiles = list(rows[0].split(lengths))
        group = 4
    else:
        tiles, group = [tile[1:] for tile in rows[0]], 1
    return [tile.reshape(len(tile) // group, -1).double().tolist() for tile in tiles]


def scores_of(kind: str, units: list[list[float]]) -> list[float]:
    if kind == "norm":
        return [sum(x * x for x in unit) ** 0.5 for unit in units]
    return [1 - sum(alike(unit, other, "cosine") for other in units) / len(units) for unit in units]


@torch.no_grad()
@pytest.mark.parametrize("select", ["highest", "diverse"])
@pytest.mark.parametrize("kind", ["rarity", "norm"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_scores_without_attention_choose_as_the_loop_does(family, kind, select):
    model = tiny_model(family)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    segments = units_between(model, inputs, 1)
    method = illava.Illava(
        encoder_layers=(1,),
        encoder_keep=KEEP,
        llm_layers=(),
        experimental={"encoder_score": kind},
        select=select,
        reduce="drop",
    )
    with illava.accelerate(model, method) as handle:
        model(**inputs)
        report = handle.report
    assert len(segments) == len(report.pictures) == 2
    for units, seen in zip(segments, report.pictures, strict=True):
        scores = scores_of(kind, units)
        kept = highest(scores, KEEP)
        if select == "diverse":
            kept = sorted(diverse_loop(units, scores, len(kept)))
        assert torch.equal(seen.kept[0], seen.all[kept])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_text_scores_are_the_mean_over_all_text_behind_the_first_picture(family):
    eager, model = tiny_model(family, "eager"), tiny_model(family)
    rows = [([5, 6, 7], pictures(model, 2)), ([8, 9, 5, 6, 7], pictures(model, 1, seed=5))]
    inputs = prompt(model, rows)
    with weights_of(attention_of(layers_of(eager)[1])) as seen:
        eager(**inputs)
    method = illava.Illava(
        encoder_layers=(), llm_layers=(2,), llm_keep=KEEP, reduce="drop", experimental={"llm_score": "text"}
    )
    handed: list[Tensor] = []
    whole: list[Tensor] = []
    with entering(layers_of(model)[2], whole):
        model(**inputs)
    with illava.accelerate(model, method), entering(layers_of(model)[2], handed):
        model(**inputs)
    for b, ids in enumerate(inputs["input_ids"].tolist()):
        real = inputs["attention_mask"][b].nonzero().flatten().tolist()
        first = ids.index(IMAGE)
        asking = [i for i in real if i > first and ids[i] != IMAGE]
        runs, expected = [], []
        for i in real:
            if ids[i] != IMAGE:
                expected.append(i)
            elif ids[i - 1] == IMAGE:
                runs[-1].append(i)
            else:
                runs.append([i])
        for run in runs:
            mean = [float(seen[0][b][:, asking, i].mean()) for i in run]
            expected += [run[k] for k in highest(mean, KEEP)]
        got = handed[0][b, handed[0].shape[1] - len(expected) :]
        torch.testing.assert_close(got, whole[0][b, sorted(expected)], atol=1e-4, rtol=0)


def by_hand(model: nn.Module, embeds: Tensor, layer: int, keep: list[int], new: list[int]) -> Tensor:
    """Logits of the last token, prompt and ``new`` tokens in one go: before ``layer`` only the prompt's
    ``keep`` go on, numbered without gaps from 0."""
    llm = model.model.language_model
    behind = model.get_input_embeddings()(torch.tensor([new], dtype=torch.long))
    hidden = torch.cat([embeds, behind], 1)
    for index, module in enumerate(layers_of(model)):
        if index == layer:
            places = keep + list(range(embeds.shape[1], hidden.shape[1]))
            hidden = hidden[:, places]
        numbers = torch.arange(hidden.shape[1])[None]
        tables = llm.rotary_emb(hidden, numbers)
        mask = torch.full((hidden.shape[1],) * 2, float("-inf")).triu(1)[None, None]
        out = module(hidden, position_embeddings=tables, attention_mask=mask)
        hidden = out[0] if isinstance(out, tuple) else out
    return model.lm_head(llm.norm(hidden))[0, -1]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_compact_positions_are_those_of_a_prompt_that_never_had_the_dropped_tokens(attention):
    model = tiny_model("llava", attention)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    entered: list[Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    results = {}
    for positions in ("original", "compact"):
        method = illava.Illava(
            encoder_layers=(),
            llm_layers=(2,),
            llm_keep=KEEP,
            reduce="drop",
            experimental={"positions": positions},
        )
        with illava.accelerate(model, method) as handle:
            made = model.generate(
                **inputs, max_new_tokens=4, output_logits=True, return_dict_in_generate=True
            )
            seen = handle.report.pictures
        results[positions] = torch.stack(made.logits)[:, 0]
        new = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    ids = inputs["input_ids"][0].tolist()
    visual = [i for i, token in enumerate(ids) if token == IMAGE]
    kept = [box in part.kept[0].tolist() for part in seen for box in part.all.tolist()]
    assert len(kept) == len(visual)
    keep = [i for i in range(len(ids)) if ids[i] != IMAGE or kept[visual.index(i)]]
    for step in range(4):
        wanted = by_hand(model, entered[0], 2, keep, new[:step])
        torch.testing.assert_close(results["compact"][step], wanted, atol=1e-4, rtol=0)
    assert (results["compact"] - results["original"]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("stage", ["entry", "layer"])
def test_a_grid_of_every_other_row_and_column_becomes_a_small_grid(stage):
    """M-RoPE: what is left of a picture is numbered as a picture of that size would be."""
    from illava.ops.positions import compact

    # Text 0 1, a picture of 4 x 6 at 2, text at 8 9.
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    grid = torch.stack([torch.full((24,), 2), 2 + rows.flatten(), 2 + columns.flatten()])
    text = torch.tensor([[0, 1, 8, 9]]).expand(3, -1)
    positions = torch.cat([text[:, :2], grid, text[:, 2:]], 1)[:, None]
    runs = torch.tensor([[-1, -1, *[0] * 24, -1, -1]])
    kept = [0, 1, *[2 + 6 * r + c for r in (1, 3) for c in (0, 2, 4)], 26, 27]
    filler = [0] if stage == "layer" else []
    index = torch.tensor([[*filler, *kept]])
    column = index.clone()
    if filler:
        column[0, 0] = -1
    got = compact(positions[:, :, index[0]], runs[:, index[0]], column)[:, 0, len(filler) :]
    # As of a picture of 2 x 3 at 2, text at 5 6; and all moved so that the last one stays at 9.
    small = torch.tensor([[2] * 6, [2, 2, 2, 3, 3, 3], [2, 3, 4, 2, 3, 4]])
    want = torch.cat([text[:, :2], small, torch.tensor([[5, 6]]).expand(3, -1)], 1) + 3
    assert torch.equal(got, want)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl"])
def test_every_option_runs_in_batches_as_in_single_prompts_and_hits_the_budget(family):
    model = tiny_model(family)
    rows = [([5, 6, 7], pictures(model, 2)), ([8, 9, 5, 6, 7], pictures(model, 1, seed=5))]
    batch = prompt(model, rows)
    singles = [prompt(model, [row]) for row in rows]
    plain = model(**batch).logits
    method = illava.Illava(
        keep=0.3,
        reduce="fold",
        similarity="cosine",
        select="diverse",
        proportional="encoder",
        experimental={
            "encoder_score": "rarity",
            "llm_score": "text",
            "positions": "compact",
        },
    )
    with illava.accelerate(model, method) as handle:
        together = model(**batch).logits[:, -1]
        left = handle.report.row_tokens
        alone = [model(**single).logits[0, -1] for single in singles]
        assert [tokens[-1] for tokens in left] == [left_of(model, handle, single) for single in singles]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=0)
    assert torch.equal(model(**batch).logits, plain)


def left_of(model: nn.Module, handle: illava.Handle, inputs: dict[str, Tensor]) -> int:
    model(**inputs)
    return handle.report.final_tokens


def test_options_of_0_1_are_refused_with_their_new_place():
    with pytest.raises(TypeError, match=r"write experimental=\{'seed': 3\}"):
        illava.Illava(keep=0.5, seed=3)
    assert illava.Illava.from_dict(
        {"method": "illava", "seed": 5, "experimental": {"positions": "compact"}}
    ).experimental == {"seed": 5, "positions": "compact"}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_methods_pickle(protocol):
    method = illava.Illava(keep=0.5, experimental={"seed": 3})
    again = pickle.loads(pickle.dumps(method, protocol))
    assert again == method
    assert hash(again) == hash(method)
