"""Drawings of kept patches: a marked patch is drawn at its place, for every family; sheets, pages, charts."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor

import illava
from illava import viz
from illava.io.pictures import InputError
from illava.io.prompts import as_seen
from illava.report.tiles import untiled
from illava.viz.charts import bars
from illava.viz.matching import match_pictures
from illava.viz.sheet import CIVIDIS, ORANGE, heat_map
from tests.battery.shown import Canvas, canvases, processed
from tests.battery.test_battery import RECURRENT, inputs_of
from tests.tiny import ALL, WITH_VIDEO, kind, prompt, tiny_model, video, video_prompt

RED = (255, 40, 40)
Corners = tuple[int, int, int, int]
# The unit of each segment that is least like the others, and no other.
ODD = illava.Illava(
    encoder_layers=(0,),
    encoder_keep=0.01,
    llm_layers=(),
    reduce="drop",
    experimental={"encoder_score": "rarity"},
)


def blind_to_places(name: str) -> nn.Module:
    """A model to which all patches of an even picture are alike."""
    model = tiny_model(name)
    with torch.no_grad():
        for where, parameter in model.named_parameters():
            if "position_embedding" in where or "pos_embed" in where:
                parameter.zero_()
    return model


def painted(canvas: Canvas, row: int, column: int) -> tuple[torch.Tensor, Image.Image, Corners]:
    """A grey picture with one bright square, as the model and as people see it, and where the square is."""
    (height, width), (rows, columns) = canvas.pixels, canvas.cells
    top, bottom = (round(height * y / rows) for y in (row, row + 1))
    left, right = (round(width * x / columns) for x in (column, column + 1))
    pixels = torch.ones(3, height, width)
    pixels[:, top:bottom, left:right] = noise(3, bottom - top, right - left)
    picture = Image.new("RGB", (width, height), (128, 128, 128))
    picture.paste(RED, (left, top, right, bottom))
    return pixels, picture, (left, top, right, bottom)


def noise(*shape: int) -> torch.Tensor:
    return 9 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def pixel(sheet: Image.Image, picture: Image.Image, x: float, y: float) -> np.ndarray:
    """What the first panel of an overlay shows at fractions of the picture; the gap around is eight wide."""
    factor = 384 / min(picture.size)
    at = round(8 + x * picture.width * factor), round(8 + y * picture.height * factor)
    return np.array(sheet.getpixel(at), float)


@pytest.mark.parametrize("where", [(0, 0), (1, 1)], ids=["corner", "inside"])
@pytest.mark.parametrize("name", ALL)
def test_a_marked_patch_is_where_the_overlay_says(name, where) -> None:
    model = blind_to_places(name)
    canvas = canvases(model)[0]
    pixels, picture, (left, top, right, bottom) = painted(canvas, *where)
    inputs = prompt(model, [([5, 6, 7], [processed(model, canvas, pixels)])])
    with torch.no_grad(), illava.accelerate(model, ODD, trace=True) as handle:
        model(**inputs)
        report = handle.report
    sheet = viz.draw_overlay([picture], report)
    x, y = (left + right) / 2 / picture.width, (top + bottom) / 2 / picture.height
    marked, far = pixel(sheet, picture, x, y), pixel(sheet, picture, 0.93, 0.93)
    # At two scales the coarse one may be kept a unit beside.
    assert np.abs(marked - RED).max() <= (130 if kind(model) == "anyres" else 3)
    assert marked[0] - marked[1] > 80
    assert np.abs(far - 128).min() > 40, "dropped patches are faded"
    steps = viz.draw_steps([picture], report)
    assert steps.width > 2 * 384


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_a_marked_patch_of_a_video(name) -> None:
    model = blind_to_places(name)
    shown_video = video(model, 3)
    pixels = torch.ones_like(shown_video.values["pixel_values_videos"])
    if kind(model) == "anyres":
        (rows, columns), count = (6, 6), 3
        pixels[0, 1, :, 4:8, 8:12] = noise(3, 4, 4)
    else:
        (rows, columns), count = (2, 3), 3
        first = (rows * columns + columns + 2) * 4
        pixels[first : first + 4] = noise(4, pixels.shape[1])
    shown_video.values["pixel_values_videos"] = pixels
    with torch.no_grad(), illava.accelerate(model, ODD, trace=True) as handle:
        model(**video_prompt(model, [5, 6, 7], [], shown_video))
        report = handle.report
    frames = [Image.new("RGB", (columns * 16, rows * 16), (128, 128, 128)) for _ in range(count)]
    frames[1].paste(RED, (32, 16, 48, 32))
    sheets = viz.draw_frames(frames, report)
    assert len(sheets) == report.pictures[0].frames == count
    # The second panel is the first step's.
    left = 8 + sheets[1].width // 2 - 4
    factor = 384 / min(frames[1].size)
    found = np.array(sheets[1].getpixel((round(left + 40 * factor), round(8 + 24 * factor))), float)
    assert np.abs(found - RED).max() <= 3


def report_of(name: str, shown: str = "one", rows: str = "single", *, trace: bool = True) -> illava.Report:
    model = tiny_model(name)
    llm = () if name in RECURRENT else (2,)
    method = illava.Illava(
        encoder_layers=(1,), encoder_keep=0.5, llm_layers=llm, llm_keep=0.5, recycle=0.3, select="diverse"
    )
    with torch.no_grad(), illava.accelerate(model, method, trace=trace) as handle:
        model(**inputs_of(model, shown, rows))
        return handle.report


def test_a_sheet_has_a_column_for_each_step_and_marks_survivors_that_absorbed_others() -> None:
    report = report_of("llava")
    picture = Image.new("RGB", (384, 384), (200, 200, 255))
    drawn = np.asarray(viz.draw_steps([picture], report))
    plain = np.asarray(viz.draw_steps([picture], report, scores=False))
    assert drawn.shape[0] > 1.9 * plain.shape[0]
    orange = (plain == [int(ORANGE[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
    first = plain.shape[1] // 3
    assert not orange[:, :first].any()
    trace = report.traces[0]
    for index, (_, x0, y0, x1, y1) in enumerate(trace.boxes[trace.kept].tolist()):
        x, y = round(first + 5 + (x0 + x1) / 2 * 384), round(8 + (y0 + y1) / 2 * 384)
        assert orange[y - 3 : y + 3, x - 3 : x + 3].all() == bool(trace.absorbing[index])
    untraced = np.asarray(viz.draw_steps([picture], report_of("llava", trace=False)))
    assert untraced.shape == plain.shape


def test_steps_of_wide_pictures_are_below_one_another() -> None:
    drawn = viz.draw_steps([Image.new("RGB", (1200, 400))], report_of("llava"))
    assert 1200 < drawn.width < 1300
    # The picture, two steps and the scores of both.
    assert drawn.height > 5 * 400


def test_scores_are_drawn_from_dark_to_light() -> None:
    boxes = torch.tensor([[0, 0, 0, 0.5, 1], [0, 0.5, 0, 1, 1]])
    drawn = heat_map(Image.new("RGB", (20, 10), "black"), boxes, torch.tensor([5.0, -1.0]))
    assert drawn.getpixel((4, 5)) == tuple(round(0.8 * c) for c in CIVIDIS[-1])
    assert drawn.getpixel((15, 5)) == tuple(round(0.8 * c) for c in CIVIDIS[0])


def test_tiles_are_put_together_again() -> None:
    model = blind_to_places("internvl")
    canvas = canvases(model)[0]
    pixels, picture, _ = painted(canvas, 4, 7)
    with torch.no_grad(), illava.accelerate(model, ODD, trace=True) as handle:
        model(**prompt(model, [([5], [processed(model, canvas, pixels)])]))
        report = handle.report
    assert len(report.pictures) == 13
    whole = untiled(report, [picture.size])
    (one,) = whole.pictures
    assert len(one.all) == sum(len(part.all) for part in report.pictures)
    assert one.all[:, 1:].min() == 0
    assert one.all[:, 1:].max() == 1
    # Of the tile at row 1, column 2 of 3 x 4 the unit in the middle.
    fine = [box for box in one.kept[0].tolist() if box[3] - box[1] < 0.1]
    assert any(box == pytest.approx([0, 7 / 12, 4 / 9, 8 / 12, 5 / 9]) for box in fine)
    assert whole.traces[0].picture.unique().tolist() == [0]
    assert untiled(report, [(10, 10)] * 13) is report
    assert untiled(report, [(1000, 10), (10, 10)]) is report


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "llava_onevision", "qwen3_5"])
def test_a_page_shows_what_is_in_the_report(name) -> None:
    report = report_of(name, "two")
    pictures = [Image.new("RGB", (40, 30), "grey")] * 2
    found = data_of(viz.html_page(pictures, report))
    assert [step["before"] for step in found["steps"]] == [step.before for step in report.steps]
    for number, picture in enumerate(report.pictures):
        (frame,) = found["pictures"][number]["frames"]
        for page_step, trace in zip(frame["steps"], report.traces, strict=True):
            boxes = [page_step["entered"][i] for i in page_step["kept"]]
            want = trace.boxes[trace.kept][trace.picture[trace.kept] == number]
            want = want[want[:, 0] == 0][:, 1:]
            torch.testing.assert_close(torch.tensor(boxes), want, atol=1e-5, rtol=0)
            sums = torch.zeros(len(page_step["entered"]))
            for into, _, weight in page_step["merges"]:
                sums[into] += weight
            torch.testing.assert_close(sums[page_step["kept"]], torch.ones(len(boxes)), atol=1e-3, rtol=0)
        assert len(frame["all"]) == len(picture.all)
    for chart, one in zip(found["charts"], bars(report), strict=True):
        assert chart["plain"] == list(one.plain)
    merged = found["charts"][3]["merged"]
    assert sum(merged) * 1e9 == pytest.approx(sum(report.cost.layers))
    assert found["charts"][0]["plain"][0] > found["charts"][0]["merged"][-1]


def test_a_page_needs_no_network_and_cannot_be_broken_out_of() -> None:
    report = report_of("llava")
    evil = "</script><script>alert(1)</script><!--DATA-->"
    page = viz.html_page(
        [Image.new("RGB", (9, 9))], report, question=evil, answers=[(evil, evil)], facts=[(evil, evil)]
    )
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "connect-src" not in page
    assert "default-src 'none'" in page
    data_of(page)


def test_untraced_pages_show_survivors_all_the_same() -> None:
    report = report_of("qwen2_vl", trace=False)
    found = data_of(viz.html_page([Image.new("RGB", (50, 60))], report))
    (frame,) = found["pictures"][0]["frames"]
    assert [len(step["entered"]) for step in frame["steps"]] == [step.after for step in report.steps]
    assert frame["steps"][0]["kept"] is None


def test_another_number_of_pictures_is_refused() -> None:
    report = report_of("llava", "two")
    for draw in (viz.draw_steps, viz.html_page, viz.draw_overlay):
        with pytest.raises(InputError, match="of 2 pictures, the prompt has 1"):
            draw([Image.new("RGB", (9, 9))], report)


def test_merges_between_frames_are_listed() -> None:
    report = report_of("qwen2_vl", "video")
    frames = [Image.new("RGB", (9, 9))] * 3
    (one,) = data_of(viz.html_page([frames], report))["pictures"]
    trace, last = report.traces[-1], [frame["steps"][-1] for frame in one["frames"]]
    into, source, _ = trace.merge_weights
    crossing = trace.boxes[trace.kept[into], 0] != trace.boxes[source, 0]
    assert crossing.any()
    assert sum(len(step["out"]) for step in last) == sum(len(step["from"]) for step in last) == crossing.sum()
    assert sum(len(step["absorbing"]) for step in last) == trace.absorbing.sum()
    assert all(re.fullmatch(r"a patch of frame [123]", where) for step in last for _, where, _ in step["out"])
    ranks = sorted(rank for step in last for rank in step["ranks"])
    assert ranks == list(range(1, len(trace.boxes) + 1))


def test_what_no_report_has_is_refused() -> None:
    picture, report = Image.new("RGB", (9, 9)), report_of("llava")
    for given in ([[picture]], [[]], picture):
        with pytest.raises(InputError):
            viz.draw_steps(given, report)
    with pytest.raises(InputError, match="draw_frames"):
        viz.draw_overlay([[picture]], report_of("qwen2_vl", "video"))


def test_frames_of_a_video_are_spread_over_those_of_the_model() -> None:
    report = report_of("qwen2_vl", "video")
    frames = [Image.new("RGB", (9, 9), (shade, 0, 0)) for shade in range(0, 60, 10)]
    (one,) = match_pictures([frames], report)
    assert [frame.getpixel((0, 0))[0] for frame in one.frames] == [0, 20, 40]


def test_charts() -> None:
    figure = viz.draw_charts(report_of("llava"))
    want = [2 * len(one.plain) for one in bars(report_of("llava"))]
    assert [len(axes.patches) for axes in figure.axes] == want


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (50, 50), (3, 200)])
def test_what_a_processor_cuts_out_is_what_is_shown(size) -> None:
    """LLaVA-1.5's processor: the shortest side to the crop's, then the middle."""
    processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    noise_of = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(noise_of.to(torch.uint8).numpy()).resize(size)
    seen = as_seen(SimpleNamespace(image_processor=processor), picture)
    assert seen.size == (min(size), min(size))
    want = processor(picture, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    got = processor(seen, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    # Up to half a pixel of the picture, and the interpolation of its edge.
    assert (want - got).abs().mean() < 0.12
    assert as_seen(SimpleNamespace(image_processor=None), picture) is picture
    whole = CLIPImageProcessor(do_center_crop=False)
    assert as_seen(SimpleNamespace(image_processor=whole), picture) is picture
