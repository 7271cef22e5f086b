"""One picture or video through an image encoder of vLLM, with merging between attention and MLP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from illava.methods.merge_step import MergeStep
from illava.methods.steps import EncoderAttention, Units, reduced

from .schedule import Schedule
from .sequences import Sequences


class Encoded(NamedTuple):
    """The survivors of a picture or video, in raster order."""

    features: Tensor
    """(P, d) of the patch merger, followed by those of the deepstack mergers."""
    raster: Tensor
    """(P,) int64, ascending: their raster indices among all units, frame by frame."""


class _State:
    """The units that are left, and what was recorded of them."""

    def __init__(self, frames: int, units: int) -> None:
        self.full = self.lengths = (units,) * frames
        self.kept: Tensor | None = None
        self.sizes: Tensor | None = None


def encode(visual: Any, pixels: Tensor, grid: Sequence[int], schedule: Schedule) -> Encoded:
    """Encode one picture or video, and merge by the schedule.

    Args:
        visual: an image encoder of vLLM: Qwen2-VL's, Qwen2.5-VL's or Qwen3-VL's.
        pixels: (patches, values of a patch).
        grid: frames, rows and columns of patches.
    """
    g = schedule.group
    metadata = visual.prepare_encoder_metadata([list(grid)])
    x = visual.patch_embed(visual.input_norm(pixels.to(device=visual.device), visual.dtype))
    if "pos_embeds" in metadata:
        x = x + metadata["pos_embeds"]
    windows = metadata.get("window_index")
    if windows is not None:
        x = x.unflatten(0, (-1, g))[windows].flatten(0, 1)
    x = x[:, None]
    state, sequences = _State(grid[0], len(x) // g // grid[0]), Sequences(visual, metadata, g)
    taps = dict(zip(getattr(visual, "deepstack_visual_indexes", ()), _mergers(visual), strict=True))
    tapped = []
    for index, block in enumerate(visual.blocks):
        arguments = sequences.arguments(index)
        if index in schedule.steps:
            x = _merging_block(block, x, arguments, schedule.steps[index], g, state)
            sequences.keep(state.kept)
        else:
            x = block(x, **arguments)
        if index in taps:
            tapped.append((taps[index], x, state.kept))
    features = [visual.merger(_finite(x))]
    kept = torch.arange(len(x) // g, device=x.device) if state.kept is None else state.kept
    for merger, then, kept_then in tapped:
        # The mergers act on units one by one: only the survivors need them.
        at = kept if kept_then is None else torch.searchsorted(kept_then, kept)
        features.append(merger(then.unflatten(0, (-1, g))[at].flatten(0, 1)))
    raster = kept if windows is None else windows[kept]
    order = raster.argsort()
    return Encoded(torch.cat(features, dim=1)[order], raster[order])


def _mergers(visual: Any) -> Sequence[nn.Module]:
    return getattr(visual, "deepstack_merger_list", None) or ()


def _finite(x: Tensor) -> Tensor:
    """Half precision overflows in the last block of Qwen2.5-VL-3B; vLLM clamps there too."""
    if x.dtype != torch.float16:
        return x
    most = torch.finfo(x.dtype).max - 1000
    return x.clamp(min=-most, max=most)


def _merging_block(
    block: Any, x: Tensor, arguments: dict[str, Any], step: MergeStep, g: int, state: _State
) -> Tensor:
    """A block with a merge step; (N, 1, d) to (N', 1, d)."""
    with _queries_and_keys(block.attn.attn) as caught:
        x = x + block.attn(block.norm1(x), **arguments)
    seen = _observed(step, *caught, arguments["cu_seqlens"], block.attn.attn.scale)
    units = Units(
        x.reshape(len(x) // g, -1), seen.unflatten(0, (-1, g)), state.lengths, state.full, state.sizes
    )
    merged = reduced(step, units)
    if merged is not None:
        x = merged.units.reshape(-1, 1, x.shape[-1])
        state.kept = merged.kept if state.kept is None else state.kept[merged.kept]
        state.lengths = merged.lengths
        if merged.sizes is not None:
            state.sizes = merged.sizes
    return x + block.mlp(block.norm2(x))


@contextmanager
def _queries_and_keys(attention: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the queries and keys, (1, N, H, h) with rotary applied, of a call of the attention."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught[:] = [kwargs["query"], kwargs["key"]]

    handle = attention.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield caught
    finally:
        handle.remove()


def _observed(step: MergeStep, query: Tensor, key: Tensor, ends: Tensor, scaling: float) -> Tensor:
    """(N, ...) fp32: the step's observations of all tokens, from each of the attention's sequences."""
    out, start = [], 0
    for length, group in groupby(ends.diff().tolist()):
        count = len(list(group))
        stop = start + count * length
        q, k = (heads[0, start:stop].unflatten(0, (count, length)).transpose(1, 2) for heads in (query, key))
        out.append(step.observe_encoder(EncoderAttention(q, k, scaling, 0)).flatten(0, 1))
        start = stop
    return torch.cat(out)
