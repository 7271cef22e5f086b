"""How many held-out questions are answered right, by kind."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..data import stream
from .batches import pack
from .model import TrainedModel
from .packing import Packed, Packer


@torch.no_grad()
def score(
    model: TrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    names: list[str],
    size: int,
    scenes: int,
    folder: Path | None,
    split: str = "val",
) -> dict[str, tuple[int, int]]:
    """Right and all answers by kind, over ``scenes`` scenes of each stream in ``names``.

    An answer is right if every one of its tokens is the likeliest after the right ones before it, which is
    when greedy decoding would write exactly that answer.
    """
    packer, device = Packer(tokenizer), model.llm.embedding.device
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name in names:
        draw = stream(name, split, 0, folder)
        for number in range(scenes):
            scene = draw(number)
            batch = pack(packer, [scene], size)
            hidden, targets = model(*batch.to(device))
            right = (model.llm.logits(hidden).argmax(-1) == targets).cpu()
            for turn, whole in zip(scene.turns, _whole_answers(batch.packed, right), strict=True):
                counts[turn.kind][0] += whole
                counts[turn.kind][1] += 1
    return {kind: (right, total) for kind, (right, total) in sorted(counts.items())}


def _whole_answers(packed: Packed, right: Tensor) -> list[bool]:
    """For each turn of one row whether all its tokens are right."""
    owners = packed.turns[packed.targets >= 0]
    return [bool(right[owners == number].all()) for number in range(1, int(owners.max()) + 1)]
