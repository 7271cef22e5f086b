"""Predicts token counts and costs of a method on a model from its config, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import renamed
from ..methods import Method
from ..methods.presets import default_method
from ..methods.steps import Plan
from ..models.dimensions import llm_dimensions
from ..models.families import family_of
from ..models.layout import workload
from ..models.located import LocatedModules, locate
from ..models.weights import activation_size, stored_bytes
from ..models.workload import Size, Workload
from ..ops.grids import coarse_shape
from .cost import Cost, cost_of
from .counts import EncoderCounts, PrefillCounts, StepReport, TokenCounts, shared_fields
from .merging_cost import sized_layers


@dataclass(frozen=True)
class Prediction:
    """Predicted token counts and costs of a method for one prompt.

    Unit and token counts are exact. Some costs depend on which units an image keeps: those of attention
    windows, of Pixtral's lines, of pooled and padded images, and of the LLM's sliding windows. There the
    kept units are assumed to be spread evenly, and costs are approximate. Where budgets follow the complexity
    of pictures, counts are those of pictures whose budget is the mean.
    """

    family: str
    method: dict[str, Any]
    visual_tokens: int
    """Over the batch, as all counts of this class."""
    final_tokens: int
    average_tokens: float
    """Visual tokens averaged over the LLM's layers."""
    steps: tuple[StepReport, ...]
    llm_tokens: tuple[int, ...]
    """Visual tokens in each LLM layer."""
    cost: Cost
    plain_cost: Cost
    weight_bytes: int
    """Of the whole model; merging does not change it."""
    token_counts: tuple[TokenCounts, TokenCounts]
    """Of the method, and of the plain model."""
    sized_layers: tuple[int, int] = (0, 0)
    """Encoder blocks and LLM layers whose attention knows the sizes of merged tokens."""

    @property
    def courses(self) -> tuple[TokenCounts, TokenCounts]:
        """Deprecated name of :attr:`token_counts`."""
        counts: tuple[TokenCounts, TokenCounts] = renamed(self, "courses", "token_counts")
        return counts

    @property
    def speedup(self) -> float:
        """FLOPs to the first token, plain / merged."""
        return self.plain_cost.total / self.cost.total

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return {**shared_fields(self), "weight_bytes": self.weight_bytes}


def predict(
    model: Any,
    method: Method | None = None,
    *,
    picture_size: int | Size | None = None,
    pictures: int = 1,
    frames: int = 0,
    prompt_tokens: int = 47,
    batch: int = 1,
) -> Prediction:
    """Predict token counts, FLOPs and bytes of a method and of the plain model, without running either.

    Args:
        model: a transformers VLM, or its config, for which no weights are created.
        method: default: that of :func:`illava.accelerate`, even if another method lies beside the weights:
            a config has none.
        picture_size, pictures, frames, prompt_tokens, batch: see :func:`illava.models.layout.workload`.

    Raises UnsupportedError for an unsupported model, ValueError for values out of range and for a method that
    does not fit the model.
    """
    modules = modules_of(model)
    work = workload(modules, picture_size, pictures, frames, prompt_tokens, batch)
    return predict_on(modules, default_method() if method is None else method, work)


def modules_of(model: Any) -> LocatedModules:
    """The located modules of a model or of a config. Located modules are returned unchanged."""
    if isinstance(model, LocatedModules):
        return model
    return locate(model) if isinstance(model, nn.Module) else skeleton(model)


def skeleton(config: Any) -> LocatedModules:
    """The located modules of the model of a config, on the meta device, so that weights take no memory.

    Raises UnsupportedError for an unsupported model.
    """
    from transformers import AutoModelForImageTextToText

    family_of(config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
        return locate(model)


def predict_on(
    modules: LocatedModules, method: Method, work: Workload, element_size: int | None = None
) -> Prediction:
    """As :func:`predict`, for located modules and a workload.

    ``element_size``: bytes per element; default: that of the model's weights.
    """
    return Predictor(modules, work, element_size).of(method)


class Predictor:
    """Predicts many methods on one model and prompt; the arguments are those of :func:`predict_on`."""

    def __init__(self, modules: LocatedModules, work: Workload, element_size: int | None = None) -> None:
        self.modules, self.work = modules, work
        self.size = element_size or activation_size(modules.llm)
        self.shape, self.llm = (
            modules.family.encoder_dimensions(modules.config),
            llm_dimensions(modules.config),
        )
        self.weight_bytes = stored_bytes(modules.model, self.size)
        self.plain, *_ = self._token_counts(Plan())
        self.plain_cost = self._cost(self.plain)

    def of(self, method: Method) -> Prediction:
        """The prediction for ``method``."""
        return self.of_plan(method.plan(self.modules), method.to_dict())

    def of_plan(self, plan: Plan, method: dict[str, Any]) -> Prediction:
        """The prediction for a plan; ``method`` is the dictionary of the method that made it."""
        token_counts, steps, llm_tokens = self._token_counts(plan)
        return Prediction(
            family=self.modules.family.model_type,
            method=method,
            visual_tokens=self.work.batch * self.work.visual_tokens,
            final_tokens=llm_tokens[-1],
            average_tokens=sum(llm_tokens) / len(llm_tokens),
            steps=steps,
            llm_tokens=llm_tokens,
            cost=self._cost(token_counts),
            plain_cost=self.plain_cost,
            weight_bytes=self.weight_bytes,
            token_counts=(token_counts, self.plain),
            sized_layers=sized_layers(plan, len(self.modules.blocks), len(self.modules.layers)),
        )

    def _token_counts(self, plan: Plan) -> tuple[TokenCounts, tuple[StepReport, ...], tuple[int, ...]]:
        encoder, steps, entering = _encoder(self.modules, plan, self.work)
        prefill, llm_steps, llm_tokens = _prefill(self.modules, plan, self.work, entering)
        return TokenCounts((encoder,), prefill), (*steps, *llm_steps), llm_tokens

    def _cost(self, token_counts: TokenCounts) -> Cost:
        return cost_of(self.shape, self.llm, token_counts, self.size)


def _encoder(
    modules: LocatedModules, plan: Plan, work: Workload
) -> tuple[EncoderCounts, list[StepReport], list[int]]:
    """One call of the encoder, its steps, and the visual tokens left in each run of placeholders."""
    g, prefix, batch = modules.group, modules.prefix, work.batch
    full, grids = list(work.segments), work.grids
    left, steps = full, list[StepReport]()
    if plan.pixels is not None:
        assert grids is not None
        grids = tuple(coarse_shape(*grid, plan.pixels) for grid in grids)
        left = [down * across for down, across in grids]
        steps.append(StepReport("pixels", -1, batch * sum(full), batch * sum(left)))
    first = left
    windows = _windows(modules, work, grids)
    whole = modules.tower.full_attention_blocks(modules.config.vision_config) or ()
    sequences, mlp_tokens, alive = [], [], []
    for block in range(len(modules.blocks)):
        here = [prefix + g * n for n in left]
        if windows is not None and block not in whole:
            here = [n for some, a, b in zip(windows, left, first, strict=True) for n in _even(some, a, b)]
        sequences.append(modules.attending(here * batch))
        if block in plan.encoder:
            before, left = left, _counts(plan.encoder[block], left, full, None)
            steps.append(StepReport("encoder", block, batch * sum(before), batch * sum(left)))
        mlp_tokens.append(batch * sum(prefix + g * n for n in left))
        alive.append(batch * sum(left))
    entered = sum(left)
    if plan.projector is not None:
        before, left = left, _counts(plan.projector, left, full, _raster(modules, work, left))
        steps.append(StepReport("projector", len(modules.blocks), batch * sum(before), batch * sum(left)))
    projected = plan.projector is not None and plan.projector.projected
    taps = modules.family.encoder_dimensions(modules.config).taps
    counts = EncoderCounts(
        batch * g * sum(first),
        tuple(sequences),
        tuple(mlp_tokens),
        batch * (entered if projected else sum(left)),
        tuple(alive[tap] for tap in taps),
    )
    return counts, steps, _entering(work, left)


def _counts(step: Any, left: list[int], full: list[int], grids: tuple[Size, ...] | None) -> list[int]:
    grid = [None] * len(left) if grids is None else grids
    return [min(n, step.count(n, of, at)) for n, of, at in zip(left, full, grid, strict=True)]


def _raster(modules: LocatedModules, work: Workload, left: list[int]) -> tuple[Size, ...] | None:
    """Rows and columns of each segment; None if units were dropped before."""
    if left != list(work.segments):
        return None
    if work.grids is not None:
        return work.grids
    return tuple((round(n**0.5), round(n**0.5)) for n in work.segments)


def _windows(
    modules: LocatedModules, work: Workload, grids: tuple[Size, ...] | None
) -> list[list[int]] | None:
    """Tokens of each attention window, segment by segment; None for encoders without windows."""
    if grids is None:
        return None
    side = round(modules.group**0.5)
    grid = torch.tensor([[1, rows * side, columns * side] for rows, columns in grids])
    flat = modules.tower.windows(modules.config.vision_config, grid)
    if flat is None:
        return None
    out: list[list[int]] = []
    rest = list(flat)
    for rows, columns in grids:
        some: list[int] = []
        while sum(some) < modules.group * rows * columns:
            some.append(rest.pop(0))
        out.append(some)
    return out


def _even(windows: list[int], left: int, of: int) -> list[int]:
    """Tokens of each window if ``left`` of ``of`` units are left, spread evenly over the windows."""
    out, done, total = [], 0, 0
    for window in windows:
        total += window
        upto = round(total * left / of) if of else 0
        out.append(upto - done)
        done = upto
    return [n for n in out if n]


def _entering(work: Workload, left: list[int]) -> list[int]:
    """Visual tokens of each run that enter the LLM if ``left`` units of each segment do."""
    out = []
    seen = [0] * len(left)
    for run in work.runs:
        tokens = run.extra
        for segment, count in run.segment_tokens:
            share = left[segment] / work.segments[segment]
            before, seen[segment] = seen[segment], seen[segment] + count
            # The units left of an image are spread evenly over its lines.
            tokens += round(seen[segment] * share) - round(before * share)
        out.append(tokens)
    return out


def _prefill(
    modules: LocatedModules, plan: Plan, work: Workload, entering: list[int]
) -> tuple[PrefillCounts, list[StepReport], tuple[int, ...]]:
    """The prefill of the LLM, its steps, and the visual tokens of each layer over the batch."""
    left, fixed = entering, [run.fixed for run in work.runs]
    full = [run.tokens - run.fixed for run in work.runs]
    tokens, cached, visual, steps = [], [], [], []
    for layer, (window, recurrent) in enumerate(zip(modules.windows, modules.recurrent, strict=True)):
        if layer in plan.llm:
            before = [n - kept for n, kept in zip(left, fixed, strict=True)]
            after = _counts(plan.llm[layer], before, full, None)
            left = [n + kept for n, kept in zip(after, fixed, strict=True)]
            steps.append(StepReport("llm", layer, work.batch * sum(before), work.batch * sum(after)))
        here = work.text + sum(left)
        tokens.append(here)
        cached.append(0 if recurrent else here if window is None else min(here, window - 1))
        visual.append(work.batch * sum(left))
    attends = tuple(not recurrent for recurrent in modules.recurrent)
    return PrefillCounts(work.batch, tuple(tokens), tuple(cached), attends), steps, tuple(visual)
