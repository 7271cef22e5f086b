"""torch.compile: hooks are followed, whether a model is compiled before or after it is accelerated."""

from __future__ import annotations

import pytest
import torch

import illava
from tests.battery.test_battery import inputs_of, method_of
from tests.tiny import tiny_model


@pytest.mark.slow
def test_a_compiled_forward_merges_and_stops_merging() -> None:
    """With the backend that only traces: what is at stake is whether traces of the plain model are reused."""
    model = tiny_model("llava")
    inputs = inputs_of(model, "one", "single")
    options = dict(max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True)

    def logits() -> torch.Tensor:
        return torch.stack(model.generate(**inputs, **options).logits)

    plain = logits()
    with illava.accelerate(model, method_of("llava")):
        merged = logits()
    model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
    torch.testing.assert_close(logits(), plain, atol=1e-5, rtol=0)
    with illava.accelerate(model, method_of("llava")) as handle:
        torch.testing.assert_close(logits(), merged, atol=1e-5, rtol=0)
        assert handle.report.final_tokens < handle.report.visual_tokens
    torch.testing.assert_close(logits(), plain, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["qwen2_vl", "llava", "llava-dinov2", "llava-dinov2-registers", "internvl", "gemma3"]
)
def test_a_compiled_model_merges_everywhere_or_says_so(name: str) -> None:
    """Dynamo takes the code of one block for the next, hooks or none, unless it is told to look."""
    model = tiny_model(name)
    inputs = inputs_of(model, "one", "single")
    with illava.accelerate(model, method_of(name)) as handle, torch.no_grad():
        expected, report = model(**inputs).logits, handle.report.to_dict()
        for skipping in (False, True):
            torch._dynamo.reset()
            refusal = ""
            with torch._dynamo.config.patch(skip_nnmodule_hook_guards=skipping):
                try:
                    found = torch.compile(model, backend="eager")(**inputs).logits
                except RuntimeError as error:
                    refusal = str(error)
                else:
                    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
                    assert handle.report.to_dict() == report
            assert not refusal or (skipping and "skip_nnmodule_hook_guards" in refusal)
