"""Matches the images of a prompt with the patches of its report, and selects one frame of one step."""

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

PictureInput = Image.Image | Sequence[Image.Image]
"""An image, or the frames of a video."""


@dataclass(frozen=True)
class MatchedPicture:
    """An image or video of a prompt with its part of the report."""

    frames: tuple[Image.Image, ...]
    """RGB, one for each frame of the report."""
    report: PictureReport
    number: int
    """Its index in the report."""


@dataclass(frozen=True)
class StepView:
    """One frame at one step."""

    kept: Tensor
    """(P, 5): the patches of the survivors."""
    entered: Tensor
    """(N, 5): the patches of the input units of the step."""
    absorbing: Tensor
    """(A, 5): the patches of survivors that absorbed others."""
    scores: Tensor | None
    """(N,) fp32: the attention score of each input unit."""


def match_pictures(pictures: Sequence[PictureInput], report: Report) -> list[MatchedPicture]:
    """Match the images of a prompt with those of its report.

    Args:
        pictures: in the order of the prompt; a video is a sequence of its frames.

    Raises InputError if the report has another number of images or videos.
    """
    _check(pictures)
    images = [(picture,) for picture in pictures if isinstance(picture, Image.Image)]
    videos = [tuple(picture) for picture in pictures if not isinstance(picture, Image.Image)]
    # In the order of the report: images, then videos.
    frames: list[tuple[Image.Image, ...]] = [*images, *videos]
    report = untiled_for(pictures, report)
    if len(frames) != len(report.pictures):
        raise InputError(
            f"nothing can be drawn: the report has the patches of {len(report.pictures)} pictures, "
            f"the prompt has {len(frames)}"
        )
    if len(videos) != sum(one.kind == "video" for one in report.pictures):
        raise InputError("nothing can be drawn: the prompt and the report differ in the number of videos")
    return [
        MatchedPicture(_spread(some, one.frames), one, number)
        for number, (some, one) in enumerate(zip(frames, report.pictures, strict=True))
    ]


def untiled_for(pictures: Sequence[PictureInput], report: Report) -> Report:
    """The report with whole images in place of their tiles, given the images of the prompt."""
    _check(pictures)
    return untiled(report, [one.size for one in pictures if isinstance(one, Image.Image)])


def step_titles(report: Report) -> list[str]:
    """The title of each step."""
    return [step.place for step in report.steps]


def view_step(picture: MatchedPicture, report: Report, step: int, frame: int = 0) -> StepView:
    """The patches of one frame at one step.

    Without traces every patch of the frame counts as an input unit, and no survivor as absorbing.
    """
    trace = report.traces[step] if report.traces else None
    kept = _in_frame(picture.report.kept[step], frame)
    if trace is None:
        return StepView(kept, _in_frame(picture.report.all, frame), picture.report.all[:0], None)
    here = entered_from(trace, picture.number, frame)
    survivors = here[trace.kept]
    absorbing = trace.boxes[trace.kept[survivors & trace.absorbing]]
    return StepView(kept, trace.boxes[here], absorbing, None if trace.scores is None else trace.scores[here])


def entered_from(trace: StepTrace, picture: int, frame: int) -> Tensor:
    """(N,) bool: which input units of a step lie in a frame of an image or video."""
    return (trace.picture == picture) & (trace.boxes[:, 0] == frame)


def _check(pictures: Sequence[PictureInput]) -> None:
    if isinstance(pictures, Image.Image) or not all(isinstance(p, Image.Image) or len(p) for p in pictures):
        raise InputError("give a sequence of pictures, in which a video is a sequence of its frames")


def _spread(frames: Sequence[Image.Image], count: int) -> tuple[Image.Image, ...]:
    """``count`` evenly spaced frames, one for each frame of the report, which may stand for several."""
    return tuple(frames[i * len(frames) // count].convert("RGB") for i in range(count))


def _in_frame(boxes: Tensor, frame: int) -> Tensor:
    return boxes[torch.as_tensor(boxes[:, 0] == frame)]
