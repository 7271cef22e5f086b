"""The paper's claims, one by one, and what was measured: a part of docs/evidence.md."""

from __future__ import annotations

from typing import Any

from illava.evaluation.summary import interval, number

SIZES = ("S", "L")
TARGETS = {"1/3": 99.0, "1/9": 95.0}  # % retained above blank
Results = dict[str, Any]


def section(found: Results) -> str:
    """The part of the page that goes through the paper's claims, as Markdown."""
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
    speed = found["speed"]
    said = []
    for row in speed["rows"]:
        if "kv_ratio" not in row:
            continue
        parts = []
        for part in ("encoder", "prefill", "ttft"):
            measured = row["measured"][part]
            parts.append(f"{part} {measured['median']:.2f} ({measured['low']:.2f}-{measured['high']:.2f})")
        said.append(f"{row['name']}: {', '.join(parts)}, KV bytes {row['kv_ratio']:.3f} of plain")
    return [
        "### 1. Up to 2x throughput, prefill up to 4x shorter, 1.7x to 2x less memory",
        "",
        f"On random weights of the published Qwen2-VL-2B sizes, one {speed['size']} x {speed['size']} picture, "
        f"{speed['dtype']}, one thread of {speed['machine']['cpu']}: times faster than plain, median (lowest-highest) of "
        f"{speed['rounds']} rounds: {'; '.join(said)} (ttft: time to the first token). Of memory only the key/value cache "
        "is counted. `python -m illava_lab.benchmarks.speed qwen2-vl-2b`; more in [performance.md](performance.md).",
    ]


def _claim_bigger(found: Results) -> list[str]:
    entry = found["bigger"]
    merged = {
        label.removeprefix("L merged to "): row
        for label, row in entry["contestants"].items()
        if label.startswith("L merged")
    }
    sure, perhaps = (
        [name for name, row in merged.items() if row["wins"] == how] for how in ("yes", "perhaps")
    )
    if sure:
        verdict = f"It does, at {_listed(sure)} of the tokens."
    elif perhaps:
        verdict = f"It is ahead in both at {_listed(perhaps)} of the tokens, but an interval reaches to no advantage."
    else:
        verdict = "It does not: no budget is both more accurate and faster than the smaller model."
    lines = [
        "### 2. The larger model with merging beats the smaller one without, in accuracy and speed at once",
        "",
        f"{verdict} One run, {entry['each']} questions a task, one prompt at a time, all contestants in turn; seconds of a "
        "whole `generate`. `python -m illava_lab.benchmarks.evidence.measure bigger --limit "
        f"{entry['each']} --threads 1`.",
    ]
    both_learnt = f"Tasks that both have learnt ({', '.join(entry['tasks'])})"
    for title, rows in {both_learnt: entry["contestants"], "All nine tasks": entry["all_tasks"]}.items():
        lines += [
            "",
            f"{title}:",
            "",
            "| | accuracy % | points above S plain | ms an answer | times faster than S plain |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for label, row in rows.items():
            lines.append(
                f"| {label} | {interval(row['accuracy'])} | {interval(row['points'])} | {row['milliseconds']:.0f} | "
                f"{_factor(row['times_faster'])} |"
            )
    return lines if sure else [*lines, "", _why_not(found)]


def _why_not(found: Results) -> str:
    """What keeps the merged larger model from winning: its time against its arithmetic, and the tasks it loses on."""
    large, contest = found["test-L"], found["bigger"]["contestants"]
    budget = "1/9"
    time = contest[f"L merged to {budget}"]["milliseconds"] / contest["L plain"]["milliseconds"]
    flops = large["mean"][f"both {budget}"]["flops"]
    lost = {
        task: entry["rows"]["plain"]["accuracy"]["value"]
        - entry["rows"][f"both {budget}"]["accuracy"]["value"]
        for task, entry in large["tasks"].items()
    }
    worst = sorted(lost, key=lambda task: -lost[task])[:3]
    return (
        f"Why not: merged to {budget}, zoo/L does {flops:.2f} of its plain arithmetic up to the first token, but a whole "
        f"answer takes {time:.2f} of the time. With 144 tokens and this little width the fixed cost of a layer, which "
        "merging leaves as it is, decides. And its accuracy goes where an answer hinges on details that few tokens carry: "
        + ", ".join(f"{task} loses {lost[task]:.0f} points" for task in worst)
        + "."
    )


def _claim_ninth(found: Results) -> list[str]:
    said = []
    for size in SIZES:
        for budget, target in TARGETS.items():
            row = found[f"test-{size}"]["mean"][f"both {budget}"]
            reached = _reached(row["above_blank"], target)
            said.append(
                f"| {size} | {budget} | {number(row['final_tokens'], '.1f')} | {interval(row['retained'])} | "
                f"{interval(row['above_blank'])} | {target:.0f} | {reached} |"
            )
    return [
        "### 3. With 88.9 % of the visual tokens removed, 95 % of the accuracy stays",
        "",
        "Both stages, layers chosen on the validation split (below). `python -m illava_lab.benchmarks.evidence.measure test L --limit "
        f"{found['test-L']['settings']['limit']} --threads 1`.",
        "",
        "| model | tokens | final tokens | retained % | retained above blank % | target above blank | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *said,
    ]


def _reached(figure: Results, target: float) -> str:
    if figure["value"] is None:
        return "-"
    if figure["value"] < target:
        return f"short by {target - figure['value']:.2g}"
    sure = figure["low"] is not None and figure["low"] >= target
    return "reached" if sure else "reached, but the interval goes below"


def _claim_schedule(found: Results) -> list[str]:
    lines = [
        "### 4. At the published schedules 0.2 to 0.5 points are lost; video loses least",
        "",
        "The schedule published for Qwen2-VL, scaled to six blocks and six layers, where its four steps in the encoder fall "
        "together into one and so do its three in the LLM:",
        "",
        "| model | task | plain % | points against plain |",
        "| --- | --- | ---: | ---: |",
    ]
    notes = []
    for size in SIZES:
        summary = found[f"test-{size}"]
        changed = summary["differences"]["published schedule"]
        counted = [task for task, entry in summary["tasks"].items() if entry["in_mean"]]
        for task in sorted(counted, key=lambda task: -changed["tasks"][task]["value"]):
            plain = summary["tasks"][task]["rows"]["plain"]["accuracy"]["value"]
            lines.append(f"| {size} | {task} | {plain:.1f} | {interval(changed['tasks'][task])} |")
        lines.append(f"| {size} | **mean of {len(counted)}** | | {interval(changed['mean'])} |")
        if "video" in counted:
            place = 1 + sum(
                changed["tasks"][t]["value"] > changed["tasks"]["video"]["value"] for t in counted
            )
            notes.append(
                f"On zoo/{size} video is number {place} of {len(counted)}, from the one that loses least."
            )
        else:
            notes.append(f"zoo/{size} has not learnt video well enough to say what it loses there.")
    return [*lines, "", " ".join(notes)]


def _factor(figure: Results) -> str:
    if figure["low"] is None:
        return number(figure["value"], ".2f")
    return f"{figure['value']:.2f} ({figure['low']:.2f}-{figure['high']:.2f})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
