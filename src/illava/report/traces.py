"""Where patches went, step by step, in the coordinates of their pictures; see ``accelerate(trace=True)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.merge_weights import MergeWeights
from ..runtime.encoder.run import EncoderRun
from ..runtime.llm.prefill import Prefill
from ..runtime.traces import Trace, all_stayed
from .patches import Layout


@dataclass(frozen=True)
class StepTrace:
    """One step of a report, over all of its pictures; all tensors are on the CPU."""

    stage: str
    layer: int
    """As in the report's step."""
    picture: Tensor
    """(N,) int64: of what came to the step, the index among the report's pictures."""
    boxes: Tensor
    """(N, 5) fp32 frame, x0, y0, x1, y1 of each, as fractions of the picture; NaN for tokens that show no
    patch, such as the ends of OneVision's lines."""
    kept: Tensor
    """(P,) int64: which of them stayed, ascending."""
    links: MergeWeights
    """What survivors are made of: ``into`` counts survivors, ``source`` what came, with its ``weight``."""
    scores: Tensor | None
    """(N,) fp32: the score that the step looked at, which not all methods go by alone (diversity, pivots);
    None where that is not one number each."""

    @property
    def grown(self) -> Tensor:
        """(P,) bool: the survivors that took others in."""
        return torch.bincount(self.links.into, minlength=len(self.kept)) > 1

    @property
    def went(self) -> Tensor:
        """(N,) int64: the survivor, counted among what came, in which each weighs most; -1 for none."""
        into, source, weight = self.links
        # The heaviest link of each source comes last.
        order = weight.abs().argsort(stable=True)
        out = torch.full((len(self.boxes),), -1)
        out[source[order]] = self.kept[into[order]]
        out[self.kept] = self.kept
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, NaN as null."""
        return {
            "stage": self.stage,
            "layer": self.layer,
            "picture": self.picture.tolist(),
            "boxes": [None if row[0] != row[0] else row for row in self.boxes.tolist()],
            "kept": self.kept.tolist(),
            "links": {name: part.tolist() for name, part in self.links._asdict().items()},
            "scores": None if self.scores is None else self.scores.tolist(),
        }


Places = tuple[Tensor, Tensor]
"""(U,) int64 picture and (U, 5) box of every unit or token."""


def before_llm(stage: str, block: int, pictures: Sequence[tuple[EncoderRun, Layout]]) -> StepTrace:
    """The step at an encoder block, or behind the encoder, over all runs."""
    runs = list({id(run): run for run, _ in pictures}.values())
    parts = []
    for run in runs:
        assert run.traces is not None
        parts.append((run.traces.get(block) or all_stayed(run.units_before(block)), _units(run, pictures)))
    return _joined(stage, block, parts)


def in_llm(
    layer: int, pictures: Sequence[tuple[EncoderRun, Layout]], prefill: Prefill, repeats: int
) -> StepTrace:
    """The step before a layer of the LLM; of rows that beams repeat, the first."""
    assert prefill.traces is not None
    trace = prefill.traces.get(layer)
    if trace is None:
        sequence = prefill.at(layer)
        row, index = (sequence.runs >= 0).nonzero().T
        trace = all_stayed(row * prefill.prompt.runs.shape[1] + sequence.columns[row, index])
    if repeats > 1:
        trace = _some(trace, trace.entered // prefill.prompt.runs.shape[1] % repeats == 0)
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
    """Of all places of the prompt; those of repeated rows stay empty."""
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


def _some(trace: Trace, wanted: Tensor) -> Trace:
    """What is left of a trace when only some of what came is looked at."""
    number = wanted.cumsum(0) - 1
    staying = wanted[trace.kept]
    into, source, weight = trace.links
    linked = staying[into]
    return Trace(
        trace.entered[wanted],
        number[trace.kept[staying]],
        MergeWeights((staying.cumsum(0) - 1)[into[linked]], number[source[linked]], weight[linked]),
        None if trace.scores is None else trace.scores[wanted],
    )


def _joined(stage: str, layer: int, parts: Sequence[tuple[Trace, Places]]) -> StepTrace:
    came, stayed = 0, 0
    picture, boxes, kept, found, scores = [], [], [], [], []
    for trace, (owner, places) in parts:
        picture.append(owner[trace.entered])
        boxes.append(places[trace.entered])
        kept.append(trace.kept + came)
        into, source, weight = trace.links
        found.append(MergeWeights(into + stayed, source + came, weight))
        scores.append(trace.scores)
        came, stayed = came + len(trace.entered), stayed + len(trace.kept)
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
