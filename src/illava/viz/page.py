"""An HTML page that shows the steps of a prompt in one file, without network access or a server."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..report.report import Report
from ..report.traces import StepTrace
from .charts import bars
from .matching import (
    MatchedPicture,
    PictureInput,
    entered_from,
    match_pictures,
    step_titles,
    untiled_for,
)

MAX_SIDE = 1024
"""Maximum side length of an embedded image in pixels."""


def html_page(
    pictures: Sequence[PictureInput],
    report: Report,
    *,
    question: str = "",
    answers: Sequence[tuple[str, str]] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """A self-contained HTML page with a slider over the steps, the merges of each patch, and charts.

    Args:
        pictures: the images of the prompt, in its order; a video is a sequence of its frames.
        report: the report of the prefill of this prompt. The merges need traces.
        question: the question of the prompt.
        answers: pairs of a heading and an answer.
        facts: pairs of a name and a value for a table, such as times.

    Raises InputError if the report has no patches for these images.
    """
    report = untiled_for(pictures, report)
    matched = match_pictures(pictures, report)
    values = {
        "steps": [
            {"title": title, "before": step.before, "after": step.after}
            for title, step in zip(step_titles(report), report.steps, strict=True)
        ],
        "pictures": [_picture(one, report) for one in matched],
        "charts": [asdict(one) for one in bars(report)],
    }
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    sections = {
        "SUMMARY": html.escape(str(report)),
        "QUESTION": html.escape(question),
        "ANSWERS": "".join(_answer(heading, text) for heading, text in answers),
        "FACTS": "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in facts
        ),
        # Escape "<", so that no text can end the script element.
        "DATA": json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    for name, value in sections.items():
        template = template.replace(f"<!--{name}-->", value, 1)
    return template


def _answer(heading: str, text: str) -> str:
    return f'<section class="answer"><h3>{html.escape(heading)}</h3><p>{html.escape(text)}</p></section>'


def _picture(one: MatchedPicture, report: Report) -> dict[str, Any]:
    frames = []
    for number, frame in enumerate(one.frames):
        small = frame.copy()
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        frames.append(
            {
                "image": data_url(small),
                "width": small.width,
                "height": small.height,
                "all": _boxes(one.report.all[one.report.all[:, 0] == number]),
                "steps": [_step(one, report, step, number) for step in range(len(report.steps))],
            }
        )
    return {"kind": one.report.kind, "frames": frames}


def _step(one: MatchedPicture, report: Report, step: int, frame: int) -> dict[str, Any]:
    """Input units and survivors of a step in one frame, and the merges within, out of and into it."""
    kept = one.report.kept[step]
    trace = report.traces[step] if report.traces else None
    if trace is None:
        reason = "untraced" if not report.traces else "smaller"
        return {"entered": _boxes(kept[kept[:, 0] == frame]), "kept": None, "reason": reason, "merges": []}
    here = entered_from(trace, one.number, frame)
    place = here.cumsum(0) - 1
    surviving = here[trace.kept]
    into, source, weight = trace.merge_weights
    survivor = trace.kept[into]
    inside = here[survivor] & here[source]
    picture = trace.picture == one.number
    scores = None if trace.scores is None else trace.scores[here]
    ranks = None
    if trace.scores is not None:
        # Among all input units of the step in this image or video.
        order = torch.full((len(picture),), -1)
        order[picture] = trace.scores[picture].argsort(descending=True, stable=True).argsort()
        ranks = (order[here] + 1).tolist()

    def crossing(near: Tensor, far: Tensor) -> list[list[Any]]:
        """Merges between this frame and other frames."""
        chosen = here[near] & ~here[far]
        ends = near[chosen], far[chosen], weight[chosen]
        return [
            [int(place[a]), _describe(trace, int(b)), round(float(w), 4)]
            for a, b, w in zip(*ends, strict=True)
        ]

    return {
        "entered": _boxes(trace.boxes[here]),
        "kept": place[trace.kept[surviving]].tolist(),
        "merges": [
            [int(place[a]), int(place[b]), round(float(w), 4)]
            for a, b, w in zip(survivor[inside], source[inside], weight[inside], strict=True)
        ],
        "out": crossing(source, survivor),
        "from": crossing(survivor, source),
        "absorbing": place[trace.kept[surviving & trace.absorbing]].tolist(),
        "scores": None if scores is None else [float(f"{s:.4g}") for s in scores.tolist()],
        "ranks": ranks,
        "of": int(picture.sum()),
    }


def _describe(trace: StepTrace, index: int) -> str:
    """An input unit of another frame, in words."""
    frame = trace.boxes[index, 0]
    return "a token without a patch" if frame.isnan() else f"a patch of frame {int(frame) + 1}"


def _boxes(boxes: Any) -> list[list[float]]:
    return [[round(x, 5) for x in row] for row in boxes[:, 1:].tolist()]


def data_url(picture: Image.Image) -> str:
    """An image as a data URL: PNG up to a side length of 256 pixels, JPEG above."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90) if max(picture.size) > 256 else picture.save(file, "PNG")
    kind = "jpeg" if max(picture.size) > 256 else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
