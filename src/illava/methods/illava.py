"""iLLaVA: merge visual tokens inside the image encoder and again inside the LLM (arXiv 2412.06263)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Literal, get_args

from ..models.located import LocatedModules
from ..ops.merging import REDUCTIONS, SIMILARITIES, Reduce, Similarity
from ..ops.scoring import SCORES, Score
from .base import Method
from .checks import check_choice, check_count, check_layer_exists, check_layers, check_share
from .merge_step import ENCODER_SCORES, LLM_SCORES, SELECTS, EncoderScore, LlmScore, MergeStep, Select
from .schedules import Shares, middle, published, to_budget
from .steps import Plan, Positions

Keep = float | tuple[float, ...]
Where = Literal["published", "middle"]
WHERE: tuple[str, ...] = get_args(Where)


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
            paper, "fold": every dropped unit joins its most similar survivor, weighted by size (the LLM
            counts anew).
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
        where: layers that are None: the "published" ones, or "middle": one step in each stage, at block
            depth // 2 - 1 of the encoder (the nearest without windows) and before layer depth // 2 of the LLM
            (the nearest behind one that sees the whole prompt), so that half of both runs at full length.
        encoder_share: of a budget, how much of the reduction the encoder does, in [0, 1] on a logarithmic
            scale: at keep=1/9 a share of 0.5 leaves 1/3 behind the encoder. None: as in the schedule.

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
    where: Where = "published"
    encoder_share: float | None = None

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
        check_choice("where", self.where, WHERE)
        if self.encoder_share is not None:
            share = self.encoder_share
            if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share <= 1:
                raise ValueError(f"encoder_share must lie in [0, 1], got {share!r}")
            if self.keep is None:
                raise ValueError("encoder_share needs keep, the budget that it is a share of")
        if not isinstance(self.proportional, bool):
            raise ValueError(f"proportional must be True or False, got {self.proportional!r}")

    @classmethod
    def best(cls, keep: float) -> Illava:
        """The preset "illava-best": iLLaVA as it does best on the shipped models, past the paper.

        One step in the middle of the encoder and one in the middle of the LLM, each with half of the
        reduction on a logarithmic scale (1/9: to 1/3, then to 1/9). In both, units are taken one by one,
        ever the one whose score times its distance to those taken so far is largest; scores are the
        published ones, the encoder's from 256 query rows. Every dropped unit joins the survivor most similar
        to it, as a mean weighted by size. docs/ablations.md says what each part of it brings.

        Args:
            keep: final visual tokens / all, in (0, 1].
        """
        return cls(
            keep=keep,
            where="middle",
            encoder_share=0.5,
            select="diverse",
            reduce="fold",
            similarity="cosine",
            score="sampled",
        )

    def plan(self, modules: LocatedModules) -> Plan:
        known = middle(modules) if self.where == "middle" else published(modules)
        encoder = self._stage("encoder", len(modules.blocks), known[0])
        llm = self._stage("llm", len(modules.layers), known[1])
        first = min(llm, default=len(modules.layers))
        if first < modules.family.first_llm_layer(modules.config):
            raise ValueError(
                f"llm_layers: the first {modules.family.first_llm_layer(modules.config)} layers of "
                f"{modules.family.model_type} take in features of the full prompt, got {first}"
            )
        if self.keep is None:
            return Plan(
                {k: self._step(v) for k, v in encoder.items()},
                {k: self._step(v) for k, v in llm.items()},
                positions=self.positions,
            )
        return self._budget(self.keep, encoder, llm)

    def _stage(self, stage: str, depth: int, known: Shares) -> Shares:
        layers, keep = getattr(self, f"{stage}_layers"), getattr(self, f"{stage}_keep")
        if layers is None:
            return known if keep is None else dict.fromkeys(known, keep)
        for layer in layers:
            check_layer_exists(f"{stage}_layers", layer, depth)
        if keep is None:
            # A budget: the total published for the stage, spread evenly over the layers asked for.
            total = math.prod(known.values())
            return dict.fromkeys(layers, total ** (1 / max(1, len(layers))))
        return dict(zip(layers, keep if isinstance(keep, tuple) else (keep,) * len(layers), strict=True))

    def _budget(self, keep: float, encoder: Shares, llm: Shares) -> Plan:
        shares, left, steps = to_budget(keep, encoder, llm, self.encoder_share), 1.0, []
        for share in shares:
            left *= share
            steps.append(self._step(share, left))
        for number in reversed(range(len(steps))):
            if shares[number] < 1:
                # Exactly, whatever was rounded on the way.
                steps[number] = self._step(shares[number], keep)
                break
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
