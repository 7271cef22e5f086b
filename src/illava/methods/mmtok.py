"""MMTok: keep the visual tokens that cover the picture and the question (arXiv 2508.18264).

Each token of the question, and each visual token, is a row of similarities to the visual tokens, a softmax of
cosines. A row is covered by its largest similarity to a selected token. Repeatedly the token is selected that
increases the coverage of all rows together most; rows of visual tokens count half. No attention is needed, so
the method runs before layer 0 of the LLM. Dropped tokens are dropped.

Where the specification leaves a choice:

* All vectors are those that enter layer 0: the embeddings of the text and the projected features. The
  similarities of text tokens are cosines as well.
* The text is that of the prompt after its last picture: the question, and what the chat template puts around
  it. Text that was generated is none of it. Each run of visual tokens is covered on its own, by the same
  text; tokens that a family inserts among those of a picture (OneVision's newlines) are candidates as well.
* Cosines are whole multiples of 2^-14 and similarities of 2^-24, so that gains are sums of whole numbers:
  copies of a token are equal on every device and in every batch, and of equal gains the earlier token is
  selected.
* In runs of more than 4,096 tokens, only some of them, evenly spaced, are rows:
  :func:`illava.ops.coverage.covered_units`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.coverage import RESOLUTION, covered_units, covering_ranking, whole_cosines
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from ..ops.transfers import upload
from .after_encoder import ranked, survivors, take
from .base import Method
from .checks import check_share
from .steps import AttentionSource, LlmStep, Plan, Units

DEFAULT_KEEP = 1 / 9
"""64 of LLaVA-1.5's 576."""
PICTURE_TEMPERATURE, TEXT_TEMPERATURE = 0.2, 0.01
PICTURE_WEIGHT, TEXT_WEIGHT = 1, 2
"""Whole numbers in the published proportion, 0.5 to 1."""
WHOLE = 2**24
"""Similarities are multiples of 1 / WHOLE."""


@dataclass(frozen=True)
class MMTok(Method):
    """Choose the visual tokens that best cover the picture and the question, before the LLM ("MMTok:
    Multimodal Coverage Maximization for Efficient Inference of VLMs", arXiv 2508.18264).

    Args:
        keep: share of each run of visual tokens that is kept, in (0, 1]. None: 1/9, 64 of 576.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "mmtok"

    keep: float | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        return Plan(llm={0: CoveringStep(DEFAULT_KEEP if self.keep is None else self.keep)})


@dataclass(frozen=True)
class CoveringStep(LlmStep):
    """The selection among the embeddings of visual tokens."""

    attention_source: ClassVar[AttentionSource] = "nothing"

    keep: float

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def reduce(self, units: Units) -> MergedSegments | None:
        counts = units.counts(self.keep)
        if counts == units.lengths:
            return None
        segment = upload(
            torch.arange(len(counts)).repeat_interleave(torch.tensor(units.lengths)), units.vectors.device
        )
        reducer = partial(_reduce, *question(units))
        return reduce_segments(reducer, units.lengths, counts, units.vectors, segment)


def question(units: Units) -> tuple[Tensor, Tensor]:
    """The text after the last picture of the prompt, for each segment.

    Returns its embeddings and others, (S, w, D), and which of them are text of the question, (S, w) bool. The
    width w is an upper bound that the host knows, so that it does not wait for the device.
    """
    tokens = units.tokens
    assert tokens is not None
    batch, width = tokens.runs.shape
    index = torch.arange(width, device=tokens.runs.device)
    last_visual = index.where(tokens.runs >= 0, -1).amax(1, keepdim=True)
    # Without a cache, generated tokens follow the prompt.
    asked = tokens.text & (index > last_visual) & (index <= tokens.last[:, None])
    most = width - (sum(units.full) if batch == 1 else min(filter(None, units.full)))
    at = asked.int().argsort(dim=1, stable=True)[:, width - most :]
    rows, _ = units.ends
    return take(tokens.hidden, at)[rows], asked.gather(1, at)[rows]


def _reduce(text: Tensor, asked: Tensor, p: int, units: Tensor, segment: Tensor) -> Merged:
    """:func:`keep_covering` with the text of these segments."""
    return keep_covering(p, units, text[segment[:, 0]], asked[segment[:, 0]])


@captured
def keep_covering(p: int, units: Tensor, text: Tensor, asked: Tensor) -> Merged:
    """Keep p of (S, n, D) units, unchanged, by :func:`covering_order`; 1 <= p < n."""
    kept = ranked(covering_order(p, units, text, asked))[:, :p]
    return survivors(units, kept, kept[:, :0])


def covering_order(p: int, units: Tensor, text: Tensor, asked: Tensor) -> Tensor:
    """Rank units by how much better each covers the units and the text, given those selected before it.

    Args:
        p: number of units to rank, 1 <= p <= n.
        units: (S, n, D), any floating dtype.
        text: (S, w, D), of which those that are ``asked``, (S, w) bool, are covered.

    Returns (S, n) fp32: n for the first unit, n - 1 for the second, and so on; 0 for the others.
    """
    covered = covered_units(units.shape[1], units.device)
    rows = torch.cat(
        [
            _similarities(text, units, TEXT_TEMPERATURE),
            _similarities(units[:, covered], units, PICTURE_TEMPERATURE),
        ],
        1,
    )
    weights = torch.cat(
        [TEXT_WEIGHT * asked.long(), rows.new_full((len(units), len(covered)), PICTURE_WEIGHT)], 1
    )
    return covering_ranking(rows, weights, p)


def _similarities(rows: Tensor, units: Tensor, temperature: float) -> Tensor:
    """(S, m, D) and (S, n, D) to (S, m, n) int64: softmax over the units of cosine / temperature, in whole
    multiples of 1 / WHOLE."""
    logits = whole_cosines(rows, units) / (RESOLUTION * temperature)
    return logits.softmax(-1).mul_(WHOLE).round_().long()
