"""What the merged models change of vLLM's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from illava.errors import UnsupportedError

from .channels import with_numbers, without_numbers
from .encoder import encode
from .mrope import Run, add_places, beginnings, extent, places_of
from .schedule import schedule_of


class Merging:
    """Mixin for vLLM's Qwen models with M-RoPE. Without a schedule everything is upstream's."""

    frames_apart: ClassVar[bool] = False
    """Whether each frame of a video is a run of placeholders of its own, with positions of a picture."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        schedule = schedule_of(vllm_config.model_config.hf_config)
        with _larger_positions(vllm_config, schedule is not None):
            super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.schedule = schedule
        self._arrived: tuple[Tensor, Tensor] | None = None
        """From ``embed_input_ids`` to ``forward``: which tokens of a step are visual, and their places."""
        if schedule is None:
            return
        # Upstream's own pruning of videos stays off.
        self.is_multimodal_pruning_enabled = False
        if "FLASHINFER" in str(self.visual.attn_backend):
            raise UnsupportedError(
                "illava-vllm: the image encoder's FlashInfer backend is not supported; give "
                "--mm-encoder-attn-backend FLASH_ATTN"
            )

    def get_encoder_cudagraph_config(self) -> Any:
        config = super().get_encoder_cudagraph_config()
        return config if self.schedule is None else replace(config, modalities=[])

    # -- encoding -------------------------------------------------------------------------------------------

    def _process_image_input(self, image_input: Any) -> Sequence[Tensor]:
        if self.schedule is None:
            return super()._process_image_input(image_input)
        return self._encoded(image_input, "pixel_values", "image_grid_thw", ())

    def _process_video_input(self, video_input: Any) -> Sequence[Tensor]:
        if self.schedule is None:
            return super()._process_video_input(video_input)
        seconds = video_input.get("second_per_grid_ts")
        seconds = () if seconds is None else torch.as_tensor(seconds).flatten().tolist()
        return self._encoded(video_input, "pixel_values_videos", "video_grid_thw", seconds)

    def _encoded(self, given: Any, pixels: str, grids: str, seconds: Sequence[float]) -> tuple[Tensor, ...]:
        """Features of the survivors of each picture or video, with their places; encoded one by one.

        vLLM limits how many visual tokens it encodes together. It counts survivors, so that encoding them
        together could take several times the memory that it reckons with.
        """
        if given["type"] != pixels:
            raise UnsupportedError("illava-vllm: precomputed embeddings of pictures are not supported")
        out, start = [], 0
        for number, grid in enumerate(torch.as_tensor(given[grids]).tolist()):
            stop = start + grid[0] * grid[1] * grid[2]
            features, raster = encode(self.visual, given[pixels][start:stop], grid, self.schedule)
            per_frame = self._per_frame(seconds[number] if number < len(seconds) else 1.0)
            places = places_of(raster, grid, self.visual.spatial_merge_size, per_frame)
            out.append(with_numbers(features, places))
            start = stop
        return tuple(out)

    def _per_frame(self, seconds: float) -> float | None:
        """Positions from a frame of a video to the next, ``seconds`` later."""
        if self.frames_apart:
            return None
        return seconds * getattr(self.config.vision_config, "tokens_per_second", 1.0)

    # -- positions ------------------------------------------------------------------------------------------

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        if self.schedule is None:
            return super().get_mrope_input_positions(input_tokens, mm_features)
        return beginnings(len(input_tokens), self._runs(mm_features))

    def _runs(self, features: list[Any]) -> Iterator[Run]:
        side = self.config.vision_config.spatial_merge_size
        for feature in features:
            grid = feature.data[f"{feature.modality}_grid_thw"].data.tolist()
            left, start = self.schedule.left(grid), feature.mm_position.offset
            if feature.modality == "image":
                yield Run(start, sum(left), extent(grid, side, 1.0))
            elif not self.frames_apart:
                seconds = feature.data.get("second_per_grid_ts")
                per_frame = self._per_frame(1.0 if seconds is None else float(seconds.data))
                yield Run(start, sum(left), extent(grid, side, per_frame))
            else:
                # Timestamps lie between the frames.
                visual = torch.nonzero(feature.mm_position.is_embed)[:, 0].tolist()
                for number, tokens in enumerate(left):
                    yield Run(start + visual[number * tokens], tokens, extent(grid, side, None))

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        if self.schedule is not None and multimodal_embeddings is not None and len(multimodal_embeddings):
            features, places = zip(*(without_numbers(one) for one in multimodal_embeddings), strict=True)
            self._arrived = (is_multimodal, torch.cat(places))
            multimodal_embeddings = features
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(self, input_ids: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._arrived is not None:
            add_places(positions, *self._arrived)
            self._arrived = None
        return super().forward(input_ids, positions, *args, **kwargs)


@contextmanager
def _larger_positions(vllm_config: Any, merges: bool) -> Iterator[None]:
    """Let rotary tables have more positions than prompts have tokens, as for upstream's pruning of videos."""
    vision = vllm_config.model_config.multimodal_config
    if merges:
        vision.is_multimodal_pruning_enabled = lambda: True
    try:
        yield
    finally:
        if merges:
            del vision.is_multimodal_pruning_enabled
