"""The encoder stage: merge between attention and MLP, inside the blocks of the image encoder.

At each block with a step, a pre-hook on the second norm replaces the block's tokens x by the merged x'. A
hook on the MLP stores its output y' and returns expanded zeros to the block instead. A hook on the block
returns x' + y'. No forward is replaced. Later blocks of a packed encoder get the rotary tables and sequence
boundaries of the survivors. A batched encoder needs neither, since all its tiles keep the same number of
tokens.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from ...errors import UnsupportedError
from ...methods.steps import EncoderStep, Plan, ProjectorStep
from ...models.located import LocatedModules, feature_block
from ...models.workload import first
from ...ops.grids import frames_of, square_units
from ...ops.transfers import upload
from ..attention_tap import is_flash
from ..checkpoints import Checkpoints
from ..hooks import Hooks
from ..passes import Grid, Pass, Passes
from .block_state import BlockState
from .cues import PixelCues
from .features import FeatureCalls
from .halfway import keep_halfway
from .merging_block import MergingBlock, finished
from .observer import AttentionObserver, SizeBias
from .resize import ResizeStage
from .run import EncoderRun
from .whole import WholeFeatures


class EncoderStage:
    """Hooks on the image encoder; each of its calls is an :class:`EncoderRun` of the current pass."""

    def __init__(
        self, modules: LocatedModules, plan: Plan, passes: Passes, hooks: Hooks, *, trace: bool = False
    ) -> None:
        self.passes, self.trace = passes, trace
        steps: dict[int, EncoderStep] = plan.encoder
        self.modules, self.merges = modules, bool(steps)
        self.first_places = plan.placement == "first" and plan.before_llm
        """Whether survivors take the first places of their segment among the features."""
        self.reads = self.merges or (plan.projector is not None and plan.projector.observes)
        finish = partial(finished, passes)
        self.checkpoints = Checkpoints(passes, modules.blocks, hooks, self._forget, finish)
        self.features = FeatureCalls(modules.base, passes, hooks)
        self.resize = None if plan.pixels is None else ResizeStage(modules, plan.pixels)
        self.cues = PixelCues(modules, steps.values()) if PixelCues.are_read(steps.values()) else None
        if modules.family.encoder_refusal:
            WholeFeatures(modules, passes, hooks, trace=trace)
            return
        hooks.pre(modules.encoder, self._start)
        first = min(steps, default=len(modules.blocks))
        observed = None
        if plan.projector is not None and plan.projector.observes:
            last = len(modules.blocks) - 1
            observed = last if plan.projector.last_block else feature_block(modules)
        if not modules.tower.packed:
            hooks.pre(modules.blocks[0], self._enter_batched)
        for index, block in enumerate(modules.blocks):
            if modules.tower.packed:
                hooks.pre(block, partial(self._enter_block, index, index > first))
            observer = plan.projector if index == observed else None
            sized = any(step.proportional_attention for at, step in steps.items() if at < index)
            if index in steps or observer is not None or sized:
                hooks.pre(block, self._begin_block)
            if index in steps:
                MergingBlock(passes, modules, index, block, steps[index], hooks)
            if sized:
                # A step before this block records sizes.
                hooks.tap(block.get_submodule(modules.tower.attention), bias=SizeBias(index, passes))
            if observer is not None:
                self._observe_for_projector(observer, index, block, hooks)
        keep_halfway(passes, modules, steps, hooks)
        hooks.post(modules.encoder, self._leave, always=True)

    def _begin_block(self, *_: Any) -> None:
        if (run := self.passes.encoder_run) is not None:
            run.block = BlockState()

    def _observe_for_projector(self, step: ProjectorStep, index: int, block: nn.Module, hooks: Hooks) -> None:
        """Let a step after the encoder observe the attention of a block."""

        def record(*_: Any) -> None:
            run = self.passes.encoder_run
            observed = None if run is None else run.take_observed("projector", index)
            if run is not None and observed is not None and not self.checkpoints.rerunning:
                run.seen, run.seen_at = observed, index

        prefix, config = self.modules.prefix, self.modules.config.vision_config
        observer = AttentionObserver("projector", step, index, self.passes, prefix, config)
        hooks.tap(block.get_submodule(self.modules.tower.attention), observer)
        hooks.post(block, record)

    def _leave(self, *_: Any) -> None:
        """When the encoder returns or fails, delete what only its blocks need."""
        if self.passes.current is not None:
            self._forget(self.passes.current)
            # A new dictionary: copies of the pass keep theirs for reruns.
            self.passes.current.halfway = {}

    @staticmethod
    def _forget(current: Pass) -> None:
        if current.encoder_run is not None:
            current.encoder_run.forget()

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        current = self.passes.for_encoder()
        current.encoder_run = None
        self.checkpoints.prepare()
        if self.cues is not None:
            self.cues.enter(current, args, kwargs)
        if not self.modules.tower.packed:
            current.grid = _grid(self.modules, args, kwargs)
            if self.resize is None:
                return None
            assert current.grid is not None
            args, kwargs, current.places = self.resize.shrink_whole(args, kwargs, current.grid[0])
            return args, kwargs
        tower, vision, resized = self.modules.tower, self.modules.config.vision_config, None
        if self.resize is not None:
            args, kwargs, resized = self.resize.shrink(args, kwargs)
        grid = tower.grid(vision, args, kwargs)
        # Sizes may be on the host.
        device = next(
            (
                part.device
                for part in (*args, *kwargs.values())
                if isinstance(part, Tensor) and part.is_floating_point()
            ),
            grid.device,
        )
        if resized is None:
            self._begin_run(current, device, grid=grid).given_boundaries = "cu_seqlens" in kwargs
            return None
        run = self._begin_run(current, device, grid=resized.full)
        order, kept = tower.unit_order(vision, resized.full), resized.places
        if order is not None:
            kept = order.cpu().argsort()[kept].sort().values
        run.shrink(kept, tuple(n // self.modules.group for n in frames_of(grid.tolist())), resized.places)
        run.full_windows = tower.windows(vision, resized.full)
        run.full_blocks = tower.full_attention_blocks(vision) or ()
        return args, kwargs

    def _begin_run(
        self, current: Pass, device: torch.device, tokens: tuple[int, ...] = (), grid: Tensor | None = None
    ) -> EncoderRun:
        """Start the run of a call; ``tokens`` is the length of each segment, class tokens included.

        With a ``grid`` these are its frames.
        """
        tower, g, prefix = self.modules.tower, self.modules.group, self.modules.prefix
        # The only values that the encoder stage reads from the device.
        sizes = [] if grid is None else grid.tolist()
        tokens = tokens or frames_of(sizes)
        lengths = tuple((n - prefix) // g for n in tokens)
        order = None
        if tower.spatial and g > 1:
            # Tiles are square.
            shapes = [(n * g, math.isqrt(n * g), math.isqrt(n * g)) for n in lengths]
            if grid is not None:
                shapes = [(h * w, h, w) for t, h, w in sizes for _ in range(t)]
            order = upload(square_units(shapes, round(g**0.5)), device)
        run = EncoderRun(g, lengths, grid, current.video, current.videos, prefix, order)
        run.pictures, run.traces = sizes, {} if self.trace else None
        current.encoder_run, current.halfway = run, {}
        current.encoder_runs.append(run)
        if self.cues is not None:
            self.cues.read(run, current)
        return run

    def _enter_batched(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.checkpoints.rerunning:
            return
        x, *rest = [*args, *kwargs.values()]
        if self.reads and any(isinstance(part, Tensor) for part in rest):
            raise UnsupportedError(
                "pictures with masked patches are not supported in the image encoder: give whole tiles, as "
                "the processor makes them, or use a method of the LLM only, such as Illava(encoder_layers=())"
            )
        if self.reads and any(isinstance(part, BlockMask) for part in rest):
            raise UnsupportedError(
                f"{self.modules.family.model_type} masks its patches under flex attention, which the encoder "
                "stage does not support: load it with attn_implementation={'vision_config': 'sdpa', "
                "'text_config': 'flex_attention'}, or use encoder_layers=()"
            )
        current = self.passes.current or self.passes.for_encoder()
        places, current.places = current.places, None
        count, length = x.shape[:2]
        if places is not None and current.grid is not None:
            # Of the pictures at their full size.
            length = self.modules.prefix + math.prod(current.grid[0])
        run = self._begin_run(current, x.device, (length,) * count)
        if current.grid is not None:
            run.shape, run.covered = current.grid
        if places is not None:
            first_units = math.prod(run.rows_and_columns) * torch.arange(count)
            kept = (first_units[:, None] + places).flatten()
            run.shrink(kept, (len(places),) * count, kept)

    def _enter_block(
        self, index: int, merged: bool, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        run = self.passes.encoder_run
        assert run is not None
        after = merged and run.kept_before(index) is not None
        kwargs, flash = dict(kwargs), is_flash(self.modules.config.vision_config)
        # Pixtral has boundaries only for flash attention, by the argument names of its kernel.
        for name in ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k"):
            if name in kwargs:
                full = kwargs[name]
                segments = run.are_segments(full)
                if after or (self.merges and segments and not flash):
                    kwargs[name] = run.sequences(full, index, flash=flash)
                run.boundaries[index] = (full, kwargs[name])
                if segments:
                    run.in_segments.add(index)
        if not after:
            return None
        if self.modules.tower.rotary:
            kwargs["position_embeddings"] = run.rotary(kwargs["position_embeddings"], index)
        for name in ("max_seqlen", "max_length_q", "max_length_k"):
            # For windows, the model's own value remains: an upper bound, which is what kernels need.
            if kwargs.get(name) is not None and not run.has_windows(index):
                kwargs[name] = max(run.sequence_lengths(index, merged=True))
        # Pixtral's blocks get a mask that separates the pictures.
        args = tuple(
            run.mask(part, index) if i and isinstance(part, Tensor) else part for i, part in enumerate(args)
        )
        return args, kwargs


def _grid(modules: LocatedModules, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Grid | None:
    """The grid of patches in the pictures of an encoder that takes any size; None for other encoders."""
    if not modules.tower.any_size:
        return None
    pixels = args[0] if args else kwargs["pixel_values"]
    patch, (height, width) = first(modules.config.vision_config.patch_size), pixels.shape[-2:]
    rows, columns = height // patch, width // patch
    return (rows, columns), (columns * patch / width, rows * patch / height)
