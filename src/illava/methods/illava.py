"""iLLaVA: merge visual tokens inside the image encoder and again inside the LLM (arXiv 2412.06263)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from ..merging import REDUCTIONS, SIMILARITIES, Reduce, Similarity
from ..parts import ModelParts, rescale
from ..scoring import SCORES, Score
from ..stages.steps import Plan, Positions
from .base import Method
from .checks import check_choice, check_count, check_layer_exists, check_layers, check_share
from .merge_step import ENCODER_SCORES, LLM_SCORES, SELECTS, EncoderScore, LlmScore, MergeStep, Select

Keep = float | tuple[float, ...]


@dataclass(frozen=True)
class Illava(Method):
    """Merge at some encoder blocks and before some LLM layers, recycling what is removed.

    With no argument this is the schedule published for the model's family, carried over to its depth.

    Args:
        keep: a budget instead of a schedule, in (0, 1]: final visual tokens / all. The published steps
            are made harsher or milder, all by the same power, until exactly round(keep * n) of n tokens
            stay (a few more where the LLM stage is off and a family adds tokens of its own to a picture's,
            as OneVision's newlines); goes with layers, not with ``encoder_keep`` or ``llm_keep``.
        encoder_layers: encoder blocks (0-based) after whose attention tokens merge. None: the published
            ones; (): no encoder stage.
        encoder_keep: share of a picture's units kept at each of them, in (0, 1]; one number for all or
            one each.
        llm_layers: decoder layers (0-based, >= 1) before which tokens merge, by the attention at the
            layer before. None: the published ones; (): no LLM stage.
        llm_keep: share of a run of visual tokens kept at each of them, in (0, 1].
        recycle: share of the survivors that take in what is dropped, in [0, 1]; at least one does.
        neighbours: dropped units a recycler takes in, at most.
        reduce: "recycle", "weighted" (one rank-weighted mean of the lowest-scored), "drop", or, past the
            paper, "fold": every dropped unit joins its most similar survivor, weighted by size.
        score: "exact" column scores in the encoder, or "sampled" from 256 query rows.
        select: "highest" scored units stay; or, past the paper, "diverse" ones: first the highest-scored,
            then ever the one whose score times its distance to those taken is largest; "lowest" and "random"
            are controls that a score must beat, with all else equal.
        seed: of random units: which ones stay depends on it and on how many there are.
        similarity: of recyclers and survivors to dropped units: "dot" as published, or "cosine".
        encoder_score: "attention" received, as published; or, past the paper, "rarity", one minus the mean
            cosine similarity to all units of the picture; or "norm" of a unit's hidden state.
        llm_score: attention of the "last" prompt token, as published, or the mean over all "text" behind the
            first picture.
        proportional: add the logarithm of how many units a survivor stands for to the attention it gets in
            the encoder blocks behind (with "fold"; SDPA or eager attention in the encoder).
        positions: of tokens in the LLM, "original" as published, or "compact": renumbered without gaps.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "illava"

    keep: float | None = None
    encoder_layers: tuple[int, ...] | None = None
    encoder_keep: Keep | None = None
    llm_layers: tuple[int, ...] | None = None
    llm_keep: Keep | None = None
    recycle: float = 0.05
    neighbours: int = 5
    reduce: Reduce = "recycle"
    score: Score = "exact"
    select: Select = "highest"
    seed: int = 0
    similarity: Similarity = "dot"
    encoder_score: EncoderScore = "attention"
    llm_score: LlmScore = "last"
    proportional: bool = False
    positions: Positions = "original"

    def __post_init__(self) -> None:
        for stage in ("encoder", "llm"):
            layers, keep = getattr(self, f"{stage}_layers"), getattr(self, f"{stage}_keep")
            if layers is not None:
                checked = check_layers(f"{stage}_layers", layers, int(stage == "llm"))
                object.__setattr__(self, f"{stage}_layers", checked)
            if keep is None:
                if layers and self.keep is None:
                    raise ValueError(
                        f"{stage}_layers needs {stage}_keep, a share in (0, 1], or keep, a budget"
                    )
                continue
            if self.keep is not None:
                raise ValueError(f"give either keep or {stage}_keep, not both")
            several = isinstance(keep, Iterable) and not isinstance(keep, str)
            shares = tuple(check_share(f"{stage}_keep", share) for share in (keep if several else (keep,)))
            object.__setattr__(self, f"{stage}_keep", shares if several else shares[0])
            if several and (layers is None or len(shares) != len(layers)):
                raise ValueError(
                    f"{stage}_keep has {len(shares)} values; give one number, or one for each layer"
                )
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))
        if isinstance(self.recycle, bool) or not isinstance(self.recycle, Real) or not 0 <= self.recycle <= 1:
            raise ValueError(f"recycle must lie in [0, 1], got {self.recycle!r}")
        check_count("neighbours", self.neighbours, 1)
        check_choice("reduce", self.reduce, REDUCTIONS)
        check_choice("score", self.score, SCORES)
        check_choice("select", self.select, SELECTS)
        check_count("seed", self.seed, most=2**63 - 1)
        check_choice("similarity", self.similarity, SIMILARITIES)
        check_choice("encoder_score", self.encoder_score, ENCODER_SCORES)
        check_choice("llm_score", self.llm_score, LLM_SCORES)
        check_choice("positions", self.positions, ("original", "compact"))
        if not isinstance(self.proportional, bool):
            raise ValueError(f"proportional must be True or False, got {self.proportional!r}")

    def plan(self, parts: ModelParts) -> Plan:
        schedule = parts.family.schedule
        encoder = self._stage(
            "encoder",
            len(parts.blocks),
            rescale(
                schedule.encoder_layers,
                schedule.encoder_keep,
                schedule.encoder_depth,
                len(parts.blocks),
                allowed=parts.tower.full_attention_blocks(parts.config.vision_config),
            ),
        )
        llm = self._stage(
            "llm",
            len(parts.layers),
            rescale(
                schedule.llm_layers,
                schedule.llm_keep,
                schedule.llm_depth,
                len(parts.layers),
                allowed=_behind_full_layers(parts),
                first=parts.family.first_llm_layer(parts.config),
            ),
        )
        first = min(llm, default=len(parts.layers))
        if first < parts.family.first_llm_layer(parts.config):
            raise ValueError(
                f"llm_layers: the first {parts.family.first_llm_layer(parts.config)} layers of "
                f"{parts.family.model_type} take in features of the full prompt, got {first}"
            )
        if self.keep is None:
            return Plan(
                {k: self._step(v) for k, v in encoder.items()},
                {k: self._step(v) for k, v in llm.items()},
                positions=self.positions,
            )
        return self._budget(self.keep, encoder, llm)

    def _stage(self, stage: str, depth: int, published: dict[int, float]) -> dict[int, float]:
        layers, keep = getattr(self, f"{stage}_layers"), getattr(self, f"{stage}_keep")
        if layers is None:
            return published if keep is None else dict.fromkeys(published, keep)
        for layer in layers:
            check_layer_exists(f"{stage}_layers", layer, depth)
        if keep is None:
            # A budget: the total published for the stage, spread evenly over the layers asked for.
            total = math.prod(published.values())
            return dict.fromkeys(layers, total ** (1 / max(1, len(layers))))
        return dict(zip(layers, keep if isinstance(keep, tuple) else (keep,) * len(layers), strict=True))

    def _budget(self, keep: float, encoder: dict[int, float], llm: dict[int, float]) -> Plan:
        """Raise every step's share to one power, so that their product is ``keep``."""
        total = math.prod([*encoder.values(), *llm.values()])
        if total == 1 and keep < 1:
            raise ValueError("keep needs at least one layer to merge at: both stages are off")
        power = math.log(keep) / math.log(total) if keep < 1 else 0.0
        left, steps = 1.0, []
        for share in [*encoder.values(), *llm.values()]:
            left *= share**power
            steps.append(self._step(share**power, left))
        if steps and keep < 1:
            steps[-1] = self._step(steps[-1].keep, keep)
        return Plan(
            dict(zip(encoder, steps[: len(encoder)], strict=True)),
            dict(zip(llm, steps[len(encoder) :], strict=True)),
            positions=self.positions,
        )

    def _step(self, keep: float, of_all: float | None = None) -> MergeStep:
        return MergeStep(
            keep,
            of_all,
            self.reduce,
            self.recycle,
            self.neighbours,
            self.similarity,
            self.score,
            self.encoder_score,
            self.llm_score,
            self.select,
            self.seed,
            self.proportional,
        )


def _behind_full_layers(parts: ModelParts) -> tuple[int, ...] | None:
    """The LLM layers whose predecessor sees the whole prompt, where some see a window of it alone."""
    if not any(parts.windows) or all(parts.windows):
        return None
    return tuple(i + 1 for i, window in enumerate(parts.windows[:-1]) if window is None)
