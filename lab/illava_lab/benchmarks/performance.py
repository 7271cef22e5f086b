"""Write docs/performance.md from the files in docs/performance.

python -m illava_lab.benchmarks.performance
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from illava.evaluation.summary import table
from illava.io.files import replacing
from illava_lab.benchmarks import former
from illava_lab.benchmarks import performance_sections as sections
from illava_lab.benchmarks.gpu.section import section as graphics_card
from illava_lab.benchmarks.performance_sections import ends, name

ROOT = Path(__file__).parents[3]
FOLDER, PAGE = ROOT / "docs" / "performance", ROOT / "docs" / "performance.md"
ABLATIONS = ROOT / "docs" / "ablations"
TARGETS = {
    ("qwen2-vl-2b", "0.85 x4, then 0.9 x4"): {"ttft": 1.75},
    ("qwen2-vl-2b", "to 1/3, then 0.9 x4"): {"ttft": 2.4},
    ("qwen2-vl-2b", "to 1/9, then 0.9 x4"): {"encoder": 3.5, "prefill": 6, "ttft": 4},
    ("llava-onevision-0.5b", "to 1/9, then 0.9 x4"): {"prefill": 7, "ttft": 4},
}
"""Speed-ups that the project set out to reach."""
ANSWERS, AGREEMENT = 2.0, 0.97
"""Targets for answers per second at 1/3 of the tokens, and for units that sampled and exact scores keep."""
ELSEWHERE = ("ablations", "gpu")
"""Files whose machine is stated in another place."""
VERDICTS = ("**not reached**", "only with tuning", "reached")
"""In the order of the page."""

Found = Mapping[str, Any]


def read() -> dict[str, Any]:
    """The result files by name, lists of those of which there are several; None where there is no file."""
    found: dict[str, Any] = {
        kind: [json.loads(file.read_text()) for file in sorted(FOLDER.glob(f"{kind}-*.json"))]
        for kind in ("speed", "versus_openvino")
    }
    for kind in ("throughput", "decoding", "overhead", "growth", "bigger", "gpu"):
        file = FOLDER / f"{kind}.json"
        found[kind] = json.loads(file.read_text()) if file.exists() else None
    found["ablations"] = {size: json.loads((ABLATIONS / f"{size}.json").read_text()) for size in ("S", "L")}
    return found


def page(found: Found) -> str:
    """The whole page."""
    plot = "performance/gpu.png" if (FOLDER / "gpu.png").exists() else None
    lines = [*head(found), *graphics_card(found["gpu"], plot)]
    if found["speed"]:
        lines += sections.speed(found["speed"])
    if found["throughput"]:
        lines += sections.throughput(found["throughput"])
    if found["decoding"]:
        lines += sections.decoding(found["decoding"])
    if found["versus_openvino"]:
        lines += sections.openvino(found["versus_openvino"][-1])
    if found["overhead"]:
        lines += sections.overhead(found["overhead"], found["ablations"])
    if found["growth"]:
        lines += sections.growth(found["growth"])
    if found["bigger"]:
        lines += sections.bigger(found["bigger"])
    return "\n".join(lines)


def head(found: Found) -> Iterator[str]:
    """The verdict: what is faster than illava, and which targets were missed and reached."""
    yield "# Performance"
    yield ""
    yield (
        "Written by `python -m illava_lab.benchmarks.performance` from the files in [`docs/performance`](performance). Random "
        f"weights of published sizes, float32 unless stated, on {machines(found)}; brackets: lowest and highest "
        "round. Such ratios hold where FLOPs decide. On an accelerator kernel launches may decide: there `illava plan "
        "--device-rates` predicts less speed-up, or none ([Planning](planning.md#on-an-accelerator))."
    )
    yield ""
    if then := former.note(presets(found)):
        yield then.replace("`illava-best`", "`keep=1/3` and `keep=1/9`, `Illava.best`,", 1).replace(
            " is the preset", " are the preset", 1
        )
        yield ""
    if found["versus_openvino"]:
        yield against(found["versus_openvino"][-1])
        yield ""
    rows = sorted(targets(found), key=lambda row: VERDICTS.index(row[-1]))
    yield from table(["target", "wanted", "measured", ""], rows)
    yield ""


def presets(found: Found) -> Iterator[Mapping[str, Any]]:
    """The rows of the preset among the speeds, as :mod:`~illava_lab.benchmarks.former` reads them."""
    for run in found["speed"]:
        for row in run["rows"]:
            if row["name"].startswith("keep="):
                yield {"method": "illava-best", "options": row["method"]}


def machines(found: Found) -> str:
    """The machines of all files, each once."""
    one = [part for key, part in found.items() if key not in ELSEWHERE and isinstance(part, dict)]
    used = [
        place
        for part in (*one, *found["speed"], *found["versus_openvino"])
        if (place := part.get("machine") or part["settings"].get("machine"))
    ]
    return "; ".join(
        dict.fromkeys(
            f"{threads(place['threads'])} of {place['cpu']}, torch {place['torch']}, transformers "
            f"{place['transformers']}"
            for place in used
        )
    )


def threads(count: int) -> str:
    """A number of threads, in words."""
    return "one thread" if count == 1 else f"{count} threads"


def against(found: Found) -> str:
    """The parts in which OpenVINO is faster, then those in which illava is, merged to as many tokens."""
    slower, faster = [], []
    merged = [figures for label, figures in found["torch_times_faster"].items() if "plain" not in label]
    for part in merged[0]:
        values = [figures[part]["median"] for figures in merged]
        said = f"{name(part)} {ends(values)}x"
        if max(values) < 1:
            slower.append(said)
        elif min(values) > 1:
            faster.append(said)
    return (
        "Against OpenVINO GenAI's pruning to as many tokens, **torch with illava is slower** in "
        f"{', '.join(slower) or 'nothing'}, and faster in {', '.join(faster) or 'nothing'}."
    )


def targets(found: Found) -> Iterator[Sequence[str]]:
    """Target, wanted, measured without and with linear tuning, verdict."""
    for run in found["speed"]:
        rows = {row["name"]: row["measured"] for row in run["rows"]}
        for (shape, label), wanted in TARGETS.items():
            if shape != run["shape"] or label not in rows:
                continue
            for part, target in wanted.items():
                values = [rows[n][part]["median"] for n in (label, f"{label}, tuned") if n in rows]
                shown = ", tuned ".join(f"{value:.2f}x" for value in values)
                what = f"{shape}, {label}: {name(part)}"
                yield what, f"{target:g}x", shown, verdict(target, *values)
    if found["throughput"]:
        best = max(row["faster"]["total"]["median"] for row in found["throughput"]["variants"])
        what = f"{found['throughput']['shape']}, 1/3 of the tokens: answers per second"
        yield what, f"{ANSWERS:g}x", f"{best:.2f}x", verdict(ANSWERS, best)
    if found["overhead"]:
        least = min(row["agrees"]["mean"] for row in found["overhead"]["agreement"])
        what = "agreement of sampled with exact scores"
        yield what, f"{AGREEMENT:.0%}", f"{least:.1%}", verdict(AGREEMENT, least)


def verdict(target: float, *values: float) -> str:
    """Whether a target is reached: by the first value, by a further one with linear tuning, or not at all."""
    missed, tuned, met = VERDICTS
    return met if values[0] >= target else tuned if max(values) >= target else missed


def main() -> None:
    """Write the page."""
    with replacing(PAGE) as partial:
        partial.write_text(page(read()), encoding="utf-8")
    print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
