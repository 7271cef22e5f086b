"""The trainer's shortcuts compute what transformers computes: patches, vision tower, packed questions."""

import pytest
import torch
from PIL import Image

from illava.zoo.batches import Packer, encode_pictures, packed_hidden, patchify, training_batch
from illava.zoo.model import build_model
from illava.zoo.questions import IGNORE, ask
from illava.zoo.scenes import draw_scene, scene_rng
from illava.zoo.text import build_processor

PIXELS, N = 96, 3


@pytest.fixture(scope="module")
def setting():
    """A processor, a tiny random model, scenes with their questions and the packed batch of them."""
    processor = build_processor()
    model = build_model("micro", processor, seed=0).eval()
    scenes, questions = [], []
    for i in range(N):
        rng = scene_rng(0, "train", 4, i)
        scenes.append(draw_scene(rng, PIXELS, "train"))
        questions.append(ask(scenes[-1], rng, 4))
    return processor, model, scenes, questions, Packer(processor)(scenes, questions)


def test_patches_are_in_the_processors_order(setting):
    processor, _, scenes, _, batch = setting
    pictures = [Image.fromarray(scene.picture) for scene in scenes]
    expected = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    assert torch.allclose(batch.pixels.flatten(0, 1), expected, atol=1e-6)
    mirrored = patchify(scenes[0].picture[None, :, ::-1])
    assert not torch.allclose(mirrored[0], batch.pixels[0], atol=1e-2)


@torch.no_grad()
def test_vision_at_once_equals_the_vision_tower(setting):
    _, model, _, _, batch = setting
    side = PIXELS // 8
    expected = model.model.visual(
        batch.pixels.flatten(0, 1), grid_thw=torch.tensor([[1, side, side]] * N)
    ).pooler_output
    assert torch.allclose(encode_pictures(model, batch.pixels).flatten(0, 1), expected, atol=1e-5)


@torch.no_grad()
def test_packed_questions_give_the_logits_of_single_prompts(setting):
    processor, model, scenes, questions, batch = setting
    packed = model.lm_head(packed_hidden(model, encode_pictures(model, batch.pixels), batch))
    compared = 0
    for i, asked in enumerate(questions):
        for k, question in enumerate(asked, 1):
            content = [
                {"type": "image", "image": Image.fromarray(scenes[i].picture)},
                {"type": "text", "text": question.text},
            ]
            chat = [
                {"role": "user", "content": content},
                {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
            ]
            single = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
            own = batch.segments[i] == k
            told = batch.targets[i, own] != IGNORE
            # The template ends the answer's turn with a newline, which is not trained.
            ids = single["input_ids"][0, :-1]
            assert torch.equal(batch.ids[i, own], ids[-int(own.sum()) :])
            expected = model(**single).logits[0, :-1][-int(own.sum()) :]
            assert torch.allclose(packed[i, own][told], expected[told], atol=1e-4)
            assert torch.equal(batch.targets[i, own][told], ids[-int(told.sum()) :])
            compared += 1
    assert compared >= 6


def test_batches_depend_on_their_place_only(setting):
    packer = Packer(setting[0])
    first = training_batch(packer, 0, "train", (1, 2), 64, 2, 3)
    again = training_batch(packer, 0, "train", (1, 2), 64, 2, 3)
    other = training_batch(packer, 0, "train", (1, 3), 64, 2, 3)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.pixels, other.pixels)
