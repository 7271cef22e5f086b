"""Sizes of visual tokens in the LLM: how many units of the picture each stands for.

Steps of the encoder stage record the sizes of units, and steps of the LLM stage change those of visual
tokens. Each layer can add the logarithm of its keys' sizes to their logits. In decoding these lie beside the
columns of cached keys, in the layers of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ...models.located import LocatedModules
from ...ops.masks import places_of
from ...ops.size_bias import Shared
from ...ops.transfers import upload
from ..encoder.run import EncoderRun
from ..passes import Passes
from .fixed import prefix_features
from .prefill import Prompt

SMALLEST = 0.5
"""Rows that average others are dropped if less than half of their sources survive."""


def read_sizes(prompt: Prompt, modules: LocatedModules, runs: Sequence[EncoderRun]) -> Tensor | None:
    """(B, L) fp32: the size of each token of a prompt after the encoder stage, 1 for text.

    None if no step of the encoder stage recorded sizes, and for features of a resampler: each of its queries
    reads all units. ``runs`` computed the features of the prompt. Raises UnsupportedError if they are not as
    many as placeholders. Does not wait for the device.
    """
    if modules.family.resampler is not None or not any(_final_sizes(run) is not None for run in runs):
        return None
    device = prompt.runs.device
    found = [(run.video, feature_sizes(modules, run).to(device)) for run in runs]
    count, total = sum(len(sizes) for _, sizes in found), sum(prompt.lengths)
    # Beams and multiple return sequences repeat every row of the batch.
    repeats = total // count if count else 0
    if not repeats or total % count or len(prompt.runs) % repeats:
        raise UnsupportedError(
            f"the sizes of {count} features cannot be assigned to {total} placeholders; use "
            "proportional='encoder'"
        )
    rows, video = prompt.runs[::repeats], prompt.video[::repeats].to(device)
    table = torch.ones(rows.numel(), dtype=torch.float32, device=device)
    # GLM-4V has one placeholder for both, which it does not support in one prompt.
    for kind in (False, True) if prompt.mixed else (None,):
        sizes = torch.cat([sizes for is_video, sizes in found if kind in (None, is_video)])
        chosen = rows >= 0 if kind is None else (rows >= 0) & (video == kind)
        places = places_of(chosen.flatten(), len(sizes))
        table = table.index_copy(0, places, sizes)
    return table.view_as(rows).repeat_interleave(repeats, 0)


def _final_sizes(run: EncoderRun) -> Tensor | None:
    """(P,) fp32 sizes of the units that survive all steps; None if the last step recorded none."""
    return run.sizes.get(run.history[-1][0]) if run.history else None


def feature_sizes(modules: LocatedModules, run: EncoderRun) -> Tensor:
    """(F,) fp32: the size of each feature that an encoder run gives to the LLM, dropped ones included.

    Newlines, class tokens and registers have size 1. Where the model averages features, their sizes are
    averaged with the same weights, dropped ones counting as 0.
    """
    units, sizes = sum(run.full_lengths), _final_sizes(run)
    if sizes is None:
        full = torch.ones(units, dtype=torch.float32)
    else:
        assert run.kept is not None
        full = sizes.new_zeros(units).index_copy(0, run.kept.to(sizes.device), sizes)
    if run.grid is not None:
        order = modules.tower.unit_order(modules.config.vision_config, torch.tensor(run.pictures))
        rows = full if order is None else full.index_copy(0, upload(order.cpu(), full.device), full)
    elif run.mixing is not None:
        rows = _mixed(run, full.view(len(run.full_lengths), -1, 1))
    else:
        tiles = full.view(len(run.full_lengths), -1)
        rows = torch.cat([tiles.new_ones(len(tiles), prefix_features(modules, run)), tiles], 1).flatten()
    return rows.clamp(min=SMALLEST)


def _mixed(run: EncoderRun, tiles: Tensor) -> Tensor:
    """(tiles, n, 1) sizes arranged as the model arranges features; a newline has size 1."""
    assert run.mixing is not None
    _, function, counts, args, kwargs = run.mixing
    if kwargs.get("image_newline") is not None:
        kwargs = {**kwargs, "image_newline": tiles.new_ones(1)}
    if counts and sum(counts) == len(tiles):
        packed, *_ = function(list(tiles.split(counts)), *args, **kwargs)
        return torch.cat([part.reshape(-1) for part in packed])
    pooled: Tensor = function(tiles, *args, **kwargs)
    flat = pooled.reshape(-1)
    # OneVision ends each video with one newline feature.
    ends = max(0, run.features - len(flat))
    return torch.cat([flat.view(ends, -1), flat.new_ones(ends, 1)], 1).flatten() if ends else flat


class LlmSizeBias:
    """The logarithms of the sizes of the keys of one layer of the LLM, for its attention."""

    def __init__(self, index: int, passes: Passes) -> None:
        self.index, self.passes = index, passes

    @property
    def shared(self) -> Shared | None:
        """Of the pass; see :class:`~illava.runtime.attention_tap.Bias`."""
        return self.passes.channels

    def __call__(self, key: Tensor) -> Tensor | None:
        current = self.passes.current
        if current is None:
            return None
        if current.cache_layers is not None:
            sizes = current.cache_layers[self.index].attended_log_sizes
        elif current.prefill is not None and current.prefill.merging is not None:
            sizes = current.prefill.at(self.index).log_sizes
        else:
            return None
        return None if sizes is None else sizes[:, None, None].to(key.device)
