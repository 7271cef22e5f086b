"""What the modules of a model are handed and what they return, seen from outside the library."""

from __future__ import annotations

import sys

import torch


def layers(model):
    """Of the LLM."""
    base = model.model
    return (base.text_model if hasattr(base, "text_model") else base.language_model).layers


def blocks(model):
    """Of the image encoder."""
    base = model.model
    tower = next(
        getattr(base, name) for name in ("visual", "vision_tower", "vision_model") if hasattr(base, name)
    )
    if hasattr(tower, "blocks"):
        return tower.blocks
    stack = tower.transformer if hasattr(tower, "transformer") else tower.encoder
    return stack.layers if hasattr(stack, "layers") else stack.layer


def attention_of(layer):
    return next(getattr(layer, name) for name in ("attn", "self_attn", "attention") if hasattr(layer, name))


@torch.no_grad()
def run(model, inputs, *modules):
    """The output, and the (input, output) of the modules at each of their calls."""
    seen = [[] for _ in modules]

    def note(calls):
        def hook(module, args, kwargs, output):
            x = args[0] if args else kwargs["hidden_states"]
            calls.append((x, output[0] if isinstance(output, tuple) else output))

        return hook

    hooks = [m.register_forward_hook(note(s), with_kwargs=True) for m, s in zip(modules, seen, strict=True)]
    try:
        return model(**inputs, use_cache=True), seen
    finally:
        for hook in hooks:
            hook.remove()


def weights(monkeypatch, model, inputs, module):
    """(B, H, q, k) attention weights of a module of an eager model."""
    code = sys.modules[type(module).__module__]
    eager, kept = code.eager_attention_forward, []

    def recording(calling, *args, **kwargs):
        output, weights = eager(calling, *args, **kwargs)
        if calling is module:
            kept.append(weights)
        return output, weights

    with monkeypatch.context() as patched:
        patched.setattr(code, "eager_attention_forward", recording)
        run(model, inputs)
    (only,) = kept
    return only


def lookup(rows, among):
    """Which of the rows ``among`` each of ``rows`` is."""
    distance = (rows[:, None] - among[None]).abs().amax(-1)
    nearest = distance.min(1)
    assert nearest.values.max() < 1e-4, "a survivor is none of the rows there were"
    return nearest.indices.tolist()
