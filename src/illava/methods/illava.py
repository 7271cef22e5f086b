"""iLLaVA: merge visual tokens inside the image encoder and again inside the LLM (arXiv 2412.06263)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

from ..models.located import LocatedModules
from ..ops.merging import REDUCTIONS, SIMILARITIES, Reduce, Similarity
from ..ops.scoring import SCORES, Score
from .base import Method
from .checks import check_choice, check_count, check_layer_exists, check_layers, check_share
from .experimental import DEFAULTS, Experimental
from .merge_step import SELECTS, MergeStep, Select
from .option_rules import check_stage, check_together, current_proportional
from .schedules import Shares, late, middle, published, to_budget
from .single_patches import PatchStep, groups_of
from .steps import Plan

Keep = float | tuple[float, ...]
Where = Literal["published", "middle", "late"]
WHERE: tuple[str, ...] = get_args(Where)
Proportional = Literal["encoder", "llm", "both"]
PROPORTIONAL: tuple[str, ...] = get_args(Proportional)


@dataclass(frozen=True)
class Illava(Method):
    """Merge visual tokens after the attention of some encoder blocks and before some LLM layers.

    With no argument this is the schedule published for the model's family, scaled to its depth.

    Args:
        keep: a budget instead of a schedule, in (0, 1]: the share of all visual tokens left at the end. All
            published shares are raised to the same power, so that exactly round(keep * n) of n tokens are
            left (a few more where the LLM stage is off and a family adds tokens of its own, such as
            OneVision's newlines). Cannot be combined with ``encoder_keep`` or ``llm_keep``.
        encoder_layers: encoder blocks (0-based) after whose attention tokens merge. None: the published
            ones; (): no encoder stage.
        encoder_keep: share of an image's units that one encoder step keeps of those that enter it, in (0, 1];
            one number for all steps, or one per step.
        llm_layers: decoder layers (0-based, >= 1) before which tokens merge, by the attention at the
            previous layer. None: the published ones; (): no LLM stage.
        llm_keep: share of a run of visual tokens that one LLM step keeps of those that enter it, in (0, 1].
        recycle: share of the survivors that absorb dropped units, in [0, 1]; at least one does.
        neighbours: dropped units that one recycler absorbs, at most.
        reduce: what happens to dropped units: "recycle" (published), "weighted" (one rank-weighted mean of
            the lowest-scored), "drop", or "fold" (not in the paper): each is merged into its most similar
            survivor, as a mean weighted by size (sizes restart at 1 in the LLM without ``proportional``).
        score: the encoder's column scores: "exact", or "sampled" from 256 query rows.
        select: which units survive: those with the "highest" score (published), or "diverse" ones (not in
            the paper): first the highest-scored, then repeatedly the unit with the largest product of score
            and distance to those selected; or those of largest "coverage" (not in the paper either):
            repeatedly the unit with the largest product of score and gain in the similarity of all units to
            the selected one most similar to them. "lowest" and "random" are controls.
        similarity: between dropped units and survivors: "dot" (published), or "cosine".
        where: the layers used where ``encoder_layers`` or ``llm_layers`` is None: the "published" ones;
            "middle": one step in each stage, at block depth // 2 - 1 of the encoder (the nearest without
            windows) and before layer depth // 2 of the LLM (the nearest after a layer that attends to the
            whole prompt); or "late": three in the encoder, after 5/9, 7/9 and all of its blocks, and the
            same one in the LLM.
        encoder_share: the encoder's share of the reduction to a budget, in [0, 1] on a logarithmic scale: at
            keep=1/9, 0.5 leaves 1/3 after the encoder. None: as in the schedule.
        proportional: where attention knows how many units were merged into one: the logarithm of that number
            is added to the attention logits of a unit as a key (not in the paper; proportional attention of
            ToMe, arXiv 2210.09461). In the blocks of the "encoder" after a step, in the layers of the "llm",
            or in "both"; sizes then carry over from the encoder to the LLM. Scores are weights of that
            attention, so a unit that stands for nine is scored with log(9) added to its logits. With "both",
            LLMs that have recurrent layers know no sizes, and those behind a resampler only their own. None
            (default): nowhere.
        experimental: a mapping of options that only ablations use, see
            :class:`~illava.methods.experimental.Experimental`: ``{"positions": "compact"}``.

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
    similarity: Similarity = "dot"
    where: Where = "published"
    encoder_share: float | None = None
    proportional: Proportional | None = None
    experimental: Mapping[str, Any] = field(default_factory=Experimental)

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
        check_choice("similarity", self.similarity, SIMILARITIES)
        check_choice("where", self.where, WHERE)
        if self.encoder_share is not None:
            share = self.encoder_share
            if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share <= 1:
                raise ValueError(f"encoder_share must lie in [0, 1], got {share!r}")
            if self.keep is None:
                raise ValueError("encoder_share needs keep, the budget that it is a share of")
        if self.proportional is not None:
            check_choice("proportional", self.proportional, PROPORTIONAL)
        object.__setattr__(self, "experimental", Experimental(self.experimental))
        if "complexity" in self.experimental and self.keep is None:
            raise ValueError("complexity needs keep, the budget of a picture of mean complexity")
        check_together(self.select, self.reduce, self.proportional, self.experimental)
        check_stage("encoder", self.encoder_layers, self.experimental)
        check_stage("llm", self.llm_layers, self.experimental)

    def __new__(cls, *args: Any, **kwargs: Any) -> Illava:
        if moved := {name: value for name, value in kwargs.items() if name in DEFAULTS}:
            raise TypeError(f"options that only experiments set have a mapping: write experimental={moved}")
        return super().__new__(cls)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Method:
        return super().from_fields(current_proportional(fields))

    @classmethod
    def from_version_1(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Move the experimental options, which version 1 stores as fields, into ``experimental``."""
        moved = {name: fields[name] for name in DEFAULTS if name in fields}
        others = {name: value for name, value in fields.items() if name not in moved}
        return {**others, "experimental": {**moved, **fields.get("experimental", {})}} if moved else others

    @classmethod
    def best(cls, keep: float) -> Illava:
        """The preset "illava-best": settings chosen on the toy models and on zoo/R, not in the paper.

        Three steps in the second half of the encoder, with three quarters of the reduction on a logarithmic
        scale, and one in the middle of the LLM (1/9: to 0.58, 0.33, 0.19, then 0.11). All select first the
        highest-scored unit, then repeatedly the one with the largest product of score and distance to those
        selected. Scores are the published ones, the encoder's from 256 query rows. Every dropped unit is
        merged into its most similar survivor, as a mean weighted by size, and later attention knows the
        sizes. docs/zoo-r-choice.md says how it was chosen.

        Args:
            keep: share of all visual tokens left at the end, in (0, 1].
        """
        return cls(
            keep=keep,
            where="late",
            encoder_share=0.75,
            select="diverse",
            reduce="fold",
            similarity="cosine",
            score="sampled",
            proportional="both",
        )

    @classmethod
    def authors_code(cls, keep: float | None = None) -> Illava:
        """The preset "illava-authors-code": what the authors' Qwen code computes where the paper differs.

        The facts are those of their repository at commit d4e221b.

        - Scores are the log-sum-exp of each token's own query row, averaged over heads, instead of the
          attention that a token receives; in the LLM that of its own causal row.
        - In the encoder, single patches are ranked and recycled. Then each group of patches that the
          projector merges is restored whole if any of its patches survives, so that far more are left than
          asked for. Qwen2-VL's code keeps any patches instead, and its projector merges unrelated ones.
        - The survivors of the encoder enter the LLM at the first positions of their picture's grid instead of
          their own. Reports show the patches of these positions for steps in the LLM.

        Where units are single patches, as in LLaVA, for which the authors' code computes what the paper says,
        this is the same scores with the first positions of each tile. Not for batched encoders with groups of
        patches, such as InternVL's.

        Args:
            keep: a nominal budget: the published shares to the power that would leave it. None: the published
                shares.
        """
        options = {"encoder_score": "own_row", "llm_score": "own_row", "units": "patches"}
        return cls(keep=keep, experimental={**options, "placement": "first"})

    def plan(self, modules: LocatedModules) -> Plan:
        known = {"published": published, "middle": middle, "late": late}[self.where](modules)
        encoder = self._stage("encoder", len(modules.blocks), known[0])
        llm = self._stage("llm", len(modules.layers), known[1])
        first = min(llm, default=len(modules.layers))
        if first < modules.family.first_llm_layer(modules.config):
            raise ValueError(
                f"llm_layers: the first {modules.family.first_llm_layer(modules.config)} layers of "
                f"{modules.family.model_type} add features of the full prompt, got {first}"
            )
        # "llm" asks for what layers without attention cannot do, which is refused; "both" is a wish.
        in_llm = self.proportional == "llm" or (self.proportional == "both" and not any(modules.recurrent))
        plan = Plan(
            *self._steps(encoder, llm),
            positions=self.experimental.get("positions", "original"),
            placement=self.experimental.get("placement", "own"),
            llm_size_bias=in_llm,
        )
        if self.experimental.get("units") == "patches" and plan.encoder:
            groups = groups_of(modules)
            # Each step keeps a share of what enters it, and later ones do not make up for restored groups.
            steps = {
                k: PatchStep(**{**vars(step), "of_all": None}, groups=groups)
                for k, step in plan.encoder.items()
            }
            plan = replace(plan, encoder=steps, llm=_of_what_enters(plan.llm))
        if "complexity" in self.experimental:
            if self.keep != 1 and not plan.encoder:
                raise ValueError("complexity needs a step in the encoder, whose budget it sets")
            # The LLM keeps a share of what enters it: more of pictures of which the encoder kept more.
            plan = replace(plan, llm=_of_what_enters(plan.llm))
        return plan

    def _stage(self, stage: str, depth: int, known: Shares) -> Shares:
        layers, keep = getattr(self, f"{stage}_layers"), getattr(self, f"{stage}_keep")
        if layers is None:
            return known if keep is None else dict.fromkeys(known, keep)
        for layer in layers:
            check_layer_exists(f"{stage}_layers", layer, depth)
        if keep is None:
            # A budget: the stage's published total share, spread evenly over the given layers.
            total = math.prod(known.values())
            return dict.fromkeys(layers, total ** (1 / max(1, len(layers))))
        return dict(zip(layers, keep if isinstance(keep, tuple) else (keep,) * len(layers), strict=True))

    def _steps(self, encoder: Shares, llm: Shares) -> tuple[dict[int, MergeStep], dict[int, MergeStep]]:
        if self.keep is None:
            return {k: self._step(v) for k, v in encoder.items()}, {k: self._step(v) for k, v in llm.items()}
        shares, left, steps = to_budget(self.keep, encoder, llm, self.encoder_share), 1.0, []
        for share in shares:
            left *= share
            steps.append(self._step(share, left))
        for number in reversed(range(len(steps))):
            if shares[number] < 1:
                # The last step ends exactly at the budget, regardless of rounding in the product.
                steps[number] = self._step(shares[number], self.keep)
                break
        return (
            dict(zip(encoder, steps[: len(encoder)], strict=True)),
            dict(zip(llm, steps[len(encoder) :], strict=True)),
        )

    def _step(self, share: float, of_all: float | None = None) -> MergeStep:
        options = {**DEFAULTS, **self.experimental}
        return MergeStep(
            share,
            of_all,
            self.reduce,
            self.recycle,
            self.neighbours,
            self.similarity,
            self.score,
            options["encoder_score"],
            options["llm_score"],
            self.select,
            options["seed"],
            self.proportional in ("encoder", "both"),
            options["rotary_keep"],
            options["score_power"],
            options["sinks"],
            options["two_depths"],
            options["complexity"],
        )


def _of_what_enters(steps: Mapping[int, MergeStep]) -> dict[int, MergeStep]:
    """Steps that keep a share of the units that enter them, instead of a share of all."""
    return {k: replace(step, of_all=None) for k, step in steps.items()}
