"""Which picture of a prompt belongs to which patches of its report, and what was said of each step there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..io.pictures import InputError
from ..report.report import PictureReport, Report
from ..report.tiles import untiled
from ..report.traces import StepTrace

Given = Image.Image | Sequence[Image.Image]
"""A picture, or the frames of a video."""


@dataclass(frozen=True)
class Shown:
    """A picture or video beside what its report says."""

    frames: tuple[Image.Image, ...]
    """One for each frame that patches lie in, RGB."""
    report: PictureReport
    number: int
    """Among the pictures of the report."""


@dataclass(frozen=True)
class View:
    """One frame at one step."""

    kept: Tensor
    """(P, 5) patches that stayed."""
    came: Tensor
    """(N, 5) patches that came to the step."""
    grown: Tensor
    """(G, 5) survivors that took others in."""
    scores: Tensor | None
    """(N,) fp32 what the step went by."""


def shown(pictures: Sequence[Given], report: Report) -> list[Shown]:
    """Pair the pictures of a prompt with those of its report.

    Args:
        pictures: in the order of the prompt; a video is a sequence of its frames.

    Raises InputError where their number is another.
    """
    _check(pictures)
    frames = [(one,) if isinstance(one, Image.Image) else tuple(one) for one in pictures]
    # As in the report: images, then videos.
    frames = [f for f, p in _kinds(frames, pictures) if not p] + [f for f, p in _kinds(frames, pictures) if p]
    report = as_given(pictures, report)
    if len(frames) != len(report.pictures):
        raise InputError(
            f"nothing can be drawn: the report has the patches of {len(report.pictures)} pictures, "
            f"the prompt has {len(frames)}"
        )
    videos = sum(not isinstance(one, Image.Image) for one in pictures)
    if videos != sum(told.kind == "video" for told in report.pictures):
        raise InputError("nothing can be drawn: the prompt's videos and the report's are not as many")
    return [
        Shown(_spread(some, told.frames), told, number)
        for number, (some, told) in enumerate(zip(frames, report.pictures, strict=True))
    ]


def as_given(pictures: Sequence[Given], report: Report) -> Report:
    """The report with the prompt's own pictures where it speaks of tiles of them."""
    _check(pictures)
    return untiled(report, [one.size for one in pictures if isinstance(one, Image.Image)])


def _check(pictures: Sequence[Given]) -> None:
    if isinstance(pictures, Image.Image) or not all(isinstance(p, Image.Image) or len(p) for p in pictures):
        raise InputError("give a sequence of pictures, in which a video is a sequence of its frames")


def titles(report: Report) -> list[str]:
    """What each step is called."""
    return [step.place for step in report.steps]


def view(one: Shown, report: Report, step: int, frame: int = 0) -> View:
    """What a step did to a frame; without traces all patches seem to have come, and none to have grown."""
    trace = report.traces[step] if report.traces else None
    kept = _at(one.report.kept[step], frame)
    if trace is None:
        return View(kept, _at(one.report.all, frame), one.report.all[:0], None)
    here = mine(trace, one.number, frame)
    survivors = here[trace.kept]
    grown = trace.boxes[trace.kept[survivors & trace.grown]]
    return View(kept, trace.boxes[here], grown, None if trace.scores is None else trace.scores[here])


def mine(trace: StepTrace, picture: int, frame: int) -> Tensor:
    """(N,) bool: what came to a step from a frame of a picture."""
    return (trace.picture == picture) & (trace.boxes[:, 0] == frame)


def _kinds(
    frames: Sequence[tuple[Image.Image, ...]], pictures: Sequence[Given]
) -> list[tuple[tuple[Image.Image, ...], bool]]:
    return [(f, not isinstance(p, Image.Image)) for f, p in zip(frames, pictures, strict=True)]


def _spread(frames: Sequence[Image.Image], count: int) -> tuple[Image.Image, ...]:
    """One frame for each that the model works with, which may stand for several."""
    return tuple(frames[i * len(frames) // count].convert("RGB") for i in range(count))


def _at(boxes: Tensor, frame: int) -> Tensor:
    return boxes[torch.as_tensor(boxes[:, 0] == frame)]
