"""The projector's first weights in closed form: tokens of a thing near its name, moved by where they are.

From labels alone a token would tell hardly anything of its place, and nothing that depends on places is
learnt for a long time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from ..data import Scene
from .encoder import squares
from .model import TrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RIDGE = 0.01
"""Added to the diagonal of the hidden units' covariance, in units of its mean."""
PLACES = 0.3
"""The weight of a token's place against its label."""
AXES = ((" top", " bottom"), (" left", " right"))
"""The words at the ends of the vertical and the horizontal axis."""
AT_ONCE = 50
"""Pictures that are encoded together."""


class Fit(NamedTuple):
    """How well the closed form does on the photographs that it was fitted to."""

    named: float
    """The share of photographs whose label is the nearest to their mean token."""
    down: float
    """Correlation of a token's place with what the token has of the words at the ends of that axis."""
    across: float


@torch.no_grad()
def align(model: TrainedModel, tokenizer: PreTrainedTokenizerBase, scenes: Sequence[Scene], size: int) -> Fit:
    """Set the projector's weights in closed form.

    The first layer gets random orthogonal rows on standardised features. The second is one ridge regression
    for two things: from the mean of a picture's hidden units to the mean embedding of its label's tokens
    (which is the first turn's answer), and from a patch's difference to that mean to the difference of the
    words at the ends of each axis, times how far the patch is from the middle, -0.5 to 0.5. It is scaled so
    that tokens of pictures are as long as the embeddings of words.
    """
    projector = model.projector
    features = torch.cat(
        [_features(model, scenes[i : i + AT_ONCE], size) for i in range(0, len(scenes), AT_ONCE)]
    )
    std, mean = torch.std_mean(features, dim=(0, 1))
    first = projector.linear_1
    torch.nn.init.orthogonal_(first.weight)
    first.weight.mul_(1 / std)
    first.bias.copy_(-first.weight @ mean + 0.5 * torch.randn_like(first.bias))
    units = F.gelu(first(features))
    hidden = units.mean(dim=1)
    labels = [scene.turns[0].answer for scene in scenes]
    names = sorted(set(labels))
    words = torch.stack([_embedding(model, tokenizer, name, features.device) for name in names])
    targets = words[torch.tensor([names.index(label) for label in labels], device=words.device)]
    centre, goal = hidden.mean(0), targets.mean(0)
    x, y = hidden - centre, targets - goal
    apart, weight = units - hidden[:, None], PLACES / features.shape[1]
    gram = x.T @ x + weight * apart.flatten(0, 1).T @ apart.flatten(0, 1)
    steps, axes = _steps(features.shape[1]).to(features.device), _axes(model, tokenizer, features.device)
    wanted = x.T @ y + weight * apart.sum(0).T @ (steps.T @ axes)
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    solution = torch.linalg.solve(gram + ridge, wanted).T
    second = projector.linear_2
    second.weight.copy_(solution)
    second.bias.copy_(goal - solution @ centre)
    found = (second(hidden) - goal) @ (words - goal).T - 0.5 * (words - goal).square().sum(1)
    right = sum(names[i] == label for i, label in zip(found.argmax(1).tolist(), labels, strict=True))
    tokens = second(units)
    moved = (tokens - tokens.mean(1, keepdim=True)) @ axes.T
    down, across = (
        torch.corrcoef(torch.stack([found.flatten(), step.repeat(len(scenes))]))[0, 1].item()
        for found, step in zip(moved.unbind(-1), steps, strict=True)
    )
    scale = model.llm.embedding.float().norm(dim=1).mean() / tokens.norm(dim=-1).mean()
    second.weight.mul_(scale)
    second.bias.mul_(scale)
    return Fit(right / len(labels), down, across)


def _steps(count: int) -> torch.Tensor:
    """(2, count): how far the patches of a square are below and right of its middle, -0.5 to 0.5."""
    side = isqrt(count)
    steps = (torch.arange(side) + 0.5) / side - 0.5
    return torch.stack([steps.repeat_interleave(side), steps.repeat(side)])


def _axes(model: TrainedModel, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> torch.Tensor:
    """(2, D): from the word at the start of each axis to the word at its end."""
    ends = [[_embedding(model, tokenizer, word, device) for word in axis] for axis in AXES]
    return torch.stack([end - start for start, end in ends])


def _features(model: TrainedModel, scenes: Sequence[Scene], size: int) -> torch.Tensor:
    pictures = squares([scene.picture for scene in scenes], size)
    return model.encoder(pictures.to(model.llm.embedding.device)).float()


def _embedding(
    model: TrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, device: torch.device
) -> torch.Tensor:
    ids = tokenizer(name, add_special_tokens=False)["input_ids"]
    return model.llm.embed(torch.tensor(ids, device=device)).float().mean(0)
