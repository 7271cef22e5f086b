"""Placeholders of class tokens and registers, which show no part of a picture and are never dropped.

Their features precede those of a picture's patches. Transformers' "default" selection removes the class token
only, so that the registers of an encoder reach the LLM, and its "full" selection removes nothing. The encoder
stage keeps such tokens, and so does the LLM stage: they hold summaries of the whole picture, which are no
neighbours of any patch. A share ``keep`` counts patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...errors import UnsupportedError
from ...models.located import LocatedModules
from ...ops.masks import places_of
from ...ops.transfers import upload
from ..encoder.run import EncoderRun
from .prefill import Prompt


def prefix_features(modules: LocatedModules, run: EncoderRun) -> int:
    """Features of class tokens and registers before those of each segment's patches."""
    if run.grid is not None or run.mixing is not None or not run.prefix:
        return 0
    if not run.features:
        return modules.family.prefix_features(modules.config)
    # A call may select features otherwise than the config.
    return run.features // len(run.full_lengths) - run.full_lengths[0]


def mark_fixed(prompt: Prompt, modules: LocatedModules, runs: Sequence[EncoderRun]) -> None:
    """Write to ``prompt`` which of its placeholders stand for class tokens and registers.

    ``runs``: the encoder runs of its features. Raises UnsupportedError if they are unknown and the model has
    such placeholders.
    """
    expected = modules.family.prefix_features(modules.config)
    if prompt.unknown_source:
        if expected and modules.family.picture_format(modules.config) == "square":
            raise UnsupportedError(
                "mm_encoder_outputs are not the objects returned by get_image_features of this accelerated "
                "model, so it is unknown which features belong to class tokens and registers, which the LLM "
                "stage keeps; pass these objects"
            )
        return
    tiles = [
        (prefix, length)
        for run in runs
        for prefix in [prefix_features(modules, run)]
        for length in run.full_lengths
    ]
    if not any(prefix for prefix, _ in tiles):
        return
    count, total = len(prompt.runs), sum(prompt.lengths)
    # Beams and multiple return sequences repeat every row of the batch.
    repeats = total // sum(map(sum, tiles))
    in_row = [0] * count
    for row, length in zip(prompt.rows, prompt.lengths, strict=True):
        in_row[row] += length
    fixed: list[bool] = []
    left = iter(tiles)
    for row in range(0, count, max(1, repeats)):
        own: list[bool] = []
        while len(own) < in_row[row] and (tile := next(left, None)):
            own += [True] * tile[0] + [False] * tile[1]
        fixed += own * repeats
    if len(fixed) != total:
        # The model itself raises an error for features that are not as many as placeholders.
        return
    split = torch.tensor(fixed).split(list(prompt.lengths))
    prompt.fixed_lengths = tuple(int(part.sum()) for part in split)
    device = prompt.runs.device
    places = places_of((prompt.runs >= 0).flatten(), total)
    flags = torch.zeros(prompt.runs.numel(), dtype=torch.bool, device=device)
    prompt.fixed = flags.index_copy(0, places, upload(fixed, device, torch.bool)).view_as(prompt.runs)
