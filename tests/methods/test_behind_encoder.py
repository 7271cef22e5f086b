"""The methods behind the encoder on tiny models: what they keep and what becomes of it, worked out by the
loops from the plain eager model's own queries, keys and attention weights."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.methods.base import Method
from illava.methods.fastervlm import FasterVLM
from illava.methods.prumerge import PruMergePlus
from illava.methods.visionzip import VisionZip
from illava.methods.vispruner import VisPruner
from tests.battery.naive import all_units, attention_of, blocks_of, entering, layers_of
from tests.methods.loops_behind_encoder import fastervlm_loop, prumerge_loop, visionzip_loop, vispruner_loop
from tests.tiny import IMAGE, picture, pictures, prompt, tiny_model

METHODS = {
    "fastervlm": (FasterVLM, fastervlm_loop, {}),
    "vispruner": (VisPruner, vispruner_loop, {"per_round": 2}),
    "visionzip": (VisionZip, visionzip_loop, {"contextual": 0.4}),
    "visionzip-mean": (VisionZip, visionzip_loop, {"contextual": 0.4, "reduce": "mean"}),
    "prumerge+": (PruMergePlus, prumerge_loop, {"neighbours": 4}),
}
FAMILIES = (
    "llava",
    "llava-full",
    "llava-siglip",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "idefics3",
)
# The others' last block is the one whose output the LLM sees.
FEATURE_BLOCK = {"llava": 3, "llava-full": 3}
# Whose placeholders stand for the encoder's units one by one, in their order.
ROW_BY_ROW = ("llava", "llava-siglip", "qwen2_vl", "qwen3_vl", "internvl")
KEEP = 0.4
TEXT = [5, 6, 7, 8]


@functools.cache
def model_of(name: str, attention: str = "sdpa") -> nn.Module:
    return tiny_model(name, attention)


def method_of(key: str, **fields: Any) -> Method:
    kind, _, own = METHODS[key]
    return kind(**{"keep": KEEP, **own, **fields})


def projector_of(model: nn.Module) -> nn.Module:
    """What the units enter."""
    base = model.model
    if hasattr(base, "visual"):
        return base.visual.merger
    return base.connector.modality_projection if hasattr(base, "connector") else base.multi_modal_projector


@contextmanager
def observed(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Collects queries, keys and weights of an eager attention module, sequence by sequence."""
    file = sys.modules[type(module).__module__]
    before, seen = file.eager_attention_forward, []

    def attend(asking: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        output, weights = before(asking, query, key, *args, **kwargs)
        if asking is module:
            seen.extend(zip(query.double(), key.double(), weights.double(), strict=True))
        return output, weights

    with mock.patch.object(file, "eager_attention_forward", attend):
        yield seen


def of_tokens(
    query: Tensor, key: Tensor, weights: Tensor, prefix: int, one_head: bool
) -> tuple[Tensor, Tensor]:
    """Score (n,) and key (n, w) of the tokens of one sequence, from (H, n, h) queries and keys."""
    if one_head:
        query, key = (torch.cat(list(part), -1) for part in (query, key))
        weights = (query @ key.T / query.shape[1] ** 0.5).softmax(-1)[None]
    else:
        key = sum(key) / len(key)
    asked = weights.sum(0)
    return asked[0] if prefix else asked.sum(0), key


@functools.cache
def plain(name: str, one_head: bool) -> tuple[dict[str, Tensor], list[tuple[Tensor, ...]], Tensor]:
    """A prompt of two pictures; of each segment on the plain model the units, scores and keys; and what
    enters the LLM."""
    model = model_of(name, "eager")
    inputs = prompt(model, [(TEXT, pictures(model, 2))])
    block = blocks_of(model)[-1 if one_head else FEATURE_BLOCK.get(name, -1)]
    vectors: list[Tensor] = []
    entry: list[Tensor] = []
    with ExitStack() as stack, torch.no_grad():
        seen = stack.enter_context(observed(attention_of(block)))
        stack.enter_context(entering(projector_of(model), vectors))
        stack.enter_context(entering(layers_of(model)[0], entry))
        model(**inputs)
    lengths = [query.shape[1] for query, _, _ in seen]
    if "image_grid_thw" in inputs:
        # Sequences may be windows.
        lengths = inputs["image_grid_thw"].prod(1).tolist()
    units = all_units(model, inputs, lengths)
    prefix = units[0][0][0]
    observations = [of_tokens(*sequence, prefix, one_head) for sequence in seen]
    scores, keys = (torch.cat(parts).split(lengths) for parts in zip(*observations, strict=True))
    rows = vectors[0].reshape(1, -1, vectors[0].shape[-1])
    if name == "llava-full":
        rows = vectors[0][:, 1:]
    rows = rows.reshape(sum(map(len, units)), -1).split([len(own) for own in units])
    segments = []
    for own, x, score, key in zip(units, rows, scores, keys, strict=True):
        tokens = torch.tensor(own)
        segments.append((x, score[tokens].mean(1), key[tokens].mean(1)))
    return inputs, segments, entry[0]


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_keeps_what_the_loop_keeps(name, key):
    _, loop, fields = METHODS[key]
    inputs, segments, before = plain(name, key == "prumerge+")
    model, handed, entry = model_of(name), [], []
    with torch.no_grad(), illava.accelerate(model, method_of(key)) as handle:
        with entering(projector_of(model), handed), entering(layers_of(model)[0], entry):
            model(**inputs)
        report = handle.report
    wanted, kept, first = [], [], 0
    for x, scores, keys in segments:
        count = max(1, round(KEEP * len(x)))
        values, chosen, _ = loop(x.double(), scores, keys, count, **fields)
        assert len(chosen) == count < len(x)
        wanted.append(values)
        kept += [first + i for i in chosen]
        first += len(x)
    boxes = torch.cat([picture.all for picture in report.pictures])
    assert len(boxes) == first
    assert torch.equal(torch.cat([picture.kept[0] for picture in report.pictures]), boxes[kept])
    vectors = torch.cat(wanted).float()
    got = handed[0][:, 1:] if name == "llava-full" else handed[0]
    torch.testing.assert_close(got.reshape(vectors.shape), vectors, atol=1e-4, rtol=0)
    (step,) = report.steps
    assert (step.before, step.after) == (first, len(kept))
    if name in ROW_BY_ROW:
        assert (report.visual_tokens, report.final_tokens) == (first, len(kept))
        visual = (inputs["input_ids"][0] == IMAGE).nonzero().flatten()
        gone = set(visual.tolist()) - set(visual[kept].tolist())
        with torch.no_grad():
            before = before.clone()
            features = projector_of(model)(vectors.view(handed[0].shape))
            before[0, visual[kept]] = features.reshape(len(kept), -1)
        left = [column for column in range(before.shape[1]) if column not in gone]
        torch.testing.assert_close(entry[0], before[:, left], atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_a_batch_gives_what_each_row_gives_alone(name, key):
    model = model_of(name)
    parts = pictures(model, 3)
    rows = [(TEXT, parts[:2]), (TEXT[:2], parts[2:])]
    with torch.no_grad(), illava.accelerate(model, method_of(key)):
        together = model(**prompt(model, rows)).logits
        for number, row in enumerate(rows):
            alone = model(**prompt(model, [row])).logits[0]
            torch.testing.assert_close(together[number, -len(alone) :], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_vl", "internvl"])
def test_keeping_all_and_removing_change_no_bit(name, key):
    model = model_of(name)
    inputs = prompt(model, [(TEXT, pictures(model, 1))])
    with torch.no_grad():
        before = model(**inputs).logits
        with illava.accelerate(model, method_of(key, keep=1.0)) as handle:
            assert handle.plan.empty
            assert torch.equal(model(**inputs).logits, before)
        # So near to one that all of a segment stay, though the step is there.
        with illava.accelerate(model, method_of(key, keep=0.999)) as handle:
            assert not handle.plan.empty
            assert torch.equal(model(**inputs).logits, before)
        handle = illava.accelerate(model, method_of(key))
        assert model(**inputs).logits.shape[1] < before.shape[1]
        handle.remove()
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_single_token_is_left(name, key):
    model = model_of(name)
    shown = picture(model, (5, 6))
    inputs = prompt(model, [(TEXT, [shown])])
    with torch.no_grad(), illava.accelerate(model, method_of(key, keep=0.001)) as handle:
        logits = model(**inputs).logits
        assert handle.report.final_tokens == 1
    assert logits.isfinite().all()
    assert logits.shape[1] == inputs["input_ids"].shape[1] - shown.tokens + 1


@pytest.mark.parametrize("key", METHODS)
def test_models_in_half_precision_run(key):
    model = tiny_model("llava").bfloat16()
    inputs = prompt(model, [(TEXT, pictures(model, 1))])
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with torch.no_grad(), illava.accelerate(model, method_of(key)) as handle:
        logits = model(**inputs).logits
        assert handle.report.final_tokens == round(KEEP * 36)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


@pytest.mark.parametrize("key", METHODS)
def test_gradients_reach_the_encoder(key):
    """Through what stays, and where units take in others, through those."""
    model = tiny_model("llava")
    inputs = prompt(model, [(TEXT, pictures(model, 1))])
    with illava.accelerate(model, method_of(key)):
        model(**inputs).logits[0, -1].logsumexp(0).backward()
    gradient = blocks_of(model)[0].mlp.fc1.weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
