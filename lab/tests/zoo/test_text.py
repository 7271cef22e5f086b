"""The processor: any text survives the tokenizer, pictures and videos find their places."""

import numpy as np
import pytest
from illava_lab.zoo.text import SPECIAL, answer_texts, build_processor, question_texts
from PIL import Image


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def chat(*parts):
    return [{"role": "user", "content": list(parts)}]


QUESTION = {"type": "text", "text": "What colour is the star?"}
PICTURE = {"type": "image", "image": Image.new("RGB", (192, 192))}
HOW = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


@pytest.mark.parametrize("text", ["What colour is the star?", "Zürich 日本 🙂\t\n x  y", "1234567890"])
def test_any_text_survives(processor, text):
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(ids) == text


def test_digits_and_special_tokens_are_single_tokens(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer("40719")["input_ids"]) == 5
    ids = [tokenizer(token)["input_ids"] for token in SPECIAL]
    assert all(len(i) == 1 for i in ids)
    assert len({i[0] for i in ids}) == len(SPECIAL)
    assert 300 <= len(tokenizer) <= 640


def test_questions_are_short_and_words_to_read_are_spelled(processor):
    lengths = [len(processor.tokenizer(text)["input_ids"]) for text in question_texts()]
    assert max(lengths) <= 30
    assert len(processor.tokenizer("MOON")["input_ids"]) == 4


def test_answers_in_words_are_single_tokens(processor):
    tokens = [processor.tokenizer(text)["input_ids"] for text in answer_texts()]
    assert all(len(ids) == 1 for ids in tokens)
    assert len({ids[0] for ids in tokens}) == len(answer_texts()) == 29


def test_the_tokenizer_is_the_same_every_time(processor):
    assert build_processor().tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_a_picture_of_192_pixels_gives_144_visual_tokens(processor):
    inputs = processor.apply_chat_template(chat(PICTURE, QUESTION), **HOW)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 144
    assert inputs["pixel_values"].shape == (576, 384)
    assert inputs["image_grid_thw"].tolist() == [[1, 24, 24]]
    text = processor.decode(inputs["input_ids"][0]).replace("<|image_pad|>", "")
    assert text == (
        "<|im_start|>user\n<|vision_start|><|vision_end|>What colour is the star?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_several_pictures_and_a_video(processor):
    clip = {"type": "video", "video": np.zeros((4, 96, 96, 3), np.uint8)}
    inputs = processor.apply_chat_template(chat(PICTURE, PICTURE, clip, QUESTION), **HOW)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 288
    assert (inputs["input_ids"] == processor.video_token_id).sum() == 2 * 36


def test_batches_are_padded_on_the_left(processor):
    chats = [chat(PICTURE, QUESTION), chat(PICTURE, {"type": "text", "text": "What does it read?" * 3})]
    inputs = processor.apply_chat_template(chats, processor_kwargs={"padding": True}, **HOW)
    mask = inputs["attention_mask"]
    assert mask[0, 0] == 0
    assert mask[:, -1].tolist() == [1, 1]
    assert set(inputs["input_ids"][0][mask[0] == 0].tolist()) == {processor.tokenizer.pad_token_id}
