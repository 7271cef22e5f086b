"""Builds the report of a prefill from the records of its stages."""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods import Method
from ..methods.steps import Plan
from ..models.dimensions import llm_dimensions
from ..models.located import LocatedModules
from ..models.weights import activation_size
from ..models.workload import first
from ..planning.cost import cost_of
from ..planning.counts import EncoderCounts, PrefillCounts, StepReport, TokenCounts
from ..runtime.encoder.run import EncoderRun
from ..runtime.llm.prefill import Prefill, Sequence
from ..runtime.passes import Pass
from . import traces as step_traces
from .patches import Layout, layouts
from .report import PictureReport, Report
from .traces import StepTrace


def make_report(modules: LocatedModules, method: Method, plan: Plan, completed: Pass) -> Report:
    """Build the report of a completed pass over a prompt with pictures."""
    runs, prefill = completed.runs, completed.prefill
    assert prefill is not None
    prompt = prefill.prompt
    videos = prompt.runs[prompt.video & (prompt.runs >= 0)]
    video_tokens = int((videos == videos[0]).sum()) if len(videos) else None
    pictures = [(run, layout) for run in runs for layout in layouts(modules, run, video_tokens)]
    pictures.sort(key=lambda pair: pair[1].kind)
    in_pictures = sum(len(layout.tokens) for _, layout in pictures)
    visual = sum(prompt.lengths)
    # Beams and multiple return sequences repeat every row of the batch.
    repeats = visual // in_pictures if in_pictures and visual % in_pictures == 0 else 1
    depth = len(modules.layers)
    stages = [prefill.at(layer) for layer in range(depth)]
    llm_tokens = tuple(sum(stage.lengths) // repeats for stage in stages)
    steps = [
        StepReport(stage, block, *(sum(sum(n) for n in pair) for pair in _around(runs, block)))
        for stage, block in _before_llm(modules, plan)
    ]
    entering, fixed = sum(prefill.entering) // repeats, sum(prompt.fixed_lengths) // repeats
    steps += [
        StepReport(
            "llm", layer, (llm_tokens[layer - 1] if layer else entering) - fixed, llm_tokens[layer] - fixed
        )
        for layer in plan.llm
    ]
    known = in_pictures * repeats == visual
    merged, plain = token_counts = _token_counts(modules, runs, prefill, stages, plan)
    encoder, llm = modules.family.encoder_dimensions(modules.config), llm_dimensions(modules.config)
    size = activation_size(modules.llm)
    return Report(
        family=modules.family.model_type,
        method=method.to_dict(),
        visual_tokens=visual // repeats,
        final_tokens=llm_tokens[-1],
        average_tokens=sum(llm_tokens) / depth,
        steps=tuple(steps),
        llm_tokens=llm_tokens,
        row_tokens=tuple(zip(*((stage.runs >= 0).sum(1).tolist() for stage in stages), strict=True)),
        cost=cost_of(encoder, llm, merged, size),
        plain_cost=cost_of(encoder, llm, plain, size),
        token_counts=token_counts,
        pictures=_pictures(modules, plan, pictures, prefill, repeats) if known else (),
        columns=tuple(stage.columns for stage in stages),
        tile_edge=_tile_edge(modules),
        traces=_traces(modules, plan, pictures, prefill, repeats) if known else (),
    )


def _tile_edge(modules: LocatedModules) -> int | None:
    return None if modules.family.tiles is None else first(modules.config.vision_config.image_size)


def _traces(
    modules: LocatedModules,
    plan: Plan,
    pictures: list[tuple[EncoderRun, Layout]],
    prefill: Prefill,
    repeats: int,
) -> tuple[StepTrace | None, ...]:
    if not pictures or any(run.traces is None for run, _ in pictures) or prefill.traces is None:
        return ()
    first = [
        None if stage == "pixels" else step_traces.before_llm(stage, block, pictures)
        for stage, block in _before_llm(modules, plan)
    ]
    return (*first, *(step_traces.in_llm(layer, pictures, prefill, repeats) for layer in plan.llm))


def _before_llm(modules: LocatedModules, plan: Plan) -> list[tuple[str, int]]:
    """The stage and block of every step before the LLM."""
    first = [] if plan.pixels is None else [("pixels", -1)]
    last = [] if plan.projector is None else [("projector", len(modules.blocks))]
    return [*first, *(("encoder", block) for block in plan.encoder), *last]


def _around(runs: list[EncoderRun], block: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Units of each segment before and after the step at ``block``, for each encoder run."""
    return [run.lengths_before(block) for run in runs], [run.lengths_before(block + 1) for run in runs]


def _token_counts(
    modules: LocatedModules, runs: list[EncoderRun], prefill: Prefill, stages: list[Sequence], plan: Plan
) -> tuple[TokenCounts, TokenCounts]:
    """Token counts of the pass, and those of the plain model."""
    taps = modules.family.encoder_dimensions(modules.config).taps
    batch, length = prefill.prompt.runs.shape
    attends = tuple(not recurrent for recurrent in modules.recurrent)
    merged = PrefillCounts(
        batch,
        tuple(stage.columns.shape[1] for stage in stages),
        tuple(_cached(modules, i, prefill, stage) for i, stage in enumerate(stages)),
        attends,
    )
    plain = PrefillCounts(
        batch,
        (length,) * len(stages),
        tuple(_cached(modules, i, prefill, None) for i in range(len(stages))),
        attends,
    )
    return (
        TokenCounts(tuple(_encoder_counts(modules, taps, run, plan) for run in runs), merged),
        TokenCounts(tuple(_plain_encoder_counts(modules, taps, run) for run in runs), plain),
    )


def _encoder_counts(
    modules: LocatedModules, taps: tuple[int, ...], run: EncoderRun, plan: Plan
) -> EncoderCounts:
    blocks, g = range(len(modules.blocks)), modules.group
    # A step on projected features runs after the projector, which processes all units.
    projected = plan.projector is not None and plan.projector.projected
    return EncoderCounts(
        run.embedded,
        tuple(modules.attending(run.sequence_lengths(block, merged=True)) for block in blocks),
        tuple(sum(run.prefix + g * n for n in run.lengths_before(block + 1)) for block in blocks),
        sum(run.lengths_before(len(modules.blocks)) if projected else run.lengths),
        tuple(sum(run.lengths_before(tap + 1)) for tap in taps),
    )


def _plain_encoder_counts(modules: LocatedModules, taps: tuple[int, ...], run: EncoderRun) -> EncoderCounts:
    units = sum(run.full_lengths)
    blocks = range(len(modules.blocks))
    sequences = tuple(modules.attending(run.sequence_lengths(block, merged=False)) for block in blocks)
    return EncoderCounts(
        modules.group * units, sequences, tuple(map(sum, sequences)), units, (units,) * len(taps)
    )


def _cached(modules: LocatedModules, layer: int, prefill: Prefill, stage: Sequence | None) -> int:
    """Keys in the KV cache of a layer after the prefill; of the plain model if ``stage`` is None."""
    if modules.recurrent[layer]:
        return 0
    length, window = prefill.prompt.runs.shape[1], modules.windows[layer]
    if stage is None:
        return length if window is None else min(length, window - 1)
    n = stage.columns.shape[1]
    if window is None or n < window:
        return n
    return int((stage.columns > length - window).any(0).sum())


def _pictures(
    modules: LocatedModules,
    plan: Plan,
    pictures: list[tuple[EncoderRun, Layout]],
    prefill: Prefill,
    repeats: int,
) -> tuple[PictureReport, ...]:
    resampler = modules.family.resampler
    alive = {layer: _alive_tokens(prefill, prefill.at(layer), repeats) for layer in plan.llm}
    out = []
    start = {"image": 0, "video": 0}
    for run, layout in pictures:
        kept = []
        for _, block in _before_llm(modules, plan):
            units = run.kept_after(block) - layout.first_unit
            kept.append(layout.units[units[(units >= 0) & (units < len(layout.units))]])
        first = start[layout.kind]
        start[layout.kind] += len(layout.tokens)
        for layer in plan.llm:
            rows = layout.tokens[alive[layer][layout.kind][first : first + len(layout.tokens)]]
            placed = rows[~rows[:, 0].isnan()]
            # Outputs of queries have no place of their own: they show the patches that these read.
            kept.append(placed if resampler is None or not kept else kept[-1])
        frames = int(layout.units[:, 0].max()) + 1
        out.append(PictureReport(layout.kind, frames, layout.units, tuple(kept)))
    return tuple(out)


def _alive_tokens(prefill: Prefill, sequence: Sequence, repeats: int) -> dict[str, Tensor]:
    """For images and for videos, (T,) bool: which of their placeholders remain, in prompt order."""
    columns = sequence.columns[::repeats].cpu()
    left = torch.zeros_like(prefill.prompt.runs[::repeats], dtype=torch.bool, device="cpu")
    rows = torch.arange(len(columns))[:, None].expand_as(columns)
    left[rows[columns >= 0], columns[columns >= 0]] = True
    visual, video = (t[::repeats].cpu() for t in (prefill.prompt.runs >= 0, prefill.prompt.video))
    return {"image": left[visual & ~video], "video": left[visual & video]}
