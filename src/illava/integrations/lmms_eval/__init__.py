"""``lmms-eval --model illava``: the entry point by which lmms-eval finds illava's models."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The ``ModelManifest`` of ``--model illava``: chat tasks, and with ``--force_simple`` simple tasks."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="illava",
        chat_class_path=f"{__name__}.chat.IllavaChat",
        simple_class_path=f"{__name__}.simple.IllavaSimple",
    )
