"""Write docs/evidence.md from the result files beside it: ``python -m benchmarks.evidence.page``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.evidence import cards
from benchmarks.evidence.rows import BUDGETS, CHOSEN_AT, RULE, STAGES
from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.summary import interval, number
from illava.files import replacing

FIGURES, PAGE = Path("docs/evidence"), Path("docs/evidence.md")
SPEED = Path("benchmarks/results/published_shape-float32-672-all.json")
SIZES = ("S", "L")
TARGETS = {"1/3": 99.0, "1/9": 95.0}
Results = dict[str, Any]


def read() -> Results:
    """The result files by name; raises FileNotFoundError for one that has not been measured yet."""
    files = {
        f"{kind}-{size}": FIGURES / f"{kind}-{size}.json" for kind in ("layers", "test") for size in SIZES
    }
    files |= {"bigger": FIGURES / "bigger.json", "speed": SPEED}
    return {name: json.loads(path.read_text()) for name, path in files.items()}


def page(found: Results) -> str:
    """The whole page, as Markdown."""
    parts = [
        head(found),
        plain(found),
        claims(found),
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
measures everything anew (hours on two cores; it goes on where it was stopped).

**What was measured, and what that is worth.** Two toy models that ship with the project, `zoo/S` and `zoo/L`, trained
from scratch on drawn pictures and on easy-VQA, on nine tasks whose test material they have never seen
([`illava.evaluation.tasks`](../src/illava/evaluation/tasks)). They show what the method does to a model that looks
closely, on pictures with small things in them, 144 visual tokens a picture; they say nothing about photographs. Every
number below is from split `test`, {settings["limit"]} questions a task, seed {settings["seed"]}, {settings["dtype"]}
on one CPU ({machine["cpu"]}, {machine["threads"]} thread a run), torch {machine["torch"]}, transformers
{machine["transformers"]}, illava {machine["illava"]}. Brackets are 95 % bootstrap intervals, paired and clustered by
picture. *Retained* is accuracy as a share of the plain model's; *above blank* is (accuracy - blank) / (plain - blank),
where blank is the plain model on grey pictures: what the questions alone give away. Tasks that the plain model gets
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


def claims(found: Results) -> str:
    parts = [
        "## Claim by claim",
        "",
        "The paper's claims are for models of 2 to 26 billion weights on public benchmarks.",
    ]
    parts += [
        "",
        *_claim_speed(found),
        "",
        *_claim_bigger(found),
        "",
        *_claim_ninth(found),
        "",
        *_claim_schedule(found),
    ]
    return "\n".join(parts)


def _claim_speed(found: Results) -> list[str]:
    told = []
    for row in found["speed"]["rows"]:
        factors = [
            f"{part} {row['measured'][part]['median']:.2f}x" for part in ("encoder", "prefill", "ttft")
        ]
        told.append(f"{row['method']}: {', '.join(factors)}, KV bytes {row['kv_ratio']:.3f} of plain")
    return [
        "### 1. Up to 2x throughput, prefill up to 4x shorter, 1.7x to 2x less memory",
        "",
        "Measured on random weights of the published Qwen2-VL-2B sizes, one 672 x 672 picture, float32, one thread, "
        f"median of {found['speed']['rounds']} rounds: {'; '.join(told)} (ttft: time to the first token). Of memory only the "
        "key/value cache is counted. `make bench`.",
    ]


def _claim_bigger(found: Results) -> list[str]:
    rows = found["bigger"]["contestants"]
    winners = [label for label, row in rows.items() if row["wins"] and label.startswith("L merged")]
    verdict = (
        f"It does, at {_listed([label.removeprefix('L merged to ') for label in winners])} of the tokens."
        if winners
        else "It does not: no budget is both more accurate and faster than the smaller model."
    )
    lines = [
        "### 2. The larger model with merging beats the smaller one without, in accuracy and speed at once",
        "",
        f"{verdict} One run, {found['bigger']['each']} questions a task, one prompt at a time, all contestants in turn; "
        "seconds of a whole `generate`. `python -m benchmarks.evidence.measure bigger`.",
        "",
        "| | accuracy % | points above S plain | ms an answer | times faster than S plain |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for label, row in rows.items():
        lines.append(
            f"| {label} | {interval(row['accuracy'])} | {interval(row['points'])} | {row['milliseconds']:.0f} | "
            f"{_factor(row['times_faster'])} |"
        )
    return lines


def _claim_ninth(found: Results) -> list[str]:
    told = []
    for size in SIZES:
        for budget, target in TARGETS.items():
            row = found[f"test-{size}"]["mean"][f"both {budget}"]
            value = row["above_blank"]["value"]
            reached = (
                "-" if value is None else "reached" if value >= target else f"short by {target - value:.1f}"
            )
            told.append(
                f"| {size} | {budget} | {number(row['final_tokens'], '.1f')} | {interval(row['retained'])} | "
                f"{interval(row['above_blank'])} | {target:.0f} | {reached} |"
            )
    return [
        "### 3. With 88.9 % of the visual tokens removed, 95 % of the accuracy stays",
        "",
        "Both stages, layers chosen on the validation split (below). `python -m benchmarks.evidence.measure test L`.",
        "",
        "| model | tokens | final tokens | retained % | retained above blank % | target above blank | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *told,
    ]


def _claim_schedule(found: Results) -> list[str]:
    lines = [
        "### 4. At the published schedules 0.2 to 0.5 points are lost; video loses least",
        "",
        "The schedule published for Qwen2-VL, its layers scaled to six blocks and six layers, its shares unchanged:",
        "",
        "| model | task | plain % | published schedule % | points lost |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for size in SIZES:
        lost = {}
        for task, entry in found[f"test-{size}"]["tasks"].items():
            if entry["in_mean"]:
                one, other = (
                    entry["rows"][name]["accuracy"]["value"] for name in ("plain", "published schedule")
                )
                lost[task] = (one, other)
        for task, (one, other) in sorted(lost.items(), key=lambda item: item[1][0] - item[1][1]):
            lines.append(f"| {size} | {task} | {one:.1f} | {other:.1f} | {one - other:.1f} |")
        if lost:
            mean = sum(one - other for one, other in lost.values()) / len(lost)
            lines.append(f"| {size} | **mean** | | | **{mean:.1f}** |")
    return lines


def budgets(found: Results) -> str:
    lines = ["## What stays, by stage and budget", ""]
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
        "holds 0 means no difference was found. *random*: the mean of three seeds. *inverse*: the lowest-scored stay.",
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
    lines = ["## How the layers were chosen", "", f"The rule, stated beforehand. {RULE}", ""]
    lines += ["`python -m benchmarks.evidence.measure choose L`. Chosen ones in bold.", ""]
    for size in SIZES:
        entry = found[f"layers-{size}"]
        lines += [
            f"zoo/{size}, {entry['limit']} validation questions a task:",
            "",
            "| candidate | retained above blank % | FLOPs / plain | average tokens / plain |",
            "| --- | ---: | ---: | ---: |",
        ]
        for stage in entry["stages"].values():
            for label, row in stage["figures"].items():
                name = f"**{label}**" if label == stage["chosen"] else label
                lines.append(
                    f"| {name} | {row['above_blank']:.1f} | {row['flops']:.3f} | {row['average']:.3f} |"
                )
        lines.append("")
    return "\n".join(lines).rstrip()


def losses(found: Results) -> str:
    lines = [
        "## Where it loses",
        "",
        f"The five kinds of question that zoo/L loses most on at {CHOSEN_AT} of the tokens, both stages:",
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


def _factor(figure: Results) -> str:
    if figure["low"] is None:
        return number(figure["value"], ".2f")
    return f"{figure['value']:.2f} ({figure['low']:.2f}-{figure['high']:.2f})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def main() -> None:
    """Write the page; says in one line which file is missing."""
    try:
        found = read()
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing: run make evidence-runs first") from None
    with replacing(PAGE) as partial:
        partial.write_text(page(found), encoding="utf-8")
    written = [PAGE, *(cards.write(size, found[f"test-{size}"]) for size in SIZES)]
    print(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
