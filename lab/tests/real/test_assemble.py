"""The assembled model: what it computes, what its processor makes of pictures and chats."""

import json

import numpy as np
import pytest
import torch
from illava_lab import tasks
from illava_lab.real import SIZES
from illava_lab.real.assemble import IMAGE_TOKEN, assemble
from illava_lab.real.trained import read
from illava_lab.real.training.encoder import STORED
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, Dinov2Model, LlavaForConditionalGeneration

import illava
from illava.ask import ask, load
from illava.evaluation.rows import PLAIN
from illava.evaluation.run import Batch

from .tiny_parts import BLOCK, LINEAR, MERGES, SPECIAL, TEXT, TEXT_LAYERS, write_trained

USED = len(SPECIAL) + 256 + len(MERGES)


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembled")
    write_trained(folder / "trained.safetensors")
    assemble(parts, read(folder / "trained.safetensors"), folder / "zoo")
    return folder


@pytest.fixture(scope="module")
def processor(made):
    return AutoProcessor.from_pretrained(made / "zoo" / "R-224")


def picture(wide=90, high=61):
    values = np.random.default_rng(0).integers(0, 256, (high, wide, 3), np.uint8)
    return Image.fromarray(values).resize((3 * wide, 3 * high), Image.Resampling.BILINEAR)


def test_the_weights_are_one_file_and_load_completely(made):
    files = [made / "zoo" / f"R-{size}" / "model.safetensors" for size in SIZES]
    assert len({file.stat().st_ino for file in files}) == 1
    model, info = LlavaForConditionalGeneration.from_pretrained(files[0].parent, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    embedding = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is embedding
    assert len(embedding) % 64 == 0
    assert USED < len(embedding) < USED + 65
    assert not embedding[USED:].any()
    assert embedding[:USED].any(1).all()
    told = model.generation_config
    assert (told.do_sample, told.eos_token_id, told.pad_token_id) == (False, 2, 0)


def test_it_computes_what_its_parts_compute(made, parts):
    """Encoder, projector, LLM and low-rank changes one after the other, the changes beside the weights."""
    model = LlavaForConditionalGeneration.from_pretrained(made / "zoo" / "R-224", dtype=torch.float32)
    trained = read(made / "trained.safetensors")
    pixels = torch.randn(1, 3, 28, 42)
    encoder = Dinov2Model.from_pretrained(parts["dinov2"])
    llm = AutoModelForCausalLM.from_pretrained(parts["smollm2"], dtype=torch.float32)
    for number, block in enumerate(encoder.encoder.layer):
        for name in BLOCK:
            down, up = trained.changes[f"vision_tower.encoder.layer.{number}.{name}"]

            def shift(module, inputs, output, down=down, up=up):
                return output + trained.scale * inputs[0] @ down.T @ up.T

            # Since transformers 5.24 modules have other names than their weights in files.
            module = {stored: own for own, stored in STORED.items()}.get(name, name)
            known = module if module in dict(block.named_modules()) else name
            block.get_submodule(known).register_forward_hook(shift)
    for layer in range(TEXT_LAYERS):
        for name in LINEAR:
            down, up = trained.changes[f"language_model.layers.{layer}.{name}"]

            def add(module, inputs, output, down=down, up=up):
                return output + trained.scale * inputs[0] @ down.T @ up.T

            llm.get_submodule(f"model.layers.{layer}.{name}").register_forward_hook(add)
    image = model.config.image_token_id
    ids = torch.tensor([[1, 30, *[image] * 6, 40, 41, 2]])
    with torch.no_grad():
        x = encoder(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        one, two = (
            [trained.projector[f"multi_modal_projector.linear_{n}.{part}"] for part in ("weight", "bias")]
            for n in (1, 2)
        )
        hidden = x @ one[0].T + one[1]
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        embedded = llm.get_input_embeddings()(ids.where(ids != image, 0))
        embedded[ids == image] = (hidden @ two[0].T + two[1])[0]
        expected = llm(inputs_embeds=embedded).logits
        logits = model(input_ids=ids, pixel_values=pixels).logits
    assert hidden.shape[-1] == TEXT
    torch.testing.assert_close(logits[..., :USED], expected, rtol=0, atol=0.005 * expected.abs().max().item())


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_stretched_to_a_square(made, size):
    processor = AutoProcessor.from_pretrained(made / "zoo" / f"R-{size}")
    given = picture()
    inputs = processor(images=given, text=f"{IMAGE_TOKEN}cat", return_tensors="pt")
    token = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert (inputs["input_ids"] == token).sum() == (size // 14) ** 2
    config = json.loads((made / "zoo" / f"R-{size}" / "config.json").read_text())
    assert (config["image_token_index"], config["image_seq_length"]) == (token, (size // 14) ** 2)
    square = np.asarray(given.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    expected = (square - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # Pillow and torchvision round to integers at different points.
    found = inputs["pixel_values"][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=2 / 255 / 0.224, rtol=0)
    grey = processor(images=given.convert("L"), text=IMAGE_TOKEN, return_tensors="pt")
    assert grey["pixel_values"].shape == (1, 3, size, size)


def test_chats(processor):
    def part(text=None):
        return {"type": "image"} if text is None else {"type": "text", "text": text}

    chat = [
        {"role": "user", "content": [part("What?"), part(), part()]},
        {"role": "assistant", "content": [part("A cat.")]},
        {"role": "user", "content": "Sure?"},
    ]
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == (
        "<|im_start|>user\n<image><image>What?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert processor.apply_chat_template(chat[:1]).endswith("What?<|im_end|>\n")


def test_the_library_reads_and_accelerates_it(made):
    model, processor = load(str(made / "zoo" / "R-224"))
    answer = ask(model, processor, [picture()], "cat?", illava.Illava.best(1 / 9), max_new_tokens=3)
    assert answer.report.visual_tokens == 256
    assert answer.report.final_tokens == pytest.approx(256 / 9, abs=2)


def test_it_is_evaluated_like_any_other(made):
    """Also plain, where the prompt's visual tokens are counted without a token of videos."""
    model, processor = load(str(made / "zoo" / "R-224"))
    batch = Batch(model, processor, [tasks.load("attribute")[0]], max_new_tokens=2)
    assert batch.ask(PLAIN)[0]["visual_tokens"] == 256


def test_trained_weights_of_another_model_are_refused(parts, tmp_path):
    cases = {
        "multi_modal_projector.linear_1.weight": (torch.ones(TEXT, 3), "linear_1.weight has shape"),
        "language_model.layers.0.mlp.up_proj.lora_B": (torch.ones(5, 4), "layers.0.mlp.up_proj has shape"),
    }
    for name, (tensor, message) in cases.items():
        write_trained(tmp_path / "t.safetensors", **{name: tensor})
        with pytest.raises(ValueError, match=message):
            assemble(parts, read(tmp_path / "t.safetensors"), tmp_path / "zoo")
    extra = {f"language_model.layers.9.mlp.up_proj.lora_{half}": torch.ones(4, 4) for half in "AB"}
    write_trained(tmp_path / "t.safetensors", **extra)
    with pytest.raises(ValueError, match=r"layers.9.mlp.up_proj is changed, but there is no such layer"):
        assemble(parts, read(tmp_path / "t.safetensors"), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()
