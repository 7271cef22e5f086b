"""The shipped model: found by name, loaded by the Auto classes, right well above guessing."""

import json

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from illava import zoo
from illava.zoo.evaluate import Sample, answers, draw_samples, evaluate, score, without_pictures

# Well below the measured figures, as 12 questions are few, and well above guessing.
FLOORS = {"colour": 0.75, "shape": 0.66, "count": 0.66, "digit": 0.75}
KINDS = tuple(FLOORS)


@pytest.fixture(scope="module")
def shipped():
    folder = zoo.path("zoo/S")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def test_names_and_paths():
    assert "zoo/S" in zoo.names()
    assert (zoo.path("zoo/S") / "model.safetensors").is_file()
    for wrong in ("S", "zoo/XXL", "zoo/../S", ""):
        with pytest.raises(ValueError, match="zoo/S"):
            zoo.path(wrong)


def test_the_folder_is_small_bfloat16_and_has_a_card():
    folder = zoo.path("zoo/S")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12e6
    assert "toy" in (folder / "README.md").read_text()
    kept = AutoModelForImageTextToText.from_pretrained(folder)
    assert {weight.dtype for weight in kept.parameters()} == {torch.bfloat16}


def test_auto_classes_give_qwen2_vl(shipped):
    model, processor = shipped
    assert type(model) is Qwen2VLForConditionalGeneration
    assert type(processor) is Qwen2VLProcessor
    assert not model.generation_config.do_sample
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_answers_unseen_scenes_and_only_guesses_blank_ones(shipped):
    samples = draw_samples(12, seed=11, kinds=KINDS)
    seen, blank = evaluate(*shipped, samples), evaluate(*shipped, without_pictures(samples))
    for kind in KINDS:
        assert seen[kind]["n"] == 12
        assert seen[kind]["accuracy"] >= FLOORS[kind], kind
    assert sum(blank[kind]["right"] for kind in KINDS) < 0.6 * sum(seen[kind]["right"] for kind in KINDS)


def test_batching_does_not_change_answers(shipped):
    samples = draw_samples(2, seed=12, kinds=KINDS)
    assert answers(*shipped, samples, batch_size=8) == answers(*shipped, samples, batch_size=1)


def test_the_card_states_the_measured_figures():
    folder = zoo.path("zoo/S")
    figures, card = json.loads((folder / "figures.json").read_text()), (folder / "README.md").read_text()
    for kind, seen in figures["picture"].items():
        blank = figures["blank"][kind]["accuracy"]
        assert seen["n"] >= 300 or "/" in kind
        assert f"| {kind} | {seen['n']} | {seen['accuracy']:.1%} | {blank:.1%} |" in card


def test_samples_are_fixed_by_their_seed():
    first, again, other = (draw_samples(3, seed) for seed in (5, 5, 6))
    told = [[(s.question, s.answer, s.picture.tobytes()) for s in drawn] for drawn in (first, again, other)]
    assert told[0] == told[1]
    assert told[0] != told[2]


def test_score_counts_exact_matches_per_kind():
    picture = without_pictures(draw_samples(1, 0, kinds=("colour",)))[0].picture
    samples = [Sample(picture, "?", "7", "digit", "hand"), Sample(picture, "?", "red", "colour")]
    assert score(samples, ["7", "blue"]) == {
        "digit": {"n": 1, "right": 1, "accuracy": 1.0},
        "digit/hand": {"n": 1, "right": 1, "accuracy": 1.0},
        "colour": {"n": 1, "right": 0, "accuracy": 0.0},
    }
    with pytest.raises(ValueError, match="2 samples but 1 answers"):
        score(samples, ["7"])
