"""The command line of the fuzz test. It ends with status 1 if it found a fault."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from illava.bench.machine import machine

from ....zoo.model import build_model, export
from ....zoo.text import build_processor
from ..servers import Server
from . import __doc__ as description
from .cases import Maker
from .run import Findings, Fuzz

LIMITS = {
    "--keep": "1/3", "--max-tokens": "8", "--max-prompt-tokens": "1500", "--max-request-mb": "0.5",
    "--max-picture-mb": "0.1", "--max-megapixels": "0.5", "--max-pictures": "4", "--max-frames": "4",
    "--timeout": "60",
}  # fmt: skip
"""Options of the server: small limits, so that what exceeds them is quickly made and sent."""
MOST_GROWTH = 0.05
"""Of the memory after warm-up; over few requests it is not judged."""
JUDGED = 2000


def make_model(folder: Path) -> Path:
    """A tiny model with random weights."""
    processor = build_processor()
    export(build_model("micro", processor, seed=0), processor, folder)
    return folder


def judge(found: Findings, log: str) -> list[str]:
    """All faults of a run, with those that the log and the memory show."""
    faults = list(found.faults)
    faults += [f"the server's log: {line}" for line in log.splitlines() if "Traceback" in line]
    growth = found.growth()
    if growth is not None and found.requests >= JUDGED and growth > MOST_GROWTH:
        faults.append(f"the memory grew by {growth:.1%} after warm-up")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=8, help="requests under way at a time")
    parser.add_argument("--model", help="default: a tiny one with random weights")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads in the server")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send this request alone and show it")
    parser.add_argument("--output", type=Path, help="a JSON file of what was found")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(make_model(Path(folder) / "micro"))
        words = [word for pair in LIMITS.items() for word in pair]
        with Server(model, words, options.threads) as server:
            fuzz = Fuzz(server.url, Maker(server.name, options.seed), server.pid, options.parallel)
            if options.only is not None:
                case, result = asyncio.run(fuzz.one(options.only))
                print(case.kind, case.data[:4000], result.status, result.fault, result.body[:4000], sep="\n")
                print(server.log(), end="", file=sys.stderr)
                sys.exit(result.fault is not None)

            def show(done: int) -> None:
                print(f"\r{done} requests, {len(fuzz.found.faults)} faults", end="", flush=True)

            found = asyncio.run(fuzz.run(options.requests, show))
            faults, log = judge(found, server.log()), server.log()
    growth = found.growth()
    print(f"\n{dict(sorted(found.statuses.items()))}")
    print("memory after warm-up:", "not known" if growth is None else f"{growth:+.1%}")
    print(*faults, sep="\n")
    if faults:
        print(log[-4000:], file=sys.stderr)
    if options.output is not None:
        result = {"seed": options.seed, "machine": machine(), **found.summary(), "faults": faults}
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
