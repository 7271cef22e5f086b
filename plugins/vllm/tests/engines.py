"""Engines of vLLM in this process, one after the other, and what the Hugging Face model says."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import checkpoints
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata
from vllm import LLM, SamplingParams
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

import illava
from illava.methods import Illava

IMAGE, VIDEO = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
NEW = 4
TOP = 5


@dataclass(frozen=True)
class Prompt:
    """A prompt with pictures and videos."""

    text: str
    pictures: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()

    @property
    def metadata(self) -> list[dict[str, Any]]:
        return [
            {
                "fps": 2.0,
                "duration": len(frames) / 2,
                "total_num_frames": len(frames),
                "frames_indices": list(range(len(frames))),
                "video_backend": "opencv",
                "do_sample_frames": False,
            }
            for frames in self.videos
        ]

    def for_vllm(self, family: str) -> dict[str, Any]:
        videos = list(self.videos)
        if family != "qwen2_vl":
            videos = list(zip(self.videos, self.metadata, strict=True))
        data = {"image": list(self.pictures), "video": videos}
        return {"prompt": self.text, "multi_modal_data": {name: some for name, some in data.items() if some}}

    def for_transformers(self, processor: Any) -> dict[str, torch.Tensor]:
        given: dict[str, Any] = {"images": list(self.pictures) or None, "videos": list(self.videos) or None}
        if self.videos:
            keys = ("fps", "duration", "total_num_frames", "frames_indices", "video_backend")
            given["video_metadata"] = [VideoMetadata(**{k: one[k] for k in keys}) for one in self.metadata]
        return processor(text=[self.text], return_tensors="pt", **{k: v for k, v in given.items() if v})


PROMPTS = {
    "picture": Prompt(f"{IMAGE}What?", (checkpoints.picture(64, 48, 1),)),
    "two": Prompt(
        f"A{IMAGE}and {IMAGE}. Same?", (checkpoints.picture(56, 72, 2), checkpoints.picture(96, 40, 3))
    ),
    "video": Prompt(f"See {VIDEO}now", (), (checkpoints.video(6, 48, 64, 4),)),
    "both": Prompt(
        f"{VIDEO}or{IMAGE}", (checkpoints.picture(72, 72, 5),), (checkpoints.video(4, 64, 40, 6),)
    ),
    "text": Prompt("No picture at all?"),
}


@dataclass(frozen=True)
class Answer:
    """Greedy tokens of an engine, with the log-probabilities of the likeliest at each."""

    prompt: int
    """Tokens of the prompt."""
    tokens: tuple[int, ...]
    logprobs: tuple[dict[int, float], ...]
    cached: int
    """Tokens of the prompt that came from the prefix cache."""


class Engine:
    """An engine of one checkpoint."""

    def __init__(self, family: str, folder: Path, **options: Any) -> None:
        self.family = family
        limits = {"image": 2, "video": 1}
        self.llm = LLM(
            str(folder),
            **{
                "dtype": "float32",
                "enforce_eager": True,
                "max_model_len": 512,
                "max_num_seqs": 4,
                "limit_mm_per_prompt": limits,
                "disable_log_stats": False,
                **options,
            },
        )

    def ask(self, prompts: Sequence[Prompt]) -> list[Answer]:
        # No placeholders, which would need pictures. Log-probabilities are those before tokens are ruled out.
        sampling = SamplingParams(
            temperature=0, max_tokens=NEW, logprobs=TOP, ignore_eos=True, allowed_token_ids=list(range(256))
        )
        given = [prompt.for_vllm(self.family) for prompt in prompts]
        return [_answer(one) for one in self.llm.generate(given, sampling, use_tqdm=False)]


def _answer(output: Any) -> Answer:
    (only,) = output.outputs
    logprobs = tuple({token: one.logprob for token, one in step.items()} for step in only.logprobs)
    return Answer(
        len(output.prompt_token_ids), tuple(only.token_ids), logprobs, output.num_cached_tokens or 0
    )


@contextmanager
def engine(
    family: str, folder: Path, settings: dict[str, Any] | None = None, **options: Any
) -> Iterator[Engine]:
    """An engine that ends with the context. ``settings``: those of illava."""
    more = {} if settings is None else {"additional_config": {"illava": settings}}
    made = Engine(family, folder, **more, **options)
    try:
        yield made
    finally:
        del made.llm
        gc.collect()
        cleanup_dist_env_and_memory()


class Reference:
    """The Hugging Face model of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def logprobs(self, prompt: Prompt, tokens: Sequence[int], method: Illava | None) -> torch.Tensor:
        """(tokens, vocabulary): after the prompt and each of the tokens but the last."""
        inputs = prompt.for_transformers(self.processor)
        more = torch.tensor([list(tokens[:-1])])
        ids = torch.cat([inputs["input_ids"], more], 1)
        given = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            given["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(more, dtype=kinds.dtype)], 1)
        accelerated = nullcontext() if method is None else illava.accelerate(self.model, method)
        with accelerated, torch.inference_mode():
            logits = self.model(**given, use_cache=False).logits
        return logits[0, -len(tokens) :].log_softmax(-1)


def encoder_stage(keep: float) -> Illava:
    """What ``keep`` means to the plugin."""
    return replace(Illava.best(keep), llm_layers=(), proportional=None)


def difference(answer: Answer, expected: torch.Tensor) -> float:
    """Largest difference of the log-probabilities that an answer has."""
    return max(
        abs(value - float(row[token]))
        for row, step in zip(expected, answer.logprobs, strict=True)
        for token, value in step.items()
    )
