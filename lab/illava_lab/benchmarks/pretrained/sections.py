"""The sections of docs/pretrained.md after the first."""

from __future__ import annotations

from typing import Any

from illava.evaluation.metrics import Estimate
from illava.evaluation.summary import number, table
from illava_lab.benchmarks.pretrained.figures import BOARDS, KNN, LINEAR, SAME, Figures
from illava_lab.benchmarks.pretrained.rows import (
    AFTER,
    AFTER_ENCODER,
    BEFORE,
    CANDIDATE,
    IN_ENCODER,
    PLAIN,
    RULES,
)
from illava_lab.benchmarks.pretrained.settings import ALIKE_KEEP, DEEP_KEEPS, KEEPS

TABLE = "rows.csv"
ORDER = [*IN_ENCODER, *AFTER_ENCODER, "downsample"]
SIZED, UNSIZED, STEPS = "attention, fold, log", "attention, fold", f"{CANDIDATE}, 3 steps"
CHANGES = {
    "one step, selected and merged otherwise, against the published pattern": (SIZED, "illava"),
    "sizes in later attention": (SIZED, UNSIZED),
    "without attention": (CANDIDATE, SIZED),
    "three gentler steps": (STEPS, CANDIDATE),
    "diverse instead of random survivors": (CANDIDATE, "random, fold, log"),
    "ToMe against the three steps": ("tome", STEPS),
}
"""What is compared with what, by what it shows."""


def small_things(found: list[Figures]) -> list[str]:
    plain = ", ".join(f"{value(figures.accuracy(PLAIN)):.1f} at {figures.side} px" for figures in found)
    half = [
        f"{figures.side} px: {max(width(figures.accuracy(label)) for label in figures.standard('1/9')):.0f}"
        for figures in found
    ]
    return [
        "## Small things",
        "",
        f"Small photographs named right, in %. Plain: {plain}; guessing by the data set of each alone gives "
        f"{100 * found[-1].found['guess']:.1f} %. Time: encoder / plain, lowest to highest of the budgets.",
        "",
        *every_row(found, BOARDS),
        "",
        "Small photographs given the same name as by plain features, right or wrong, in %: a finer measure of what is "
        "kept.",
        "",
        *every_row(found, SAME),
        "",
        f"95 % intervals of the first table reach up to so many points to either side ({', '.join(half)}); differences between rows, "
        f"which are paired, are known better. All rows with intervals: [{TABLE}](pretrained/{TABLE}).",
        "",
        *(
            f"![{figures.side} px: small photographs named right against encoder time]"
            f"(pretrained/time-{figures.side}.png)"
            for figures in found
        ),
        "",
        "Rows in the encoder, which takes all of their reduction here:",
        "",
        *(f"- `{name}`: {text}." for name, text in RULES.items()),
        "",
        "[Methods](methods.md) describes the others; those after the encoder save none of its time.",
    ]


def every_row(found: list[Figures], reading: str) -> list[str]:
    """A table of all methods and budgets: accuracy as read; then the lowest and the highest time."""
    places = [(figures, keep) for figures in found for keep in KEEPS]
    head = ["", *(f"{figures.side} px, {keep}" for figures, keep in places)]
    head += [f"time, {figures.side} px" for figures in found]
    rows = []
    for name in ORDER:
        if name in (next(iter(AFTER_ENCODER)), ORDER[-1]):
            title = f"*{AFTER if name in AFTER_ENCODER else BEFORE}:*"
            rows.append([title, *[""] * (len(head) - 1)])
        cells = [f"{value(f.accuracy(f.at(name, keep), reading)):.1f}" for f, keep in places]
        for figures in found:
            medians = [figures.time(figures.at(name, keep))["median"] for keep in KEEPS]
            cells.append(f"{min(medians):.2f}-{max(medians):.2f}")
        rows.append([name, *cells])
    return table(head, rows)


def changes(found: list[Figures]) -> list[str]:
    places = [(figures, keep) for figures in found for keep in DEEP_KEEPS]
    head = [f"{figures.side} px, {keep}" for figures, keep in places]

    def rows(reading: str) -> list[list[str]]:
        return [
            [title, *(signed(f.points(f.at(a, keep), f.at(b, keep), reading)) for f, keep in places)]
            for title, (a, b) in CHANGES.items()
        ]

    return [
        "## What each part brings",
        "",
        "Points, paired; bold: the interval excludes 0.",
        "",
        *table(["named right", *head], rows(BOARDS)),
        "",
        *table(["same name as plain", *head], rows(SAME)),
    ]


def depths(found: list[Figures]) -> list[str]:
    rows = []
    figures = found[-1]
    blocks = figures.found["settings"]["amounts"]["blocks"]
    for name in ("illava", UNSIZED, SIZED, CANDIDATE, "tome"):
        for keep in DEEP_KEEPS:
            cells = []
            for block in blocks:
                try:
                    label = figures.at(name, keep, block)
                except KeyError:
                    cells.append("-")
                    continue
                cells.append(f"{value(figures.accuracy(label)):.1f} ({figures.time(label)['median']:.2f})")
            rows.append([f"{name}, {keep}", *cells])
    return [
        "## At each depth",
        "",
        'A single step at one block (0-based); `tome`: a step at every block from there on, "-" where halving '
        f"cannot reach the budget. Small photographs named right, in %, at {figures.side} px; parentheses: encoder "
        "time / plain. The plot has both sizes.",
        "",
        "![Small photographs named right, by the block that merges](pretrained/depth.png)",
        "",
        *table(["", *(f"block {block}" for block in blocks)], rows),
    ]


def pooled(found: list[Figures]) -> list[str]:
    lines = [
        "## Whole photographs",
        "",
        "The class of a photograph from the mean of the tokens that are left: points against plain at "
        f"{ALIKE_KEEP}, mean over the data sets; bold: the interval excludes 0. *weighted*: the mean weighted by "
        "the patches that a token stands for, where the method knows that. *few*, *alike*: against a smaller "
        "reference set, which is plain, or merged by the same method; with four photographs of a class, ten "
        "neighbours tell nothing.",
    ]
    for figures in found:
        lines += ["", *_pooled_at(figures)]
    return [*lines, "", f"What else was measured: [{TABLE}](pretrained/{TABLE})."]


def _pooled_at(figures: Figures) -> list[str]:
    """The table of one size of pictures, with the readings that it has."""
    weighted = f"{LINEAR}, weighted"
    kinds = [
        kind
        for kind in ("few", "alike")
        if figures.has(figures.at(ORDER[0], ALIKE_KEEP), f"{LINEAR}, {kind}")
    ]
    rows = []
    for name in ORDER:
        label = figures.at(name, ALIKE_KEEP)
        cells = [signed(figures.points(label, reading=reading)) for reading in (LINEAR, KNN)]
        cells.append(
            signed(figures.points(label, PLAIN, weighted, LINEAR)) if figures.has(label, weighted) else "-"
        )
        for kind in kinds:
            cells.append(signed(figures.points(label, PLAIN, f"{LINEAR}, {kind}", f"{LINEAR}, few")))
        rows.append([name, *cells])
    named = {"linear": LINEAR, "nearest neighbours": KNN} | (
        {"linear, few": f"{LINEAR}, few"} if kinds else {}
    )
    plain = ", ".join(f"{title} {value(figures.accuracy(PLAIN, key)):.1f} %" for title, key in named.items())
    heads = ["linear", "neighbours", "linear, weighted", *(f"linear, {kind}" for kind in kinds)]
    return [f"{figures.side} px, plain: {plain}.", "", *table(["points", *heads], rows)]


def measured(found: list[Figures]) -> list[str]:
    lines = []
    for figures in found:
        a, machine = figures.found["settings"]["amounts"], figures.found["machine"]
        lines.append(
            f"- {figures.side} px: {a['boards']} boards of 36 val photographs, the probe taught on "
            f"{a['teaching_boards']} boards of train photographs; {whole_photographs(a)}{a['rounds']} timed rounds; "
            f"{machine['threads']} thread of an {machine['cpu']}, torch {machine['torch']}, "
            f"transformers {machine['transformers']}."
        )
    return [
        "## How this was measured",
        "",
        "DINOv2-small (12 blocks, width 384, patches of 14 pixels) is the vision tower of a LLaVA model; its "
        "projector is DINOv2's own final norm, its LLM two narrow random layers whose input is what is measured. "
        "All rows go through `illava.accelerate`. Photographs: centre squares of "
        "clothing-dataset-small (CC0), GroceryStoreDataset (MIT) and Sign-Language-Digits (Apache-2.0).",
        "",
        "A board shows 6 x 6 small photographs of all three sets. A linear probe learns their classes from *plain* "
        "features, the mean of the patches that lie inside a cell, and is then given the mean of the tokens that "
        "stand for those patches: the one into which a patch was merged with the largest weight; for a patch that "
        "was dropped, the nearest in position. Nearest neighbours: 10 by cosine, votes exp(cosine / 0.07). Linear "
        "probes: logistic regression on standardised features, its strength chosen on the last fifth of the train "
        "part. Intervals: 95 % bootstrap, by board or photograph, paired between rows.",
        "",
        *lines,
        "",
        "Time: processor seconds from the call of the model to the first LLM layer, so with all selection and "
        "merging, one board at a time (batch 1), all rows in turn with plain before and after each eight; medians "
        "of the rounds. float32: `python -m illava_lab.benchmarks.pretrained measure`, then `page`. Rows and "
        "readings were fixed before the first measurement, but for the second measure, "
        "added when plain's accuracy at 224 px was seen and no other row's. The numbers of pictures at 224 px were "
        "lowered while it ran, as the machine was busier than planned; of what was lowered nothing had been read. "
        "448 px was measured again later, with twice as many boards, every block but the first and whole "
        "photographs.",
    ]


def whole_photographs(amounts: dict[str, Any]) -> str:
    """How many photographs were measured by themselves, followed by a semicolon; empty for none."""
    if not amounts["photographs"]:
        return ""
    text = (
        f"{amounts['photographs']} photographs of each of {', '.join(amounts['sets'])} against "
        f"{amounts['references']} references"
    )
    if amounts["alike"]:
        text += f" (few: {amounts['alike']} of {', '.join(amounts['alike_sets'])})"
    return f"{text}; "


def limits(found: list[Figures]) -> list[str]:
    return [
        "## What this can't tell",
        "",
        "- How merging affects features that tell classes well: those of this encoder do not, and with a dozen boards "
        "most differences in accuracy are noise.",
        "- What an LLM makes of the tokens: it sees positions and all tokens at once, a linear probe sees one mean.",
        "- Anything on text: the photographs show none that is asked for.",
        "- Other encoders: CLIP, SigLIP and Qwen-VL's were trained with other losses, and a larger DINOv2 has "
        "outlier tokens that this one hardly has.",
        "- Speed on a graphics card, in half precision or in batches.",
        "- Whether a row that is best here by less than its interval is best.",
    ]


def signed(figure: Estimate) -> str:
    text = number(figure.value, "+.1f")
    if figure.low is None or figure.high is None:
        return text
    text = f"{text} ({figure.low:+.1f} to {figure.high:+.1f})"
    return f"**{text}**" if figure.low > 0 or figure.high < 0 else text


def value(figure: Estimate) -> float:
    assert figure.value is not None
    return figure.value


def low(figure: Estimate) -> float:
    return float("-inf") if figure.low is None else figure.low


def width(figure: Estimate) -> float:
    """Half of the interval's width."""
    return 0.0 if figure.low is None or figure.high is None else (figure.high - figure.low) / 2
