"""What the last prefill did: tokens before and after every step, what it cost, and which patches stayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import trace
from .cost import Cost, Courses, EncoderCourse, PrefillCourse, cost_of
from .geometry import Layout, layouts
from .methods import Method
from .parts import ModelParts
from .shapes import llm_shape
from .stages.encoder_run import EncoderRun
from .stages.prefill import Prefill, Sequence
from .stages.steps import Plan
from .trace import StepTrace


@dataclass(frozen=True)
class StepReport:
    """One merge step, over all pictures of the batch."""

    stage: str
    """"pixels" (a smaller picture), "encoder", "projector" or "llm"."""
    layer: int
    """Encoder block after whose attention, or LLM layer before which, tokens go; at the projector the number
    of encoder blocks, of pixels -1."""
    before: int
    """Visual tokens in the LLM, before it units of g tokens each."""
    after: int


@dataclass(frozen=True)
class PictureReport:
    """The patches of one picture or video."""

    kind: str
    """"image" or "video"."""
    frames: int
    all: Tensor
    """(U, 5) fp32 frame, x0, y0, x1, y1 of every encoder unit, as fractions of the picture."""
    kept: tuple[Tensor, ...]
    """Per step of the report, (P, 5): the patches that survive it."""


@dataclass(frozen=True)
class Report:
    """What the last prefill with pictures did."""

    family: str
    method: dict[str, Any]
    visual_tokens: int
    """Placeholders in the prompt, over the batch."""
    final_tokens: int
    """Visual tokens after the last step."""
    average_tokens: float
    """Visual tokens averaged over the LLM's layers."""
    steps: tuple[StepReport, ...]
    llm_tokens: tuple[int, ...]
    """Visual tokens in each LLM layer."""
    row_tokens: tuple[tuple[int, ...], ...]
    """The same for every prompt of the batch; beams and several answers repeat theirs."""
    cost: Cost
    plain_cost: Cost
    """Of the same prompt on the plain model."""
    courses: tuple[Courses, Courses]
    """The tokens that the pass worked on, and that the plain model's would have."""
    pictures: tuple[PictureReport, ...]
    """In the order of the batch: images, then videos. Empty where their geometry is unknown."""
    tile_edge: int | None = None
    """Pixels of a side of a tile, where ``pictures`` are tiles that a processor cut without telling the model
    (InternVL, Idefics3, SmolVLM): :func:`illava.tiles.untiled` puts them together."""
    traces: tuple[StepTrace | None, ...] = ()
    """For each step which patches came, stayed and went where, if ``accelerate(trace=True)`` asked for it;
    None for the making of smaller pictures."""

    def __str__(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.final_tokens} of {self.visual_tokens} visual tokens left at the end, "
            f"{self.average_tokens:.1f} on average over {len(self.llm_tokens)} LLM layers",
            f"{self.plain_cost.total / self.cost.total:.2f}x fewer FLOPs up to the first token, "
            f"{self.plain_cost.kv_bytes / self.cost.kv_bytes:.2f}x fewer KV bytes",
        ]
        places = {"encoder": "encoder block {}", "llm": "LLM layer {}"}
        places |= {"pixels": "smaller pictures", "projector": "behind the encoder"}
        lines += [f"{places[s.stage].format(s.layer)}: {s.before} -> {s.after}" for s in self.steps]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready values."""
        return {
            **told(self),
            "row_tokens": [list(row) for row in self.row_tokens],
            "pictures": [
                {
                    "kind": p.kind,
                    "frames": p.frames,
                    "all": p.all.tolist(),
                    "kept": [k.tolist() for k in p.kept],
                }
                for p in self.pictures
            ],
            "traces": [None if trace is None else trace.to_dict() for trace in self.traces],
        }


def told(one: Any) -> dict[str, Any]:
    """What a report and a prediction have in common, JSON-ready."""
    return {
        "family": one.family,
        "method": one.method,
        "visual_tokens": one.visual_tokens,
        "final_tokens": one.final_tokens,
        "average_tokens": one.average_tokens,
        "steps": [vars(step) for step in one.steps],
        "llm_tokens": list(one.llm_tokens),
        "cost": {**vars(one.cost), "total": one.cost.total},
        "plain_cost": {**vars(one.plain_cost), "total": one.plain_cost.total},
    }


def make_report(
    parts: ModelParts, method: Method, plan: Plan, runs: list[EncoderRun], prefill: Prefill
) -> Report:
    """Put together what the stages noted about one prefill."""
    prompt = prefill.prompt
    videos = prompt.runs[prompt.video & (prompt.runs >= 0)]
    video_tokens = int((videos == videos[0]).sum()) if len(videos) else None
    pictures = [(run, layout) for run in runs for layout in layouts(parts, run, video_tokens)]
    pictures.sort(key=lambda pair: pair[1].kind)
    shown = sum(len(layout.tokens) for _, layout in pictures)
    visual = sum(prompt.lengths)
    # Beams and several answers a prompt repeat every row of the batch.
    repeats = visual // shown if shown and visual % shown == 0 else 1
    depth = len(parts.layers)
    stages = [prefill.at(layer) for layer in range(depth)]
    llm_tokens = tuple(sum(stage.lengths) // repeats for stage in stages)
    steps = [
        StepReport(stage, block, *(sum(sum(n) for n in pair) for pair in _around(runs, block)))
        for stage, block in _before_llm(parts, plan)
    ]
    entering = sum(prefill.entering) // repeats
    steps += [
        StepReport("llm", layer, llm_tokens[layer - 1] if layer else entering, llm_tokens[layer])
        for layer in plan.llm
    ]
    known = shown * repeats == visual
    merged, plain = courses = _courses(parts, runs, prefill, stages, plan)
    shape, llm = parts.family.encoder_shape(parts.config), llm_shape(parts.config)
    size = next(parts.llm.parameters()).element_size()
    return Report(
        family=parts.family.model_type,
        method=method.to_dict(),
        visual_tokens=visual // repeats,
        final_tokens=llm_tokens[-1],
        average_tokens=sum(llm_tokens) / depth,
        steps=tuple(steps),
        llm_tokens=llm_tokens,
        row_tokens=tuple(zip(*((stage.runs >= 0).sum(1).tolist() for stage in stages), strict=True)),
        cost=cost_of(shape, llm, merged, size),
        plain_cost=cost_of(shape, llm, plain, size),
        courses=courses,
        pictures=_pictures(parts, plan, pictures, prefill, repeats) if known else (),
        tile_edge=_tile_edge(parts),
        traces=_traces(parts, plan, pictures, prefill, repeats) if known else (),
    )


def _tile_edge(parts: ModelParts) -> int | None:
    if parts.family.model_type not in ("internvl", "idefics3", "smolvlm"):
        return None
    edge = parts.config.vision_config.image_size
    return int(edge if isinstance(edge, int) else edge[0])


def _traces(
    parts: ModelParts, plan: Plan, pictures: list[tuple[EncoderRun, Layout]], prefill: Prefill, repeats: int
) -> tuple[StepTrace | None, ...]:
    if not pictures or any(run.traces is None for run, _ in pictures) or prefill.traces is None:
        return ()
    first = [
        None if stage == "pixels" else trace.before_llm(stage, block, pictures)
        for stage, block in _before_llm(parts, plan)
    ]
    return (*first, *(trace.in_llm(layer, pictures, prefill, repeats) for layer in plan.llm))


def _before_llm(parts: ModelParts, plan: Plan) -> list[tuple[str, int]]:
    """Stage and block of every step before the LLM."""
    first = [] if plan.pixels is None else [("pixels", -1)]
    behind = [] if plan.projector is None else [("projector", len(parts.blocks))]
    return [*first, *(("encoder", block) for block in plan.encoder), *behind]


def _around(runs: list[EncoderRun], block: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Units of each segment, run by run, before and after the step at ``block``."""
    return [run.lengths_before(block) for run in runs], [run.lengths_before(block + 1) for run in runs]


def _courses(
    parts: ModelParts, runs: list[EncoderRun], prefill: Prefill, stages: list[Sequence], plan: Plan
) -> tuple[Courses, Courses]:
    """Of the pass as it was, and of the plain model's."""
    taps = parts.family.encoder_shape(parts.config).taps
    batch, length = prefill.prompt.runs.shape
    attends = tuple(not recurrent for recurrent in parts.recurrent)
    merged = PrefillCourse(
        batch,
        tuple(stage.columns.shape[1] for stage in stages),
        tuple(_held(parts, i, prefill, stage) for i, stage in enumerate(stages)),
        attends,
    )
    plain = PrefillCourse(
        batch,
        (length,) * len(stages),
        tuple(_held(parts, i, prefill, None) for i in range(len(stages))),
        attends,
    )
    return (
        Courses(tuple(_course(parts, taps, run, plan) for run in runs), merged),
        Courses(tuple(_plain_course(parts, taps, run) for run in runs), plain),
    )


def _course(parts: ModelParts, taps: tuple[int, ...], run: EncoderRun, plan: Plan) -> EncoderCourse:
    blocks, g = range(len(parts.blocks)), parts.group
    # A step that chooses among projected features leaves the projector all of them.
    projected = plan.projector is not None and plan.projector.projected
    return EncoderCourse(
        run.embedded,
        tuple(parts.attending(run.sequence_lengths(block, merged=True)) for block in blocks),
        tuple(sum(run.prefix + g * n for n in run.lengths_before(block + 1)) for block in blocks),
        sum(run.lengths_before(len(parts.blocks)) if projected else run.lengths),
        tuple(sum(run.lengths_before(tap + 1)) for tap in taps),
    )


def _plain_course(parts: ModelParts, taps: tuple[int, ...], run: EncoderRun) -> EncoderCourse:
    units = sum(run.full_lengths)
    blocks = range(len(parts.blocks))
    sequences = tuple(parts.attending(run.sequence_lengths(block, merged=False)) for block in blocks)
    return EncoderCourse(
        parts.group * units, sequences, tuple(map(sum, sequences)), units, (units,) * len(taps)
    )


def _held(parts: ModelParts, layer: int, prefill: Prefill, stage: Sequence | None) -> int:
    """Keys that a layer's cache holds after the prefill, merged or (``stage`` None) plain."""
    if parts.recurrent[layer]:
        return 0
    length, window = prefill.prompt.runs.shape[1], parts.windows[layer]
    if stage is None:
        return length if window is None else min(length, window - 1)
    n = stage.columns.shape[1]
    if window is None or n < window:
        return n
    return int((stage.columns > length - window).any(0).sum())


def _pictures(
    parts: ModelParts, plan: Plan, pictures: list[tuple[EncoderRun, Layout]], prefill: Prefill, repeats: int
) -> tuple[PictureReport, ...]:
    alive = {layer: _alive_tokens(prefill, prefill.at(layer), repeats) for layer in plan.llm}
    out = []
    start = {"image": 0, "video": 0}
    for run, layout in pictures:
        kept = []
        for _, block in _before_llm(parts, plan):
            units = run.kept_after(block) - layout.first_unit
            kept.append(layout.units[units[(units >= 0) & (units < len(layout.units))]])
        first = start[layout.kind]
        start[layout.kind] += len(layout.tokens)
        for layer in plan.llm:
            rows = layout.tokens[alive[layer][layout.kind][first : first + len(layout.tokens)]]
            kept.append(rows[~rows[:, 0].isnan()])
        frames = int(layout.units[:, 0].max()) + 1
        out.append(PictureReport(layout.kind, frames, layout.units, tuple(kept)))
    return tuple(out)


def _alive_tokens(prefill: Prefill, sequence: Sequence, repeats: int) -> dict[str, Tensor]:
    """Per kind of picture, (T,) bool over its placeholders in prompt order: which are left."""
    columns = sequence.columns[::repeats].cpu()
    left = torch.zeros_like(prefill.prompt.runs[::repeats], dtype=torch.bool, device="cpu")
    rows = torch.arange(len(columns))[:, None].expand_as(columns)
    left[rows[columns >= 0], columns[columns >= 0]] = True
    visual, video = (t[::repeats].cpu() for t in (prefill.prompt.runs >= 0, prefill.prompt.video))
    return {"image": left[visual & ~video], "video": left[visual & video]}
