"""Checks of a merged prefill while it runs: what transformers made of it against what was planned.

They compare numbers that are on the host anyway, and raise rather than let a wrong answer out.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..compat import installed
from ..errors import UnsupportedError
from .cache.merged import MergedLayer
from .encoder.run import EncoderRun
from .llm.prefill import Prefill

_COMPILED = " (torch.compile follows hooks where torch._dynamo.config.skip_nnmodule_hook_guards is False)"


def check_source(marks: Tensor) -> None:
    """Raise UnsupportedError if any of (B, L) ``marks`` is set, in features that the model did not make."""
    if bool(marks.any()):
        raise UnsupportedError(
            "mm_encoder_outputs hold NaN, and are not the very objects that this accelerated model's "
            "get_image_features returned, so whether NaN marks dropped tokens is not known; hand over these"
        )


def check_marks(runs: list[EncoderRun], prefill: Prefill, blocks: frozenset[int]) -> None:
    """Raise RuntimeError unless the encoder merged in all ``blocks`` and all features it dropped are marked.

    ``runs`` made the features, all of which each row of the batch may hold once more, as beams do.
    """
    if prefill.prompt.unknown_source or not runs:
        return
    for run in runs:
        if run.resized is None and not blocks <= run.visited:
            _fail(f"blocks of the image encoder that merged{_COMPILED}", sorted(blocks), sorted(run.visited))
    features, dropped = sum(run.features for run in runs), sum(run.marked or 0 for run in runs)
    placeholders = sum(prefill.prompt.lengths)
    expected = placeholders * dropped // features if features else dropped
    if prefill.marked != expected:
        _fail("features of dropped tokens that reached the language model", expected, prefill.marked)


def check_output(prefill: Prefill, output: Any, layers: frozenset[int]) -> None:
    """Raise RuntimeError unless tokens merged before all ``layers``, and all that are left came out."""
    if not layers <= prefill.visited:
        _fail(f"layers before which tokens merged{_COMPILED}", sorted(layers), sorted(prefill.visited))
    hidden = output[0]
    expected = prefill.history[-1][1].columns.shape[1]
    if hidden.shape[1] != expected:
        _fail("tokens that the language model returned", expected, hidden.shape[1])


def check_cache(prefill: Prefill, returned: Any, depth: int) -> None:
    """Raise RuntimeError unless the first ``depth`` layers of the key/value cache hold what is left."""
    layers = prefill.cache_layers
    if layers is None:
        return
    if returned is not None and (len(returned.layers) < len(layers) or returned.layers[0] is not layers[0]):
        _fail("key/value cache that the language model returned", "the one made for it", "another")
    length = prefill.start + prefill.prompt.runs.shape[1]
    for index, layer in enumerate(layers):
        if not isinstance(layer, MergedLayer) or index >= depth:
            continue
        # Positions of the next step count from the length that the cache reports.
        if layer.expected is not None or layer.get_seq_length() != length:
            held = 0 if layer.expected is not None else layer.get_seq_length()
            _fail(f"tokens that layer {index} of the key/value cache stands for", length, held)
        # A sliding window holds fewer, as its layer counts itself.
        if layer.window is None and layer.keys.shape[2] != layer.held:
            _fail(f"keys in layer {index} of the key/value cache", layer.held, layer.keys.shape[2])


def _fail(what: str, expected: Any, found: Any) -> None:
    raise RuntimeError(
        f"{what}: expected {expected}, found {found} in a merged prefill on transformers {installed()}; the "
        "result would be wrong. Run `illava doctor`, and install a release that works"
    )
