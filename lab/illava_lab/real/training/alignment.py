"""The projector's first weights in closed form: pictures of a thing near the embedding of its name."""

from __future__ import annotations

from collections.abc import Sequence
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
AT_ONCE = 50
"""Pictures that are encoded together."""


@torch.no_grad()
def align(
    model: TrainedModel, tokenizer: PreTrainedTokenizerBase, scenes: Sequence[Scene], size: int
) -> float:
    """Set the projector's weights, and return the share of ``scenes`` whose label is the nearest.

    The first layer gets random orthogonal rows on standardised features. The second is the ridge regression
    from the mean of a picture's hidden units to the mean embedding of its label's tokens (which is the first
    turn's answer), scaled so that tokens of pictures are as long as the embeddings of words.
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
    hidden = F.gelu(first(features)).mean(dim=1)
    labels = [scene.turns[0].answer for scene in scenes]
    names = sorted(set(labels))
    words = torch.stack([_embedding(model, tokenizer, name, features.device) for name in names])
    targets = words[torch.tensor([names.index(label) for label in labels], device=words.device)]
    centre, goal = hidden.mean(0), targets.mean(0)
    x, y = hidden - centre, targets - goal
    gram = x.T @ x
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    solution = torch.linalg.solve(gram + ridge, x.T @ y).T
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


def _features(model: TrainedModel, scenes: Sequence[Scene], size: int) -> torch.Tensor:
    pictures = squares([scene.picture for scene in scenes], size)
    return model.encoder(pictures.to(model.llm.embedding.device)).float()


def _embedding(
    model: TrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, device: torch.device
) -> torch.Tensor:
    ids = tokenizer(name, add_special_tokens=False)["input_ids"]
    return model.llm.embed(torch.tensor(ids, device=device)).float().mean(0)
