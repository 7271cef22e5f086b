"""The encoder stage: merge between attention and MLP, inside the blocks of the image encoder.

At a chosen block a pre-hook on the second norm replaces the block's tokens x by the merged x', a hook on
the MLP keeps its output y' and hands the block zeros that cost nothing in its place, and a hook on the
block returns x' + y'. No forward is replaced. Later blocks of a packed encoder get the rotary tables and
sequence boundaries of the survivors; a batched encoder needs neither, its tiles shrink alike.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from ...errors import UnsupportedError
from ...methods.steps import EncoderStep, Plan, ProjectorStep, Units, reduced
from ...models.located import LocatedModules, feature_block
from ..calls import Calls
from ..checkpoints import Checkpoints
from ..hooks import Hooks
from .features import FeatureCalls
from .observer import AttentionObserver, SizeBias
from .resize import ResizeStage
from .run import EncoderRun


class EncoderStage:
    """Hooks on the image encoder; ``run`` is the call under way, until its features are made."""

    def __init__(
        self, modules: LocatedModules, plan: Plan, calls: Calls, hooks: Hooks, *, trace: bool = False
    ) -> None:
        self.trace = trace
        steps: dict[int, EncoderStep] = plan.encoder
        self.modules, self.merges = modules, bool(steps)
        self.reads = self.merges or (plan.projector is not None and plan.projector.observes)
        self.run: EncoderRun | None = None
        self._merging: list[_MergingBlock] = []
        self.checkpoints = Checkpoints(self, "run", modules.blocks, hooks, EncoderRun.forget)
        self.features = FeatureCalls(modules.base, calls, hooks, self._end)
        self.resize = None if plan.pixels is None else ResizeStage(modules, plan.pixels, hooks)
        hooks.pre(modules.encoder, self._start)
        first = min(steps, default=len(modules.blocks))
        if not modules.tower.packed:
            hooks.pre(modules.blocks[0], self._enter_batched)
        for index, block in enumerate(modules.blocks):
            if modules.tower.packed:
                hooks.pre(block, _bind(self._enter_block, index, index > first))
            if index in steps:
                self._merging.append(_MergingBlock(self, index, block, steps[index], hooks))
            if any(step.proportional_attention for at, step in steps.items() if at < index):
                self._weigh(index, block, hooks)
        if plan.projector is not None and plan.projector.observes:
            self._watch(plan.projector, hooks)
        hooks.post(modules.encoder, self._leave, always=True)

    def _weigh(self, index: int, block: nn.Module, hooks: Hooks) -> None:
        """Add the logarithm of sizes to the attention of a block behind a step that counts them."""
        bias = SizeBias(lambda: None if self.run is None else self.run.token_sizes(index))
        hooks.tap(block.get_submodule(self.modules.tower.attention), bias=bias)
        hooks.pre(block, lambda *_: bias.clear())

    def _watch(self, step: ProjectorStep, hooks: Hooks) -> None:
        """Note what a step behind the encoder wants to know of a block's attention."""
        index = len(self.modules.blocks) - 1 if step.last_block else feature_block(self.modules)
        block = self.modules.blocks[index]
        watch = AttentionObserver(step, lambda: self.sequences(index), self.modules.tower.prefix)

        def note(*_: Any) -> None:
            if self.run is not None and watch.collected and not self.checkpoints.again:
                self.run.seen, self.run.seen_at = self.run.by_unit(watch.take(), index), index

        hooks.tap(block.get_submodule(self.modules.tower.attention), watch)
        hooks.pre(block, lambda *_: watch.clear())
        hooks.post(block, note)

    def sequences(self, index: int) -> list[int] | None:
        """Tokens of each attention sequence in a block; None where all of a call are alike."""
        assert self.run is not None
        return None if self.run.grid is None else self.run.sequence_lengths(index, merged=True)

    def _leave(self, *_: Any) -> None:
        """The encoder is done, or failed: what only its blocks needed goes."""
        if self.run is not None:
            self.run.forget()
        for block in self._merging:
            block.clear()

    def _end(self) -> None:
        """The features are made."""
        self.run = None

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.run = None
        self.checkpoints.prepare(reentrant=not self.merges)
        if self.modules.tower.packed:
            vision = self.modules.config.vision_config
            grid, resized = self.modules.tower.grid(vision, args, kwargs), self.resize and self.resize.take()
            if not resized:
                self.begin(frames_of(grid), grid)
                return
            full, places = resized
            self.begin(frames_of(full), full)
            assert self.run is not None
            order = self.modules.tower.unit_order(vision, full)
            if order is not None:
                places = order.cpu().argsort()[places].sort().values
            self.run.shrink(places, tuple(n // self.modules.group for n in frames_of(grid)), resized[1])
            self.run.full_windows = self.modules.tower.windows(vision, full)
            self.run.full_blocks = self.modules.tower.full_attention_blocks(vision) or ()

    def begin(self, tokens: tuple[int, ...], grid: Tensor | None = None) -> None:
        """Note a call over segments of that many tokens each, class tokens included."""
        tower, g = self.modules.tower, self.modules.group
        lengths = tuple((n - tower.prefix) // g for n in tokens)
        order = None
        if tower.spatial and g > 1:
            # Tiles are square.
            shapes = [(n * g, math.isqrt(n * g), math.isqrt(n * g)) for n in lengths]
            if grid is not None:
                shapes = [(h * w, h, w) for t, h, w in grid.tolist() for _ in range(t)]
            order = _spatial_units(shapes, round(g**0.5))
        self.run = EncoderRun(g, lengths, grid, *self.features.video, tower.prefix, order)
        self.run.traces = {} if self.trace else None
        self.features.note(self.run)

    def _enter_batched(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.checkpoints.again:
            return
        x, *rest = [*args, *kwargs.values()]
        if self.reads and any(isinstance(part, Tensor) for part in rest):
            raise UnsupportedError(
                "pictures with masked patches are not supported in the image encoder: hand over whole tiles, "
                "as the processor makes them, or use a method of the LLM alone, such as "
                "Illava(encoder_layers=())"
            )
        if self.reads and any(isinstance(part, BlockMask) for part in rest):
            raise UnsupportedError(
                f"{self.modules.family.model_type} masks its patches under flex attention, which the encoder "
                "stage does not support: load it with attn_implementation={'vision_config': 'sdpa', "
                "'text_config': 'flex_attention'}, or use encoder_layers=()"
            )
        self.begin((x.shape[1],) * x.shape[0])

    def _enter_block(
        self, index: int, merged: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        run = self.run
        assert run is not None
        after = merged and run.kept_before(index) is not None
        kwargs = dict(kwargs)
        # Pixtral has boundaries for flash attention alone, under the names of that.
        for name in ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k"):
            if name in kwargs:
                whole = kwargs[name]
                kwargs[name] = run.sequences(whole, index) if after else whole
                run.boundaries[index] = (whole, kwargs[name])
        if not after:
            return None
        kwargs["position_embeddings"] = run.rotary(kwargs["position_embeddings"], index)
        for name in ("max_seqlen", "max_length_q", "max_length_k"):
            if kwargs.get(name) is not None:
                kwargs[name] = int(run.boundaries[index][1].diff().max())
        # Pixtral's blocks are handed a mask that keeps the pictures apart.
        args = tuple(
            run.mask(part, index) if i and isinstance(part, Tensor) else part for i, part in enumerate(args)
        )
        return args, kwargs


def frames_of(grid: Tensor) -> tuple[int, ...]:
    """Tokens of every frame of (pictures, 3) frames, rows and columns."""
    return tuple(h * w for t, h, w in grid.tolist() for _ in range(t))


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

    def __init__(
        self, stage: EncoderStage, index: int, block: nn.Module, step: EncoderStep, hooks: Hooks
    ) -> None:
        names = stage.modules.tower
        self.stage, self.index, self.step = stage, index, step
        self.watch = AttentionObserver(step, lambda: stage.sequences(index), names.prefix)
        self.shape = torch.Size()
        self.merged: Tensor | None = None
        self.output: Tensor | None = None
        if step.observes:
            hooks.tap(block.get_submodule(names.attention), self.watch)
        hooks.pre(block, self.clear, prepend=True)
        hooks.pre(block.get_submodule(names.second_norm), self._merge)
        hooks.post(block.get_submodule(names.mlp), _bind(self._keep_output, block))
        # Prepended: hooks that record hidden states must see what the block really returns.
        hooks.post(block, self._leave, prepend=True)

    def clear(self, *_: Any) -> None:
        """Nothing of an earlier run may be left, should that have failed."""
        self.merged = self.output = None
        self.watch.clear()

    def _merge(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (x,) = args
        run = self.stage.run
        assert run is not None
        # Packed (N, d) or (1, N, d), or batched (tiles, prefix + n, d), of which all keep equally many.
        index = self.index
        run.visited.add(index)
        units = Units(
            run.by_unit(x.reshape(-1, x.shape[-1]), index).flatten(1),
            run.by_unit(self.watch.take(), index) if self.step.observes else None,
            run.lengths_before(index),
            run.full_lengths,
            run.sizes_before(index),
        )
        merged = reduced(self.step, units)
        if merged is None:
            return None
        run.record(index, merged, units)
        survivors = merged.units.reshape(*x.shape[:-2], -1, x.shape[-1])
        self.merged = torch.cat([x[..., : run.prefix, :], survivors], dim=-2) if run.prefix else survivors
        self.shape = x.shape
        return (self.merged,), kwargs

    def _keep_output(
        self, block: nn.Module, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor
    ) -> Any:
        if self.merged is None:
            return None
        scale = self.stage.modules.tower.scale
        # Here, not when the block is left: an offloaded block has its weights only while it runs.
        self.output = y if scale is None else scale(block, y)
        return y.new_zeros(()).expand(self.shape)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self.merged is None or self.output is None:
            return None
        result = self.merged + self.output
        self.merged = self.output = None
        return (result, *output[1:]) if isinstance(output, tuple) else result


def _bind(function: Any, *first: Any) -> Any:
    return lambda *rest: function(*first, *rest)
