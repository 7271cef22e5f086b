"""A comparison of a made-up model: answers and times from which every figure follows by hand."""

from __future__ import annotations

from illava.evaluation.comparison import Measured
from illava.evaluation.rows import BLANK, PLAIN, TEXT_ONLY, Row, merged_row
from illava.methods import Illava

KEEPS = (1 / 3, 1 / 9)
METHODS = {"illava": {}, "shuffled": {"select": "random"}, "worst": {"select": "lowest"}}
ROWS = [TEXT_ONLY]
ROWS += [merged_row(Illava(keep=k, **options), k, name) for name, options in METHODS.items() for k in KEEPS]
ROWS += [
    Row(f"{name} as saved", Illava(encoder_layers=(1,), encoder_keep=share), None, name=name)
    for name, share in (("mine", 0.5), ("yours", 0.4))
]
REFUSED = {"worst 1/9": "not with a | in it"}
# How many of 20 questions go wrong; "weak" is a task that the plain model is not good enough at.
WRONG = {
    "a": {"plain": 0, "blank": 10, "text only": 10, "illava 1/3": 2, "illava 1/9": 6, "shuffled 1/3": 1},
    "b": {"plain": 4, "blank": 16, "text only": 18, "illava 1/3": 4, "illava 1/9": 8, "shuffled 1/3": 4},
    "weak": {"plain": 9, "blank": 9, "text only": 9, "illava 1/3": 9, "illava 1/9": 9, "shuffled 1/3": 20},
}
SHARES = {"plain": 1.0, "illava 1/3": 0.5, "illava 1/9": 0.25, "shuffled 1/3": 0.5, "shuffled 1/9": 0.2}
DRAWS = 400


def answers(wrong=WRONG, n: int = 20) -> list[dict]:
    """The first ``wrong`` of a row's answers are wrong, those of "shuffled 1/9" the last; two a picture."""
    lines = []
    for task, counts in wrong.items():
        for row in (PLAIN, BLANK, *ROWS):
            if row.label in REFUSED:
                continue
            for i in range(n):
                bad = counts.get(row.label, 12)
                final = 144 if row.method is None else round(144 * (row.keep or 0.4))
                lines.append(
                    {
                        "task": task,
                        "row": row.label,
                        "sample": i,
                        "correct": i < n - bad if row.label == "shuffled 1/9" else i >= bad,
                        "agrees": True,
                        "kl": 0.1,
                        "visual_tokens": 144,
                        # A little more than 1 % above its budget.
                        "final_tokens": final + (row.label == "shuffled 1/3"),
                        "average_tokens": 50.0,
                        "kv_bytes": 0.4,
                        "flops": SHARES.get(row.label, 0.6),
                        "cluster": f"{task}-{i // 2}",
                        "kind": "k",
                        "small": False,
                    }
                )
    return lines


def measured(lines=None, timing: bool = True) -> Measured:
    able = [row for row in ROWS if row.label not in REFUSED]
    settings = {
        "model": "zoo/S",
        "dtype": "float32",
        "device": "cpu",
        "illava": "0",
        "split": "test",
        "seed": 3,
        "limit": 20,
        "batch_size": 4,
        "tasks": dict.fromkeys(WRONG, ""),
        "rows": {row.label: row.to_dict() for row in (PLAIN, BLANK, *able)},
    }
    faster = {
        label: {
            "seconds": {},
            "faster": {
                part: {"median": 1 / share, "low": 0.1, "high": 99.0, "interval": (0.5 / share, 2 / share)}
                for part in ("encoder", "prefill", "ttft", "total")
            },
        }
        for label, share in SHARES.items()
    }
    times = {"prompts": [["a", 0], ["b", 0]], "threads": 1, "rows": faster}
    return Measured(ROWS, REFUSED, settings, answers() if lines is None else lines, times if timing else None)
