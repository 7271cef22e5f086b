"""Table, plot and page of made-up results, and of what small models leave behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from illava_lab.benchmarks import performance
from illava_lab.benchmarks.gpu import command, page, report
from illava_lab.benchmarks.gpu.budget import Budget
from illava_lab.benchmarks.gpu.context import schedules
from illava_lab.benchmarks.gpu.parts import PARTS, Part
from illava_lab.benchmarks.gpu.settings import CARD, REHEARSAL, add_tiny_shapes
from PIL import Image

from illava.bench import prompts, published, random_weights, run
from illava.models.layout import workload
from illava.models.located import locate

from . import made_up


def text(folder: Path) -> str:
    report.write(folder)
    return (folder / "table.md").read_text()


def test_the_table_states_card_versions_date_and_figures(tmp_path: Path) -> None:
    made_up.write(tmp_path)
    found = text(tmp_path)
    for said in (
        "MADE-UP CARD, driver 111.22, CUDA 33.4; torch 9.9, triton 7.7, transformers 8.8",
        "illava 0.0 at abcdef; 1999-12-31. Random weights, bfloat16.",
        "`tests/gpu`: 40 passed, 0 failed, 3 skipped (needs two graphics cards).",
        "logits differ by at most 2.0e-05",
        "bf16: at least 87.5%",
        "fp32, 1 inputs: 100% of the units selected by both, at least 99.5% merged alike.",
        # The median of 0.25, 0.5 and 0.125 seconds.
        "| qwen2-vl-2b | 1344 | 623 | 0.2500 | 0.2500 | 0.2500 | 100 | 250.0 | 3 GB |",
        "Ceilings: 650 TFLOP/s in a product of matrices of 8192 rows, 2500 GB/s in a copy",
        "| qwen2-vl-2b | 672 | 1.50 (1.40-1.60); 80% | 2.00 (1.90-2.10); 80% | 3.00 (2.90-3.10); 80% |",
        "| qwen2-vl-2b | 672 | 1.50 (1.40-1.60) | 2.00 (1.90-2.10) | 3.00 (2.90-3.10) |",
        "| qwen2-vl-2b | 672 | 4.0%, 2.0% | 4.0%, 2.0% | 4.0%, 2.0% |",
        "| 8 | 2.00 | 4.00 | 6.00 | 2.00 (1.90-2.10) | 3.00 (2.90-3.10) |",
        "Largest batch, plain: 96 (not more: out of memory), 12.00 answers per second.",
        "| static cache, CUDA graphs | 100.0 | 125.0 | 1.25 (1.20-1.30) | 10.0/8.0 | 30/20 |",
        "| plain | 1234 | 0.0500 of 0.0600 | 9 | illava/made_up.py:1 (6x), transformers/made_up.py:2 (3x) | "
        "`made_up_gemm` |",
    ):
        assert said in found
    assert "Failed" not in found
    assert "not run" not in found
    with Image.open(tmp_path / "plot.png") as drawn:
        assert drawn.width > 1000


def test_what_failed_and_what_was_left_out_is_named(tmp_path: Path) -> None:
    made_up.write(
        tmp_path,
        times={"not_run": {"internvl3-8b, 1344": "not run: time: 40 s expected, 3 s left"}},
        equality={"rows": {"logits, x": {**made_up.LOGITS, "failure": "differences of 0.5"}}},
        profile={"rows": {}, "errors": {"plain": "Traceback\n  ...\nRuntimeError: no profiler"}},
    )
    (tmp_path / "batches.json").unlink()
    found = text(tmp_path)
    assert "times: internvl3-8b, 1344: not run: time: 40 s expected, 3 s left." in found
    assert "**Failed**: equality, logits, x: differences of 0.5" in found
    assert "**Failed**: profile, plain: RuntimeError: no profiler" in found
    assert "batches: not run." in found
    assert "Traceback" in found


def test_parts_of_another_version_are_left_out(tmp_path: Path) -> None:
    made_up.write(tmp_path, suite={"identity": {**made_up.IDENTITY, "source": "another"}})
    found = text(tmp_path)
    assert "Left out, since of another version or card: suite." in found
    assert "40 passed" not in found


def test_an_empty_folder_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.write(tmp_path)
    assert "no results" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def test_the_page_says_not_run_where_there_is_no_card() -> None:
    found = performance.read() | {"gpu": None}
    made = performance.page(found)
    heading, line = (
        "## On a graphics card\n\n",
        "Not run: no graphics card was available. `make bench-gpu OUT=out/gpu`",
    )
    assert heading + line in made


def test_the_page_takes_the_figures_of_a_card_and_keeps_its_other_sections(tmp_path: Path) -> None:
    results, target = tmp_path / "results", tmp_path / "performance"
    results.mkdir()
    target.mkdir()
    trace = {"more": 'Traceback\n  File "/a/folder/file.py", line 1\nRuntimeError: no\n'}
    made_up.write(results, suite={"errors": trace})
    report.write(results)
    copied = page.copy(results, target)
    assert copied["parts"]["suite"]["errors"] == {"more": "RuntimeError: no"}
    assert json.loads((target / "gpu.json").read_text()) == copied
    assert (target / "gpu.png").read_bytes() == (results / "plot.png").read_bytes()
    found = performance.read()
    plain = performance.page(found | {"gpu": None}).split("\n## ")
    made = performance.page(found | {"gpu": copied}).split("\n## ")
    assert [part for part in made if not part.startswith("On a graphics card")] == [
        part for part in plain if not part.startswith("On a graphics card")
    ]
    (section,) = (part for part in made if part.startswith("On a graphics card"))
    assert "MADE-UP CARD" in section
    assert "Not run" not in section
    assert "| qwen2-vl-2b | 672 | 1.50 (1.40-1.60); 80% |" in section


def test_the_page_takes_no_rehearsal(tmp_path: Path) -> None:
    settings = {**made_up.IDENTITY, "settings": REHEARSAL.to_dict()}
    made_up.write(tmp_path, **{name: {"identity": settings} for name in made_up.ROWS})
    with pytest.raises(SystemExit, match="rehearsal"):
        page.copy(tmp_path, tmp_path)
    assert "**A rehearsal on the CPU" in text(tmp_path)
    with pytest.raises(SystemExit, match="no results"):
        page.copy(tmp_path / "none", tmp_path)


@pytest.mark.slow
def test_parts_leave_what_the_table_needs(tmp_path: Path) -> None:
    """The real parts, on a tiny model; compiled decoding is left to the rehearsal."""
    add_tiny_shapes()
    shape = "tiny-qwen2_5_vl"
    small = dataclasses.replace(REHEARSAL, shapes=(shape,), shape=shape, slices=(), sizes=(64,), size=64)
    first = Part("decoding", lambda context: [*PARTS["decoding"].rows(context)][:1])
    parts = {
        "times": PARTS["times"],
        "batches": PARTS["batches"],
        "decoding": first,
        "profile": PARTS["profile"],
    }
    assert command.run(parts, small, tmp_path, Budget(1000)) == command.DONE
    found = (tmp_path / "table.md").read_text()
    (row,) = json.loads((tmp_path / "times.json").read_text())["rows"].values()
    for variant in row["variants"]:
        assert 0 < variant["shares"]["own"] < 1
        assert f"{variant['faster']['ttft']['median']:.2f} (" in found
        seconds = row["plain"]["seconds"]["ttft"][0], variant["seconds"]["ttft"][0]
        assert variant["faster"]["ttft"]["median"] == pytest.approx(seconds[0] / seconds[1])
    for said in (
        shape,
        "Largest batch, plain: 4 (not more: highest tried)",
        "| dynamic cache |",
        "| plain |",
    ):
        assert said in found
    with Image.open(tmp_path / "plot.png") as drawn:
        assert drawn.width > 1000


@pytest.mark.parametrize("shape", CARD.shapes)
def test_every_shape_of_the_card_takes_every_schedule_and_size(shape: str) -> None:
    """On the meta device: no weight is made."""
    model = random_weights.on_meta(published.config(shape))
    run.check(model, [run.Variant(label, method) for label, method in schedules().items()])
    for size in CARD.sizes:
        inputs = prompts.make(model.config, (size, size))
        visual = workload(locate(model), size).visual_tokens
        assert prompts.count(inputs["input_ids"], model.config) == visual > 200
