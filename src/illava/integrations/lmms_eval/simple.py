"""The model of lmms-eval that takes pictures and a text: for multiple choice by likelihood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance
from PIL import Image

from ..answering import Chat
from .base import Illava, Source

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class IllavaSimple(Illava):
    """Answers one user turn: the pictures or videos of a question, then its text."""

    is_simple = True

    def _question(self, request: Instance) -> tuple[Source, Mapping[str, Any]]:
        text, given, visuals_of, *place = request.args
        return self._source(text, visuals_of, *place), given

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Of each choice, minus its mean log-probability per token, and whether greedy decoding gives it.

        The harness takes the choice with the lowest value, and its own models return the mean.
        """
        pairs = []
        for request in requests:
            if len(request.args) == 2:
                raise NotImplementedError("illava does not have acc_mutual_info, which asks without a prompt")
            text, wanted, visuals_of, number, task, split = request.args
            if callable(wanted):
                wanted = wanted(self.task_dict[task][split][number])
            pairs.append((self._source(text, visuals_of, number, task, split), str(wanted)))
        found = self._likelihoods(pairs)
        # lmms-eval 0.7 makes a string of everything that is not text, unless it is wrapped.
        return [
            GenerationResult((-sum(likely.log_probs) / len(likely.log_probs), likely.greedy))
            for likely in found
        ]

    def _source(
        self, text: str, visuals_of: Callable[[Any], Any] | None, number: int, task: str, split: str
    ) -> Source:
        def chat() -> Chat:
            visuals = visuals_of(self.task_dict[task][split][number]) if callable(visuals_of) else None
            parts = [{"type": _kind(visual), "url": visual} for visual in visuals or ()]
            turn = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
            return self._chat([turn], task, number)

        return chat


def _kind(visual: Any) -> str:
    """Whether a visual of a task is a picture or a video; files are told apart by their names."""
    if isinstance(visual, Image.Image) or (isinstance(visual, dict) and "bytes" in visual):
        return "image"
    return "image" if isinstance(visual, str) and visual.lower().endswith(PICTURES) else "video"
