"""Records of every step in the coordinates of the images, for ``accelerate(trace=True)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import renamed
from ..ops.merge_weights import MergeWeights
from ..runtime.encoder.run import EncoderRun
from ..runtime.llm.prefill import Prefill
from ..runtime.traces import Trace, all_kept
from .patches import Layout


@dataclass(frozen=True)
class StepTrace:
    """The record of one step of a report, over all images and videos. All tensors are on the CPU."""

    stage: str
    layer: int
    """As in the report's step."""
    picture: Tensor
    """(N,) int64: for each input unit of the step, the index of its image or video in the report."""
    boxes: Tensor
    """(N, 5) fp32: frame, x0, y0, x1, y1 of each input unit, as fractions of the image. NaN for tokens
    without a patch, such as the newline tokens of LLaVA-OneVision."""
    kept: Tensor
    """(P,) int64: indices of the survivors among the input units, ascending."""
    merge_weights: MergeWeights
    """The input units that each survivor is made of: ``into`` indexes survivors, ``source`` input units."""
    scores: Tensor | None
    """(N,) fp32: the attention score of each input unit; None if it is not a single number. Some methods
    select by more than this score, such as diversity or pivots."""

    @property
    def absorbing(self) -> Tensor:
        """(P,) bool: whether each survivor absorbed other units."""
        return torch.bincount(self.merge_weights.into, minlength=len(self.kept)) > 1

    @property
    def merged_into(self) -> Tensor:
        """(N,) int64: for each input unit, the survivor in which it has the largest weight, as an index among
        the input units; -1 for units that were dropped without being merged."""
        into, source, weight = self.merge_weights
        # Of each source, the pair with the largest weight is written last.
        order = weight.abs().argsort(stable=True)
        out = torch.full((len(self.boxes),), -1)
        out[source[order]] = self.kept[into[order]]
        out[self.kept] = self.kept
        return out

    @property
    def links(self) -> MergeWeights:
        """Deprecated name of :attr:`merge_weights`."""
        weights: MergeWeights = renamed(self, "links", "merge_weights")
        return weights

    @property
    def grown(self) -> Tensor:
        """Deprecated name of :attr:`absorbing`."""
        absorbing: Tensor = renamed(self, "grown", "absorbing")
        return absorbing

    @property
    def went(self) -> Tensor:
        """Deprecated name of :attr:`merged_into`."""
        merged_into: Tensor = renamed(self, "went", "merged_into")
        return merged_into

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values, with null for NaN."""
        return {
            "stage": self.stage,
            "layer": self.layer,
            "picture": self.picture.tolist(),
            "boxes": [None if row[0] != row[0] else row for row in self.boxes.tolist()],
            "kept": self.kept.tolist(),
            "merge_weights": {name: part.tolist() for name, part in self.merge_weights._asdict().items()},
            "scores": None if self.scores is None else self.scores.tolist(),
        }


Places = tuple[Tensor, Tensor]
"""(U,) int64: the index of the image, and (U, 5): the box, of every unit or token."""


def before_llm(stage: str, block: int, pictures: Sequence[tuple[EncoderRun, Layout]]) -> StepTrace:
    """The step at an encoder block, or after the encoder, over all encoder runs."""
    runs = list({id(run): run for run, _ in pictures}.values())
    parts = []
    for run in runs:
        assert run.traces is not None
        parts.append((run.traces.get(block) or all_kept(run.units_before(block)), _units(run, pictures)))
    return _joined(stage, block, parts)


def in_llm(
    layer: int, pictures: Sequence[tuple[EncoderRun, Layout]], prefill: Prefill, repeats: int
) -> StepTrace:
    """The step before an LLM layer. Of rows that beams repeat, only the first is used."""
    assert prefill.traces is not None
    trace = prefill.traces.get(layer)
    if trace is None:
        sequence = prefill.at(layer)
        row, index = (prefill.free_runs(sequence) >= 0).nonzero().T
        trace = all_kept(row * prefill.prompt.runs.shape[1] + sequence.columns[row, index])
    if repeats > 1:
        trace = _subset(trace, trace.entered // prefill.prompt.runs.shape[1] % repeats == 0)
    return _joined("llm", layer, [(trace, _tokens(prefill, pictures, repeats))])


def _units(run: EncoderRun, pictures: Sequence[tuple[EncoderRun, Layout]]) -> Places:
    total = sum(run.full_lengths)
    owner, boxes = torch.full((total,), -1), torch.full((total, 5), float("nan"))
    for number, (of, layout) in enumerate(pictures):
        if of is run:
            here = slice(layout.first_unit, layout.first_unit + len(layout.units))
            owner[here], boxes[here] = number, layout.units
    return owner, boxes


def _tokens(prefill: Prefill, pictures: Sequence[tuple[EncoderRun, Layout]], repeats: int) -> Places:
    """For all positions of the prompt. Those of repeated rows have no image and no box."""
    visual, video = (prefill.prompt.runs >= 0).cpu(), prefill.prompt.video.cpu()
    owner, boxes = torch.full((visual.numel(),), -1), torch.full((visual.numel(), 5), float("nan"))
    first = (torch.arange(len(visual)) % repeats == 0)[:, None]
    for kind, mask in (("image", visual & ~video), ("video", visual & video)):
        places = (mask & first).flatten().nonzero().flatten()
        for number, (_, layout) in enumerate(pictures):
            if layout.kind == kind:
                here, places = places[: len(layout.tokens)], places[len(layout.tokens) :]
                owner[here], boxes[here] = number, layout.tokens
    return owner, boxes


def _subset(trace: Trace, wanted: Tensor) -> Trace:
    """The trace of the ``wanted`` input units alone, (N,) bool."""
    number = wanted.cumsum(0) - 1
    surviving = wanted[trace.kept]
    into, source, weight = trace.merge_weights
    chosen = surviving[into]
    return Trace(
        trace.entered[wanted],
        number[trace.kept[surviving]],
        MergeWeights((surviving.cumsum(0) - 1)[into[chosen]], number[source[chosen]], weight[chosen]),
        None if trace.scores is None else trace.scores[wanted],
    )


def _joined(stage: str, layer: int, parts: Sequence[tuple[Trace, Places]]) -> StepTrace:
    entered, survived = 0, 0
    picture, boxes, kept, found, scores = [], [], [], [], []
    for trace, (owner, places) in parts:
        picture.append(owner[trace.entered])
        boxes.append(places[trace.entered])
        kept.append(trace.kept + entered)
        into, source, weight = trace.merge_weights
        found.append(MergeWeights(into + survived, source + entered, weight))
        scores.append(trace.scores)
        entered, survived = entered + len(trace.entered), survived + len(trace.kept)
    known = [part for part in scores if part is not None]
    return StepTrace(
        stage,
        layer,
        torch.cat(picture),
        torch.cat(boxes),
        torch.cat(kept),
        MergeWeights(*(torch.cat(part) for part in zip(*found, strict=True))),
        torch.cat(known) if len(known) == len(scores) else None,
    )
