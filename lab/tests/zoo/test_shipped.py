"""The shipped models: found by name, small, loaded by the Auto classes."""

import pytest
import torch
from illava_lab import tasks
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from illava import zoo
from illava.ask import load
from illava.evaluation.rows import PLAIN
from illava.evaluation.run import Batch


def test_names_and_paths():
    assert zoo.names() == ["zoo/L", "zoo/S"]
    for name in zoo.names():
        assert (zoo.path(name) / "model.safetensors").is_file()
    for wrong in ("S", "zoo/XXL", "zoo/../S", ""):
        with pytest.raises(ValueError, match="zoo/S"):
            zoo.path(wrong)


@pytest.mark.parametrize("name", zoo.names())
def test_the_folder_is_small_bfloat16_and_has_a_card(name):
    folder = zoo.path(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12.5e6
    assert "toy" in (folder / "README.md").read_text()
    kept = AutoModelForImageTextToText.from_pretrained(folder)
    assert {weight.dtype for weight in kept.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", zoo.names())
def test_auto_classes_give_qwen2_vl(name):
    model = AutoModelForImageTextToText.from_pretrained(zoo.path(name), dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(zoo.path(name))
    assert type(model) is Qwen2VLForConditionalGeneration
    assert type(processor) is Qwen2VLProcessor
    assert not model.generation_config.do_sample
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("name", zoo.names())
def test_it_has_learnt_what_it_is_measured_on(name):
    """Four tasks that both models know, far above what guessing gives and below what their cards say."""
    model, processor = load(name, "cpu", "float32")
    for task, least in (("attribute", 0.9), ("existence", 0.9), ("spatial", 0.85), ("easy_vqa", 0.8)):
        samples = [tasks.load(task)[number] for number in range(24)]
        lines = Batch(model, processor, samples, max_new_tokens=8).ask(PLAIN)
        assert sum(line["correct"] for line in lines) >= least * len(samples), task
