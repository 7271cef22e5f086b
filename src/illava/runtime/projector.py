"""The projector stage: return as many features as there are placeholders, with dropped ones marked.

The model checks that there is a feature for every placeholder. So survivors are scattered to their indices in
a full-size tensor whose other rows are NaN. Later operations that act row by row (splitting by picture,
undoing the window order, unpadding, scattering, beams) preserve the mark, and the LLM stage drops the marked
rows. A missing drop is visible as NaN. Operations that average rows (interpolation, pooling) run on zeros
instead of the marks, and also on the share of survivors in each row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..methods.steps import ProjectorStep, Units, reduced
from ..models.located import LocatedModules
from ..ops.marks import any_marked, count_marked, mark_through, marked, unmarked
from .encoder.run import EncoderRun
from .encoder.stage import EncoderStage
from .hooks import Hooks
from .rows import FoldedUnits, Resampler, RowWise, first_in_segments


class ProjectorStage:
    """Expands the projector's output to full size, and marks features dropped by the encoder stage."""

    def __init__(
        self, modules: LocatedModules, step: ProjectorStep | None, encoder: EncoderStage, hooks: Hooks
    ) -> None:
        self.modules, self.step, self.passes = modules, step, encoder.passes
        family, module = modules.family, modules.base.get_submodule
        if family.encoder_refusal:
            return
        if family.unfolds_after is not None:
            hooks.post(module(family.unfolds_after), self._unfold_after)
        if family.unfolds_before is not None:
            hooks.pre(module(family.unfolds_before), self._unfold_before)
        if family.compacts_before is not None:
            hooks.pre(module(family.compacts_before), self._compact)
        if step is not None and not step.projected:
            hooks.pre(module(family.compacts_before or family.projector), self._reduce_input)
        if family.folds_by_grid:
            FoldedUnits(modules.projector, self.passes, hooks)
        if family.row_wise is not None:
            RowWise(module(family.row_wise), self.passes, hooks)
        if family.resampler is None:
            hooks.post(modules.projector, self._expand)
        else:
            Resampler(module(family.resampler), modules.projector, self.passes, hooks)
        self.enlarges = encoder.resize is not None and modules.projector_inside
        if self.enlarges:
            hooks.post(modules.encoder, self._enlarge)
        self.moves_features = encoder.first_places and not modules.projector_inside
        if encoder.first_places and modules.projector_inside:
            # At its end, since features tapped earlier have rows of units that were dropped later.
            hooks.post(modules.encoder, self._move_outputs)
        for tap in modules.taps:
            hooks.post(tap, self._expand)
        for name in family.row_mixers:
            hooks.attribute(modules.base, name, self._mixing(name, getattr(modules.base, name)))
        if family.pooler is not None:
            pooler = module(family.pooler)
            hooks.attribute(pooler, "forward", self._pooling(pooler, pooler.forward))

    # -- units that are squares of a grid: scatter their tokens before the grid is split into units ------

    def _unfold_after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Any:
        run = self.passes.encoder_run
        return None if run is None or run.kept is None else self._tokens_in_place(run, output)

    def _unfold_before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.passes.encoder_run
        if run is None or run.kept is None:
            return None
        if args:
            return (self._tokens_in_place(run, args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: self._tokens_in_place(run, kwargs[name])}

    def _tokens_in_place(self, run: EncoderRun, tokens: Tensor) -> Tensor:
        """(..., prefix + P g, d) survivors to (..., prefix + N, d) in the grid's order, zero elsewhere.

        Dropped rows are zero instead of marked: they are removed again before the next weights, whose
        gradients would otherwise be NaN.
        """
        prefix = tokens[..., : run.prefix, :]
        rows = tokens[..., run.prefix :, :].reshape(-1, tokens.shape[-1])
        full = rows.new_zeros(sum(run.full_lengths) * run.group, rows.shape[-1])
        full = full.index_copy(0, run.tokens().to(rows.device), rows)
        return torch.cat([prefix, full.view(*tokens.shape[:-2], -1, rows.shape[-1])], dim=-2)

    def _compact(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.passes.encoder_run
        if run is None or run.kept is None:
            return None
        x, *rest = args
        rows = x.reshape(-1, x.shape[-1])[run.kept.to(x.device)]
        return (rows.view(*_leading(x), -1, x.shape[-1]), *rest), kwargs

    # -- operations that average rows ------------------------------------------------------------------

    def _pooling(self, pooler: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
        through = mark_through(function)

        def pool(features: Tensor, *args: Any, **kwargs: Any) -> Any:
            run = self.passes.encoder_run
            if run is None:
                return function(features, *args, **kwargs)
            run.mixing = (str(self.modules.family.pooler), function, [], args, kwargs)
            if run.kept is None:
                run.marked = 0
                return unmarked(function(features, *args, **kwargs))
            mode = getattr(pooler, "mode", "average")
            if mode != "average":
                raise UnsupportedError(
                    f"spatial_pool_mode={mode!r}: the encoder stage only supports averaging of a video's "
                    "rows; use encoder_layers=() for this model's videos"
                )
            pooled = through(self._rows_in_place(run, features), *args, **kwargs)
            run.marked = count_marked(pooled)
            return pooled

        return pool

    def _mixing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        through = mark_through(function)

        def arrange(features: Any, *args: Any, **kwargs: Any) -> Any:
            run = self.passes.encoder_run
            if run is None:
                # Whether features from elsewhere have marks, only they tell.
                return (through if any_marked(features) else function)(features, *args, **kwargs)
            # The function runs twice if there are marks: read the sizes of pictures once.
            args, kwargs = tuple(map(_on_host, args)), {key: _on_host(part) for key, part in kwargs.items()}
            # Lengths only: the report later calls the function to find the source of each feature.
            run.mixing = (name, function, [len(part) for part in features], args, kwargs)
            if not any(_has_marks(run) for run in self.passes.current.encoder_runs):
                return function(features, *args, **kwargs)
            mixed = through(features, *args, **kwargs)
            if _has_marks(run):
                run.marked = count_marked(mixed)
            return mixed

        return arrange

    def _expand(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], features: Tensor
    ) -> Any:
        run = self.passes.encoder_run
        if run is None or (self.enlarges and run.resized is not None):
            return None
        if self.step is not None and self.step.projected and module is self.modules.projector:
            features = self._reduce(run, features)
        if run.mixing and run.mixing[0] == self.modules.family.pooler:
            # The pooler has marked the input; NaN in any other row is not a mark.
            dropped = marked(args[0] if args else next(iter(kwargs.values())))
            return unmarked(features).masked_fill(dropped[..., None], float("nan"))
        features = unmarked(features)
        if module is self.modules.projector:
            run.marked = 0 if run.kept is None else sum(run.full_lengths) - sum(run.lengths)
        if run.kept is None:
            return features
        rows = self._rows_in_place(run, features)
        return first_in_segments(run, rows, rows) if self.moves_features else rows

    def _move_outputs(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Move the features of survivors to the first places of their segments."""
        run = self.passes.encoder_run
        if run is None or run.kept is None:
            return None
        rows = output.pooler_output
        output.pooler_output = first_in_segments(run, rows, rows)
        if getattr(output, "deepstack_features", None) is not None:
            output.deepstack_features = [
                first_in_segments(run, part, rows) for part in output.deepstack_features
            ]
        return output

    def _enlarge(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Expand the features of resized pictures, which are in raster order for every encoder."""
        run = self.passes.encoder_run
        if run is None or run.resized is None:
            return None
        output.pooler_output = self._at_places(run, unmarked(output.pooler_output))
        run.marked = sum(run.full_lengths) - len(run.resized)
        if getattr(output, "deepstack_features", None) is not None:
            output.deepstack_features = [
                self._at_places(run, unmarked(rows)) for rows in output.deepstack_features
            ]
        return output

    @staticmethod
    def _at_places(run: EncoderRun, rows: Tensor) -> Tensor:
        assert run.resized is not None
        full = rows.new_full((sum(run.full_lengths), rows.shape[-1]), float("nan"))
        return full.index_copy(0, run.resized.to(rows.device), rows)

    # -- a step after the encoder ----------------------------------------------------------------------

    def _reduce_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.passes.encoder_run
        if run is None:
            return None
        if self.modules.family.folds_by_grid and run.kept is None and run.order is not None:
            left = self._reduce(run, args[0][run.order.to(args[0].device).flatten()])
            return None if run.kept is None else ((left, *args[1:]), kwargs)
        if args:
            return (self._reduce(run, args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: self._reduce(run, kwargs[name])}

    def _reduce(self, run: EncoderRun, x: Tensor) -> Tensor:
        """Apply the step after the encoder to units, or to projected features.

        ``x`` is (U g, d) tokens, (U, d) units, or (tiles, n, d) units. Rows of class tokens before each tile,
        if present, are kept.
        """
        step, depth = self.step, len(self.modules.blocks)
        assert step is not None
        if run.mixing and run.mixing[0] == self.modules.family.pooler:
            raise UnsupportedError(
                f"videos of {self.modules.family.model_type} are pooled before the projector, where this "
                "method selects units; use pictures, or a method of the encoder or the LLM"
            )
        tiles = 1 if run.grid is not None else len(run.full_lengths)
        rows, units = x.numel() // x.shape[-1] // tiles, sum(run.lengths) // tiles
        # The tokens of a unit may not have been concatenated yet.
        extra = 0 if rows == units * run.group else rows - units
        tiled = x.reshape(tiles, rows, x.shape[-1])
        prefix, tiled = tiled[:, :extra], tiled[:, extra:]
        vectors = tiled.reshape(sum(run.lengths), -1)
        units_in = Units(
            vectors,
            run.seen_by(depth),
            run.lengths,
            run.full_lengths,
            run.sizes_before(depth),
            self._shapes(run),
        )
        merged = reduced(step, units_in)
        # Observations may include the keys of every token, and the run is kept for the report.
        run.seen = None
        if merged is None:
            return x
        run.record(depth, merged, units_in)
        left = torch.cat([prefix, merged.units.reshape(tiles, -1, x.shape[-1])], 1)
        return left.reshape(*_leading(x), -1, x.shape[-1])

    def _shapes(self, run: EncoderRun) -> tuple[tuple[int, int], ...] | None:
        if run.kept is not None:
            return None
        if run.grid is None:
            return (run.rows_and_columns,) * len(run.full_lengths)
        if self.modules.tower.unit_order(self.modules.config.vision_config, run.grid) is not None:
            return None
        side = math.isqrt(run.group)
        return tuple((h // side, w // side) for t, h, w in run.pictures for _ in range(t))

    def _rows_in_place(self, run: EncoderRun, features: Tensor) -> Tensor:
        """Scatter the rows of survivors to one row per unit, NaN for dropped ones.

        ``features`` is (P, d) or (1, P, d) for packed encoders, (tiles, p, d) for batched ones. Rows of class
        tokens before each tile, if present, are kept.
        """
        assert run.kept is not None
        tiles = 1 if run.grid is not None else len(run.full_lengths)
        extra = features.numel() // features.shape[-1] - sum(run.lengths)
        prefix = features[..., : extra // tiles, :]
        rows = features[..., extra // tiles :, :].reshape(-1, features.shape[-1])
        full = rows.new_full((sum(run.full_lengths), rows.shape[-1]), float("nan"))
        full = full.index_copy(0, run.kept.to(rows.device), rows)
        return torch.cat([prefix, full.view(*features.shape[:-2], -1, rows.shape[-1])], dim=-2)


def _leading(x: Tensor) -> torch.Size:
    """The dimensions before those of the rows; units may still be arranged as (tiles, rows, columns, d)."""
    return x.shape[: 1 if x.dim() == 4 else -2]


def _has_marks(run: EncoderRun) -> bool:
    """Whether features of this run may be marked, as far as the host knows."""
    return isinstance(run.marked, Tensor) or bool(run.marked)


def _on_host(argument: Any) -> Any:
    """An argument with whole numbers, such as the sizes of pictures, on the CPU; others unchanged."""
    whole = isinstance(argument, Tensor) and not argument.is_floating_point()
    return argument.cpu() if whole else argument
