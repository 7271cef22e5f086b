"""Write docs/pretrained.md, its table and its plots from the result files."""

from __future__ import annotations

import json
from pathlib import Path

from illava.evaluation.summary import table
from illava.io.files import replacing
from illava.io.pictures import InputError
from illava_lab.benchmarks.pretrained import plots, sections
from illava_lab.benchmarks.pretrained.figures import BOARDS, KNN, SAME, Figures, to_csv
from illava_lab.benchmarks.pretrained.rows import AFTER, BEFORE, IN_ENCODER, INSIDE, PLAIN
from illava_lab.benchmarks.pretrained.sections import TABLE, low, value
from illava_lab.benchmarks.pretrained.settings import AMOUNTS, KEEPS

PAGE, FOLDER = Path("docs/pretrained.md"), Path("docs/pretrained")


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
        sections.small_things(found),
        sections.changes(found),
        sections.depths(found),
        sections.pooled(found),
        sections.measured(found),
        sections.limits(found),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def first(found: list[Figures]) -> list[str]:
    """What wins."""
    plain = ", ".join(f"{value(figures.accuracy(PLAIN)):.1f} % at {figures.side} px" for figures in found)
    return [
        "# Pretrained weights, real photographs",
        "",
        "Merging inside a pretrained DINOv2-small, with nothing trained but linear probes. How many of the small "
        "photographs on a board, each 2.8 % of the picture, are still named from the tokens that are left; best "
        "of each kind, bold: best of all; parentheses: encoder time / plain.",
        "",
        f"Plain features name {plain}, which is little: {weak(found[0])} So a second measure, "
        "how many get the same name as from plain features, says more about merging. The encoder of zoo/R has adapters besides; these figures are without them.",
        "",
        *winners(found, BOARDS, "named right, %"),
        "",
        *winners(found, SAME, "same name as plain, %"),
        "",
        *(f"- {line}" for line in verdicts(found)),
    ]


def weak(figures: Figures) -> str:
    """How well the encoder's blocks tell the classes of whole photographs."""
    shares = [100 * bits.count("1") / len(bits) for bits in figures.found["layers"][KNN]]
    top = max(range(len(shares)), key=shares.__getitem__)
    return (
        "these weights are the backbone of a saliency model and seem tuned for its task. Of whole clothing photographs, nearest "
        f"neighbours name {shares[-1]:.1f} % from the last block's features and {shares[top]:.1f} % from block {top}'s."
    )


def winners(found: list[Figures], reading: str, title: str) -> list[str]:
    """A table of the best row of each group, by size and budget."""
    rows = []
    for figures in found:
        for keep in KEEPS:
            places = [best(figures, keep, group, reading) for group in (INSIDE, AFTER, BEFORE)]
            top = max(places, key=lambda label, of=figures: value(of.accuracy(label, reading)))
            cells = [_named(figures, label, reading, bold=label == top) for label in places]
            rows.append([f"{figures.side} px, {keep}", *cells])
    return table([title, INSIDE, AFTER, "smaller picture"], rows)


def best(figures: Figures, keep: str, group: str, reading: str) -> str:
    """The row of a group and budget that is read best; of equals the fastest."""

    def rank(label: str) -> tuple[float, float]:
        return value(figures.accuracy(label, reading)), -figures.time(label)["median"]

    return max(figures.standard(keep, group), key=rank)


def verdicts(found: list[Figures]) -> list[str]:
    """Sentences on the library's own methods and on the smaller picture."""
    lines = []
    for name, what in (
        ("attention, fold, log", "One step by attention and distance"),
        ("illava", "The published pattern"),
    ):
        cells = []
        for figures in found:
            label = figures.at(name, "1/9")
            behind = [
                other
                for other in figures.standard("1/9")
                if value(figures.points(other, label)) > 0 and low(figures.points(other, label)) > 0
            ]
            count = len(figures.standard("1/9")) - 1
            cells.append(
                f"{value(figures.accuracy(label)):.1f} % at {figures.side} px, where {len(behind)} of "
                f"{count} other rows are significantly better"
            )
        lines.append(
            f"{what} (`{name}`, all of the reduction in the encoder) reads at 1/9 {'; '.join(cells)}."
        )
    cheap, fastest = [], 0
    for figures in found:
        for keep in KEEPS:
            down = figures.at("downsample", keep)
            beaten = [name for name in IN_ENCODER if low(figures.points(figures.at(name, keep), down)) > 0]
            cheap.append(f"{figures.side} px, {keep}: {len(beaten)} of {len(IN_ENCODER)}")
            times = {label: figures.time(label)["median"] for label in figures.standard(keep)}
            fastest += min(times, key=times.__getitem__) == down
    lines.append(
        f"A smaller picture takes the least time in {fastest} of {len(cheap)} cases. Rows in the encoder that read "
        f"significantly more than it does: {'; '.join(cheap)}."
    )
    return lines


def _named(figures: Figures, label: str, reading: str, bold: bool) -> str:
    row = figures.found["rows"][label]
    text = f"{row['name']} {value(figures.accuracy(label, reading)):.1f}"
    return f"{f'**{text}**' if bold else text} ({figures.time(label)['median']:.2f})"
