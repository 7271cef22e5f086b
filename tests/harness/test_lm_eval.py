"""lm-eval with the model ``illava``: from its command line, and in Python."""

from __future__ import annotations

import pytest
import torch

import illava
from tests.harness.conftest import MODEL, command

MERGED = illava.Illava.best(1 / 9)
TASK = ("--tasks", "drawn", "--apply_chat_template", "--device", "cpu")


def test_the_command_line_gives_illavas_own_answers(questions, tmp_path):
    done = command(
        *("illava.integrations.lm_eval", "--model", "illava"),
        *("--model_args", f"pretrained={MODEL},keep=1/9,max_images=4", "--batch_size", 3, *TASK),
        *("--include_path", questions.folder / "lm"),
        output=tmp_path / "out",
        home=tmp_path,
    )
    direct = questions.direct(MERGED)
    assert done.answers == direct
    scores = done.results["results"]["drawn"]
    assert scores["exact_match,none"] == pytest.approx(questions.accuracy(direct))
    said = done.results["config"]["illava"]
    assert said["method"] == MERGED.to_dict()
    before = 144 * sum(len(sample.pictures) for sample in questions.samples)
    assert said["visual_tokens"]["before"] == before
    assert said["visual_tokens"]["after"] == pytest.approx(before / 9, rel=0.1)
    assert f"visual tokens: {before} before merging" in done.output


def test_in_python_the_plain_model_gives_its_own_answers(questions):
    import lm_eval
    from lm_eval.tasks import TaskManager

    from illava.integrations.lm_eval import IllavaLM

    model = IllavaLM(pretrained=MODEL, keep=1, device="cpu", batch_size=2)
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=["drawn"],
        task_manager=TaskManager(include_path=str(questions.folder / "lm")),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["drawn"], key=lambda sample: sample["doc_id"])
    answers = [sample["filtered_resps"][0].strip() for sample in samples]
    assert answers == questions.direct(illava.Illava(keep=1.0))
    assert results["results"]["drawn"]["exact_match,none"] == pytest.approx(questions.accuracy(answers))
    assert model.visual_tokens["after"] == model.visual_tokens["before"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card to run on")
def test_the_harnesss_own_default_device_is_no_error():
    from illava.integrations.lm_eval import IllavaLM

    assert IllavaLM(pretrained=MODEL, device="cuda:0").device.type == "cpu"
    with pytest.raises(illava.InputError, match="device cuda:1: not available"):
        IllavaLM(pretrained=MODEL, device="cuda:1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keeps": 1}, "model_args keeps: neither illava nor hf-multimodal has them"),
        ({"keep": 3}, "keep=3: give a number above 0"),
        ({"batch_size": "auto"}, "batch_size=auto: give a whole number"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    from illava.integrations.lm_eval import IllavaLM

    with pytest.raises(illava.InputError, match=message):
        IllavaLM(**{"pretrained": MODEL, "device": "cpu", **arguments})
