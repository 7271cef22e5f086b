"""What harnesses hand over: arguments, generation arguments, pictures and videos."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import illava
from illava.integrations import opening
from illava.integrations.generation import cut, read_generation, read_stops
from illava.integrations.media import frames_of, picture_of
from illava.integrations.opening import open_accelerated


@pytest.fixture
def opened():
    """Open a model, and restore it afterwards."""
    handles = []

    def opened(**arguments):
        made = open_accelerated("zoo/S", device="cpu", **arguments)
        handles.append(made.handle)
        return made

    yield opened
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        ({"keep": "1/9"}, illava.Illava.best(1 / 9)),
        ({"keep": 0.5, "method": "fastv"}, illava.FastV(keep=0.5)),
        ({"method": "fastv"}, illava.FastV()),
        ({"method": illava.ToMe(keep=0.4)}, illava.ToMe(keep=0.4)),
        ({"config": illava.FastV(layer=3, keep=0.25).to_dict()}, illava.FastV(layer=3, keep=0.25)),
        ({"config": json.dumps(illava.FastV(layer=3).to_dict())}, illava.FastV(layer=3)),
        # As `illava ask` has it.
        ({}, illava.Illava.best(1 / 3)),
    ],
)
def test_methods(opened, arguments, method):
    made = opened(**arguments)
    assert made.handle.method == method
    assert json.loads(str(made).partition("zoo/S, ")[2]) == method.to_dict()


def test_a_config_may_be_a_file_or_its_folder(opened, tmp_path):
    method = illava.Illava.best(0.25)
    file = method.save_pretrained(tmp_path)
    assert opened(config=str(tmp_path)).handle.method == method
    assert opened(config=str(file)).handle.method == method


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0}, "keep=0: give a number above 0 and up to 1, such as 0.33 or 1/9"),
        ({"keep": True}, "keep=True: give a number"),
        ({"method": "nothing"}, "method nothing: unknown method; give one of"),
        ({"method": 3}, "method=3: give the name of a method or preset"),
        ({"config": "{}", "method": "fastv"}, "give either config, or keep and method"),
        ({"config": "{}"}, "config: unknown method None"),
        ({"config": "{"}, "config: "),
        ({"config": "/nowhere"}, "config: cannot read /nowhere"),
        ({"config": '{"method": "fastv", "depth": 2}'}, "config: fastv has no field depth"),
        ({"method": illava.FastV(), "keep": 0.5}, "give either a method, which has its own keep, or keep"),
        ({"method": illava.FastV(layer=99)}, "method fastv: "),
        ({"dtype": "float64"}, "dtype float64: give one of"),
        ({"trust_remote_code": "perhaps"}, "trust_remote_code=perhaps: give True or False"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(opened, arguments, message):
    with pytest.raises(illava.InputError) as caught:
        opened(**arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_model_must_be_named():
    with pytest.raises(illava.InputError, match="pretrained: name a model, as in pretrained=zoo/L,keep=1/9"):
        open_accelerated(None)


def test_counts_may_be_texts():
    assert opening.read_count("batch_size", "4") == opening.read_count("batch_size", 4) == 4
    for wrong in ("auto", "0", -1, 2.5, True, ""):
        with pytest.raises(illava.InputError, match=f"batch_size={wrong}: give a whole number from 1 up"):
            opening.read_count("batch_size", wrong)


def test_each_of_several_processes_has_its_own_card(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert opening.device_of_process() == "auto"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert opening.device_of_process() == "cuda:1"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert opening.device_of_process() == "auto"


GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "num_beams": 1}


@pytest.mark.parametrize(
    ("given", "limit", "options"),
    [
        ({}, 99, GREEDY),
        ({"max_new_tokens": 5, "temperature": 0, "top_p": 0.9, "image_aspect_ratio": "pad"}, 5, GREEDY),
        ({"max_gen_toks": 6, "do_sample": False, "temperature": 0.7}, 6, GREEDY),
        ({"do_sample": True, "temperature": 0}, 99, GREEDY),
        ({"temperature": 0.7}, 99, {"do_sample": True, "temperature": 0.7, "num_beams": 1}),
        ({"do_sample": True, "top_k": 3}, 99, {"do_sample": True, "top_k": 3, "num_beams": 1}),
        ({"num_beams": 3, "max_new_tokens": 7.0, "top_p": None}, 7, {**GREEDY, "num_beams": 3}),
    ],
)
def test_generation_arguments(given, limit, options):
    generation = read_generation(given, 99)
    assert (generation.max_new_tokens, generation.options) == (limit, options)
    assert generation.beams == options["num_beams"]


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"max_new_tokens": "8"}, {"temperature": -1}, {"until": 3}]
)
def test_wrong_generation_arguments_are_named(wrong):
    (name,) = wrong
    with pytest.raises(illava.InputError, match=f"{name} must be"):
        read_generation(wrong, 99)


def test_stops():
    assert read_stops(None) == read_stops("") == read_stops([]) == ()
    assert read_stops("a") == ("a",)
    assert read_stops(["a", "", "bc"]) == ("a", "bc")
    assert cut("one two three", ("three", "two")) == "one "
    assert cut("one two", ("three",)) == cut("one two", ()) == "one two"


def grey(shade: int, size=(8, 6)) -> Image.Image:
    return Image.new("RGB", size, (shade, shade, shade))


def shades(pictures) -> list[int]:
    return [int(np.asarray(picture)[0, 0, 0]) for picture in pictures]


def test_pictures(tmp_path):
    file = tmp_path / "a.png"
    grey(7).save(file)
    for given in (
        grey(7),
        grey(7).convert("L"),
        str(file),
        f"file://{file}",
        {"bytes": file.read_bytes(), "path": None},
    ):
        picture = picture_of(given)
        assert picture.mode == "RGB"
        assert shades([picture]) == [7]
    for wrong, message in (
        (3, "a picture must be a Pillow image or a file, not int"),
        ("https://x/a.png", "URL"),
    ):
        with pytest.raises(illava.InputError, match=message):
            picture_of(wrong)


def test_videos(tmp_path):
    frames = [grey(10 * number) for number in range(6)]
    assert shades(frames_of(frames, 8)) == [0, 10, 20, 30, 40, 50]
    assert shades(frames_of(tuple(frames), 3)) == [10, 30, 50]
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
    assert shades(frames_of(str(tmp_path), 3)) == [10, 30, 50]
    assert len(frames_of(str(tmp_path), 8)) == 6
    for wrong, message in (
        ([], "a video has no frames"),
        (3, "a video must be a file, a folder, or a list of frames, not int"),
        ([grey(1), grey(2, (4, 4))], "the frames of a video differ in size"),
    ):
        with pytest.raises(illava.InputError, match=message):
            frames_of(wrong, 8)


def test_a_long_video_gives_as_many_frames_as_asked_for(tmp_path):
    """More than illava's own limit, from a folder."""
    for number in range(40):
        grey(number).save(tmp_path / f"{number}.png")
    assert shades(frames_of(str(tmp_path), 40)) == list(range(40))
