"""Write docs/evidence.md, its tables and plots, and the model cards: ``python -m illava_lab.benchmarks.evidence.page``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.summary import number, table
from illava.io.files import replacing
from illava_lab.benchmarks.evidence import artefacts, cards, claims
from illava_lab.benchmarks.evidence.rows import BUDGETS, CHOSEN_AT, STAGES

FIGURES, PAGE = Path("docs/evidence"), Path("docs/evidence.md")
SPEED, THROUGHPUT = Path("docs/performance/speed-qwen2-vl-2b.json"), Path("docs/performance/throughput.json")
COMPARISON = Path("docs/comparison/comparison.json")
SIZES = claims.SIZES
BEST = "illava-best"
PRETRAINED = (
    "These are toy models. The claims on pretrained parts: "
    "[zoo/R](zoo-r-figures.md#zoor-448-the-papers-claims), "
    "[larger against smaller](zoo-r-figures.md#the-larger-merged-against-the-smaller-plain)."
)
Results = dict[str, Any]


def read() -> Results:
    """The result files by name; raises FileNotFoundError for one that has not been measured yet."""
    files = {
        f"{kind}-{size}": FIGURES / f"{kind}-{size}.json" for kind in ("layers", "test") for size in SIZES
    }
    files |= {"bigger": FIGURES / "bigger.json", "speed": SPEED, "throughput": THROUGHPUT}
    files |= {"comparison": COMPARISON}
    found = {name: json.loads(path.read_text()) for name, path in files.items()}
    check(found)
    return found


def check(found: Results) -> None:
    """Raise ValueError where result files are about different models, layers or settings."""
    for size in SIZES:
        weights = {
            f"test-{size}": found[f"test-{size}"]["settings"]["weights"],
            f"layers-{size}": found[f"layers-{size}"]["weights"],
            "bigger": found["bigger"]["weights"][size],
            "comparison": found["comparison"]["models"][f"zoo/{size}"]["settings"]["weights"],
        }
        if len(set(weights.values())) > 1:
            raise ValueError(f"result files are about different weights of zoo/{size}: {weights}")
        measured = found[f"test-{size}"]["settings"]["rows"][f"both {CHOSEN_AT}"]["options"]
        choice = found[f"layers-{size}"]["choice"]
        if [measured["encoder_layers"], measured["llm_layers"]] != [choice["encoder"], choice["llm"]]:
            raise ValueError(f"test-{size} was not measured at the layers of layers-{size}")
    for key in ("limit", "seed", "dtype", "illava"):
        if found["test-S"]["settings"][key] != found["test-L"]["settings"][key]:
            raise ValueError(f"test-S and test-L differ in {key}")


def page(found: Results) -> str:
    """The whole page, as Markdown."""
    parts = (
        ["# Evidence", "", better(found), "", *claims.section(found), "", PRETRAINED],
        measured(found),
        stages(found),
        tasks(found),
        claims.contest(found),
        controls(found),
        layers(found),
        losses(found),
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def better(found: Results) -> str:
    """What does better than the schedule on this page."""
    preset = []
    for size in SIZES:
        rows = found["comparison"]["models"][f"zoo/{size}"]["rows"]
        kept = next(row["above_blank"] for row in rows if row["label"] == f"{BEST} {CHOSEN_AT}")
        preset.append(f"{number(kept['value'], '.1f')} % (zoo/{size})")
    kept = [
        {
            stage: found[f"test-{size}"]["mean"][f"{stage} {budget}"]["above_blank"]["value"]
            for stage in STAGES
        }
        for size in SIZES
        for budget in BUDGETS
    ]
    ahead = {
        stage: sum((row[stage] or 0) > (row["both"] or 0) for row in kept)
        for stage in STAGES
        if stage != "both"
    }
    single = " and ".join(f"{STAGES[stage]} in {count}" for stage, count in ahead.items())
    return (
        f"Better than the schedule tested here: the preset `{BEST}` of 0.1, which retains {' and '.join(preset)} above blank at "
        f"{CHOSEN_AT} ([comparison.md](comparison.md)). Of {len(kept)} cases below, one stage alone is better: {single}."
    )


def measured(found: Results) -> list[str]:
    machine, settings = found["test-L"]["machine"], found["test-L"]["settings"]
    return [
        "## What was measured",
        "",
        "Written by `make evidence` from the files in [`docs/evidence`](evidence), measured by `make evidence-runs`. "
        "Speed and memory: random weights of Qwen2-VL-2B ([performance.md](performance.md)); the schedule published for "
        "this family (`illava info Qwen/Qwen2-VL-2B-Instruct`) is another and was not timed. "
        "Accuracy: two toy models, "
        "`zoo/S` and `zoo/L`, trained on drawn pictures and easy-VQA; they say nothing about photographs. Unseen test "
        f"material, {settings['limit']} questions a task, {settings['dtype']}, {machine['cpu']}, torch "
        f"{machine['torch']}, transformers {machine['transformers']}: `python -m illava_lab.benchmarks.evidence.measure test L "
        f"--limit {settings['limit']} --threads 1`. Brackets: 95 % bootstrap intervals by picture, paired. *Above "
        "blank*: (accuracy - blank) / (plain - blank); blank: plain on gray pictures. "
        f"\\*: plain is below {100 * LEAST_PLAIN:.0f} %, not in means.",
    ]


def stages(found: Results) -> list[str]:
    rows = []
    names = {**STAGES, "published pattern": "published pattern"}
    for size in SIZES:
        mean = found[f"test-{size}"]["mean"]
        for budget in BUDGETS:
            kept = (number(mean[f"{stage} {budget}"]["above_blank"]["value"], ".1f") for stage in names)
            rows.append([f"zoo/{size}, {budget}", *kept])
    return [
        "## By stage and budget",
        "",
        "Accuracy retained above blank, in %. *published pattern*: the published schedule, harsher. All figures and "
        "intervals: [rows.csv](evidence/rows.csv).",
        "",
        *table(["", *names.values()], rows),
        "",
        *(
            f"![zoo/{size}: retained above blank against FLOPs, by stage](evidence/{artefacts.plot(size)})"
            for size in SIZES
        ),
    ]


def tasks(found: Results) -> list[str]:
    rows = []
    for task in found["test-L"]["tasks"]:
        cells = []
        for size in SIZES:
            entry = found[f"test-{size}"]["tasks"][task]
            cells += [
                number(entry["rows"][row]["accuracy"]["value"], ".1f")
                for row in ("plain", f"both {CHOSEN_AT}")
            ]
            cells[-2] += "" if entry["in_mean"] else " \\*"
        rows.append([task, *cells])
    head = [f"zoo/{size}, {what}" for size in SIZES for what in ("plain", CHOSEN_AT)]
    return ["## By task", "", "Accuracy in %, both stages.", "", *table(["task", *head], rows)]


def controls(found: Results) -> list[str]:
    places = [(size, budget) for size in SIZES for budget in ("1/3", "1/9")]
    rows = []
    for other in ("drop", "weighted", "random", "inverse"):
        figures = [
            found[f"test-{size}"]["differences"][f"{other} {budget}"]["mean"] for size, budget in places
        ]
        rows.append([other, *(number(figure["value"], "+.1f") for figure in figures), cases(figures)])
    return [
        "## Recycling against other reductions and selections",
        "",
        "Points of accuracy that recycling is ahead, at the same layers and budgets; intervals: "
        "[differences.csv](evidence/differences.csv). *random*: the mean of three seeds, whose choice the intervals do "
        "not cover; *inverse*: the lowest scores are kept.",
        "",
        *table(
            ["against", *(f"zoo/{size}, {budget}" for size, budget in places), "ahead significantly"], rows
        ),
    ]


def cases(figures: list[Results]) -> str:
    """In how many cases the interval is above 0, and in how many below."""
    known = [figure for figure in figures if figure["low"] is not None]
    better = sum(figure["low"] > 0 for figure in known)
    worse = sum(figure["high"] < 0 for figure in known)
    return f"{better} of {len(known)}" + (f", behind in {worse}" if worse else "")


def layers(found: Results) -> list[str]:
    rows = []
    for size in SIZES:
        entry = found[f"layers-{size}"]
        choice, last = entry["choice"], entry["stages"]["both"]
        figures = last["figures"][last["chosen"]]
        rows.append(
            [
                f"zoo/{size}",
                str(choice["encoder"]),
                str(choice["llm"]),
                str(choice["share"]),
                f"{figures['above_blank']:.1f}",
                f"{figures['flops']:.3f}",
            ]
        )
    limit = found["layers-L"]["limit"]
    return [
        "## Choice of the layers",
        "",
        f"On {limit} validation questions a task, at {CHOSEN_AT}: the cheapest of the candidates that retain most, by "
        "the rule in [layers-L.json](evidence/layers-L.json); all candidates: [layers.csv](evidence/layers.csv). "
        f"`python -m illava_lab.benchmarks.evidence.measure choose L --limit {limit} --threads 1`",
        "",
        *table(
            ["", "encoder blocks", "LLM layers", "encoder's share", "above blank %", "FLOPs / plain"], rows
        ),
    ]


def losses(found: Results) -> list[str]:
    lines = [
        "## Largest losses",
        "",
        f"Kinds of question that zoo/L loses most on at {CHOSEN_AT}: accuracy plain and merged, and an example, with "
        "dropped parts faded.",
    ]
    for entry in found["test-L"]["hurt"]:
        kind = f"{entry['task']}, {entry['kind']}"
        text = f"{kind}: {entry['plain']:.1f} % and {entry['merged']:.1f} % of {entry['samples']} questions"
        if entry["examples"]:
            shown = entry["examples"][0]
            text += f"; {shown['answer']} read as {shown['prediction'] or '(nothing)'}"
        lines += ["", f"{text}."]
        if entry.get("picture"):
            lines += ["", f"![{kind}](evidence/{entry['picture']})"]
    return lines


def main() -> None:
    """Write page, tables, plots and cards; says in one line which file is missing or about something else."""
    try:
        found = read()
        texts = {PAGE: page(found)}
        texts |= {FIGURES / name: text for name, text in artefacts.tables(found).items()}
        texts |= {cards.path(size): cards.read(size, found[f"test-{size}"]) for size in SIZES}
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing: run make evidence-runs first") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for path, text in texts.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    plots = artefacts.draw(found, FIGURES)
    print(f"wrote {', '.join(map(str, [*texts, *plots]))}")


if __name__ == "__main__":
    main()
