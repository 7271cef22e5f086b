"""``illava bench``: figures, tables and plot of a tiny shape and of a tiny saved model, and wrong inputs."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from PIL import Image

import illava
from illava.bench import prompts, random_weights, result, run, tables
from illava.bench.memory import gigabytes, largest_batch
from illava.bench.timing import Timing
from illava.cli.bench import make_variants
from illava.io.pictures import InputError
from illava.planning.cost import Cost
from tests.cli.conftest import assert_error, invoke
from tests.tiny import tiny_model

QUICK = ("--rounds", 1, "--new-tokens", 3, "--text-tokens", 12, "--device", "cpu")
SMALL = ("--batch", 1, "--size", 64)
LABELS = ["illava published", "illava 1/3", "illava 1/9"]


def bench(output, *words):
    """The result of the command, and what it left in its JSON file."""
    result = invoke("bench", *words, *QUICK, "--output", output)
    assert result.exit_code == 0, (result.stderr, result.exception)
    (file,) = output.glob("*.json")
    return result, json.loads(file.read_text())


def test_a_shape_with_random_weights(tiny_shapes, tmp_path):
    result, found = bench(tmp_path, "--shape", "tiny-qwen2_vl", "--layers", 4, "--memory", "100MB", *SMALL)
    assert (found["shape"], found["model"]) == ("tiny-qwen2_vl", None)
    assert (found["weights"], found["slice"]) == ("random weights", "a slice of 4 + 4 layers")
    assert (found["size"], found["pictures"], found["new_tokens"], found["rounds"]) == ([64, 64], 1, 3, 1)
    assert (found["dtype"], found["device"]) == ("float32", "cpu")
    assert {"cpu", "threads", "torch", "transformers", "illava"} <= set(found["machine"])
    model = random_weights.build("tiny-qwen2_vl", 4, torch.float32, torch.device("cpu"))
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["weight_bytes"] == random_weights.weight_bytes(model)

    (batch,) = found["batches"]
    # 64 pixels are 16 patches of 4 a side, two by two.
    assert (batch["batch"], batch["prompt_tokens"]) == (1, 64 + 12)
    assert [row["label"] for row in batch["variants"]] == LABELS
    assert [row["visual_tokens"] for row in batch["variants"]] == [64] * 3
    assert [row["final_tokens"] for row in batch["variants"][1:]] == [21, 7]
    inputs = prompts.make(model.config, (64, 64), text_tokens=12)
    for row, method in zip(
        batch["variants"], [illava.Illava(keep=k) for k in (None, 1 / 3, 1 / 9)], strict=True
    ):
        with illava.accelerate(model, method) as handle:
            model.generate(**inputs, max_new_tokens=1)
        costs, plain = handle.report.cost, handle.report.plain_cost
        flops = {"encoder": costs.encoder + costs.projector, "prefill": costs.prefill, "ttft": costs.total}
        assert row["flops"] == flops
        assert (row["kv_bytes"], batch["plain"]["kv_bytes"]) == (costs.kv_bytes, plain.kv_bytes)
        assert row["kv_ratio"] == pytest.approx(costs.kv_bytes / plain.kv_bytes)
        assert row["method"] == method.to_dict()
        for part in run.PARTS:
            gain, (slow,), (fast,) = (
                row["faster"][part],
                batch["plain"]["seconds"][part],
                row["seconds"][part],
            )
            assert gain["median"] == gain["low"] == gain["high"] == pytest.approx(slow / fast)
            assert gain["interval"] is None
            if part in flops:
                assert gain["flops"] == pytest.approx(batch["plain"]["flops"][part] / flops[part])
                assert gain["of_flops"] == pytest.approx(gain["median"] / gain["flops"])
            else:
                assert gain["flops"] is gain["of_flops"] is None
        (whole,) = row["seconds"]["total"]
        assert row["answers_per_second"]["median"] == pytest.approx(1 / whole)
    assert batch["plain"]["flops"]["ttft"] == plain.total

    largest = found["largest_batch"]
    assert largest["bytes"] == 10**8
    assert set(largest["computed_not_tried"]) == {"plain", *LABELS}

    for words in ("tiny-qwen2_vl", "a slice of 4 + 4 layers", "random weights", "64 x 64 pixels"):
        assert words in result.stdout
    for words in ("image encoder", "whole answer", "speed-up", "FLOP", "bound", "21 of 64", "largest"):
        assert words in result.stdout
    assert "largest batch in 100 MB (computed, not run)" in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80
    (plot,) = tmp_path.glob("*.png")
    with Image.open(plot) as drawn:
        assert drawn.width > 800
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".png"}


def test_a_saved_model_with_its_processor(folder, tmp_path):
    output = tmp_path / "new" / "folder"
    words = (
        "--method",
        "fastv",
        "tome",
        "--keep",
        "1/2",
        "--size",
        "96x64",
        "--pictures",
        2,
        "--batch",
        "1,2",
    )
    result, found = bench(output, folder, *words)
    assert found["size"] == [96, 64]
    assert (found["model"], found["shape"], found["slice"]) == (str(folder), None, None)
    assert found["weights"] == "the model's own"
    assert found["largest_batch"] is None
    assert "random" not in result.stdout
    assert [part["batch"] for part in found["batches"]] == [1, 2]
    one, two = found["batches"]
    assert [row["label"] for row in one["variants"]] == ["fastv 1/2", "tome 1/2"]
    assert two["variants"][0]["visual_tokens"] == 2 * one["variants"][0]["visual_tokens"]
    assert two["plain"]["kv_bytes"] == 2 * one["plain"]["kv_bytes"]
    (whole,) = two["plain"]["seconds"]["total"]
    assert two["plain"]["answers_per_second"]["median"] == pytest.approx(2 / whole)
    # The model has an end token, and yet all answers are as long as asked for.
    assert found["new_tokens"] == 3


def test_a_video(tiny_shapes, tmp_path):
    _, found = bench(tmp_path, "--shape", "tiny-qwen2_vl", "--frames", 4, "--keep", "1/2", *SMALL)
    assert found["frames"] == 4
    assert found["batches"][0]["variants"][0]["visual_tokens"] == 2 * 64


def test_several_rounds_give_intervals_and_pairs():
    def timing(seconds):
        return Timing(seconds, seconds, 0.0, seconds, seconds, 1, torch.empty(0))

    plain, fast = [timing(s) for s in (2, 4, 6, 8, 10, 12)], [timing(s) for s in (1, 1, 2, 4, 2, 2)]
    costs = Cost(30, 10, 60, 5), Cost(10, 10, 15, 5)
    report = type("Report", (), {"plain_cost": costs[0], "cost": costs[1]})
    found = run.against_plain(plain, fast, report)
    # 2 4 3 2 5 6
    assert found["encoder"]["median"] == 3.5
    assert found["encoder"]["interval"] == (2, 6)
    assert [found[part]["flops"] for part in ("encoder", "prefill", "ttft")] == [2, 4, 100 / 35]
    assert found["prefill"]["of_flops"] == 3.5 / 4
    # One token: nothing was decoded after it.
    assert found["decode_per_token"]["median"] is None
    assert found["decode_per_token"]["interval"] is None
    json.dumps(found, allow_nan=False)


def test_the_largest_batch_is_worked_out_from_the_largest_one_measured():
    model = tiny_model("qwen2_vl")

    def part(batch, peak, kv):
        row = {"peak_bytes": peak, "kv_bytes": kv}
        return {"batch": batch, "plain": row, "variants": [{"label": "m", **row, "kv_bytes": kv // 2}]}

    found = run.fits([part(4, 5000, 800), part(2, 10**9, 10**6)], model, 1000, 50_000, 3)
    # 5 layers of 2 heads of 8, keys and values in float32, for 3 tokens; 200 bytes a row in the prompt.
    answer = 3 * 5 * 2 * 2 * 8 * 4
    assert found["plain"] == (50_000 - 1000) // (200 + answer + (5000 - 800) / 4)
    assert found["m"] == largest_batch(50_000, 1000, 100 + answer, (5000 - 400) / 4)
    assert run.fits([part(4, None, 800)], model, 1000, 50_000, 3) == {"plain": None, "m": None}


def test_without_matplotlib_figures_are_written_and_one_line_says_what_to_install(
    tiny_shapes, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result, _ = bench(tmp_path, "--shape", "tiny-internvl", "--keep", "1/2", *SMALL)
    assert result.stderr == "no plot: matplotlib is not installed; pip install 'illava[eval]'\n"
    assert not list(tmp_path.glob("*.png"))


def test_variants():
    asked = make_variants(["illava", "fastv"], ["1/2", "0.5", "1/9"])
    labels = ["illava published", "illava 1/2", "illava 1/9", "fastv 1/2", "fastv 1/9"]
    assert [variant.label for variant in asked] == labels
    assert asked[0].method == illava.Illava()
    assert asked[2].method.keep == pytest.approx(1 / 9)
    assert not math.isnan(asked[3].method.keep)


def test_names_are_listed():
    result = invoke("bench", "--shape", "list")
    assert result.exit_code == 0
    assert "qwen2-vl-2b" in result.stdout
    assert "OpenGVLab/InternVL2_5-26B" in result.stdout


SHAPE = ("--shape", "tiny-qwen2_vl")
WRONG = {
    "nothing": ([], "give either MODEL or --shape NAME"),
    "both": (["zoo/S", *SHAPE], "give either MODEL or --shape NAME"),
    "layers of a model": (["zoo/S", "--layers", 2], "--layers and --frames need --shape"),
    "frames of a model": (["zoo/S", "--frames", 2], "--layers and --frames need --shape"),
    "no such shape": (["--shape", "x"], "--shape x: unknown shape; give one of qwen2-vl-2b"),
    "no such model": (["zoo/x"], "zoo/x"),
    "too many layers": ([*SHAPE, "--layers", 6], "--layers 6: give a number from 1 to 5"),
    "no such method": ([*SHAPE, "--method", "x"], "--method x: unknown method"),
    "no share": ([*SHAPE, "--keep", "2"], "--keep 2"),
    "no batch": ([*SHAPE, "--batch", "0"], "--batch 0"),
    "batch in words": ([*SHAPE, "--batch", "1", "two"], "--batch two"),
    "no unit": ([*SHAPE, "--memory", "24"], "--memory 24: give a number and its unit"),
    "no such device": ([*SHAPE, "--device", "gpu"], "device gpu"),
    "no such dtype": ([*SHAPE, "--dtype", "int8"], "dtype int8"),
    "no size": ([*SHAPE, "--size", "0x3"], "--size 0x3"),
    "a size the processor refuses": ([*SHAPE, "--size", "9000x20"], "--size 9000x20"),
    "too little text": ([*SHAPE, "--pictures", 9, "--text-tokens", 18], "--text-tokens 18: give at least 19"),
    "pictures in a video": ([*SHAPE, "--pictures", 2, "--frames", 2], "not both"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_said_before_anything_is_made(case, tiny_shapes, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("weights were made")

    monkeypatch.setattr(random_weights, "build", never)
    monkeypatch.setattr("illava.models.loading.load", never)
    words, said = WRONG[case]
    assert_error(invoke("bench", *words, "--output", tmp_path), said)
    assert not list(tmp_path.iterdir())


def test_another_kind_of_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert_error(
        invoke("bench", tmp_path, "--output", tmp_path / "out"), "model type 'llama' is not supported"
    )


def test_methods_are_tried_on_the_model():
    model = tiny_model("qwen2_vl")
    run.check(model, [run.Variant("fine", illava.FastV(layer=4, keep=0.5))])
    with pytest.raises(InputError, match=r"wrong: .*layer"):
        run.check(model, [run.Variant("wrong", illava.FastV(layer=5, keep=0.5))])
    illava.accelerate(model).remove()
    with pytest.raises(ValueError, match="at least one variant"):
        run.run(model, lambda batch: {}, [], [1], 1, 1)


def test_weights_that_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(random_weights, "free_bytes", lambda device: 10**10)
    result = invoke("bench", "--shape", "qwen2-vl-7b", "--output", tmp_path, "--device", "cpu")
    assert_error(result, "its weights take 33.2 GB in float32, and 10 GB are free; give --layers ")


def test_an_output_that_cannot_be_written(tiny_shapes, tmp_path):
    (tmp_path / "file").touch()
    assert_error(
        invoke("bench", *SHAPE, "--output", tmp_path / "file"), "file: this is a file; give a folder"
    )


def test_what_a_plan_saved_is_measured(tmp_path):
    from illava.cli.bench import make_variants

    method = illava.Illava(keep=1 / 3, encoder_layers=(1,), llm_layers=())
    method.save_pretrained(tmp_path / "early")
    first, *others = reversed(make_variants([str(tmp_path / "early"), "fastv"], ["1/3"]))
    assert first.label == str(tmp_path / "early")
    assert first.method == method
    assert [variant.label for variant in others] == ["fastv 1/3"]
    (tmp_path / "early" / "illava_config.json").write_text("{}")
    with pytest.raises(InputError, match="early"):
        make_variants([str(tmp_path / "early")], ["1/3"])


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.9994, "999 ms"), (0.9996, "1.00 s"), (0.0123, "12.3 ms"), (2, "2.00 s")]
)
def test_seconds_are_never_in_powers(seconds, said):
    assert tables._seconds(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"), [(999.7e6, "1 GB"), (2e12, "2 TB"), (512e6, "512 MB"), (999_400_000, "999 MB")]
)
def test_bytes_are_never_in_powers(number, said):
    assert gigabytes(number) == said


def test_files_say_how_many_pictures_were_shown():
    named = {"pictures": 2, "frames": 0}, {"pictures": 1, "frames": 3}, {"pictures": 1, "frames": 0}
    assert [result._picture_count(settings) for settings in named] == ["2 pictures", "3 frames", None]
