"""A page that shows a prompt's steps: one file, no network, no server."""

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
from .shown import Given, Shown, as_given, mine, shown, titles

LONGEST = 1024
"""Pixels of a side of an embedded picture, at most."""


def html_page(
    pictures: Sequence[Given],
    report: Report,
    *,
    question: str = "",
    answers: Sequence[tuple[str, str]] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """A self-contained HTML page: a slider over the steps, patches that tell where they went, charts.

    Args:
        pictures: of the prompt, in its order; a video is a sequence of its frames.
        report: of the prefill that saw them. Without traces patches tell nothing.
        question: that was asked.
        answers: who answered, and what.
        facts: rows of a table, such as times.

    Raises InputError where the report has no patches for the pictures.
    """
    report = as_given(pictures, report)
    some = shown(pictures, report)
    values = {
        "steps": [
            {"title": title, "before": step.before, "after": step.after}
            for title, step in zip(titles(report), report.steps, strict=True)
        ],
        "pictures": [_picture(one, report) for one in some],
        "charts": [asdict(one) for one in bars(report)],
    }
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    modules = {
        "SUMMARY": html.escape(str(report)),
        "QUESTION": html.escape(question),
        "ANSWERS": "".join(_answer(who, text) for who, text in answers),
        "FACTS": "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in facts
        ),
        # Whatever is in there, it cannot end the script.
        "DATA": json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    for name, value in modules.items():
        template = template.replace(f"<!--{name}-->", value, 1)
    return template


def _answer(who: str, text: str) -> str:
    return f'<section class="answer"><h3>{html.escape(who)}</h3><p>{html.escape(text)}</p></section>'


def _picture(one: Shown, report: Report) -> dict[str, Any]:
    frames = []
    for number, frame in enumerate(one.frames):
        small = frame.copy()
        small.thumbnail((LONGEST, LONGEST))
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


def _step(one: Shown, report: Report, step: int, frame: int) -> dict[str, Any]:
    """What came from a frame, who of it stayed, and the links that end or begin there, by places in it."""
    kept = one.report.kept[step]
    trace = report.traces[step] if report.traces else None
    if trace is None:
        why = "untraced" if not report.traces else "smaller"
        return {"came": _boxes(kept[kept[:, 0] == frame]), "kept": None, "why": why, "links": []}
    here = mine(trace, one.number, frame)
    place = here.cumsum(0) - 1
    staying = here[trace.kept]
    into, source, weight = trace.links
    survivor = trace.kept[into]
    inside = here[survivor] & here[source]
    picture = trace.picture == one.number
    scores = None if trace.scores is None else trace.scores[here]
    ranks = None
    if trace.scores is not None:
        # Among all that the step chose from in this picture or video.
        order = torch.full((len(picture),), -1)
        order[picture] = trace.scores[picture].argsort(descending=True, stable=True).argsort()
        ranks = (order[here] + 1).tolist()

    def told(near: Tensor, far: Tensor) -> list[list[Any]]:
        """Links between this frame and elsewhere."""
        ends = (near[here[near] & ~here[far]], far[here[near] & ~here[far]], weight[here[near] & ~here[far]])
        return [
            [int(place[a]), _where(trace, int(b)), round(float(w), 4)] for a, b, w in zip(*ends, strict=True)
        ]

    return {
        "came": _boxes(trace.boxes[here]),
        "kept": place[trace.kept[staying]].tolist(),
        "links": [
            [int(place[a]), int(place[b]), round(float(w), 4)]
            for a, b, w in zip(survivor[inside], source[inside], weight[inside], strict=True)
        ],
        "out": told(source, survivor),
        "from": told(survivor, source),
        "grown": place[trace.kept[staying & trace.grown]].tolist(),
        "scores": None if scores is None else [float(f"{s:.4g}") for s in scores.tolist()],
        "ranks": ranks,
        "of": int(picture.sum()),
    }


def _where(trace: StepTrace, index: int) -> str:
    """What came to a step and is not in the frame that is looked at."""
    frame = trace.boxes[index, 0]
    return "a token that shows no patch" if frame.isnan() else f"a patch of frame {int(frame) + 1}"


def _boxes(boxes: Any) -> list[list[float]]:
    return [[round(x, 5) for x in row] for row in boxes[:, 1:].tolist()]


def data_url(picture: Image.Image) -> str:
    """A picture as an address that holds it: PNG up to 256 pixels a side, JPEG beyond."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90) if max(picture.size) > 256 else picture.save(file, "PNG")
    kind = "jpeg" if max(picture.size) > 256 else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
