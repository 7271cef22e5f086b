"""Positions of survivors: those that transformers gives the same tokens in the full prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
import torch
from engines import PROMPTS, Reference
from illava_vllm.channels import CHANNELS, with_numbers, without_numbers
from illava_vllm.mrope import Run, add_places, beginnings, extent, places_of
from illava_vllm.processing import shortened


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("name", PROMPTS)
def test_as_in_the_full_prompt(family: str, name: str, checkpoint: Callable[[str], Path]) -> None:
    reference = Reference(checkpoint(family))
    inputs, config = PROMPTS[name].for_transformers(reference.processor), reference.model.config
    ids = inputs["input_ids"][0]
    more = {key: inputs[key] for key in ("second_per_grid_ts",) if key in inputs}
    expected, delta = reference.model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
        **more,
    )
    generator = torch.Generator().manual_seed(0)
    apart, kept, runs, places = family == "qwen3_vl", torch.ones(len(ids), dtype=torch.bool), [], []
    queues = {
        config.image_token_id: inputs.get("image_grid_thw", torch.zeros(0, 3)).tolist(),
        config.video_token_id: inputs.get("video_grid_thw", torch.zeros(0, 3)).tolist(),
    }
    index = shift = 0
    while index < len(ids):
        token = int(ids[index])
        if token not in queues:
            index += 1
            continue
        grid = queues[token].pop(0)
        is_video = token == config.video_token_id
        if is_video and apart and grid[0] > 1:
            # The frames follow one by one.
            queues[token].insert(0, [grid[0] - 1, *grid[1:]])
            grid = [1, *grid[1:]]
        per_frame = 1.0
        if is_video and family == "qwen2_5_vl":
            per_frame = config.vision_config.tokens_per_second * float(inputs["second_per_grid_ts"][0])
        per_frame = None if is_video and apart else per_frame
        units = grid[0] * grid[1] * grid[2] // 4
        raster = torch.randperm(units, generator=generator)[: units // 3].sort().values
        runs.append(Run(index - shift, len(raster), extent(grid, 2, per_frame)))
        places.append(places_of(raster, grid, 2, per_frame))
        kept[index : index + units] = False
        kept[index + raster] = True
        index, shift = index + units, shift + units - len(raster)
    positions, continues = beginnings(int(kept.sum()), runs)
    if places:
        visual = torch.isin(ids[kept], torch.tensor([*queues]))
        padded = torch.nn.functional.pad(positions, (0, 3), value=7)
        add_places(padded, visual, torch.cat(places))
        positions = padded[:, :-3]
        assert bool((padded[:, -3:] == 7).all())
    assert torch.equal(positions, expected[:, 0, kept])
    assert continues + len(positions[0]) == int(delta) + len(ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_survive_every_dtype(dtype: torch.dtype) -> None:
    numbers = torch.tensor([[0, 1, 255], [256, 257, 65535], [65536, 2**24 - 1, 12345]])
    features = torch.randn(3, 5).to(dtype)
    joined = with_numbers(features, numbers)
    assert joined.shape == (3, 5 + CHANNELS)
    assert joined.dtype == dtype
    back, read = without_numbers(joined)
    assert torch.equal(back, features)
    assert torch.equal(read, numbers)


def test_shortened() -> None:
    assert shortened([9, 9, 9, 9], 9, [2]) == [9, 9]
    # One run of two frames, and two runs between other tokens.
    assert shortened([9] * 8, 9, [2, 1]) == [9, 9, 9]
    assert shortened([1, 2, 9, 9, 9, 3, 1, 9, 9, 9, 3], 9, [2, 1]) == [1, 2, 9, 9, 3, 1, 9, 3]
    with pytest.raises(ValueError, match="3 frames has 2 runs"):
        shortened([9, 1, 9], 9, [1, 1, 1])
