"""Ovis2, whose features are mixtures of the rows of a table of visual words."""

from __future__ import annotations

from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import ANY, Family
from ..towers import Tower
from .llava import LIKE_ONEVISION

TOWER = Tower("transformer.encoder.layers", "attention", "rms_norm2", "ffn", "rms_norm1", spatial=True)


def _dimensions(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    wide, words = vision.hidden_size * vision.hidden_stride**2, vision.vocab_size
    # The table is read as a linear layer.
    return tiled_encoder(vision, ((wide, words), (words, config.get_text_config().hidden_size)), 3)


ENTRIES = (
    Family(
        "ovis2",
        LIKE_ONEVISION,
        encoder="vision_tower",
        # Later operations are row by row, and NaN stays NaN. They make a row of NaN of a feature that is not
        # finite too, which the count of marks at the entry of the LLM tells from dropped ones.
        projector="vision_tower.head_norm",
        unfolds_after="vision_tower.transformer.rms_norm",
        compacts_before="vision_tower.head_linear",
        towers={ANY: TOWER},
        encoder_dimensions=_dimensions,
        group=lambda config: int(config.vision_config.hidden_stride**2),
        config_attributes=("vision_config.hidden_stride", "vision_config.vocab_size"),
        tiny={
            "ovis2": lambda: transformers.Ovis2Config(
                vision_config={**tiny.VISION, "image_size": 24, "patch_size": 4, "hidden_stride": 2}
                | {"vocab_size": 40, "num_visual_indicator_tokens": 3},
                text_config=tiny.QWEN2,
                image_token_id=tiny.IMAGE,
                visual_indicator_token_ids=[tiny.START, tiny.END, 94],
                hidden_size=32,
            )
        },
    ),
)
