"""Results of a card that does not exist, for the pages made of them. No figure here was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from illava_lab.benchmarks.gpu.settings import CARD

IDENTITY = {
    "illava": "0.0",
    "source": "made up",
    "card": "MADE-UP CARD",
    "torch": "9.9",
    "transformers": "8.8",
    "settings": CARD.to_dict(),
}
ENVIRONMENT = {
    "card": {"name": "MADE-UP CARD", "bytes": 1, "capability": "0.0", "driver": "111.22", "cuda": "33.4"},
    "cpu": "made-up processor",
    "threads": 1,
    "python": "3.x",
    "torch": "9.9",
    "triton": "7.7",
    "transformers": "8.8",
    "illava": "0.0",
    "cores": 1,
    "system": "made up",
    "commit": "abcdef",
    "date": "1999-12-31",
}
PARTS = ("encoder", "prefill", "ttft", "decode_per_token", "total")
LABELS = {"published": 1.5, "keep=1/3": 2.0, "keep=1/9": 3.0}
"""Speed-ups by variant; FLOP bounds are 1.25 times that."""


def ratio(gain: float, bounded: bool = True) -> dict[str, Any]:
    bound = 1.25 * gain if bounded else None
    share = 0.8 if bounded else None
    return {
        "median": gain,
        "low": gain - 0.1,
        "high": gain + 0.1,
        "interval": None,
        "flops": bound,
        "of_flops": share,
    }


def figures(seconds: float, batch: int) -> dict[str, Any]:
    speed = {"median": batch / seconds, "low": batch / seconds, "high": batch / seconds}
    return {
        "seconds": {part: [seconds, 2 * seconds, 0.5 * seconds] for part in PARTS},
        "answers_per_second": speed,
        "peak_bytes": 3_000_000_000,
        "flops": {"encoder": 10**12, "prefill": 10**12, "ttft": 25 * 10**12},
        "kv_bytes": 1,
    }


def compared(seconds: float, batch: int, labels: tuple[str, ...]) -> dict[str, Any]:
    """A row of times or batches."""
    return {
        "batch": batch,
        "prompt_tokens": 623,
        "plain": figures(seconds, batch),
        "variants": [
            {
                "label": label,
                **figures(seconds / LABELS[label], batch),
                "faster": {part: ratio(LABELS[label], part in PARTS[:3]) for part in PARTS},
                "shares": {"scoring": 0.01, "selection": 0.02, "reduction": 0.03, "own": 0.04},
            }
            for label in labels
        ],
    }


def time_row(shape: str, size: int) -> dict[str, Any]:
    return {"shape": shape, "size": size, "layers": None, **compared(0.25, 1, tuple(LABELS))}


def operations(merged: float) -> dict[str, Any]:
    return {"selected": 1.0, "merged": {"fold, dot": merged, "drop, dot": 1.0}, "failure": None}


LOGITS = {
    "largest_difference": {"plain": 1e-6, "merged": 2e-5},
    "logits_spread": 1.0,
    "kept_equal": 1.0,
    "bf16_kept_equal": 0.875,
    "bf16_kept_as_in_fp32": 0.75,
    "bf16_top_token_equal": True,
    "failure": None,
}
SKIPPED = {"needs two graphics cards": 3}
ROWS: dict[str, dict[str, Any]] = {
    "suite": {"tests": {"passed": 40, "failed": {}, "skipped": SKIPPED, "slowest": {}, "failure": None}},
    "equality": {
        "operations, 576 units, random, fp32": operations(0.995),
        "operations, 576 units, random, bf16": operations(0.9),
        "logits, tiny qwen2_vl": LOGITS,
    },
    "times": {f"qwen2-vl-2b, {size}": time_row("qwen2-vl-2b", size) for size in (672, 1344)},
    "batches": {
        **{f"batch {size}": compared(0.5 * size, size, ("keep=1/3", "keep=1/9")) for size in (1, 8)},
        "largest batch, plain": {
            "largest": 96,
            "ended_by": "an error",
            "errors": ["out of memory"],
            "answers_per_second": 12.0,
            "failure": None,
        },
    },
    "decoding": {
        "static cache, CUDA graphs": {
            "tokens_per_second": {
                "plain": {"median": 100.0, "low": 90.0, "high": 110.0},
                "keep=1/3": {"median": 125.0, "low": 120.0, "high": 130.0},
            },
            "median_step": {"plain": 0.01, "keep=1/3": 0.008},
            "faster": {"median": 1.25, "low": 1.2, "high": 1.3},
            "warm_up_seconds": {"plain": 30.0, "keep=1/3": 20.0},
            "backend": "inductor",
            "failure": None,
        }
    },
    "profile": {
        "ceilings": {
            "kind": "ceilings",
            "side": 8192,
            "flops_per_second": 6.5e14,
            "bytes_per_second": 2.5e12,
            "failure": None,
        },
        "plain": {
            "kind": "kernels",
            "count": 1234,
            "launches": 1200,
            "copies": 5,
            "busy_seconds": 0.05,
            "span_seconds": 0.06,
            "top": [{"name": "made_up_gemm", "count": 7, "seconds": 0.02}],
            "waits": 9,
            "wait_places": {"illava/made_up.py:1": 6, "transformers/made_up.py:2": 3},
            "failure": None,
        },
    },
}


def write(folder: Path, **changes: dict[str, Any]) -> None:
    """Write the files of all parts; ``changes``: other values of a part's file, by part."""
    for name, rows in ROWS.items():
        data = {
            "part": name,
            "identity": IDENTITY,
            "environment": ENVIRONMENT,
            "rows": rows,
            "errors": {},
            "not_run": {},
            "seconds": dict.fromkeys(rows, 1.0),
            "status": "done",
            **changes.get(name, {}),
        }
        (folder / f"{name}.json").write_text(json.dumps(data))
