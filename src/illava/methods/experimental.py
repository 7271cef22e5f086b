"""Options of :class:`~illava.Illava` that neither its published schedules nor ``Illava.best`` set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from .checks import check_choice, check_count
from .encoder_scores import ENCODER_SCORES, SINKS
from .merge_step import LLM_SCORES

DEFAULTS: dict[str, Any] = {
    "encoder_score": "attention",
    "llm_score": "last",
    "positions": "original",
    "proportional": False,
    "seed": 0,
    "score_power": 1.0,
    "sinks": None,
}


class Experimental(Mapping[str, Any]):
    """A frozen, hashable mapping of experimental options; options at their default are omitted.

    Equal to any mapping with the same items.

    Args:
        values: any of

            * ``encoder_score``: the score of encoder units: the "attention" received (default), "rarity" (one
              minus the mean cosine similarity to all units of the image), the "norm" of the hidden state,
              the norm of its "change" by the attention of the block, cues of the "pixels" themselves
              (:mod:`illava.ops.pixels`), "attention+pixels", or "none": all units score 1, so that
              ``select="diverse"`` or "coverage" alone decides. "size" is the number of units that were merged
              into a unit before, with ``reduce="fold"``: times the distance it is the cost of merging the
              unit (Ward, 1963).
            * ``llm_score``: the attention of the "last" prompt token (default), or the mean over all "text"
              after the first image.
            * ``positions``: position ids in the LLM: "original" (default), or "compact", without gaps.
            * ``proportional``: whether later encoder blocks add the logarithm of the number of merged units
              to the attention logits of a unit as a key (SDPA or eager attention in the encoder). Default
              False.
            * ``seed``: random seed of ``select="random"``. Default 0.
            * ``score_power``: power of the scores in ``select="diverse"`` and "coverage", in [0, 10].
              Default 1.
            * ``sinks``: encoder units with outlying norms, which attract attention whatever they show: "keep"
              ranks them before all others, "discount" after them. Default None: neither.

    Raises ValueError for unknown names and values out of range.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        if values is not None and not isinstance(values, Mapping):
            raise ValueError(f"experimental must be a mapping of options to values, got {values!r}")
        given = dict(values or {})
        if unknown := sorted(str(name) for name in given if name not in DEFAULTS):
            raise ValueError(
                f"experimental has no option {', '.join(unknown)}; its options are {', '.join(DEFAULTS)}"
            )
        options = {**DEFAULTS, **given}
        check_choice("encoder_score", options["encoder_score"], ENCODER_SCORES)
        check_choice("llm_score", options["llm_score"], LLM_SCORES)
        check_choice("positions", options["positions"], ("original", "compact"))
        if not isinstance(options["proportional"], bool):
            raise ValueError(f"proportional must be True or False, got {options['proportional']!r}")
        check_count("seed", options["seed"], most=2**63 - 1)
        if options["sinks"] is not None:
            check_choice("sinks", options["sinks"], SINKS)
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
