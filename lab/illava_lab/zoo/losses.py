"""Auxiliary losses on the encoder and on the LLM's middle layer, and their accuracies."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, rms_norm

from ..drawing.canvas import COLOURS
from .batches import Batch
from .forward import Hidden
from .questions import CLASSES, IGNORE, LONGEST, REFERENCE
from .text import MERGE

LABELS = {
    "class": len(CLASSES),
    "colour": len(COLOURS),
    "centre": len(CLASSES),
    "place": 1 + LONGEST,
    "ink": 64,
    "motion": 5,
}
# Most of an image is background and easy: a small weight keeps it from dominating the loss.
WEIGHTS = {
    name: torch.tensor([0.1] + [1.0] * (LABELS[name] - 1)) for name in ("class", "centre", "place", "motion")
}
INK_WEIGHT = 5.0
ELSEWHERE = 4.0  # how many things the rest of a prompt weighs in the counting head
Right = dict[str, list[bool]]  # name -> whether each prediction is right


class Heads(nn.Module):
    """Two linear maps from ``width``: to what a place shows, and to what a mention in a question means.

    They start at zero.
    """

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, sum(LABELS.values()))
        self.references = nn.Linear(width, sum(REFERENCE.values()))
        with torch.no_grad():
            for weight in self.parameters():
                weight.zero_()

    def dense_logits(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return (batch, units, classes) logits per dense label from (batch, units, width) features."""
        parts = self.dense(features).split(list(LABELS.values()), dim=-1)
        return dict(zip(LABELS, parts, strict=True))

    def dense_loss(
        self, features: torch.Tensor, labels: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of the losses for the dense ``labels``, and each loss."""
        logits = self.dense_logits(features)
        losses = {"ink": INK_WEIGHT * binary_cross_entropy_with_logits(logits.pop("ink"), labels["ink"])}
        for label, part in logits.items():
            losses[label] = cross_entropy(
                part.flatten(0, 1), labels[label].flatten(), WEIGHTS.get(label), ignore_index=IGNORE
            )
        # A label that no place of the batch has gives NaN: a page may be without things.
        known = {label: part for label, part in losses.items() if not part.isnan()}
        total = sum(known.values(), start=features.new_zeros(()))
        return total, {label: part.item() for label, part in known.items()}

    def reference_loss(self, middle: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of predicting, from the LLM's middle layer, what mentions mean and where visual tokens
        are.

        At the end of every mention, it predicts the number of things, their places and what they are. Without
        the part for visual tokens, left and right are not learnt, because the encoder's features do not
        contain absolute positions.
        """
        row, place, *truths = batch.mentions.T
        losses = [
            cross_entropy(logits, truth, ignore_index=IGNORE)
            for logits, truth in zip(self._refer(middle[row, place]).values(), truths, strict=True)
            if (truth != IGNORE).any()
        ]
        losses += [cross_entropy(logits, truth) for _, logits, truth in self._places(middle, batch)]
        return sum(losses, start=middle.new_zeros(()))

    def _places(self, middle: torch.Tensor, batch: Batch) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Logits and truth, by name, of the row and the column of every visual token.

        And, where there are several, of the picture (or, in a video, the pair of frames) that it belongs to.
        """
        logits = self._refer(middle[:, batch.visual].flatten(0, 1))
        side = int((batch.pixels.shape[1] // MERGE**2) ** 0.5)
        where = torch.arange(side**2).repeat(len(batch.visual) // side**2)
        y, x = batch.corners.T[..., None]
        yield "row", logits["row"], (where // side + y).flatten()
        yield "column", logits["column"], (where % side + x).flatten()
        if len(batch.visual) > side**2:
            yield "picture", logits["picture"], (where // side**2 + 0 * y).flatten()

    def _refer(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits by the names in ``REFERENCE``, of (N, width) hidden states."""
        parts = self.references(rms_norm(hidden, hidden.shape[-1:])).split(list(REFERENCE.values()), -1)
        return dict(zip(REFERENCE, parts, strict=True))

    def score_dense(self, right: Right, features: torch.Tensor, labels: dict[str, torch.Tensor]) -> None:
        """Add to ``right``, for each unit, whether the likeliest dense label is right."""
        for label, logits in self.dense_logits(features).items():
            if label == "ink":
                hits = ((logits > 0) == (labels["ink"] > 0.5)).flatten()
            else:
                # Most places are background and most things stand still; their accuracy is not informative.
                known = labels[label] > (-1 if label == "colour" else 0)
                hits = (logits.argmax(-1) == labels[label])[known]
            right.setdefault(f"dense {label}", []).extend(hits.tolist())

    def score_middle(self, right: Right, hidden: Hidden, batch: Batch) -> None:
        """Add to ``right`` whether mentions attend to, and predict, what they refer to."""
        _, middle, looks, _ = hidden
        known = batch.seen.sum(-1) > 0
        hits = batch.seen[known].gather(1, looks[known].argmax(-1, keepdim=True)) > 0
        right.setdefault("mention seen", []).extend(hits.flatten().tolist())
        for name, logits, truth in self._places(middle, batch):
            right.setdefault(f"place {name}", []).extend((logits.argmax(-1) == truth).tolist())
        row, place, *answers = batch.mentions.T
        for (name, logits), truth in zip(self._refer(middle[row, place]).items(), answers, strict=True):
            hits = (logits.argmax(-1) == truth)[truth != IGNORE]
            right.setdefault(f"mention {name}", []).extend(hits.tolist())


def pointing_loss(looks: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence from ``seen`` of where a head looks among the visual tokens, (M, V) logits.

    From the answers alone, learning what a mention refers to takes thousands of questions; with this loss,
    the first head of the layer before the middle learns it in a few hundred. Rows of ``seen`` that are all 0
    do not count.
    """
    known = seen.sum(-1) > 0
    if not known.any():
        return looks.new_zeros(())
    entropy = torch.special.entr(seen[known]).sum(-1).mean()
    return cross_entropy(looks[known], seen[known]) - entropy


def tally_loss(tally: torch.Tensor, mentions: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of a head's attention from the shares that tell a number.

    Attention sees proportions: of n things that are meant each is to get 1 / (n + ELSEWHERE), all that is
    not visual the rest, so that what the head brings along grows with n.

    Args:
        tally: (M, V + 1) logarithms of the attention to visual tokens and to all else.
        mentions, seen: as in :class:`~illava_lab.zoo.batches.Batch`; mentions without a count do not count.
    """
    counts = mentions[:, 2 + list(REFERENCE).index("count")]
    known = counts != IGNORE
    if not known.any():
        return tally.new_zeros(())
    share = counts[known, None] / (counts[known, None] + ELSEWHERE)
    wanted = torch.cat([share * seen[known], 1 - share], dim=1)
    return (torch.xlogy(wanted, wanted) - wanted * tally[known]).sum(-1).mean()
