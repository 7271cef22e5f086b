"""Write docs/evidence.md from the result files beside it: ``python -m illava_lab.benchmarks.evidence.page``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.summary import interval, number
from illava.io.files import replacing
from illava_lab.benchmarks.evidence import cards, claims
from illava_lab.benchmarks.evidence.rows import BUDGETS, CHOSEN_AT, STAGES, allowed

FIGURES, PAGE = Path("docs/evidence"), Path("docs/evidence.md")
SPEED = Path("docs/performance/speed-qwen2-vl-2b.json")
SIZES = ("S", "L")
Results = dict[str, Any]


def read() -> Results:
    """The result files by name; raises FileNotFoundError for one that has not been measured yet."""
    files = {
        f"{kind}-{size}": FIGURES / f"{kind}-{size}.json" for kind in ("layers", "test") for size in SIZES
    }
    files |= {"bigger": FIGURES / "bigger.json", "speed": SPEED}
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
    parts = [
        head(found),
        plain(found),
        claims.section(found),
        budgets(found),
        controls(found),
        layers(found),
        losses(found),
    ]
    return "\n\n".join(parts) + "\n"


def head(found: Results) -> str:
    machine, settings = found["test-L"]["machine"], found["test-L"]["settings"]
    return f"""# Evidence

Written by `make evidence` from the result files in [`docs/evidence`](evidence), never by hand. `make evidence-runs`
measures everything anew, which takes about an hour on one core for every 40 questions a task; all but the contest of the two models goes on where it was stopped.

**What was measured, and what that is worth.** Two toy models that ship with the project, `zoo/S` and `zoo/L`, trained
from scratch on drawn pictures and on easy-VQA, on nine tasks whose test material they have never seen
([`illava_lab.tasks`](../lab/illava_lab/tasks)). They show what the method does to a model that looks
closely, on pictures with small things in them, 144 visual tokens a picture; they say nothing about photographs. Unless
said otherwise numbers are from split `test`, {settings["limit"]} questions a task, seed {settings["seed"]},
{settings["dtype"]} on a CPU ({machine["cpu"]}, {machine["threads"]} thread), torch {machine["torch"]}, transformers
{machine["transformers"]}, illava {machine["illava"]}. Brackets are 95 % bootstrap intervals, paired and clustered by
picture. *Retained* is accuracy as a share of the plain model's, its mean over tasks that of the shares; *above blank* is
(accuracy - blank) / (plain - blank), over tasks that of the mean accuracies, where blank is the plain model on grey
pictures: what the questions alone give away. Tasks that the plain model gets
right less than {100 * LEAST_PLAIN:.0f} % of the time are shown and left out of every mean."""


def plain(found: Results) -> str:
    lines = [
        "## The two models, plain",
        "",
        "| task | questions | small | " + " | ".join(f"{s} | {s}, blank" for s in SIZES) + " |",
        "| --- | ---: | ---: |" + " ---: | ---: |" * len(SIZES),
    ]
    for task, entry in found["test-L"]["tasks"].items():
        cells = []
        for size in SIZES:
            rows = found[f"test-{size}"]["tasks"][task]
            mark = "" if rows["in_mean"] else " *"
            cells += [
                interval(rows["rows"][name]["accuracy"]) + (mark if name == "plain" else "")
                for name in ("plain", "blank")
            ]
        small = f"{100 * entry['small_samples'] / max(1, entry['samples']):.0f} %"
        lines.append(f"| {task} | {entry['samples']} | {small} | " + " | ".join(cells) + " |")
    cells = []
    for size in SIZES:
        tasks = found[f"test-{size}"]["tasks"].values()
        mean = sum(entry["rows"]["plain"]["accuracy"]["value"] for entry in tasks) / len(tasks)
        blank = sum(entry["rows"]["blank"]["accuracy"]["value"] for entry in tasks) / len(tasks)
        cells += [f"**{mean:.1f}**", f"{blank:.1f}"]
    lines += [
        "| mean of all nine | | | " + " | ".join(cells) + " |",
        "",
        "% right. *small*: questions that hinge on something under 3 % of its picture. \\*: below "
        f"{100 * LEAST_PLAIN:.0f} %, not in that model's means below.",
    ]
    return "\n".join(lines)


def budgets(found: Results) -> str:
    lines = [
        "## What stays, by stage and budget",
        "",
        "*both*, *encoder*, *llm*: both stages, the encoder's alone, the LLM's alone, at the layers chosen below. *published "
        "pattern*: the published schedule made harsher until that share is left.",
        "",
    ]
    for size in SIZES:
        summary = found[f"test-{size}"]
        counted = [name for name, task in summary["tasks"].items() if task["in_mean"]]
        lines += [
            f"### zoo/{size}: mean over {len(counted)} tasks",
            "",
            f"{', '.join(counted) or 'no task'}.",
            "",
            "| row | accuracy % | retained % | above blank % | agrees with plain % | KL | final tokens | average tokens "
            "| KV bytes | FLOPs |",
            "| --- |" + " ---: |" * 9,
        ]
        wanted = ["plain", "blank", "published schedule"]
        wanted += [f"{name} {budget}" for budget in BUDGETS for name in (*STAGES, "published pattern")]
        for label in wanted:
            row = summary["mean"][label]
            lines.append(
                f"| {label} | {interval(row['accuracy'])} | {interval(row['retained'])} | {interval(row['above_blank'])} "
                f"| {number(row['agrees'], '.1f', 100)} | {number(row['kl'], '.3f')} "
                f"| {number(row['final_tokens'], '.1f')} | {number(row['average_tokens'], '.1f')} "
                f"| {number(row['kv_bytes'], '.3f')} | {number(row['flops'], '.3f')} |"
            )
        lines += ["", *_by_task(summary, size), ""]
    return "\n".join(lines).rstrip()


def _by_task(summary: Results, size: str) -> list[str]:
    columns = [f"{name} {budget}" for budget in BUDGETS for name in STAGES]
    lines = [
        f"zoo/{size}, accuracy % by task (\\*: not in the mean):",
        "",
        "| task | plain | blank | " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (2 + len(columns)),
    ]
    for task, entry in summary["tasks"].items():
        values = [
            number(entry["rows"][label]["accuracy"]["value"], ".1f") for label in ("plain", "blank", *columns)
        ]
        lines.append(f"| {task}{'' if entry['in_mean'] else ' *'} | " + " | ".join(values) + " |")
    return lines


def controls(found: Results) -> str:
    lines = [
        "## Recycling against dropping, weighted means, random and the lowest scores",
        "",
        "Same layers and budgets as *both*. Points of accuracy that recycling is ahead, mean over tasks: an interval that "
        "holds 0 means no difference was found. *random*: the mean of three seeds, each of which keeps the same places in every picture; the "
        "intervals do not cover the choice of seeds. *inverse*: the lowest-scored stay.",
        "",
        "| against | "
        + " | ".join(f"{size}, {budget}" for size in SIZES for budget in ("1/3", "1/9"))
        + " |",
        "| --- |" + " ---: |" * 4,
    ]
    for other in ("drop", "weighted", "random", "inverse"):
        cells = [
            interval(found[f"test-{size}"]["differences"][f"{other} {budget}"]["mean"])
            for size in SIZES
            for budget in ("1/3", "1/9")
        ]
        lines.append(f"| {other} | " + " | ".join(cells) + " |")
    lines += ["", *(_verdict(found, other) for other in ("drop", "weighted", "random", "inverse"))]
    return "\n".join(lines)


def _verdict(found: Results, other: str) -> str:
    """One plain sentence on what the four intervals say."""
    signs = []
    for size in SIZES:
        for budget in ("1/3", "1/9"):
            figure = found[f"test-{size}"]["differences"][f"{other} {budget}"]["mean"]
            if figure["low"] is None:
                continue
            signs.append(1 if figure["low"] > 0 else -1 if figure["high"] < 0 else 0)
    if not signs:
        return f"- Against {other}: nothing was measured."
    better, worse = signs.count(1), signs.count(-1)
    return (
        f"- Against {other}: recycling is better in {better} of {len(signs)} cases, worse in {worse}, and not to be told "
        f"apart in {len(signs) - better - worse}."
    )


def layers(found: Results) -> str:
    lines = [
        "## How the layers were chosen",
        "",
        f"The rule, stated beforehand. {found['layers-L']['rule']}",
        "",
    ]
    lines += [
        f"`python -m illava_lab.benchmarks.evidence.measure choose L --limit {found['layers-L']['limit']} --threads 1`. Chosen ones in bold, those too dear in brackets.",
        "",
    ]
    for size in SIZES:
        entry = found[f"layers-{size}"]
        lines += [
            f"zoo/{size}, {entry['limit']} validation questions a task, mean over {', '.join(entry['tasks'])}:",
            "",
            "| candidate | retained above blank % | FLOPs / plain | average tokens / plain |",
            "| --- | ---: | ---: | ---: |",
        ]
        for stage, offered in entry["stages"].items():
            for label, row in offered["figures"].items():
                name = label if allowed(stage, row) else f"({label})"
                name = f"**{label}**" if label == offered["chosen"] else name
                lines.append(
                    f"| {name} | {row['above_blank']:.1f} | {row['flops']:.3f} | {row['average']:.3f} |"
                )
        lines.append("")
    return "\n".join(lines).rstrip()


def losses(found: Results) -> str:
    lines = [
        "## Where it loses",
        "",
        f"The kinds of question that zoo/L loses most on at {CHOSEN_AT} of the tokens, both stages, five at most:",
        "",
        "| task | kind | questions | plain % | merged % | points lost |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for entry in found["test-L"]["hurt"]:
        lines.append(
            f"| {entry['task']} | {entry['kind']} | {entry['samples']} | {entry['plain']:.1f} | {entry['merged']:.1f} | "
            f"{entry['lost']:.1f} |"
        )
    lines += ["", "One question of each that went wrong; below each picture, faded, what was dropped:"]
    for entry in found["test-L"]["hurt"]:
        if entry.get("picture"):
            shown = entry["examples"][0]
            lines += [
                "",
                f"**{entry['task']}, {entry['kind']}.** {shown['question']} Right: {shown['answer']}; merged: "
                f"{shown['prediction'] or '(nothing)'}.",
                "",
                f"![{entry['task']}, {entry['kind']}](evidence/{entry['picture']})",
            ]
    return "\n".join(lines)


def main() -> None:
    """Write the page and the cards; says in one line which file is missing or does not belong to the others."""
    try:
        found = read()
        texts = {PAGE: page(found)}
        texts |= {cards.path(size): cards.read(size, found[f"test-{size}"]) for size in SIZES}
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing: run make evidence-runs first") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for path, text in texts.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    print(f"wrote {', '.join(map(str, texts))}")


if __name__ == "__main__":
    main()
