"""Checks of a merged prefill while it runs: the actual token counts against the expected ones.

They compare numbers that are already on the host, and raise an error instead of returning a wrong result.
"""

from __future__ import annotations

from typing import Any

from ..compat import installed
from ..errors import UnsupportedError
from ..methods.steps import Plan
from ..models.located import LocatedModules
from .cache.merged import MergedLayer
from .encoder.run import EncoderRun
from .llm.prefill import Prefill

_COMPILED = " (torch.compile follows hooks where torch._dynamo.config.skip_nnmodule_hook_guards is False)"


def check_before_llm(modules: LocatedModules, plan: Plan) -> None:
    """Raise UnsupportedError for a plan with steps before the LLM, if the family has none."""
    family = modules.family
    if family.encoder_refusal and (plan.encoder or plan.projector is not None or plan.pixels is not None):
        raise UnsupportedError(
            f"steps before the LLM are not supported for {family.model_type}: {family.encoder_refusal}; use "
            "a method of the LLM, such as Illava(encoder_layers=())"
        )


def check_gradients(plan: Plan, method: str) -> None:
    """Raise UnsupportedError for a plan that drops tokens which no other absorbs."""
    if (place := plan.dropping) is not None:
        raise UnsupportedError(
            f"train=True: {method} drops tokens at {place} that no other absorbs, so they have no gradient; "
            "use keep=, illava.Illava(reduce='fold') or leave out train=True, with which only the tokens "
            "that are left have gradients"
        )


def check_features(modules: LocatedModules, plan: Plan) -> None:
    """Raise UnsupportedError for a step that selects features, if queries made them of all patches."""
    if modules.family.resampler is not None and plan.projector is not None and plan.projector.projected:
        raise UnsupportedError(
            f"features of {modules.family.model_type} are outputs of queries, none of which shows a part of "
            "a picture; use a method that selects patches before the projector, or one of the LLM"
        )


def check_source(marks: int) -> None:
    """Raise UnsupportedError if there are ``marks`` in features from an unknown source."""
    if marks:
        raise UnsupportedError(
            "mm_encoder_outputs contain NaN and are not the objects returned by get_image_features of this "
            "accelerated model, so it is unknown whether NaN marks dropped tokens; pass these objects"
        )


def check_marks(runs: list[EncoderRun], prefill: Prefill, blocks: frozenset[int]) -> None:
    """Raise RuntimeError unless the encoder merged in all ``blocks`` and all features it dropped are marked.

    ``runs`` computed the features. Each row of the batch may contain all of them again, as for beams.
    """
    if prefill.prompt.unknown_source or not runs:
        return
    for run in runs:
        if run.resized is None and not blocks <= run.visited:
            _fail(f"blocks of the image encoder that merged{_COMPILED}", sorted(blocks), sorted(run.visited))
    features, dropped = sum(run.features for run in runs), sum(int(run.marked or 0) for run in runs)
    placeholders = sum(prefill.prompt.lengths)
    expected = placeholders * dropped // features if features else dropped
    if prefill.marked != expected:
        _fail("features of dropped tokens that reached the language model", expected, prefill.marked)


def check_output(prefill: Prefill, output: Any, layers: frozenset[int]) -> None:
    """Raise RuntimeError unless tokens merged before all ``layers`` and the remaining ones were returned."""
    if not layers <= prefill.visited:
        _fail(f"layers before which tokens merged{_COMPILED}", sorted(layers), sorted(prefill.visited))
    hidden = output[0]
    expected = prefill.history[-1][1].columns.shape[1]
    if hidden.shape[1] != expected:
        _fail("tokens that the language model returned", expected, hidden.shape[1])


def check_cache(prefill: Prefill, returned: Any, depth: int) -> None:
    """Raise RuntimeError unless the first ``depth`` layers of the KV cache hold the remaining tokens."""
    layers = prefill.cache_layers
    if layers is None:
        return
    if returned is not None and (len(returned.layers) < len(layers) or returned.layers[0] is not layers[0]):
        _fail("KV cache that the language model returned", "the one prepared for it", "another")
    length = prefill.start + prefill.prompt.runs.shape[1]
    for index, layer in enumerate(layers):
        if not isinstance(layer, MergedLayer) or index >= depth:
            continue
        # The next step's positions start at the length that the cache reports.
        if layer.expected is not None or layer.get_seq_length() != length:
            held = 0 if layer.expected is not None else layer.get_seq_length()
            _fail(f"logical length of layer {index} of the KV cache", length, held)
        # Sliding-window layers hold fewer keys.
        if layer.window is None and layer.keys.shape[2] != layer.held:
            _fail(f"keys in layer {index} of the KV cache", layer.held, layer.keys.shape[2])


def _fail(quantity: str, expected: Any, found: Any) -> None:
    raise RuntimeError(
        f"{quantity}: expected {expected}, found {found} in a merged prefill on transformers {installed()}; "
        "the result would be wrong. Run `illava doctor`, and install a supported release"
    )
