"""Made-up prompts: as many placeholders as the model wants, in the sizes that processors choose."""

from __future__ import annotations

import pytest
import torch

import illava
from illava.ask import load
from illava.bench import prompts, published
from illava.errors import UnsupportedError
from illava.io.pictures import InputError
from illava.models.noise import TEXT
from tests.tiny import config, tiny_model

from .conftest import FAMILIES

CASES = ({}, {"pictures": 3}, {"batch": 2}, {"frames": 3})


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_models_take_them_plain_and_merged(family, options):
    model = tiny_model(family)
    for size in ((40, 40), (70, 20), (90, 96)):
        inputs = prompts.make(model.config, size, text_tokens=20, **options)
        ids = inputs["input_ids"]
        assert len(ids) == options.get("batch", 1)
        assert (ids == ids[:1]).all()
        # The model itself refuses another number of placeholders.
        with torch.no_grad():
            plain = model(**inputs).logits
        with illava.accelerate(model, illava.Illava(keep=0.5)) as handle, torch.no_grad():
            merged = model(**inputs).logits
        report = handle.report
        assert plain.shape[1] == ids.shape[1] > merged.shape[1]
        assert report.visual_tokens == prompts.count(ids, model.config)
        assert 0.4 * report.visual_tokens < report.final_tokens < 0.55 * report.visual_tokens
        if not options.get("frames"):
            assert ids.shape[1] - prompts.count(ids[0], model.config) == 20
        # Padding, an end, or a picture at the end would change what is measured.
        assert inputs["attention_mask"].all()
        assert ids[0, -1] in TEXT


# Shape, size (width, height), options; pixel values of one prompt and its placeholders. Worked out by hand.
PUBLISHED = [
    ("qwen2-vl-2b", (672, 672), {}, (2304, 1176), 576),
    ("qwen2-vl-2b", (300, 680), {"pictures": 2}, (2 * 48 * 22, 1176), 2 * 24 * 11),
    ("qwen2.5-vl-7b", (224, 224), {"frames": 5}, (3 * 256, 1176), 3 * 64),
    ("qwen3-vl-4b", (480, 640), {}, (1200, 1536), 300),
    # Below 256 x 256 pixels it is made larger.
    ("qwen3-vl-4b", (128, 128), {}, (256, 1536), 64),
    ("qwen3-vl-8b", (320, 320), {"frames": 4}, (800, 1536), 200),
    ("llava-onevision-0.5b", (384, 384), {}, (1, 2, 3, 384, 384), 729 + 27 * 28),
    # Two tiles side by side, a twelfth of the rows above and below only padding.
    ("llava-onevision-7b", (768, 320), {}, (1, 3, 3, 384, 384), 729 + 23 * 55),
    # 36 tiles scaled down to the features of 9: 162 / 2 = 81 rows and columns.
    ("llava-onevision-7b", (2304, 2304), {}, (1, 37, 3, 384, 384), 729 + 81 * 82),
    ("llava-onevision-7b", (300, 500), {"pictures": 3}, (3, 1, 3, 384, 384), 3 * 730),
    ("llava-onevision-7b", (300, 500), {"frames": 6}, (1, 6, 3, 384, 384), 6 * 196 + 1),
    ("internvl2.5-2b", (448, 448), {}, (1, 3, 448, 448), 256),
    ("internvl2.5-8b", (672, 672), {}, (5, 3, 448, 448), 5 * 256),
    ("internvl3-2b", (1000, 500), {"pictures": 2}, (2 * 3, 3, 448, 448), 6 * 256),
    ("internvl3-2b", (1000, 500), {"frames": 8}, (8, 3, 448, 448), 8 * 256),
]


@pytest.mark.parametrize(("name", "size", "options", "pixels", "placeholders"), PUBLISHED)
def test_published_sizes(name, size, options, pixels, placeholders):
    made = published.config(name)
    inputs = prompts.make(made, size, **options)
    values = inputs["pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"]
    assert tuple(values.shape) == pixels
    assert prompts.count(inputs["input_ids"], made) == placeholders
    # 47 tokens, and before every frame of Qwen3-VL its time, between marks the prompt's own two not counted.
    extra = {"qwen3-vl-8b": 2 * (6 + 2) - 2, "internvl3-2b": 8 * (4 + 2) - 2}
    expected = 47 + (extra.get(name, 0) if "frames" in options else 0)
    assert inputs["input_ids"].shape[1] - placeholders == expected


def test_batches_repeat_the_prompt():
    made = config("qwen2_vl")
    one, three = (prompts.make(made, (40, 60), batch=batch) for batch in (1, 3))
    assert set(one) == set(three)
    for name in one:
        assert torch.equal(three[name], torch.cat([one[name]] * 3))


def test_dtype_is_that_of_the_pixels_alone():
    inputs = prompts.make(config("llava_onevision"), (60, 40), dtype=torch.bfloat16)
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["image_sizes"].tolist() == [[40, 60]]


def test_refusals():
    qwen = config("qwen2_vl")
    with pytest.raises(
        UnsupportedError, match=r"'gemma3'; supported are .*internvl, llava_onevision, qwen2_5_vl"
    ):
        prompts.make(config("gemma3"), (40, 40))
    with pytest.raises(InputError, match="--text-tokens 6: give at least 7"):
        prompts.make(qwen, (40, 40), pictures=3, text_tokens=6)
    assert prompts.make(qwen, (40, 40), pictures=3, text_tokens=7)["input_ids"][0, -1] in TEXT
    with pytest.raises(InputError, match="--size 9000x20"):
        prompts.make(qwen, (9000, 20))
    with pytest.raises(InputError, match="not both"):
        prompts.make(qwen, (40, 40), pictures=2, frames=2)


@pytest.mark.parametrize(("text", "sides"), [("672", (672, 672)), ("640x480", (640, 480)), (" 1 ", (1, 1))])
def test_sizes(text, sides):
    assert prompts.parse_size(text) == sides


@pytest.mark.parametrize("text", ["", "0", "-3", "640x", "x480", "640x0", "16385", "1e3", "a"])
def test_wrong_sizes(text):
    with pytest.raises(InputError, match="--size"):
        prompts.parse_size(text)


def test_processors_are_given_words_until_the_text_is_long_enough(folder):
    model, processor = load(str(folder))
    for wanted in (30, 80):
        inputs = prompts.from_processor(processor, (96, 144), pictures=2, text_tokens=wanted, batch=2)
        ids = inputs["input_ids"]
        visual = prompts.count(ids[0], model.config)
        assert visual == 2 * int(inputs["image_grid_thw"][0].prod()) // 4
        assert wanted <= ids.shape[1] - visual < wanted + 8
        assert torch.equal(ids[0], ids[1])
        assert len(inputs["image_grid_thw"]) == 4
        with torch.no_grad():
            logits = model(**inputs).logits
        torch.testing.assert_close(logits[0], logits[1])
