"""The shipped models: found by name, small, loaded by the Auto classes."""

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from illava import zoo


def test_names_and_paths():
    assert "zoo/S" in zoo.names()
    assert (zoo.path("zoo/S") / "model.safetensors").is_file()
    for wrong in ("S", "zoo/XXL", "zoo/../S", ""):
        with pytest.raises(ValueError, match="zoo/S"):
            zoo.path(wrong)


@pytest.mark.parametrize("name", zoo.names())
def test_the_folder_is_small_bfloat16_and_has_a_card(name):
    folder = zoo.path(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6
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
