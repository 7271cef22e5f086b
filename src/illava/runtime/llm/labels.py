"""Labels of a prompt whose tokens become fewer: the loss is over the tokens that are left.

A model calls its language model before it reads its labels. So the model is given a copy of them, which is
replaced in place by the labels of the remaining tokens when the language model returns. Any loss that the
forward computes afterwards then has labels and logits of one length: transformers' own, or that of a forward
which a trainer has put in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...compat import argument_names
from ...errors import UnsupportedError
from .prefill import Sequence

IGNORED = -100
"""The label of tokens without a loss, as in transformers."""


class Labels:
    """The labels of one call of the outer model: the copy that it reads."""

    def __init__(self, given: Tensor) -> None:
        """``given``: (B, L) int64, which is never modified."""
        self.passed = given.clone()

    @torch.compiler.disable
    def align(self, sequence: Sequence) -> None:
        """Replace the labels that the model reads, (B, L), by those of the tokens of ``sequence``, (B, n)."""
        self.passed.set_(aligned(self.passed, sequence.columns, IGNORED, first=IGNORED))  # type: ignore[call-overload]


def aligned(values: Tensor, columns: Tensor, fill: float, first: float | None = None) -> Tensor:
    """(B, L, ...) values of the tokens of the full prompt to (B, n, ...) values of those that are left.

    Args:
        columns: (B, n) int64 column of each remaining token in the full prompt, -1 for padding and filler.
        fill: the value of padding and filler.
        first: the value of a row's first token if padding or filler stands before it; None: its own. The loss
            of a token is computed from the logits of the one before it, and no prediction is made by filler.
    """
    columns = columns.to(values.device)
    real = columns >= 0
    batch = torch.arange(len(columns), device=values.device)[:, None]
    taken = values[batch, columns.clamp(min=0)]
    taken = taken.masked_fill(~real.reshape(*real.shape, *[1] * (taken.dim() - 2)), fill)
    if first is None:
        return taken
    starts = real & (real.cumsum(1) == 1)
    starts[:, :1] = False
    return taken.masked_fill(starts, first)


def with_labels(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], labels: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of ``module`` with other ``labels``."""
    if "labels" in kwargs:
        return args, {**kwargs, "labels": labels}
    place = argument_names(module).index("labels")
    return (*args[:place], labels, *args[place + 1 :]), dict(kwargs)


def check_labels(labelled: Tensor, real: Tensor) -> None:
    """Raise UnsupportedError if padding has labels, which has no logits of its own.

    Args:
        labelled: (B, L) bool: which tokens have a label other than -100.
        real: (B, L) bool: which tokens are not padding.
    """
    count = int((labelled & ~real).sum())
    if count:
        raise UnsupportedError(
            f"labels: {count} padding tokens have a label, but no logits; set "
            "labels[attention_mask == 0] = -100"
        )


def prompt_ends(labelled: Tensor, visual: Tensor, last: Tensor) -> Tensor:
    """(B,) int64: the column of the last prompt token of each row, which is followed by an answer.

    When the model answers, the last token of the prompt scores the visual tokens. So in training it is the
    token before the first label after the last visual token, and not the last token of the answer. Rows whose
    labels do not tell where the prompt ends have ``last``: those without labels after the last visual token,
    and those with a label right after it.

    Args:
        labelled: (B, L) bool: which tokens have a label other than -100.
        visual: (B, L) bool: which tokens are placeholders of pictures and videos.
        last: (B,) int64 column of the last token that is not padding.
    """
    columns = torch.arange(labelled.shape[1], device=labelled.device)
    picture = columns.where(visual, -1).amax(1)
    answer = labelled & (columns > picture[:, None])
    before = answer.int().argmax(1) - 1
    return before.where(answer.any(1) & (before > picture), last)
