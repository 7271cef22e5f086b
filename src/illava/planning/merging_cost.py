"""What merging itself costs on an accelerator: kernels, waits, and device time of one step.

The counts are those of tests; the times are estimates, to be replaced by measurements on an accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..methods.steps import Plan
from ..models.dimensions import EncoderDimensions, LlmDimensions
from ..ops.scoring import SAMPLED_ROWS
from ..ops.selection import MAX_PAIRWISE_UNITS
from .accelerator import AcceleratorRates
from .counts import StepReport

KERNELS_PER_ENCODER_STEP = 12 + 10
"""At most 12 for scores, selection and merging (tests/kernels/test_launches.py), and about 10 for the tables
of the remaining tokens, as counted on the tiny models of ten families."""
KERNELS_PER_LLM_STEP = 12 + 22
"""The same for a step in the LLM."""
KERNELS_BESIDE_ROUNDS = 3
"""Beyond :data:`illava.ops.selection.MAX_PAIRWISE_UNITS` units in a segment, each round of the selection is a
kernel of its own, over all segments; and so many more kernels than usual begin and end the rounds."""
KERNELS_PER_PREFILL = 45
"""Counted on the tiny models of ten families (24 to 78): what a prefill with a step in each stage launches
beside its steps. It marks and drops placeholders, and makes masks and positions anew."""
KERNELS_PER_SIZED_LAYER = 4
"""Attention that knows sizes concatenates channels to queries, keys and values, and copies what it cuts from
its output (tests/kernels/test_launches.py)."""
KERNELS_OF_SIZES = 90
"""Further ones of a prefill whose attention knows sizes, at most, which its layers share."""
WAITS_PER_PREFILL = 4
"""How often a merged prefill waits for a value from the device, at most (tests/test_synchronisation.py); on
Qwen2.5-VL once more."""
SECONDS_PER_ROUND = 2e-6
"""Estimate: one round of the selection, which reads one row of distances on one streaming multiprocessor.
Rounds run one after another; segments run in parallel."""
FOLD_PASSES = 3
"""Estimate: how often a merge reads or writes all units: it normalises, gathers and adds them."""


@dataclass(frozen=True)
class StepShape:
    """The sizes of one step."""

    segments: int
    """Images, tiles or runs of visual tokens, over the batch. All are taken to be of one size."""
    before: float
    """Units of each segment that enter the step."""
    after: float
    """Units of each segment that it keeps."""
    width: int
    """Features of a unit."""
    tokens: float
    """Tokens of a segment's attention, whose keys are scored."""
    hidden: int
    """Features of all attention heads."""
    rows: float
    """Query rows that are scored."""


def step_shape(
    step: StepReport,
    encoder: EncoderDimensions,
    llm: LlmDimensions,
    group: int,
    segments: int,
    runs: int,
    score: str,
) -> StepShape:
    """The sizes of a step that was predicted or reported.

    Args:
        group: tokens of a unit in the encoder.
        segments, runs: of the encoder and of the LLM, over the batch.
        score: "exact" or "sampled", as for :func:`illava.ops.scoring.column_scores`.
    """
    if step.stage == "llm":
        width = llm.heads * llm.head_dim
        before, after = step.before / runs, step.after / runs
        return StepShape(runs, before, after, llm.hidden, before, width, 1)
    before, after = step.before / segments, step.after / segments
    tokens = group * before
    rows = min(SAMPLED_ROWS, tokens) if score == "sampled" else tokens
    return StepShape(segments, before, after, group * encoder.hidden, tokens, encoder.hidden, rows)


def sized_layers(plan: Plan, blocks: int, layers: int) -> tuple[int, int]:
    """How many of a model's encoder ``blocks`` and LLM ``layers`` know the sizes of merged tokens."""
    sized = [block for block, step in plan.encoder.items() if step.proportional_attention]
    encoder = blocks - 1 - min(sized) if sized else 0
    if not plan.llm_size_bias:
        return encoder, 0
    # Sizes of the encoder are known from the first layer on.
    return encoder, layers if plan.encoder else layers - min(plan.llm, default=layers)


def sizes_kernels(encoder: int, llm: int) -> tuple[float, float]:
    """Kernels in each stage of attention that knows sizes, in so many blocks and layers."""
    once = KERNELS_OF_SIZES if encoder or llm else 0
    return KERNELS_PER_SIZED_LAYER * encoder, once + KERNELS_PER_SIZED_LAYER * llm


def step_seconds(rates: AcceleratorRates, shape: StepShape) -> float:
    """Device seconds of one step: scores, similarities, the rounds of the selection, and the merge."""
    s, n, p = shape.segments, shape.before, shape.after
    moved = rates.element_size * shape.tokens * shape.hidden + 4 * shape.rows * shape.tokens
    scores = rates.device_seconds(2 * s * shape.rows * shape.tokens * shape.hidden, s * moved, True)
    distances = rates.device_seconds(2 * s * n * n * shape.width, 4 * s * (n * shape.width + n * n), True)
    nearest = 2 * s * (n - p) * p * shape.width
    fold = rates.device_seconds(nearest, FOLD_PASSES * 4 * s * n * shape.width, True)
    return scores + distances + p * SECONDS_PER_ROUND + fold


def step_kernels(stage: str, shape: StepShape, select: str = "diverse") -> float:
    """Kernels that one step launches.

    Args:
        stage: that of :class:`StepReport`.
        select: as for :class:`illava.Illava`.
    """
    kernels = KERNELS_PER_LLM_STEP if stage == "llm" else KERNELS_PER_ENCODER_STEP
    by_rounds = select == "diverse" and shape.before > MAX_PAIRWISE_UNITS
    return kernels + shape.after + KERNELS_BESIDE_ROUNDS if by_rounds else kernels
