"""The layers of an LLM before which tokens can be dropped, and published patterns scaled to them."""

from __future__ import annotations

from collections.abc import Sequence

from ..models.located import LocatedModules
from .steps import AttentionSource


def allowed_layers(modules: LocatedModules, source: AttentionSource) -> list[int]:
    """Layers before which a method may drop tokens by default.

    Attention inside a sliding window does not score tokens outside of it. So in LLMs where some layers attend
    to the whole prompt, scores must come from one of these. ``source`` is the layer that the scores come
    from. Raises ValueError for an LLM without any such layer.
    """
    first, depth = modules.family.first_llm_layer(modules.config), len(modules.layers)
    every = list(range(first, depth))
    if not every:
        raise ValueError(
            f"tokens can be dropped before layer {first} at the earliest, but this LLM has {depth} layers"
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


def carry_over(layers: Sequence[int], depth: int, to_depth: int, allowed: Sequence[int]) -> list[int]:
    """Scale a pattern of layers, published for an LLM of ``depth`` layers, to ``to_depth`` layers.

    Layer l becomes floor(l * to_depth / depth), or the nearest of the ``allowed`` layers that leaves one for
    each published layer before and after it. The result is ascending. If fewer layers are allowed than were
    published, the first published layers are omitted.
    """
    targets = [layer * to_depth // depth for layer in layers][-len(allowed) :]
    out: list[int] = []
    free = 0
    for number, target in enumerate(targets, 1):
        last = len(allowed) - (len(targets) - number)
        free = min(range(free, last), key=lambda i: (abs(allowed[i] - target), i)) + 1
        out.append(allowed[free - 1])
    return out


def one_layer(
    name: str, layer: int | None, published: int, modules: LocatedModules, source: AttentionSource
) -> int:
    """The layer before which a method with a single step acts.

    This is ``layer`` if given, otherwise the allowed layer nearest to ``published``. Raises ValueError for a
    layer that the model does not have.
    """
    if layer is not None:
        check_llm_layers(name, (layer,), modules)
        return layer
    depth = len(modules.layers)
    (nearest,) = carry_over((published,), depth, depth, allowed_layers(modules, source))
    return nearest
