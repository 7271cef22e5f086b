"""The encoder stage: merge between attention and MLP, inside the blocks of the image encoder.

At a chosen block a pre-hook on the second norm replaces the block's tokens x by the merged x', a hook on
the MLP keeps its output y' and hands the block zeros that cost nothing in its place, and a hook on the
block returns x' + y'. No forward is replaced. Later blocks of a packed encoder get the rotary tables and
sequence boundaries of the survivors; a batched encoder needs neither, its tiles shrink alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..parts import ModelParts
from ..scoring import Score, column_scores, unit_scores
from .attention import AttentionTap
from .hooks import Hooks, refuse_checkpointing
from .once import Once
from .steps import Step
from .videos import VideoCalls


@dataclass
class EncoderRun:
    """One call of the image encoder: what went in, and what is left of it so far."""

    group: int
    """Tokens per unit."""
    lengths: tuple[int, ...]
    """Units of each segment that are left."""
    grid: Tensor | None = None
    """(pictures, 3) frames, rows and columns in tokens, for packed encoders."""
    video: bool = False
    """Whether it is handed the frames of videos."""
    videos: Tensor | None = None
    """(videos, 3) frames, rows and columns in tokens, where given; ``grid`` may list their frames."""
    prefix: int = 0
    """Class tokens in front of each segment, which are no units."""
    order: Tensor | None = None
    """(U, g) int64: the tokens of each unit among all tokens that are in units, where they do not follow one
    another. From the first merge on the survivors stand in the order of units."""
    history: list[tuple[int, Tensor, tuple[int, ...]]] = field(default_factory=list)
    """(block, kept units as (P,) indices into all units of the run, survivors per segment) of each step."""
    boundaries: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Block -> cumulative token counts of its attention sequences without and with merging, packed only."""
    mixing: tuple[str, Callable[..., Any], list[int], tuple[Any, ...], dict[str, Any]] | None = None
    """The call that arranged the projected features: name, function, tiles a picture, other arguments."""

    def __post_init__(self) -> None:
        self.full_lengths = self.lengths
        self._once = Once()

    @property
    def kept(self) -> Tensor | None:
        """(P,) int64 indices of the surviving units among all units of the run; None if all survive."""
        return self.history[-1][1] if self.history else None

    def record(self, block: int, kept: Tensor, lengths: tuple[int, ...]) -> None:
        """``kept`` indexes the units that were left before this step."""
        before = self.kept
        self.history.append((block, kept if before is None else before.to(kept.device)[kept], lengths))
        self.lengths = lengths
        self._once.clear()

    def lengths_before(self, block: int) -> tuple[int, ...]:
        """Units of each segment that enter ``block``."""
        return next((n for at, _, n in reversed(self.history) if at < block), self.full_lengths)

    def kept_after(self, block: int) -> Tensor:
        """(P,) int64 indices, on the CPU, of the units that survive all steps up to ``block``."""
        kept = next((kept for at, kept, _ in reversed(self.history) if at <= block), None)
        return torch.arange(sum(self.full_lengths)) if kept is None else kept.cpu()

    def sequence_lengths(self, block: int, *, merged: bool) -> list[int]:
        """Tokens of each attention sequence in ``block``."""
        if block in self.boundaries:
            lengths: list[int] = self.boundaries[block][merged].diff().tolist()
            return lengths
        left = self.lengths_before(block) if merged else self.full_lengths
        return [self.prefix + n * self.group for n in left]

    def tokens(self) -> Tensor:
        """(P * g,) int64 indices of the surviving tokens, among all that are in units."""
        assert self.kept is not None
        if self.order is not None:
            return self.order.to(self.kept.device)[self.kept].flatten()
        return (self.kept[:, None] * self.group + torch.arange(self.group, device=self.kept.device)).flatten()

    def mask(self, mask: Tensor) -> Tensor:
        """(1, 1, N, N) attention mask of all tokens to that of the survivors."""
        return self._once(mask, lambda: self._at_both_ends(mask, self.tokens().to(mask.device)))

    @staticmethod
    def _at_both_ends(mask: Tensor, tokens: Tensor) -> Tensor:
        return mask[:, :, tokens][..., tokens]

    def rotary(self, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(N, ...) rotary tables of all tokens to those of the survivors."""
        return self._once(tables, lambda: tuple(table[self.tokens().to(table.device)] for table in tables))

    def sequences(self, cu_seqlens: Tensor) -> Tensor:
        """Boundaries of all tokens' attention sequences to those of the survivors, emptied ones gone."""
        return self._once(cu_seqlens, lambda: self._boundaries(cu_seqlens))

    def _boundaries(self, cu_seqlens: Tensor) -> Tensor:
        alive = torch.zeros(
            sum(self.full_lengths) * self.group + 1, dtype=torch.int64, device=cu_seqlens.device
        )
        alive[self.tokens().to(alive.device) + 1] = 1
        return alive.cumsum(0)[cu_seqlens.long()].unique_consecutive().to(cu_seqlens.dtype)


class EncoderStage:
    """Hooks on the image encoder; ``run`` is the call under way or just done."""

    def __init__(self, parts: ModelParts, steps: dict[int, Step], hooks: Hooks) -> None:
        self.parts, self.merges = parts, bool(steps)
        self.run: EncoderRun | None = None
        self.runs: list[EncoderRun] = []
        self.videos = VideoCalls(parts.base, hooks)
        hooks.pre(parts.encoder, self._start)
        first = min(steps, default=len(parts.blocks))
        if not parts.tower.packed:
            hooks.pre(parts.blocks[0], self._enter_batched)
        for index, block in enumerate(parts.blocks):
            if parts.tower.packed:
                hooks.pre(block, _bind(self._enter_block, index, index > first))
            if index in steps:
                _MergingBlock(self, index, block, steps[index], hooks)

    def take_runs(self) -> list[EncoderRun]:
        """The encoder calls since this was last asked: the last two, one of images and one of videos."""
        runs, self.runs = self.runs, []
        return runs

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.run = None
        if self.merges:
            refuse_checkpointing(self.parts.blocks[0])
        if self.parts.tower.packed:
            grid = self.parts.tower.grid(self.parts.config.vision_config, args, kwargs)
            self.begin(tuple(h * w for t, h, w in grid.tolist() for _ in range(t)), grid)

    def begin(self, tokens: tuple[int, ...], grid: Tensor | None = None) -> None:
        """Note a call over segments of that many tokens each, class tokens included."""
        tower, g = self.parts.tower, self.parts.group
        lengths = tuple((n - tower.prefix) // g for n in tokens)
        order = None
        if tower.spatial and g > 1:
            shapes = [(n * g, *self.parts.tile_shape(n * g)) for n in lengths]
            if grid is not None:
                shapes = [(h * w, h, w) for t, h, w in grid.tolist() for _ in range(t)]
            order = _spatial_units(shapes, round(g**0.5))
        self.run = EncoderRun(g, lengths, grid, *self.videos.now, tower.prefix, order)
        self.runs = [*self.runs[-1:], self.run]

    def _enter_batched(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, *rest = [*args, *kwargs.values()]
        if self.merges and any(isinstance(part, Tensor) for part in rest):
            raise UnsupportedError(
                "pictures with masked patches are not supported by the encoder stage: hand over whole tiles, "
                "as the processor makes them, or use encoder_layers=()"
            )
        self.begin((x.shape[1],) * x.shape[0])

    def _enter_block(
        self, index: int, merged: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        run = self.run
        assert run is not None
        after = merged and run.kept is not None
        kwargs = dict(kwargs)
        if "cu_seqlens" in kwargs:
            whole = kwargs["cu_seqlens"]
            kwargs["cu_seqlens"] = run.sequences(whole) if after else whole
            run.boundaries[index] = (whole, kwargs["cu_seqlens"])
        if not after:
            return None
        kwargs["position_embeddings"] = run.rotary(kwargs["position_embeddings"])
        if kwargs.get("max_seqlen") is not None:
            kwargs["max_seqlen"] = int(kwargs["cu_seqlens"].diff().max())
        # Pixtral's blocks are handed a mask that keeps the pictures apart.
        args = tuple(
            run.mask(part) if i and isinstance(part, Tensor) else part for i, part in enumerate(args)
        )
        return args, kwargs


def _spatial_units(shapes: list[tuple[int, int, int]], side: int) -> Tensor:
    """(tokens, rows, columns) of segments to (U, g) tokens of each side x side square, in raster order."""
    out, first = [], 0
    for tokens, rows, columns in shapes:
        if rows % side or columns % side or rows * columns != tokens:
            raise UnsupportedError(
                f"{rows} x {columns} patches do not divide into {side} x {side} squares; the encoder stage "
                "needs pictures that do, or encoder_layers=() for none"
            )
        places = torch.arange(tokens).view(rows // side, side, columns // side, side)
        out.append(places.transpose(1, 2).reshape(-1, side * side) + first)
        first += tokens
    return torch.cat(out)


class _MergingBlock:
    """The hooks of one block at which tokens are merged."""

    def __init__(self, stage: EncoderStage, index: int, block: nn.Module, step: Step, hooks: Hooks) -> None:
        names = stage.parts.tower
        self.stage, self.index, self.step = stage, index, step
        self.scores = ColumnScores(step.score, self._sequences)
        self.shape = torch.Size()
        self.merged: Tensor | None = None
        self.output: Tensor | None = None
        hooks.tap(AttentionTap(block.get_submodule(names.attention), self.scores))
        hooks.pre(block, self._enter, prepend=True)
        hooks.pre(block.get_submodule(names.second_norm), self._merge)
        hooks.post(block.get_submodule(names.mlp), self._keep_output)
        # Prepended: hooks that record hidden states must see what the block really returns.
        hooks.post(block, self._leave, prepend=True)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.merged = self.output = None
        self.scores.clear()

    def _sequences(self) -> list[int] | None:
        run = self.stage.run
        assert run is not None
        return None if run.grid is None else run.sequence_lengths(self.index, merged=True)

    def _merge(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (x,) = args
        run = self.stage.run
        assert run is not None
        # Packed (N, d) or (1, N, d), or batched (tiles, prefix + n, d), of which all keep equally many.
        patches, scores = x[..., run.prefix :, :], self.scores.take()
        if run.prefix:
            scores = scores.view(len(x), -1)[:, run.prefix :].flatten()
        tokens = patches.reshape(-1, x.shape[-1])
        if run.order is not None and run.kept is None:
            order = run.order.to(x.device).flatten()
            tokens, scores = tokens[order], scores[order]
        units = tokens.reshape(-1, run.group * x.shape[-1])
        step = self.step.merge(units, unit_scores(scores, run.group), run.lengths, run.full_lengths)
        if step is None:
            return None
        run.record(self.index, step.kept, step.lengths)
        survivors = step.units.reshape(*x.shape[:-2], -1, x.shape[-1])
        self.merged = torch.cat([x[..., : run.prefix, :], survivors], dim=-2) if run.prefix else survivors
        self.shape = x.shape
        return (self.merged,), kwargs

    def _keep_output(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
    ) -> Any:
        if self.merged is None:
            return None
        self.output = y
        return y.new_zeros(()).expand(self.shape)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self.merged is None or self.output is None:
            return None
        scale = self.stage.parts.tower.scale
        result = self.merged + (self.output if scale is None else scale(module, self.output))
        self.merged = self.output = None
        return (result, *output[1:]) if isinstance(output, tuple) else result


class ColumnScores:
    """Collects column sums of the attention of one block, over however many calls the block makes."""

    def __init__(self, score: Score, sequences: Callable[[], list[int] | None]) -> None:
        self.score, self.sequences = score, sequences
        self.parts: list[Tensor] = []
        self._lengths: list[int] | None = None

    def clear(self) -> None:
        """Forget what was collected: a block begins."""
        self.parts.clear()

    def __call__(
        self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, softcap: float | None
    ) -> None:
        if not self.parts:
            self._lengths = self.sequences()
        # A packed encoder attends to one sequence after the other, or to all at once and keeps them apart.
        here = [query.shape[2]]
        if self._lengths is not None:
            here = []
            while sum(here) < query.shape[2]:
                here.append(self._lengths.pop(0))
        for q, k in zip(query.split(here, dim=2), key.split(here, dim=2), strict=True):
            # Sums, not means: under window attention a segment's tokens sit in windows of different size.
            received = column_scores(q, k, scaling, score=self.score) * q.shape[2]
            self.parts.append(received.flatten())

    def take(self) -> Tensor:
        """(N,) fp32 scores of all tokens, in the order of the calls; empties the collection."""
        scores = torch.cat(self.parts)
        self.parts.clear()
        return scores


def _bind(function: Any, *first: Any) -> Any:
    return lambda *rest: function(*first, *rest)
