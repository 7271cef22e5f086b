"""Tiny pretrained parts, and pictures of one colour each with questions about it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from illava_lab.real.data import Scene, Turn
from illava_lab.real.training import batches, run, scoring
from illava_lab.real.training.model import TrainedModel
from PIL import Image
from real_data import made_up
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders "encoder" and "llm" of random weights, the latter with a tokenizer of single bytes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    vision = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    Dinov2Model(vision).save_pretrained(folder / "encoder")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL,
    )
    wrapped.save_pretrained(folder / "llm")
    text = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,  # a frozen LLM of near-zero embeddings could not be made to say anything
    )
    LlamaForCausalLM(text).save_pretrained(folder / "llm")
    return {"encoder": folder / "encoder", "llm": folder / "llm"}


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of picture sets in which every class is one plain colour."""
    folder = tmp_path_factory.mktemp("sets")
    made_up.photo_sets(folder)
    made_up.card_set(folder, np.random.default_rng(1))
    return folder


@pytest.fixture
def trained(parts: dict[str, Path]) -> TrainedModel:
    """The model in float32, with adapters that change something."""
    torch.manual_seed(1)
    model = TrainedModel(parts["encoder"], parts["llm"], torch.float32)
    for name, weight in model.trained().items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(weight, std=0.1)
    return model


def coloured(number: int) -> Scene:
    """A picture of one colour with a little noise, and two questions."""
    rng = np.random.default_rng(number)
    name = list(COLOURS)[number % 3]
    noise = rng.integers(-20, 20, (28, 28, 3))
    picture = Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8))
    turns = (
        Turn("Which colour?", name, "colour", False),
        Turn("Is it red?", "yes" if name == "red" else "no", "exists", False),
    )
    return Scene(picture, turns)


@pytest.fixture
def coloured_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training and scoring scene is a coloured picture."""
    for module in (batches, run, scoring):
        monkeypatch.setattr(module, "stream", lambda name, split, seed, folder: coloured)
    monkeypatch.setattr(run, "ALIGNED", 60)
