"""The trainer's shortcuts compute what transformers computes: patches, vision tower, packed questions."""

from dataclasses import replace

import pytest
import torch
from illava_lab.zoo.batches import Packer, patchify, training_batch
from illava_lab.zoo.forward import encode_pictures, packed_hidden
from illava_lab.zoo.lessons import FORMS, Syllabus, draw_lesson
from illava_lab.zoo.model import build_model
from illava_lab.zoo.questions import IGNORE, REFERENCE
from illava_lab.zoo.text import build_processor
from PIL import Image

SIDE, ROWS = 96, 2
EVEN = Syllabus((1 / 6,) * 6, (0.2,) * 5 + (0.0,), most=4)


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
    hidden, middle, *_ = packed_hidden(model, encode_pictures(model, batch.pixels), batch)
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
            grids = {name: single.get(name) for name in ("image_grid_thw", "video_grid_thw")}
            places, _ = model.model.get_rope_index(single["input_ids"], single["mm_token_type_ids"], **grids)
            # As the template's newline at the end is not there, the question's part ends one earlier.
            assert torch.equal(batch.positions[:, i, own], places[:, 0, :-1][:, -int(own.sum()) :])
            shown = batch.segments[i] == 0
            assert torch.equal(batch.positions[:, i, shown], places[:, 0, : int(shown.sum())])
            trained = batch.targets[i, own] != IGNORE
            # The template ends the answer's turn with a newline, which is not trained.
            ids = single["input_ids"][0, :-1]
            assert torch.equal(batch.ids[i, own], ids[-int(own.sum()) :])
            expected = model(**single).logits[0, :-1][-int(own.sum()) :]
            assert torch.allclose(packed[i, own][trained], expected[trained], atol=1e-4)
            assert torch.equal(batch.targets[i, own][trained], ids[-int(trained.sum()) :])
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
    crowds = replace(EVEN, scenes=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    lessons = [draw_lesson(form, SIDE, 3, crowds, "train", 0, 4, i) for i in range(ROWS)]
    batch = Packer(processor)(lessons)
    expected = []
    for i, lesson in enumerate(lessons):
        ends = (processor.tokenizer.decode([one]) == "<|vision_end|>" for one in batch.ids[i])
        ends = [place for place, end in enumerate(ends) if end]
        for place, reference in zip(ends, lesson.closing, strict=False):
            expected.append([i, place, *(reference.facts.get(name, IGNORE) for name in REFERENCE)])
        assert len(lesson.closing) == (0 if lesson.video else len(ends))
        for k, question in enumerate(lesson.questions, 1):
            start = int((batch.segments[i] == k).nonzero()[0])
            for reference in question.mentions:
                before = len(processor.tokenizer(question.text[: reference.end])["input_ids"])
                facts = [reference.facts.get(name, IGNORE) for name in REFERENCE]
                expected.append([i, start + before - 1, *facts])
                word = processor.decode(batch.ids[i, start + before - 1]).strip()
                assert question.text[: reference.end].endswith(word)
    assert batch.mentions.tolist() == expected
    assert expected


@torch.no_grad()
@pytest.mark.parametrize("form", ["scene", "multi_picture", "video"])
def test_two_heads_of_the_layer_before_the_middle_point_and_count(processor, model, form):
    """Against the attention weights that transformers' own eager attention hands out."""
    batch = Packer(processor)(drawn(form))
    weights = []
    attention = model.model.language_model.layers[len(model.model.language_model.layers) // 2 - 1].self_attn
    before = model.config._attn_implementation
    hook = attention.register_forward_hook(lambda module, given, out: weights.append(out[1]))
    model.set_attn_implementation("eager")
    _, _, looks, tally = packed_hidden(model, encode_pictures(model, batch.pixels), batch)
    model.set_attn_implementation(before)
    hook.remove()
    row, place = batch.mentions.T[:2]
    expected = weights[0][row, 0, place][:, batch.visual]
    shares = expected / expected.sum(-1, keepdim=True)
    assert looks.shape == batch.seen.shape
    assert len(looks) > 2
    assert torch.allclose(looks.softmax(-1), shares, atol=1e-5)
    assert (expected == 0).any() == (form == "multi_picture")  # what comes after a picture's end
    counting = weights[0][row, 1, place]
    assert torch.allclose(tally[:, :-1].exp(), counting[:, batch.visual], atol=1e-5)
    assert torch.allclose(tally.exp().sum(-1), torch.ones(len(tally)), atol=1e-5)


def test_a_corner_moves_the_pictures_and_what_is_told_of_places(processor):
    lessons = drawn("multi_picture")
    plain = Packer(processor)(lessons)
    moved = Packer(processor)(lessons, 12, [(0, 0), (2, 5)])
    shift = moved.positions - plain.positions
    pictures = plain.segments == 0
    visual = torch.zeros_like(pictures)
    visual[:, plain.visual] = True
    # Every picture before it leaves 12 places instead of 6; the corner moves the pictures' tokens alone.
    ends = torch.isin(plain.ids, processor.tokenizer.convert_tokens_to_ids("<|vision_end|>"))
    before = 6 * ends.cumsum(1)
    expected = before[None].repeat(3, 1, 1)
    expected[1, 1, visual[1]] += 2
    expected[2, 1, visual[1]] += 5
    real = plain.segments >= 0
    assert torch.equal(shift[:, real], expected[:, real])
    there = (plain.mentions[:, 0] == 1) & (plain.mentions[:, 2 + list(REFERENCE).index("row")] != IGNORE)
    assert there.any()
    change = moved.mentions - plain.mentions
    expected_change = torch.zeros_like(change)
    expected_change[there, 2 + list(REFERENCE).index("row")] = 2
    expected_change[there, 2 + list(REFERENCE).index("column")] = 5
    assert torch.equal(change, expected_change)
    assert torch.equal(moved.seen, plain.seen)
    assert moved.corners.tolist() == [[0, 0], [2, 5]]


def test_small_pictures_lie_anywhere_in_large_ones_but_films_do_not(processor):
    packer = Packer(processor)
    for form, edge in (("scene", 64), ("multi_picture", 64), ("video", None), ("clip", None)):
        batch = training_batch(packer, form, 64, 6, EVEN, "train", 0, 1, 5)
        corners = {tuple(corner) for corner in batch.corners.tolist()}
        assert (corners == {(0, 0)}) if edge is None else len(corners) > 1
        if edge:
            assert max(max(corner) for corner in corners) <= 12 - edge // 16
    assert training_batch(packer, "scene", 192, 2, EVEN, "train", 0, 1, 5).corners.tolist() == [[0, 0]] * 2


def test_what_is_seen_are_the_tokens_with_the_things_centres(processor):
    """Against the dense labels: they are made from the same boxes another way."""
    crowds = replace(EVEN, scenes=(0.5, 0.5, 0.0, 0.0, 0.0, 0.0))
    checked = 0
    for i in range(12):
        lesson = draw_lesson("scene", SIDE, 1, crowds, "train", 0, 4, i)
        batch = Packer(processor)([lesson])
        centres, colours = (lesson.labels[key][0].flatten() for key in ("centre", "colour"))
        references = [*lesson.closing, *(one for question in lesson.questions for one in question.mentions)]
        for reference, seen in zip(references, batch.seen.numpy(), strict=True):
            if not reference.facts.get("count", 1):
                assert seen.sum() == 0
                continue
            assert abs(seen.sum() - 1) < 1e-6
            assert set(seen[seen > 0]) == {seen.max()}
            assert (centres[seen > 0] != 0).all()
            if {"shape", "colour"} <= reference.facts.keys() and (seen > 0).sum() == 1:
                here = int(seen.argmax())
                assert centres[here] in (IGNORE, 1 + reference.facts["shape"])
                assert colours[here] in (IGNORE, reference.facts["colour"])
                checked += 1
    assert checked > 10


def test_characters_to_be_read_are_looked_for_one_token_ahead(processor):
    words = replace(EVEN, scenes=(0.0, 0.0, 0.5, 0.5, 0.0, 0.0), tasks=("digits", "words"))
    lessons = [draw_lesson("scene", SIDE, 1, words, "train", 0, 8, i) for i in range(4)]
    batch = Packer(processor)(lessons)
    rows = []
    for i, lesson in enumerate(lessons):
        (question,) = lesson.questions
        first = int((batch.targets[i] != IGNORE).nonzero()[0])
        places = lesson.labels["place"][0]
        for place, character in enumerate(question.answer, 1):
            token = batch.targets[i, first + place - 1]
            assert processor.decode(token) == character
            ((row, column),) = zip(*(places == place).nonzero(), strict=True)
            rows.append([i, first + place - 1, row, column])
    found = batch.mentions[:, :2].tolist()
    closing = {n for n, (i, place) in enumerate(found) if batch.segments[i, place] == 0}
    assert len(closing) == len(lessons)
    where = [list(REFERENCE).index(name) + 2 for name in ("row", "column")]
    assert [
        [*pair, *batch.mentions[n, where].tolist()] for n, pair in enumerate(found) if n not in closing
    ] == rows
    for n, seen in enumerate(batch.seen):
        if n not in closing:
            row, column = batch.mentions[n, where].tolist()
            assert seen.tolist().index(1.0) == row * (SIDE // 16) + column
