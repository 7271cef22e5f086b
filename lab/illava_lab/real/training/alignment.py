"""The projector's first weights in closed form: tokens of a thing near its name, moved by where they are.

From labels alone a token would tell hardly anything of its place, and nothing that depends on places is
learnt for a long time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING

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
"""The weight of a token's place against its label: the labels of held-out photographs are named no worse than
without it, and places are read with a correlation of 0.9."""
AXES = ((" top", " bottom"), (" left", " right"))
"""The words at the ends of the vertical and the horizontal axis."""
AT_ONCE = 50
"""Pictures that are encoded together."""


@torch.no_grad()
def align(
    model: TrainedModel, tokenizer: PreTrainedTokenizerBase, scenes: Sequence[Scene], size: int
) -> float:
    """Set the projector's weights, and return the share of ``scenes`` whose label is the nearest.

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
    flat = features.flatten(0, 1)
    std, mean = torch.std_mean(flat, dim=0)
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
    places = _places(model, tokenizer, features.shape[1], features.device)
    wanted = x.T @ y + weight * apart.sum(0).T @ places
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    solution = torch.linalg.solve(gram + ridge, wanted).T
    second = projector.linear_2
    second.weight.copy_(solution)
    second.bias.copy_(goal - solution @ centre)
    found = (second(hidden) - goal) @ (words - goal).T - 0.5 * (words - goal).square().sum(1)
    right = sum(names[i] == label for i, label in zip(found.argmax(1).tolist(), labels, strict=True))
    tokens = second(F.gelu(first(flat)))
    scale = model.llm.embedding.float().norm(dim=1).mean() / tokens.norm(dim=1).mean()
    second.weight.mul_(scale)
    second.bias.mul_(scale)
    return right / len(labels)


def _places(
    model: TrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, device: torch.device
) -> torch.Tensor:
    """(count, D): what the place of each patch of a square adds to its token."""
    side = isqrt(count)
    steps = (torch.arange(side, device=device) + 0.5) / side - 0.5
    along = steps.repeat_interleave(side), steps.repeat(side)
    ends = [[_embedding(model, tokenizer, word, device) for word in axis] for axis in AXES]
    return sum(step[:, None] * (end - start) for step, (start, end) in zip(along, ends, strict=True))


def _features(model: TrainedModel, scenes: Sequence[Scene], size: int) -> torch.Tensor:
    pictures = squares([scene.picture for scene in scenes], size)
    return model.encoder(pictures.to(model.llm.embedding.device)).float()


def _embedding(
    model: TrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, device: torch.device
) -> torch.Tensor:
    ids = tokenizer(name, add_special_tokens=False)["input_ids"]
    return model.llm.embed(torch.tensor(ids, device=device)).float().mean(0)
