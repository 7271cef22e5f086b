"""The projector's second layer, changed in closed form so that tokens of text are near their characters.

The LLM knows how words are spelt from tokens of single characters; from there it has less to learn. What
photographs become must not change, as the LLM has learnt to read it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .encoder import Encoder
from .model import Projector, TrainedModel
from .reading import CHARACTERS, NOTHING, Lessons, lost

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RIDGE = 0.001
"""Of the change, in units of the mean diagonal of the hidden units' second moments."""

FITTED = 8
"""Lessons on which the fit is measured."""


class Spelt(NamedTuple):
    """How well the change does on the pictures that it was fitted to."""

    named: float
    """The share of patches of one character whose nearest character embedding is that of theirs."""
    moved: float
    """How far tokens of photographs moved, as a share of their variance."""


@torch.no_grad()
def spell(
    model: TrainedModel, before: Encoder, tokenizer: PreTrainedTokenizerBase, lessons: Lessons, count: int
) -> Spelt:
    """Change the second layer by a ridge regression on the first ``count`` lessons.

    A patch with characters is to become the mean embedding of these, every other patch what the projector
    made of it with ``before``, the encoder as it was. Both kinds have the same weight.
    """
    letters, old = _letters(model, tokenizer), deepcopy(model.projector)
    sums = _Sums(model.projector)
    for number in range(count):
        pages, labels, photos = (tensor.to(letters.device) for tensor in lessons[number])
        shown = labels != NOTHING
        there = shown.any(-1)
        table = torch.cat([letters, torch.zeros_like(letters[:1])])
        spelt = table[labels].sum(-2) / shown.sum(-1, keepdim=True).clamp_min(1)
        features, was = model.encoder(pages), old(before(pages).float())
        sums.add(features[there], spelt[there], text=True)
        sums.add(features[~there], was[~there], text=False)
        sums.add(model.encoder(photos).flatten(0, 1), old(before(photos).float()).flatten(0, 1), text=False)
    change = sums.solved()
    second = model.projector.linear_2
    second.weight.add_(change[:-1].T)
    second.bias.add_(change[-1])
    return _fit(model, old, before, letters, lessons, min(count, FITTED))


@torch.no_grad()
def _fit(
    model: TrainedModel, old: Projector, before: Encoder, letters: Tensor, lessons: Lessons, count: int
) -> Spelt:
    hits, moved = [], []
    for number in range(count):
        pages, labels, photos = (tensor.to(letters.device) for tensor in lessons[number])
        alone = (labels[..., 0] == labels[..., 1]) & (labels[..., 0] != NOTHING)
        found = model.projector(model.encoder(pages)[alone].float())
        hits.append(torch.cdist(found, letters).argmin(-1) == labels[..., 0][alone])
        moved.append(lost(model.projector(model.encoder(photos).float()), old(before(photos).float())))
    return Spelt(float(torch.cat(hits).float().mean()), float(torch.stack(moved).mean()))


class _Sums:
    """What a ridge regression of the second layer's residuals needs, by kind of patch."""

    def __init__(self, projector: Projector):
        self._projector = projector
        inputs, outputs = projector.linear_2.in_features + 1, projector.linear_2.out_features
        self._gram = torch.zeros(2, inputs, inputs, dtype=torch.float64)
        self._cross = torch.zeros(2, inputs, outputs, dtype=torch.float64)
        self._count = [0, 0]

    def add(self, features: Tensor, wanted: Tensor, text: bool) -> None:
        """(N, width) features and the (N, D) tokens that they are to become."""
        units = F.gelu(self._projector.linear_1(features.float()))
        x = torch.cat([units, torch.ones_like(units[:, :1])], dim=1)
        self._gram[int(text)] += (x.T @ x).double().cpu()
        self._cross[int(text)] += (x.T @ (wanted - self._projector.linear_2(units))).double().cpu()
        self._count[text] += len(units)

    def solved(self) -> Tensor:
        """(hidden + 1, D): the change of the weight, transposed, and in the last row that of the bias."""
        count = torch.tensor(self._count, dtype=torch.float64).clamp_min(1)[:, None, None]
        gram, cross = ((part / count).sum(0) for part in (self._gram, self._cross))
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        return torch.linalg.solve(gram + ridge, cross).to(self._projector.linear_2.weight)


def _letters(model: TrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in CHARACTERS]
    device = model.llm.embedding.device
    return torch.stack([model.llm.embed(torch.tensor(one, device=device)).float().mean(0) for one in ids])
