"""The trainer's shortcuts compute what transformers computes: patches, vision tower, packed questions."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from illava.zoo.batches import Packer, encode_pictures, packed_hidden, patchify, training_batch
from illava.zoo.lessons import FORMS, Syllabus, draw_lesson
from illava.zoo.model import build_model
from illava.zoo.questions import IGNORE, REFERENCE
from illava.zoo.text import build_processor

SIDE, ROWS = 96, 2
EVEN = Syllabus((1 / 6,) * 6, (0.2,) * 5, most=4)


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def model(processor):
    return build_model("micro", processor, seed=0).eval()


def drawn(form: str):
    return [draw_lesson(form, SIDE, 3, EVEN, "train", 0, 4, i) for i in range(ROWS)]


def content(lesson):
    """The lesson's pictures or video as parts of a chat."""
    if lesson.video:
        frames = lesson.pairs.reshape(-1, *lesson.pairs.shape[2:])
        return [{"type": "video", "video": [Image.fromarray(frame) for frame in frames]}]
    return [{"type": "image", "image": Image.fromarray(picture)} for picture in lesson.pairs[:, 0]]


def test_patches_are_in_the_processors_order(processor):
    lessons = drawn("scene")
    pictures = [part["image"] for lesson in lessons for part in content(lesson)]
    expected = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    batch = Packer(processor)(lessons)
    assert torch.allclose(batch.pixels.flatten(0, 1), expected, atol=1e-6)
    mirrored = patchify(lessons[0].pairs[:, :, :, ::-1])
    assert not torch.allclose(mirrored[0], batch.pixels[0], atol=1e-2)


@torch.no_grad()
def test_vision_at_once_equals_the_vision_tower(processor, model):
    batch = Packer(processor)(drawn("scene"))
    side = SIDE // 8
    expected = model.model.visual(
        batch.pixels.flatten(0, 1), grid_thw=torch.tensor([[1, side, side]] * ROWS)
    ).pooler_output
    assert torch.allclose(encode_pictures(model, batch.pixels).flatten(0, 1), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_packed_questions_give_the_logits_of_single_prompts(processor, model, form):
    lessons = drawn(form)
    batch = Packer(processor)(lessons)
    hidden, middle = packed_hidden(model, encode_pictures(model, batch.pixels), batch)
    assert middle.shape == hidden.shape
    packed = model.lm_head(hidden)
    compared = 0
    for i, lesson in enumerate(lessons):
        for k, question in enumerate(lesson.questions, 1):
            chat = [
                {"role": "user", "content": [*content(lesson), {"type": "text", "text": question.text}]},
                {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
            ]
            single = processor.apply_chat_template(
                chat,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"do_sample_frames": False} if lesson.video else {},
            )
            own = batch.segments[i] == k
            told = batch.targets[i, own] != IGNORE
            # The template ends the answer's turn with a newline, which is not trained.
            ids = single["input_ids"][0, :-1]
            assert torch.equal(batch.ids[i, own], ids[-int(own.sum()) :])
            expected = model(**single).logits[0, :-1][-int(own.sum()) :]
            assert torch.allclose(packed[i, own][told], expected[told], atol=1e-4)
            assert torch.equal(batch.targets[i, own][told], ids[-int(told.sum()) :])
            compared += 1
    assert compared >= 2


@pytest.mark.parametrize("form", FORMS)
def test_batches_depend_on_their_place_only(processor, form):
    packer = Packer(processor)
    first, again, other = (training_batch(packer, form, 64, 2, EVEN, "train", 0, 1, at) for at in (2, 2, 3))
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.pixels.flatten()[:384], other.pixels.flatten()[:384])


def test_batches_of_several_pictures_have_two_to_four(processor):
    packer = Packer(processor)
    shown = set()
    for at in range(12):
        batch = training_batch(packer, "multi_picture", 64, 4, EVEN, "train", 0, 1, at)
        shown.add(len(batch.pixels) / len(batch.ids))
    assert shown == {2, 3, 4}


@pytest.mark.parametrize("form", ["scene", "multi_picture", "video", "clip"])
def test_mentions_end_where_the_thing_is_named(processor, form):
    crowds = replace(EVEN, scenes=(1.0, 0.0, 0.0, 0.0, 0.0))
    lessons = [draw_lesson(form, SIDE, 3, crowds, "train", 0, 4, i) for i in range(ROWS)]
    batch = Packer(processor)(lessons)
    expected = []
    for i, lesson in enumerate(lessons):
        for k, question in enumerate(lesson.questions, 1):
            start = int((batch.segments[i] == k).nonzero()[0])
            for said in question.mentions:
                before = len(processor.tokenizer(question.text[: said.end])["input_ids"])
                told = [said.facts.get(name, IGNORE) for name in REFERENCE]
                expected.append([i, start + before - 1, *told])
                word = processor.decode(batch.ids[i, start + before - 1]).strip()
                assert question.text[: said.end].endswith(word)
    assert batch.mentions.tolist() == expected
    assert expected


def test_characters_to_be_read_are_looked_for_one_token_ahead(processor):
    words = replace(EVEN, scenes=(0.0, 0.0, 0.5, 0.5, 0.0), tasks=("digits", "words"))
    lessons = [draw_lesson("scene", SIDE, 1, words, "train", 0, 4, i) for i in range(4)]
    batch = Packer(processor)(lessons)
    rows = []
    for i, lesson in enumerate(lessons):
        (question,) = lesson.questions
        first = int((batch.targets[i] != IGNORE).nonzero()[0])
        told = lesson.labels["place"][0]
        for place, character in enumerate(question.answer, 1):
            said = batch.targets[i, first + place - 1]
            assert processor.decode(said) == character
            ((row, column),) = zip(*(told == place).nonzero(), strict=True)
            rows.append([i, first + place - 1, row, column])
    found = batch.mentions[:, :2].tolist()
    where = [list(REFERENCE).index(name) + 2 for name in ("row", "column")]
    assert [[*pair, *batch.mentions[n, where].tolist()] for n, pair in enumerate(found)] == rows
