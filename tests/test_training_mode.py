"""``accelerate(train=True)``, and what else training relies on: checkpoints, autocast, updated weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import illava
from illava.methods.steps import Step, Units
from illava.ops import kernels
from tests.test_labels import BOTH, gradients, inputs_of, rows_of
from tests.test_training import REENTRANT, checkpointed
from tests.tiny import picture, prompt, tiny_model

ABSORBING = {
    "best": illava.Illava.best(1 / 3),
    "fold": illava.Illava(**BOTH, reduce="fold"),
    "weighted": illava.Illava(**BOTH, reduce="weighted"),
    "tome": illava.ToMe(keep=1 / 3),
    "visionzip": illava.VisionZip(keep=1 / 3),
    "prumerge+": illava.PruMergePlus(keep=1 / 3),
    "pool": illava.Pool(keep=1 / 4),
    "compose": illava.Compose(
        (illava.ToMe(keep=1 / 2), illava.Illava(**{**BOTH, "encoder_layers": ()}, reduce="fold"))
    ),
}
DROPPING = {
    "published": illava.Illava(**BOTH),
    "drop": illava.Illava(**BOTH, reduce="drop"),
    "fastv": illava.FastV(),
    "pyramiddrop": illava.PyramidDrop(),
    "sparsevlm": illava.SparseVLM(),
    "fastervlm": illava.FasterVLM(keep=1 / 3),
    "vispruner": illava.VisPruner(keep=1 / 3),
    "divprune": illava.DivPrune(keep=1 / 3),
    "mmtok": illava.MMTok(keep=1 / 3),
    "dart": illava.DART(keep=1 / 3),
    "random": illava.Random(keep=1 / 3),
    "compose": illava.Compose((illava.ToMe(keep=1 / 2), illava.FastV(keep=1 / 4))),
}
kinds = [pytest.param(m, True, id=f"{n}-absorbs") for n, m in ABSORBING.items()]
kinds += [pytest.param(m, False, id=f"{n}-drops") for n, m in DROPPING.items()]


def steps_of(kind: type[Step]) -> list[type[Step]]:
    return [kind, *(one for sub in kind.__subclasses__() for one in steps_of(sub))]


@pytest.mark.parametrize(("method", "absorbs"), kinds)
def test_gradients_reach_what_a_step_drops(
    method: illava.Method, absorbs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that enter a step get their gradients from its survivors alone."""
    entered: list[Tensor] = []
    for kind in set(steps_of(Step)):
        if "reduce" in vars(kind):

            def watched(step: Any, units: Units, inner: Any = kind.reduce) -> Any:
                vectors = units.vectors.clone()
                vectors.retain_grad()
                entered.append(vectors)
                return inner(step, replace(units, vectors=vectors))

            monkeypatch.setattr(kind, "reduce", watched)
    model = tiny_model("llava")
    inputs = prompt(model, [([5, 6, 7, 8], [picture(model, (1, 1))])])
    with illava.accelerate(model, method) as handle:
        model(**inputs).logits.pow(2).sum().backward()
        assert handle.report.final_tokens < handle.report.visual_tokens
    reached = [bool(vectors.grad.any(1).all()) for vectors in entered if vectors.grad is not None]
    assert len(reached) == len(entered) > 0
    assert all(reached) == absorbs
    if absorbs:
        illava.accelerate(model, method, train=True).remove()
        return
    with pytest.raises(illava.UnsupportedError, match=r"train=True: .* drops tokens at") as error:
        illava.accelerate(model, method, train=True)
    assert "\n" not in str(error.value)


def test_the_default_method_of_training_absorbs_all() -> None:
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, train=True) as handle:
        assert handle.method == illava.Illava.best(1 / 3)
    with illava.accelerate(model, keep=1 / 3, train=True) as handle:
        assert handle.method == illava.Illava.best(1 / 3)
    illava.accelerate(tiny_model("qwen2_vl"), illava.Downsample(keep=1 / 4), train=True).remove()
    with illava.accelerate(model, illava.FastV(keep=1.0), train=True):
        pass


@pytest.mark.parametrize("options", [{"use_reentrant": False}, REENTRANT], ids=["plain", "reentrant"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_checkpoints_rerun_the_selection_and_merge_once(name: str, options: dict[str, bool]) -> None:
    model, counts = tiny_model(name).train(), []
    inputs = inputs_of(model, rows_of(model))
    method = illava.Illava(**BOTH, reduce="fold")
    with illava.accelerate(model, method, train=True, trace=True) as handle:
        expected = model(**inputs).loss
        wanted, first = gradients(model, expected), handle.report
        checkpointed(model, **options)
        found = model(**inputs).loss
        assert torch.equal(found, expected)
        counts = [step.after for step in handle.report.steps]
        again = gradients(model, found)
        assert [step.after for step in handle.report.steps] == counts == [step.after for step in first.steps]
        for one, other in zip(handle.report.traces, first.traces, strict=True):
            assert all(map(torch.equal, one.kept, other.kept))
    assert again.keys() == wanted.keys()
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(again[parameter], gradient, atol=1e-6, rtol=1e-4, msg=parameter)


def test_checkpoints_use_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their first run may be without gradients, with which kernels are off: both must select the same."""
    monkeypatch.setattr(kernels, "refusal", lambda device, dtype: None)
    assert kernels.enabled(torch.ones(1))
    seen: list[bool] = []
    model = checkpointed(tiny_model("qwen2_vl").train(), **REENTRANT)
    model.model.visual.blocks[1].norm2.register_forward_pre_hook(
        lambda *_: seen.append(kernels.enabled(torch.ones(1)))
    )
    with illava.accelerate(model, illava.Illava(encoder_layers=(3,), encoder_keep=0.5, llm_layers=())):
        monkeypatch.setattr(kernels, "refusal", lambda device, dtype: "off")
        monkeypatch.setattr(kernels, "enabled", lambda *tensors: kernels._off == 0)
        gradients(model, model(**inputs_of(model, rows_of(model))).loss)
    assert seen == [False, False]
    assert kernels._off == 0


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_autocast(name: str) -> None:
    """The same tokens in bfloat16 give the loss of float32 to its precision, with checkpoints as well."""
    model = tiny_model(name).train()
    inputs = inputs_of(model, rows_of(model))
    with illava.accelerate(model, illava.Illava(**BOTH, select="random", reduce="weighted"), train=True):
        expected = model(**inputs).loss
        wanted = gradients(model, expected)
        for options in (None, {"use_reentrant": False}, REENTRANT):
            if options is not None:
                checkpointed(model, **options)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = model(**inputs).loss
            again = gradients(model, found)
            torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
            assert again.keys() == wanted.keys()
            flat = [torch.cat([part.flatten().float() for part in of.values()]) for of in (again, wanted)]
            assert torch.cosine_similarity(*flat, dim=0) > 0.99


def test_a_loss_of_ones_own_on_aligned_labels() -> None:
    model = tiny_model("qwen2_vl")
    inputs = inputs_of(model, rows_of(model))
    with illava.accelerate(model, illava.Illava(**BOTH)) as handle:
        with pytest.raises(ValueError, match="nothing to align"):
            handle.align(inputs["labels"])
        found = model(**inputs)
        labels = handle.align(inputs["labels"])
        assert labels.shape == found.logits.shape[:2]
        loss = cross_entropy(found.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        torch.testing.assert_close(loss, found.loss)
        places = torch.arange(inputs["labels"].shape[1]).expand_as(inputs["labels"])
        left = handle.align(places, fill=-1)
        for row, ids in zip(left, inputs["input_ids"], strict=True):
            real = row[row >= 0]
            assert torch.equal(real, real.sort().values)
            text = (ids != model.config.image_token_id).nonzero().flatten()
            kept_text = set(real.tolist()) & set(text.tolist())
            assert kept_text == {i for i in text.tolist() if ids[i] != 0}
        with pytest.raises(ValueError, match=r"must start with \(B, L\)"):
            handle.align(labels[:, 1:])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_packed_rows_are_refused(name: str) -> None:
    model = tiny_model(name)
    one = prompt(model, [([5, 6, 7, 8], [picture(model, (3, 4) if name == "qwen2_vl" else (1, 1))])])
    length = one["input_ids"].shape[1]
    packed = {k: torch.cat([v, v], int(v.shape[:2] == (1, length))) for k, v in one.items()}
    del packed["attention_mask"]
    positions = torch.arange(length).repeat(2)[None]
    if name == "qwen2_vl":
        positions = positions.expand(4, 1, -1)
    # Text alone may be packed: nothing of it is dropped.
    words = {"input_ids": torch.tensor([[5, 6, 5, 6]]), "position_ids": torch.tensor([[0, 1, 0, 1]])}
    with torch.no_grad():
        plain = model(**words).logits if name == "llava" else None
        with illava.accelerate(model, illava.Illava(**BOTH)):
            if plain is not None:
                assert torch.equal(model(**words).logits, plain)
            for more in (
                {"position_ids": positions},
                {"cu_seq_lens_q": torch.tensor([0, length, 2 * length])},
            ):
                with pytest.raises(illava.UnsupportedError, match="packed rows") as error:
                    model(**packed, **more)
                assert "\n" not in str(error.value)
            one.pop("attention_mask")
            alone = model(**one).logits
            assert (
                torch.equal(model(**one, position_ids=positions[..., :length]).logits, alone)
                or name != "llava"
            )


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl"])
def test_generation_between_steps_uses_the_updated_weights(name: str) -> None:
    """As in GRPO: rollouts, a step on them, rollouts. A model accelerated anew answers the same."""
    model = tiny_model(name)
    rows = rows_of(model)[:2]
    questions = prompt(model, [(question, parts) for question, parts, _ in rows])
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    options = dict(max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True)
    options["return_dict_in_generate"] = True
    before: list[Tensor] = []
    with illava.accelerate(model, keep=1 / 3, train=True):
        for _ in range(3):
            with torch.no_grad():
                found = model.eval().generate(**questions, **options)
            fresh = copy_of(model, name)
            with torch.no_grad(), illava.accelerate(fresh.eval(), keep=1 / 3):
                wanted = fresh.generate(**questions, **options)
            assert torch.equal(found.sequences, wanted.sequences)
            assert torch.equal(torch.stack(found.logits), torch.stack(wanted.logits))
            logits = torch.stack(found.logits, 1)
            assert all(not torch.equal(logits, earlier) for earlier in before), "the step changed nothing"
            before.append(logits)
            # Scores of the rollout in training are those of generation.
            answers = found.sequences[:, questions["input_ids"].shape[1] :]
            again = inputs_of(
                model, [(q, parts, a) for (q, parts, _), a in zip(rows, answers.tolist(), strict=True)]
            )
            output = model.train()(**again)
            torch.testing.assert_close(output.logits[:, -5:-1], logits, atol=1e-5, rtol=0)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()


def copy_of(model: nn.Module, name: str) -> nn.Module:
    """A plain model with the weights of an accelerated one."""
    made = tiny_model(name)
    made.load_state_dict(copy.deepcopy(model.state_dict()))
    return made
