"""The evaluation loop: what it writes, how fast each row is, and what a summary makes of it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from illava import accelerate
from illava.evaluation import speed
from illava.evaluation.prompts import blank, build_batch
from illava.evaluation.rows import describe, merged_row
from illava.evaluation.run import first_token_kl
from illava.evaluation.samples import Sample
from illava.evaluation.store import Store
from illava.evaluation.summary import summarise, to_markdown
from illava.io.pictures import InputError
from illava.methods import Illava

from .conftest import ROWS, Squares, answers

SRC = Path(__file__).parents[2] / "src"


def test_every_answer_once(undisturbed):
    lines = [json.loads(line) for line in answers(undisturbed).splitlines()]
    assert lines == undisturbed.lines
    keys = [(line["row"], line["task"], line["sample"]) for line in lines]
    labels = ["plain", "blank", "illava 1", "illava 1/3", "illava 1/9"]
    assert sorted(keys) == sorted((label, "squares", n) for label in labels for n in range(6))
    for line in lines:
        sample = Squares()[line["sample"]]
        assert line["question"] == sample.question
        assert line["answer"] == sample.answers[0]
        assert line["correct"] == sample.is_right(line["prediction"])
        assert (line["cluster"], line["kind"], line["small"]) == (sample.cluster, sample.kind, sample.small)


def by_row(store: Store, label: str) -> list[dict]:
    return sorted((line for line in store.lines if line["row"] == label), key=lambda line: line["sample"])


def test_rows(undisturbed):
    plain, whole = by_row(undisturbed, "plain"), by_row(undisturbed, "illava 1")
    for line, same in zip(plain, whole, strict=True):
        assert (line["kl"], line["agrees"], line["kv_bytes"], line["flops"]) == (0, True, 1, 1)
        assert line["final_tokens"] == line["average_tokens"] == line["visual_tokens"]
        for key in set(line) - {"row", "method"}:
            assert line[key] == same[key]
    for label, keep in (("illava 1/3", 1 / 3), ("illava 1/9", 1 / 9)):
        for line, before in zip(by_row(undisturbed, label), plain, strict=True):
            assert (line["method"], line["keep"]) == ("illava", keep)
            # Each picture keeps a rounded share of its own.
            assert abs(line["final_tokens"] - keep * before["visual_tokens"]) <= 1
            assert line["final_tokens"] <= line["average_tokens"] < before["visual_tokens"]
            assert line["kl"] > 0
            assert line["kv_bytes"] < 1
            assert line["flops"] < 1
    assert {line["method"] for line in by_row(undisturbed, "blank")} == {"blank"}
    assert any(line["kl"] > 0 for line in by_row(undisturbed, "blank"))


def test_alone_as_in_a_batch(undisturbed, go, tmp_path):
    """Pictures, several pictures and videos mix in batches without touching each other."""
    alone = go(tmp_path, batch_size=1)
    for key in ("prediction", "correct", "visual_tokens", "final_tokens", "average_tokens"):
        for row in ("plain", "blank", "illava 1/3"):
            assert [line[key] for line in by_row(alone, row)] == [
                line[key] for line in by_row(undisturbed, row)
            ]
    kl = [[line["kl"] for line in by_row(store, "illava 1/3")] for store in (alone, undisturbed)]
    np.testing.assert_allclose(*kl, rtol=1e-3, atol=1e-5)


def test_kl_closed_form():
    p, q = (
        torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]),
        torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0]]),
    )
    expected = [0.5 * np.log(2) - 0.25 * np.log(2), np.log(2)]
    np.testing.assert_allclose(first_token_kl(p.log(), q.log()), expected, rtol=1e-6)
    assert first_token_kl(p.log(), p.log()).tolist() == [0, 0]


def test_kl_is_of_the_first_token(loaded, undisturbed):
    model, processor = loaded
    sample = Squares()[4]
    inputs = build_batch(processor, [sample])
    with torch.no_grad():
        plain = model(**inputs).logits[:, -1].log_softmax(-1)
        grey = model(**build_batch(processor, [blank(sample)])).logits[:, -1].log_softmax(-1)
    expected = (plain.exp() * (plain - grey)).sum().item()
    assert by_row(undisturbed, "blank")[4]["kl"] == pytest.approx(expected, rel=1e-3)


def test_blank_keeps_sizes():
    for number in range(3):
        sample = Squares()[number]
        grey = blank(sample)
        for before, after in ((sample.pictures, grey.pictures), (sample.video, grey.video)):
            assert [p.size for p in before] == [p.size for p in after]
            assert all(p.getcolors() == [(p.width * p.height, (128, 128, 128))] for p in after)


def test_impossible_picture_is_named(loaded):
    bad = Sample("odd", 7, "What?", ("x",), pictures=(Image.new("RGB", (1, 500)),))
    with pytest.raises(InputError, match=r"task odd: .*sample 7: .*aspect ratio"):
        build_batch(loaded[1], [Squares()[0], bad])


def test_placeholder_in_a_question_is_named(loaded):
    bad = Sample("odd", 7, "What is <|image_pad|>?", ("x",), pictures=Squares()[0].pictures)
    with pytest.raises(InputError, match=r"sample 7: its question contains <\|image_pad\|>"):
        build_batch(loaded[1], [Squares()[0], bad])


def test_labels():
    assert merged_row(Illava(keep=0.5), 0.5).label == "illava 1/2"
    assert merged_row(Illava(keep=0.33), 0.33).label == "illava 0.33"
    assert merged_row(Illava(), None).label == "illava published"


def test_tokens_of_every_prompt_of_a_batch(loaded):
    model, processor = loaded
    inputs = build_batch(processor, [Squares()[0], Squares()[1]])
    with accelerate(model, keep=1 / 3) as handle, torch.no_grad():
        model(**inputs)
        report = handle.report
    # 80 x 80 and 64 x 80 pixels, 16 x 16 a token.
    assert [row[-1] for row in report.row_tokens] == [8, 8 + 7]
    assert tuple(map(sum, zip(*report.row_tokens, strict=True))) == report.llm_tokens


def test_pick_takes_tasks_in_turn():
    picked = speed.pick((Squares("a"), Squares("b", length=1)), 3, 9)
    assert [(s.task, s.number) for s in picked] == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]


def test_speed(loaded, tmp_path):
    samples = speed.pick((Squares(),), 9, 2)
    timing = speed.measure_rows(*loaded, samples, ROWS[1:], 3)
    assert set(timing["rows"]) == {"plain", "illava 1/3", "illava 1/9"}
    for figures in timing["rows"].values():
        assert all(figures["seconds"][part] > 0 for part in speed.PARTS)
    assert timing["rows"]["plain"]["faster"]["total"]["median"] == 1
    speed.save(tmp_path, timing)
    assert speed.known(tmp_path, ROWS[1:], samples) == speed.known(tmp_path, ROWS[1:], []) == timing
    assert speed.known(tmp_path, ROWS, samples) is speed.known(tmp_path, ROWS[1:], samples[:1]) is None
    assert speed.known(tmp_path / "no", ROWS, []) is None


def made_up(task: str, n: int, share: dict[str, float]) -> list[dict]:
    """Answers of which, in each row, the first share is right."""
    base = {"kl": 0.5, "agrees": True, "visual_tokens": 9, "final_tokens": 3, "average_tokens": 4.0}
    base |= {"kv_bytes": 0.5, "flops": 0.5, "cluster": "", "kind": "k", "small": False}
    return [
        {"task": task, "row": row, "sample": i, "correct": i < right * n, **base}
        for row, right in share.items()
        for i in range(n)
    ]


def test_summary_leaves_bad_tasks_out_of_the_mean(loaded):
    tasks = (Squares("good"), Squares("better"), Squares("bad"))
    settings = describe("zoo/S", loaded[0], tasks, ROWS[1:2], limit=20, seed=0, split="test", batch_size=4)
    lines = made_up("good", 20, {"plain": 0.8, "blank": 0.2, "illava 1/3": 0.5})
    lines += made_up("better", 10, {"plain": 1.0, "blank": 0.0, "illava 1/3": 0.9})
    lines += made_up("bad", 20, {"plain": 0.7, "blank": 0.7, "illava 1/3": 0.1})
    found = summarise(settings, lines)
    assert [task["in_mean"] for task in found["tasks"].values()] == [True, True, False]
    mean = found["mean"]["illava 1/3"]
    assert mean["accuracy"]["value"] == pytest.approx(70)
    assert mean["retained"]["value"] == pytest.approx((62.5 + 90) / 2)
    # Of the means: 70 right, 90 plain, 10 blank.
    assert mean["above_blank"]["value"] == pytest.approx(100 * (70 - 10) / (90 - 10))
    assert mean["above_blank"]["low"] < 75 < mean["above_blank"]["high"]
    assert found["tasks"]["bad"]["rows"]["illava 1/3"]["above_blank"]["value"] is None
    text = to_markdown(found)
    assert "Excluded, plain accuracy below 75 %: bad." in text
    assert "## bad (not in the mean)" in text
    assert "nan" not in text.lower()
    row = next(line for line in text.split("## bad")[1].splitlines() if line.startswith("| illava 1/3"))
    assert row.split(" | ")[3] == "-"
    # The order of lines does not matter.
    random.Random(0).shuffle(lines)
    assert to_markdown(summarise(settings, lines)) == text


def test_summary_of_nothing(loaded):
    settings = describe("zoo/S", loaded[0], (Squares(),), ROWS, limit=20, seed=0, split="test", batch_size=4)
    found = summarise(settings, [])
    assert found["tasks"]["squares"]["samples"] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "| plain | - | - | - |" in to_markdown(found)


def test_unfinished_rows_compare_like_with_like(undisturbed):
    lines = [line for line in undisturbed.lines if line["row"] != "illava 1/9" or line["sample"] < 2]
    task = summarise(undisturbed.settings, lines)["tasks"]["squares"]
    assert task["samples"] == 2
    assert all(row["small"]["samples"] == 1 for row in task["rows"].values())
