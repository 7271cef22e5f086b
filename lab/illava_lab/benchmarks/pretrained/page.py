"""Write docs/pretrained.md, its table and its plots from the result files."""

from __future__ import annotations

import json
from pathlib import Path

from illava.evaluation.metrics import Estimate
from illava.evaluation.summary import number, table
from illava.io.files import replacing
from illava.io.pictures import InputError
from illava_lab.benchmarks.pretrained import plots
from illava_lab.benchmarks.pretrained.figures import BOARDS, KNN, LINEAR, Figures, to_csv
from illava_lab.benchmarks.pretrained.rows import (
    AFTER,
    AFTER_ENCODER,
    BEFORE,
    CANDIDATE,
    CONSEQUENCES,
    IN_ENCODER,
    INSIDE,
    PLAIN,
)
from illava_lab.benchmarks.pretrained.settings import ALIKE_KEEP, AMOUNTS, DEEP_KEEPS, KEEPS

PAGE, FOLDER, TABLE = Path("docs/pretrained.md"), Path("docs/pretrained"), "rows.csv"
ORDER = [*IN_ENCODER, *AFTER_ENCODER, "downsample"]
LOG, STEPS = "illava-best, log", f"{CANDIDATE}, 3 steps"
CHANGES = {
    "today's preset against the published pattern": ("illava-best", "illava"),
    "sizes in later attention": (LOG, "illava-best"),
    "without attention": (CANDIDATE, LOG),
    "three gentler steps": (STEPS, CANDIDATE),
    "diverse instead of random survivors": (CANDIDATE, "random, fold, log"),
    "ToMe against the three steps": ("tome", STEPS),
}
"""What is compared with what, by what it shows."""


def read() -> list[Figures]:
    """The result files, smallest pictures first. Raises InputError for one that has not been measured."""
    found = []
    for side in AMOUNTS:
        file = FOLDER / f"{side}.json"
        try:
            found.append(Figures(json.loads(file.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            raise InputError(f"{file} is missing: it is measured first, see measure") from None
    if len({figures.found["settings"]["weights"] for figures in found}) > 1:
        raise InputError("the result files are about different weights; measure all sizes again")
    return found


def write() -> None:
    """Write the page, the table and the plots."""
    found = read()
    for figures in found:
        plots.against_time(figures, FOLDER / f"time-{figures.side}.png")
    plots.by_depth(found, FOLDER / "depth.png")
    for path, text in ((FOLDER / TABLE, to_csv(found)), (PAGE, page(found))):
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def page(found: list[Figures]) -> str:
    """The whole page, as Markdown."""
    parts = [
        first(found),
        small_things(found),
        changes(found),
        depths(found),
        pooled(found),
        measured(found),
        limits(found),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def first(found: list[Figures]) -> list[str]:
    """What wins."""
    rows = []
    for figures in found:
        for keep in KEEPS:
            places = [best(figures, keep, group) for group in (INSIDE, AFTER, BEFORE)]
            top = max(places, key=lambda label: _value(figures.accuracy(label)))
            cells = [_named(figures, label, bold=label == top) for label in places]
            rows.append([f"{figures.side} px, {keep}", *cells])
    plain = ", ".join(f"{_value(figures.accuracy(PLAIN)):.1f} % at {figures.side} px" for figures in found)
    return [
        "# Pretrained weights, real photographs",
        "",
        "Merging inside a pretrained DINOv2-small, with nothing trained but linear probes. How many of the small "
        "photographs on a board, each 2.8 % of the picture, are still named from the tokens that are left; best "
        f"of each kind, bold: best of all; parentheses: encoder time / plain. Plain: {plain}.",
        "",
        *table(["%", INSIDE, AFTER, "smaller picture"], rows),
        "",
        *(f"- {line}" for line in verdicts(found)),
    ]


def best(figures: Figures, keep: str, group: str) -> str:
    """The row of a group and budget that reads most small photographs; of equals the fastest."""
    labels = figures.standard(keep, group)
    return max(labels, key=lambda label: (_value(figures.accuracy(label)), -figures.time(label)["median"]))


def verdicts(found: list[Figures]) -> list[str]:
    """Sentences on the library's own methods and on the smaller picture."""
    lines = []
    for name, what in (("illava-best", "Today's preset"), ("illava", "The published pattern")):
        cells = []
        for figures in found:
            label = figures.at(name, "1/9")
            behind = [
                other
                for other in figures.standard("1/9")
                if _value(figures.points(other, label)) > 0 and _low(figures.points(other, label)) > 0
            ]
            count = len(figures.standard("1/9")) - 1
            cells.append(
                f"{_value(figures.accuracy(label)):.1f} % at {figures.side} px, where {len(behind)} of "
                f"{count} other rows are significantly better"
            )
        lines.append(
            f"{what} (`{name}`, all of the reduction in the encoder) reads at 1/9 {'; '.join(cells)}."
        )
    cheap = []
    for figures in found:
        for keep in KEEPS:
            down = figures.at("downsample", keep)
            beaten = [name for name in IN_ENCODER if _low(figures.points(figures.at(name, keep), down)) > 0]
            cheap.append(f"{figures.side} px, {keep}: {len(beaten)} of {len(IN_ENCODER)}")
    lines.append(
        "A smaller picture takes the least time of all. Rows in the encoder that read significantly more than it "
        f"does: {'; '.join(cheap)}."
    )
    return lines


def small_things(found: list[Figures]) -> list[str]:
    head = ["", *(f"{f.side} px, {keep}" for f in found for keep in KEEPS)]
    head += [f"time, {f.side} px" for f in found]
    rows = []
    for name in ORDER:
        labels = [(figures, figures.at(name, keep)) for figures in found for keep in KEEPS]
        cells = [f"{_value(figures.accuracy(label)):.1f}" for figures, label in labels]
        times = []
        for figures in found:
            medians = [figures.time(figures.at(name, keep))["median"] for keep in KEEPS]
            times.append(f"{min(medians):.2f}-{max(medians):.2f}")
        rows.append([name, *cells, *times])
    rows.insert(len(IN_ENCODER), ["*after the encoder:*"] + [""] * (len(head) - 1))
    rows.insert(-1, ["*before it:*"] + [""] * (len(head) - 1))
    half = [
        f"{figures.side} px: {max(_width(figures.accuracy(label)) for label in figures.standard('1/9')):.0f}"
        for figures in found
    ]
    return [
        "## Small things",
        "",
        "Small photographs named right, in %, and encoder time / plain (lowest to highest of the budgets).",
        "",
        *table(head, rows),
        "",
        f"95 % intervals reach up to so many points to either side ({', '.join(half)}); differences between rows, "
        f"which are paired, are known better. All rows with intervals: [{TABLE}](pretrained/{TABLE}).",
        "",
        *(
            f"![{figures.side} px: small photographs named right against encoder time]"
            f"(pretrained/time-{figures.side}.png)"
            for figures in found
        ),
        "",
        *table(["row", "what it does"], [[name, text] for name, text in CONSEQUENCES.items()]),
        "",
        "Rows after the encoder save no encoder time. [Methods](methods.md) describes them.",
    ]


def changes(found: list[Figures]) -> list[str]:
    places = [(figures, keep) for figures in found for keep in DEEP_KEEPS]
    rows = [
        [
            title,
            *(_signed(figures.points(figures.at(a, keep), figures.at(b, keep))) for figures, keep in places),
        ]
        for title, (a, b) in CHANGES.items()
    ]
    return [
        "## What each part brings",
        "",
        "Points of small photographs named right, paired; bold: the interval excludes 0.",
        "",
        *table(["", *(f"{figures.side} px, {keep}" for figures, keep in places)], rows),
    ]


def depths(found: list[Figures]) -> list[str]:
    rows = []
    figures = found[-1]
    blocks = figures.found["settings"]["amounts"]["blocks"]
    for name in ("illava", "illava-best", LOG, CANDIDATE, "tome"):
        for keep in DEEP_KEEPS:
            cells = []
            for block in blocks:
                try:
                    label = figures.at(name, keep, block)
                except KeyError:
                    cells.append("-")
                    continue
                cells.append(f"{_value(figures.accuracy(label)):.1f} ({figures.time(label)['median']:.2f})")
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
    figures = found[0]
    rows = []
    for name in ORDER:
        label = figures.at(name, ALIKE_KEEP)
        cells = [_signed(figures.points(label, reading=reading)) for reading in (LINEAR, KNN)]
        weighted = f"{LINEAR}, weighted"
        cells.append(
            _signed(figures.points(label, PLAIN, weighted, LINEAR)) if figures.has(label, weighted) else "-"
        )
        for kind in ("few", "alike"):
            cells.append(_signed(figures.points(label, PLAIN, f"{KNN}, {kind}", f"{KNN}, few")))
        rows.append([name, *cells])
    plain = [
        f"{figures.side} px: linear {_value(figures.accuracy(PLAIN, LINEAR)):.1f}, nearest neighbours "
        f"{_value(figures.accuracy(PLAIN, KNN)):.1f}"
        for figures in found
    ]
    few = _value(figures.accuracy(PLAIN, f"{KNN}, few"))
    other = []
    for later in found[1:]:
        apart = [(_value(later.points(later.at(n, "1/9"), reading=LINEAR)), n) for n in ORDER]
        low, high = min(apart), max(apart)
        other.append(
            f"At {later.side} px and 1/9 the linear probe loses or gains {low[0]:+.1f} (`{low[1]}`) to "
            f"{high[0]:+.1f} points (`{high[1]}`)."
        )
    return [
        "## Whole photographs",
        "",
        "The class of a photograph from the mean of the tokens that are left: points against plain at "
        f"{ALIKE_KEEP}, {figures.side} px, mean over the data sets; bold: the interval excludes 0. *weighted*: the "
        "mean weighted by the patches that a token stands for, where the method knows that. *few*, *alike*: against "
        f"a smaller reference set (plain: {few:.1f} %), which is plain, or merged by the same method. "
        f"Plain, in %: {'; '.join(plain)}.",
        "",
        *table(["points", "linear", "neighbours", "linear, weighted", "neighbours, few", "alike"], rows),
        "",
        *other,
        f"All budgets: [{TABLE}](pretrained/{TABLE}).",
    ]


def measured(found: list[Figures]) -> list[str]:
    machine = found[-1].found["machine"]
    lines = []
    for figures in found:
        a = figures.found["settings"]["amounts"]
        lines.append(
            f"- {figures.side} px: {a['boards']} boards of 36 val photographs, the probe taught on "
            f"{a['teaching_boards']} boards of train photographs; {a['photographs']} photographs of each of "
            f"{', '.join(a['sets'])} against {a['references']} references"
            + (f" (few: {a['alike']} of {', '.join(a['alike_sets'])})" if a["alike"] else "")
            + f"; {a['rounds']} timed rounds."
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
        f"of the rounds. float32, {machine['threads']} thread, {machine['cpu']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}: `python -m illava_lab.benchmarks.pretrained measure`, then "
        "`page`. Pictures, amounts and readings were fixed before the first measurement.",
    ]


def limits(found: list[Figures]) -> list[str]:
    return [
        "## What this can't tell",
        "",
        "- What an LLM makes of the tokens: it sees positions and all tokens at once, a linear probe sees one mean.",
        "- Anything on text: the photographs show none that is asked for.",
        "- Other encoders: CLIP, SigLIP and Qwen-VL's were trained with other losses, and a larger DINOv2 has "
        "outlier tokens that this one hardly has.",
        "- Speed on a graphics card, in half precision or in batches.",
        "- Whether a row that is best here by less than its interval is best.",
    ]


def _named(figures: Figures, label: str, bold: bool) -> str:
    row = figures.found["rows"][label]
    text = f"{row['name']} {_value(figures.accuracy(label)):.1f}"
    return f"{f'**{text}**' if bold else text} ({figures.time(label)['median']:.2f})"


def _signed(figure: Estimate) -> str:
    text = number(figure.value, "+.1f")
    if figure.low is None or figure.high is None:
        return text
    text = f"{text} ({figure.low:+.1f} to {figure.high:+.1f})"
    return f"**{text}**" if figure.low > 0 or figure.high < 0 else text


def _value(figure: Estimate) -> float:
    assert figure.value is not None
    return figure.value


def _low(figure: Estimate) -> float:
    return float("-inf") if figure.low is None else figure.low


def _width(figure: Estimate) -> float:
    """Half of the interval's width."""
    return 0.0 if figure.low is None or figure.high is None else (figure.high - figure.low) / 2


__all__ = ["BOARDS", "page", "read", "write"]
