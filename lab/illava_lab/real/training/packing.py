"""Several questions behind one picture in one sequence, which a block mask keeps apart.

A row is ``<|im_start|>user\\n``, the picture's tokens, then for each turn its question, the answer's opening
and the answer. A turn attends to the picture and to itself, at the positions it would have alone, so a row
computes what as many prompts of one turn each would compute, and the picture is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..data.scene import Scene, Turn

IMAGE = -1
"""Stands for a picture's token in ``Packed.tokens``."""
OPENING, ASKED, ANSWERED = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"


@dataclass(frozen=True)
class Packed:
    """A batch of scenes. B rows of T tokens, padded at the end."""

    tokens: Tensor
    """(B, T) int64 ids; IMAGE for pictures' tokens, 0 for padding."""
    positions: Tensor
    """(B, T) int64."""
    turns: Tensor
    """(B, T) int64 the turn of each token, from 1; 0 for the opening and the picture, -1 for padding."""
    targets: Tensor
    """(B, T) int64 the id that the token is to predict; -1 where nothing is learnt."""
    wanted: Tensor
    """(N,) int64 the places in the flattened ``targets`` where something is learnt, in order."""
    picture: int
    """The place in a row of the picture's first token, the same in all rows."""

    def mask(self) -> Tensor:
        """(B, T, T) bool: whether a row attends to a column. Padding attends to itself, not to nothing."""
        rows, columns = self.turns[:, :, None], self.turns[:, None, :]
        causal = torch.ones(self.turns.shape[1], self.turns.shape[1], device=self.turns.device).tril().bool()
        return causal & ((columns == 0) | (rows == columns))

    def to(self, device: torch.device | str) -> Packed:
        """The same on another device; from pinned memory without waiting for what the device still does."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Packed:
        """The same in pinned memory; ``DataLoader`` calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Packed:
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return Packed(*(move(value) if isinstance(value, Tensor) else value for value in values))


class Packer:
    """Scenes to token sequences; ``visual`` is the number of tokens of a picture."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._opening = self._ids(OPENING)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def __call__(self, scenes: Sequence[Scene], visual: int) -> Packed:
        """Pack one row for each scene."""
        rows = [self._row(scene.turns, visual) for scene in scenes]
        length = max(len(row[0]) for row in rows)
        fill = (0, 0, -1, -1)
        columns = (
            [values + [empty] * (length - len(values)) for values in column]
            for column, empty in zip(zip(*rows, strict=True), fill, strict=True)
        )
        tokens, positions, turns, targets = (torch.tensor(column) for column in columns)
        wanted = (targets >= 0).flatten().nonzero().flatten()
        return Packed(tokens, positions, turns, targets, wanted, len(self._opening))

    def _row(self, turns: Sequence[Turn], visual: int) -> tuple[list[int], list[int], list[int], list[int]]:
        tokens = self._opening + [IMAGE] * visual
        start = len(tokens)
        positions, owners, targets = list(range(start)), [0] * start, [-1] * start
        for number, turn in enumerate(turns, 1):
            asked, answer = self._ids(turn.question + ASKED), self._ids(turn.answer + ANSWERED)
            tokens += asked + answer[:-1]
            length = len(asked) + len(answer) - 1
            positions += range(start, start + length)
            owners += [number] * length
            targets += [-1] * (len(asked) - 1) + answer
        return tokens, positions, owners, targets
