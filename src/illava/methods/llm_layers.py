"""The layers of an LLM before which tokens can be dropped, and published patterns scaled to them."""

from __future__ import annotations

from collections.abc import Sequence

from ..models.located import LocatedModules
from .steps import AttentionSource


def places(modules: LocatedModules, source: AttentionSource) -> list[int]:
    """Layers before which a method may drop tokens by default.

    A layer whose window hides part of the prompt says nothing of what lies outside, so where some layers
    see the whole prompt, only these count; ``source`` tells which layer that is, "nothing" that it does not
    matter. Raises ValueError for an LLM without any such layer.
    """
    first, depth = modules.family.first_llm_layer(modules.config), len(modules.layers)
    every = list(range(first, depth))
    if not every:
        raise ValueError(
            f"tokens can be dropped before layer {first} at the earliest, this LLM has {depth} layers"
        )
    if source == "nothing":
        return every
    return [i for i in every if modules.windows[i - (source == "before")] is None] or every


def check_llm_layers(name: str, layers: Sequence[int], modules: LocatedModules, offset: int = 0) -> None:
    """Raise ValueError unless tokens can be dropped before each layer, or before the one ``offset`` later."""
    first, last = modules.family.first_llm_layer(modules.config) - offset, len(modules.layers) - 1 - offset
    for layer in layers:
        if not first <= layer <= last:
            raise ValueError(f"{name}: must lie in {first} to {last} on this model, got {layer}")


def carry_over(layers: Sequence[int], depth: int, to_depth: int, places: Sequence[int]) -> list[int]:
    """Ascending ``places`` for a pattern of layers that was published for an LLM of ``depth`` layers.

    Layer l goes to floor(l * to_depth / depth), or to the nearest place that leaves one for each layer before
    and after it; where there are fewer places than layers, the first layers get none.
    """
    targets = [layer * to_depth // depth for layer in layers][-len(places) :]
    out: list[int] = []
    free = 0
    for number, target in enumerate(targets, 1):
        last = len(places) - (len(targets) - number)
        free = min(range(free, last), key=lambda i: (abs(places[i] - target), i)) + 1
        out.append(places[free - 1])
    return out


def one_layer(
    name: str, layer: int | None, published: int, modules: LocatedModules, source: AttentionSource
) -> int:
    """The layer that a method with one step acts before: ``layer`` if it is given, or else ``published``, or
    the nearest before which tokens can leave. Raises ValueError for a layer that the model does not have."""
    if layer is not None:
        check_llm_layers(name, (layer,), modules)
        return layer
    depth = len(modules.layers)
    (nearest,) = carry_over((published,), depth, depth, places(modules, source))
    return nearest
