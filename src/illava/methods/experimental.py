"""Options of :class:`~illava.Illava` that neither its published schedules nor ``Illava.best`` set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from .budgets import check_calibration
from .checks import check_choice, check_count
from .encoder_scores import ENCODER_SCORES, SINKS
from .merge_step import LLM_SCORES

DEFAULTS: dict[str, Any] = {
    "encoder_score": "attention",
    "llm_score": "last",
    "placement": "own",
    "positions": "original",
    "rotary_keep": 0.0,
    "seed": 0,
    "score_power": 1.0,
    "sinks": None,
    "two_depths": 0.0,
    "complexity": None,
    "units": "whole",
}


class Experimental(Mapping[str, Any]):
    """A frozen, hashable mapping of experimental options; options at their default are omitted.

    Equal to any mapping with the same items.

    Args:
        values: any of

            * ``encoder_score``: the score of encoder units: the "attention" received (default), "own_row"
              (the log-sum-exp of a token's query row), "rarity" (one minus the mean cosine similarity to all
              units of the image), the "norm" of the hidden state, the norm of its "change" by the attention
              of this block alone, before its MLP and without other blocks, cues of the "pixels" themselves
              (:mod:`illava.ops.pixels`), "attention+pixels", or "none": all units score 1, so that
              ``select="diverse"`` or "coverage" alone decides. "size" is the number of units n that were
              merged into a unit before, with ``reduce="fold"``: times the distance d it approximates the
              cost of merging two units, n_i n_j / (n_i + n_j) d^2 (Ward, 1963).
            * ``llm_score``: the attention of the "last" prompt token (default), the mean over all "text"
              after the first image, "own_row", of a token's own causal query row, or "value", the similarity
              of value vectors to those of the text: :func:`illava.ops.value_scores.value_scores`.
            * ``placement``: the placeholders at which survivors of the encoder enter the LLM: their "own"
              (default), or the "first" ones of each segment.
            * ``positions``: position ids in the LLM: "original" (default), or "compact", without gaps.
            * ``rotary_keep``: share of a run of visual tokens, in [0, 1): an LLM step keeps so many at the
              positions with the largest mean cosine of their rotary table, and so many with the largest mean
              sine, before all others. Default 0.
            * ``seed``: random seed of ``select="random"``. Default 0.
            * ``score_power``: power of the scores in ``select="diverse"`` and "coverage", in [0, 10].
              Default 1.
            * ``sinks``: encoder units with outlying norms, which attract attention whatever they show: "keep"
              ranks them before all others, "discount" after them. Default None: neither.
            * ``two_depths``: share of an encoder step's survivors, in [0, 1), that clusters select: of each
              of 4 clusters of the units that ``select`` leaves, those least similar to the others of it,
              both at the step and at half its depth: :func:`illava.ops.two_depths.two_depths_ranking`.
              SPIDER's share is 0.3. Default 0.
            * ``complexity``: (reference, slope): each picture, tile or frame has a budget of its own,
              ``keep`` times :func:`illava.methods.budgets.budget_factor` of its complexity, the median
              entropy of its patches. :func:`illava.evaluation.complexity.calibration_of` measures both
              numbers on pictures, whose mean budget is then ``keep``. LLM steps keep a share of what enters
              them. Encoders that batch pictures or tiles refuse those with different budgets. Default None:
              equal budgets.
            * ``units``: what is ranked in the encoder: "whole" units (default), or single "patches", see
              :mod:`illava.methods.single_patches`.

    Raises ValueError for unknown names and values out of range.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        if values is not None and not isinstance(values, Mapping):
            raise ValueError(f"experimental must be a mapping of options to values, got {values!r}")
        given = dict(values or {})
        if "proportional" in given:
            raise ValueError("proportional is a parameter of its own: write Illava(proportional=...)")
        if unknown := sorted(str(name) for name in given if name not in DEFAULTS):
            raise ValueError(
                f"experimental has no option {', '.join(unknown)}; its options are {', '.join(DEFAULTS)}"
            )
        options = {**DEFAULTS, **given}
        check_choice("encoder_score", options["encoder_score"], ENCODER_SCORES)
        check_choice("llm_score", options["llm_score"], LLM_SCORES)
        check_choice("placement", options["placement"], ("own", "first"))
        check_choice("positions", options["positions"], ("original", "compact"))
        check_choice("units", options["units"], ("whole", "patches"))
        for name in ("rotary_keep", "two_depths"):
            share = options[name]
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {share!r}")
        if options["units"] == "patches" and options["encoder_score"] not in ("attention", "own_row"):
            raise ValueError(
                "units='patches' ranks by attention or own_row, got encoder_score="
                f"{options['encoder_score']!r}"
            )
        check_count("seed", options["seed"], most=2**63 - 1)
        if options["sinks"] is not None:
            check_choice("sinks", options["sinks"], SINKS)
        if options["complexity"] is not None:
            options["complexity"] = check_calibration(options["complexity"])
        options["score_power"] = _power(options["score_power"])
        self._values = {name: value for name, value in options.items() if value != DEFAULTS[name]}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


def _power(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 10:
        raise ValueError(f"score_power must lie in [0, 10], got {value!r}")
    return float(value)
