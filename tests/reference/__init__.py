"""The whole method at full length, to compare the library with.

Written from the description of the method and from the models' own code, on purpose with nothing of
the library in it: no token ever leaves a tensor, a flag says which still live, dead ones are masked
out of every attention. All arithmetic in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .llm import apart, decode, positions, rotations, sights
from .pixtral import pixtral
from .pooled import next_video
from .step import Plan, merge
from .tiles import tiles
from .vision import Box, onevision, qwen

__all__ = ["Plan", "Run", "run", "trained"]


ENCODERS = {
    "llava_next_video": next_video,
    "llava_onevision": onevision,
    "mistral3": pixtral,
    "qwen2_vl": qwen,
    "qwen2_5_vl": qwen,
    "qwen3_vl": qwen,
}


@dataclass
class Step:
    stage: str
    layer: int
    before: int
    after: int


@dataclass
class Run:
    logits: Tensor  # (tokens, vocabulary), of dead tokens too
    alive: list[bool]
    steps: list[Step]
    # A picture's boxes still there, after each step.
    kept: list[list[list[Box]]] = field(default_factory=list)
    # Which of them are videos.
    videos: list[bool] = field(default_factory=list)
    # Of each layer: which tokens live in it, what it gives, (heads) its weights of all tokens.
    layers: list[tuple[list[bool], Tensor, list[Tensor]]] = field(default_factory=list)
    # What enters the first one, and what the head gets.
    entered: Tensor | None = None
    left: Tensor | None = None


@torch.no_grad()
def run(model: nn.Module, ids: list[int], pictures: list[dict[str, Tensor]], plan: Plan, prompt: int) -> Run:
    """One row without padding; its first ``prompt`` ids are the prompt, the others were generated."""
    return trained(copy.deepcopy(model).double(), ids, pictures, plan, prompt)


def trained(
    model: nn.Module, ids: list[int], pictures: list[dict[str, Tensor]], plan: Plan, prompt: int
) -> Run:
    """The same of a model in float64, with gradients; but weights of recycled units are constants."""
    encode = ENCODERS.get(model.config.model_type)
    seen = [
        part
        for values in pictures
        for part in ([encode(model, values, plan)] if encode else tiles(model, values, plan))
    ]
    steps = [
        Step("encoder", layer, sum(s.steps[i][0] for s in seen), sum(len(s.steps[i][1]) for s in seen))
        for i, layer in enumerate(sorted(plan.encoder))
        if seen
    ]
    kept = [[boxes for _, boxes in s.steps] for s in seen]

    placeholders = {model.config.image_token_id, getattr(model.config, "video_token_id", None)}
    visual = [i for i in range(prompt) if ids[i] in placeholders]
    hidden = model.get_input_embeddings()(torch.tensor(ids))
    alive = [True] * len(ids)
    # Every placeholder's picture and its row there.
    source: dict[int, tuple[int, int]] = {}
    rows = iter(visual)
    for number, s in enumerate(seen):
        for place in range(len(s.features)):
            row = next(rows)
            hidden[row], alive[row], source[row] = s.features[place], s.alive[place], (number, place)

    language = model.model.text_model if hasattr(model.model, "text_model") else model.model.language_model
    places = positions(model, ids, [grid for s in seen for grid in s.grids])
    rotary = rotations(language, hidden, places)
    visible = sights(model, len(ids), apart(visual))
    weights: list[Tensor] = []
    layers, entered = [], hidden.clone()
    for number, layer in enumerate(language.layers):
        if number in plan.llm and seen:
            fixed = {i for i, (p, place) in source.items() if place < seen[p].fixed}
            before = sum(alive[i] for i in visual if i not in fixed)
            for segment in apart(visual):
                living = [i for i in segment if alive[i] and i not in fixed]
                scores = [
                    sum(float(head[prompt - 1, i].detach()) for head in weights) / len(weights)
                    for i in living
                ]
                vectors = [hidden[i] for i in living]
                stay = merge(vectors, scores, plan.llm[number], plan)
                hidden = hidden.clone()  # the vectors above are views
                for i, token in enumerate(living):
                    alive[token] = i in stay
                    hidden[token] = vectors[i]
            after = sum(alive[i] for i in visual if i not in fixed)
            steps.append(Step("llm", number, before, after))
            for picture, lists in enumerate(kept):
                boxes = [
                    seen[p].boxes[place] for i, (p, place) in source.items() if p == picture and alive[i]
                ]
                lists.append([box for box in boxes if box])
        hidden, weights = decode(layer, hidden, rotary[number], visible[number] & torch.tensor(alive)[None])
        layers.append((list(alive), hidden.clone(), weights))
        for row, (picture, place) in source.items():
            if alive[row] and number < len(seen[picture].taps):
                hidden[row] += seen[picture].taps[number][place]
    left = language.norm(hidden)
    return Run(model.lm_head(left), alive, steps, kept, [s.video for s in seen], layers, entered, left)
