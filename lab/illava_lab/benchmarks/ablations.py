"""What each part of the best preset brings, and what was tried beside it and did not help.

Everything is measured on the validation split, where the preset was chosen; the test split is for
docs/comparison.md. One part at a time is put in place of the preset's, all else equal.

    python -m illava_lab.benchmarks.ablations measure L --limit 24 --threads 1    # then S; goes on where it was stopped
    python -m illava_lab.benchmarks.ablations page                                # writes docs/ablations.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from illava import Illava
from illava.ask import load
from illava.bench.machine import machine
from illava.evaluation.compare import difference
from illava.evaluation.rows import PLAIN, Row, fingerprint
from illava.evaluation.store import write_json
from illava.evaluation.summary import summarise
from illava.io.files import replacing
from illava_lab import tasks as registry
from illava_lab.benchmarks.evidence.measure import NEW_TOKENS, PLACE, ask_all

RUNS, FIGURES, PAGE = Path("runs/ablations"), Path("docs/ablations"), Path("docs/ablations.md")
KEEP = 1 / 9
BEST = "illava-best"
MOST_FLOPS = 0.55
RULE = (
    f"among what costs at most {MOST_FLOPS} of the plain model's FLOPs up to the first token at 1/9 of the tokens, "
    "and is not significantly less accurate on either model than any other such, the lowest KL of the first "
    "token's distribution from the plain model's, averaged over both models; with attention from 256 query rows "
    "instead of all of them, because that costs a sixth."
)
QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "Where, with nothing else changed from the paper": {
        "published pattern": {"published": True},
        "published pattern, diverse and folded": {
            "published": True,
            "select": "diverse",
            "reduce": "fold",
            "similarity": "cosine",
        },
        "middle of both, highest, recycled": {"select": "highest", "reduce": "recycle", "similarity": "dot"},
    },
    "Which units stay": {
        "highest attention": {"select": "highest"},
        "highest rarity": {"select": "highest", "experimental": {"encoder_score": "rarity"}},
        "highest norm": {"select": "highest", "experimental": {"encoder_score": "norm"}},
        "diverse by rarity": {"experimental": {"encoder_score": "rarity"}},
        "diverse by norm": {"experimental": {"encoder_score": "norm"}},
        "attention from all query rows": {"score": "exact"},
        "random": {"select": "random"},
    },
    "What becomes of the others": {
        "dropped": {"reduce": "drop"},
        "recycled as published": {"reduce": "recycle", "similarity": "dot"},
        "recycled by cosine": {"reduce": "recycle"},
        "recycled into 30 % of the survivors": {"reduce": "recycle", "similarity": "dot", "recycle": 0.3},
        "rank-weighted mean": {"reduce": "weighted"},
        "folded by dot products": {"similarity": "dot"},
        "folded, with sizes in later attention": {"experimental": {"proportional": True}},
    },
    "In the LLM": {
        "scores by all text": {"experimental": {"llm_score": "text"}},
        "compacted positions": {"experimental": {"positions": "compact"}},
        "before layer 2": {"llm_layers": (2,)},
        "before layer 4": {"llm_layers": (4,)},
    },
    "How much of it where": {
        "encoder share 0.35": {"encoder_share": 0.35},
        "encoder share 0.65": {"encoder_share": 0.65},
        "encoder alone": {"llm_layers": (), "encoder_share": None},
        "LLM alone": {"encoder_layers": (), "encoder_share": None},
        "encoder block 1": {"encoder_layers": (1,)},
        "encoder block 3": {"encoder_layers": (3,)},
    },
}
NOT_TRIED = (
    "Not tried: spending the budget by a picture's complexity (it would break budgets that are exact picture by "
    "picture), discounts for attention sinks and for position, softmax temperatures of recycling, sizes as a bias "
    "of the LLM's attention."
)


def variant(changes: dict[str, Any]) -> Illava:
    """The best preset with some of its fields changed, or the published pattern."""
    if changes.get("published"):
        return Illava(keep=KEEP, **{key: value for key, value in changes.items() if key != "published"})
    return dataclasses.replace(Illava.best(KEEP), **changes)


def rows() -> list[Row]:
    """The preset and every variant."""
    named = {label: changes for group in QUESTIONS.values() for label, changes in group.items()}
    return [Row(label, variant(changes), KEEP) for label, changes in {BEST: {}, **named}.items()]


def measure(size: str, limit: int) -> None:
    """Answer the validation split in all rows and write the figures."""
    name = f"zoo/{size}"
    model, processor = load(name, *PLACE)
    options = {"limit": limit, "seed": 0, "split": "val", "batch_size": 12, "max_new_tokens": NEW_TOKENS}
    settings, lines = ask_all(name, model, processor, rows(), RUNS / size, options, list(registry.names()))
    summary = summarise(settings, lines)
    figures = {
        label: {
            **{key: mean[key] for key in ("accuracy", "above_blank", "kl", "flops", "average_tokens")},
            "difference": difference(lines, [label], [BEST])[0].to_dict(),
        }
        for label, mean in summary["mean"].items()
    }
    write_json(
        FIGURES / f"{size}.json",
        {
            "model": name,
            "weights": fingerprint(model),
            "machine": machine(),
            "rule": RULE,
            **options,
            "tasks": [task for task, entry in summary["tasks"].items() if entry["in_mean"]],
            "rows": figures,
        },
    )


def page() -> str:
    """The Markdown page, from the figures of both models."""
    found = {size: json.loads((FIGURES / f"{size}.json").read_text()) for size in ("S", "L")}
    first = found["L"]
    place = first["machine"]
    lines = [
        "# Ablations",
        "",
        "Written by `python -m illava_lab.benchmarks.ablations page` from the files in [`docs/ablations`](ablations), never by "
        "hand. Measured on the **validation** split, where the preset was chosen; how it does on the test split, "
        "against the methods of the field, is in [comparison.md](comparison.md).",
        "",
        f"`illava-best` at 1/9 of the visual tokens, and what changes when one part of it is changed, all else "
        f"equal. Two toy models of 144 visual tokens a picture, {first['limit']} questions a task, seed "
        f"{first['seed']}, float32, {place['threads']} thread of {place['cpu']}, torch {place['torch']}, "
        f"transformers {place['transformers']}. Accuracy is a mean over the tasks that the plain model gets right "
        f"at least 75 % of the time (S: {', '.join(found['S']['tasks'])}; L: {', '.join(first['tasks'])}). "
        "*points*: accuracy minus that of `illava-best`, paired, with 95 % bootstrap intervals; **bold** where "
        "that leaves out 0. *KL*: of the first token's distribution from the plain model's, which tells more than "
        "right or wrong. Many comparisons are made: one in twenty would leave out 0 by chance.",
        "",
        f"The rule by which the preset was settled on, after a look at these figures for other settings: {RULE}",
    ]
    groups = {"The preset and the plain model": {PLAIN.label: {}, "blank": {}, BEST: {}}, **QUESTIONS}
    for title, group in groups.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| | S: above blank % | points | KL | L: above blank % | points | KL | FLOPs L | average tokens L |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [f"| {label} | {_cells(found, label)} |" for label in group]
    return "\n".join([*lines, "", *_verdict(found), "", NOT_TRIED, ""])


def _cells(found: dict[str, Any], label: str) -> str:
    cells = []
    for size in ("S", "L"):
        row = found[size]["rows"][label]
        apart = row["difference"]
        text = f"{apart['value']:+.1f} ({apart['low']:+.1f} to {apart['high']:+.1f})"
        if apart["low"] > 0 or apart["high"] < 0:
            text = f"**{text}**"
        text = "" if label == BEST else text
        cells += [f"{row['above_blank']['value']:.1f}", text, f"{row['kl']:.3f}"]
    row = found["L"]["rows"][label]
    return " | ".join([*cells, f"{row['flops']:.3f}", f"{row['average_tokens']:.1f}"])


def _verdict(found: dict[str, Any]) -> list[str]:
    """What helped significantly on either model and on which; what could not be told apart."""
    better, worse, same = [], [], []
    for group in QUESTIONS.values():
        for label in group:
            apart = {size: found[size]["rows"][label]["difference"] for size in ("S", "L")}
            signs = {size: (d["low"] > 0) - (d["high"] < 0) for size, d in apart.items()}
            names = ", ".join(f"zoo/{size}" for size in signs if signs[size])
            if all(sign >= 0 for sign in signs.values()) and any(signs.values()):
                better.append(f"{label} ({names})")
            elif all(sign <= 0 for sign in signs.values()) and any(signs.values()):
                worse.append(f"{label} ({names})")
            elif not any(signs.values()):
                same.append(label)
    return [
        "## In short",
        "",
        f"Significantly better than the preset: {'; '.join(better) or 'none'}.",
        "",
        f"Significantly worse: {'; '.join(worse) or 'none'}.",
        "",
        f"Not to be told apart from it on these questions: {'; '.join(same) or 'none'}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("measure", "page"))
    parser.add_argument("size", nargs="?", choices=("S", "L"), default="L")
    parser.add_argument("--limit", type=int, default=24, help="samples a task; a later run may ask for more")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    FIGURES.mkdir(parents=True, exist_ok=True)
    if options.what == "measure":
        measure(options.size, options.limit)
    else:
        with replacing(PAGE) as partial:
            partial.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
