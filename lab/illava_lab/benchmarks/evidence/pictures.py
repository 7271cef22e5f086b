"""Pictures of what merging dropped where it loses most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from illava import accelerate
from illava.evaluation.prompts import build_batch
from illava.io.files import replacing
from illava.methods import Method
from illava.viz.overlay import kept_share
from illava_lab import tasks as registry

ENLARGED = 2


def slug(entry: dict[str, Any]) -> str:
    """The file name of one kind of question."""
    return f"hurt-{entry['task']}-{entry['kind']}".replace(" ", "-") + ".png"


def draw(model: nn.Module, processor: Any, entry: dict[str, Any], method: Method, folder: Path) -> str:
    """Draw the first example of one kind, faded where its patches are gone; returns the file's name."""
    sample = registry.load(entry["task"])[entry["examples"][0]["sample"]]
    with torch.no_grad(), accelerate(model, method) as handle:
        model(**build_batch(processor, [sample]))
        report = handle.report
    shown = []
    for number, picture in enumerate(sample.pictures or sample.video[::2]):
        seen = report.pictures[0 if sample.video else number]
        everything, left = seen.all, seen.kept[-1] if seen.kept else seen.all
        if sample.video:
            everything, left = (part[part[:, 0] == number] for part in (everything, left))
        size = (picture.width * ENLARGED, picture.height * ENLARGED)
        bright = picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
        faded = Image.blend(bright.convert("L").convert("RGB"), Image.new("RGB", size, (128, 128, 128)), 0.75)
        mask = Image.fromarray((kept_share(size, everything, left) * 255).astype("uint8"))
        shown += [bright, Image.composite(bright, faded, mask)]
    # Pictures in a row, whole above, what was left of them below.
    columns = [shown[i : i + 2] for i in range(0, len(shown), 2)]
    gap = 4
    width = sum(pair[0].width + gap for pair in columns) - gap
    sheet = Image.new("RGB", (width, 2 * columns[0][0].height + gap), "white")
    left_edge = 0
    for pair in columns:
        for row, picture in enumerate(pair):
            sheet.paste(picture, (left_edge, row * (picture.height + gap)))
        left_edge += pair[0].width + gap
    name = slug(entry)
    with replacing(folder / name) as partial:
        sheet.quantize(128).save(partial, format="PNG", optimize=True)
    return name
