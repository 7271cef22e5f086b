"""The model cards of the zoo, with the figures of the result files: written by ``make evidence``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from illava import zoo
from illava.ask import load
from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.rows import fingerprint
from illava.evaluation.summary import interval, number
from illava_lab.zoo.model import SIZES
from illava_lab.zoo.recipe import Recipe

Results = dict[str, Any]


def card(size: str, found: Results, weights: int, log: list[dict[str, Any]]) -> str:
    """The card of ``zoo/SIZE``, as Markdown.

    Args:
        found: the summary that ``measure test SIZE`` wrote.
        weights: how many numbers the model has.
        log: lines of training.jsonl.
    """
    shape = SIZES[size]
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
language: en
tags: [toy, qwen2_vl]
---

# zoo/{size}

**A toy.** A Qwen2-VL with {weights / 1e6:.1f} million weights, trained from scratch on drawn pictures and on easy-VQA in
{log[-1]["seconds"] / 60:.0f} minutes on one or two busy CPU cores. It exists so that token merging can be tried, tested and
measured anywhere, without a download. It knows nothing of photographs and answers nothing but the questions of the nine
tasks below.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
from illava import zoo

model = AutoModelForImageTextToText.from_pretrained(zoo.path("zoo/{size}"), dtype="float32")
processor = AutoProcessor.from_pretrained(zoo.path("zoo/{size}"))
```

The weights are stored as bfloat16; load them as float32 on a CPU, where that is faster.

## Architecture

`Qwen2VLForConditionalGeneration` as it is in transformers. Vision: {shape["vision_depth"]} blocks, width {shape["width"]},
{shape["heads"]} heads, patches of 8 x 8 pixels, 2 x 2 of them merged. Language: {shape["depth"]} layers, width
{shape["width"]}, {shape["heads"]} heads ({shape["kv_heads"]} for keys and values), tied embeddings, a byte-level
vocabulary in which every answer that is a word is one token. A picture of 192 x 192 pixels is 24 x 24 patches and 144
visual tokens.

## Figures

Exact matches of the greedily generated answer on unseen pictures, handwriting, words and fonts, with 95 % bootstrap
intervals, and the same questions about plain gray pictures, which shows what guessing gives:

{figures(found)}

By `python -m illava_lab.benchmarks.evidence.measure test {size} --limit {found["settings"]["limit"]} --threads 1`; what token merging costs it is in `docs/evidence.md`.

## Training data

Everything is drawn by `illava_lab.zoo.lessons` from the drawing code of `illava_lab.tasks`, a pure function of seed,
split and step, but for the pictures and questions of easy-VQA (Victor Zhou, MIT), of whose official train part 3,600
pictures are used. Nothing is downloaded. Handwritten digits are the 8 x 8 pixel samples of scikit-learn's `load_digits`
(UCI Optical Recognition of Handwritten Digits, CC BY 4.0), enlarged smoothly; of every 20 samples 16 are for training, 1
for watching it and 3 for the test. Which person wrote a sample is not recorded, so the same hands appear on both sides.
Printed words are random capitals in training, in the fonts of matplotlib and of the packages of the extra `train`, and
English words in other families of fonts in the test.

## Training

    python -m illava_lab.zoo.train {size}

Float32, seed 0; interrupted at any time it goes on from its last checkpoint. {versions(log)} Stages: {stages(log)}. First the
vision tower alone, on dense labels (what lies at each place, its color, its outline, where its center is, which
character of the word it is), at the end on pages full of text; then the language model on the frozen tower, first on
finding the thing that a question means, then on relations, then on everything, first in small and then in large pictures;
then the tower on text once more and the language model on everything again, in turns. Beside the answers the language
model's middle layer learns to tell what each mention of a thing means and where each visual token is, by heads that are
thrown away; an attention head of the layer before it is told where to look, and a second one how much. Words for shapes,
colors, ways and characters start in the directions that the tower gives their looks. Several questions share a picture; each sees the picture and itself only. Muon for the hidden matrices,
AdamW for the rest. No token merging takes part. `training.jsonl` is the log, `training.png` its curve.

## Limits

Other sizes, fonts, shapes, phrasings and photographs can be processed but were not trained: expect nonsense. Not for any
use but testing.
"""


def figures(found: Results) -> str:
    """Accuracy by task, as a Markdown table."""
    lines = ["| task | questions | with the picture | blank picture |", "| --- | ---: | ---: | ---: |"]
    plain = []
    for task, entry in found["tasks"].items():
        rows = entry["rows"]
        plain.append(rows["plain"]["accuracy"]["value"])
        cells = [interval(rows["plain"]["accuracy"]), number(rows["blank"]["accuracy"]["value"], ".1f")]
        lines.append(f"| {task} | {entry['samples']} | {' | '.join(cells)} |")
    lines += [f"| **mean** | | **{sum(plain) / len(plain):.1f}** | |", ""]
    weak = [name for name, entry in found["tasks"].items() if not entry["in_mean"]]
    least = f"{100 * LEAST_PLAIN:.0f} %"
    lines.append(
        f"Below {least}, so not learnt well enough to say what merging costs: {', '.join(weak)}."
        if weak
        else f"All are above {least}."
    )
    return "\n".join(lines)


def versions(log: list[dict[str, Any]]) -> str:
    """A sentence on whether one version of the code trained it all."""
    seen = {line["code"] for line in log if "code" in line}
    if len(seen) == 1 and "code" in log[0]:
        return f"All of it was trained by one version of the code (`{seen.pop()}` in the log)."
    return (
        f"Its parts were trained by {len(seen) + ('code' not in log[0])} versions of the code, noted in the log: a fresh "
        "run gives other weights."
    )


def stages(log: list[dict[str, Any]]) -> str:
    """The stages that were trained, with their steps."""
    steps: dict[str, int] = {}
    for line in log:
        steps[line["name"]] = max(steps.get(line["name"], 0), line["step"])
    known = {stage.name: stage.batch for stage in Recipe().stages}
    return ", ".join(
        # "all-96, first start" is a beginning of all-96 that was broken off.
        f"`{name}` ({count} x {known.get(name.split(',')[0], '?')} pictures)"
        for name, count in steps.items()
    )


def path(size: str) -> Path:
    """Where the card of ``zoo/SIZE`` is."""
    return zoo.path(f"zoo/{size}") / "README.md"


def read(size: str, found: Results) -> str:
    """The card of the shipped model; raises ValueError where the figures are not about its weights."""
    model, _ = load(f"zoo/{size}", "cpu", "float32")
    if fingerprint(model) != found["settings"]["weights"]:
        raise ValueError(f"the figures are not about the weights of zoo/{size} that ship")
    log = [json.loads(line) for line in (path(size).parent / "training.jsonl").read_text().splitlines()]
    return card(size, found, sum(weight.numel() for weight in model.parameters()), log)
