"""The command: all parts in order of worth, as far as time allows, then table and plot."""

from __future__ import annotations

import argparse
import faulthandler
import io
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import torch

from . import report, requirements
from .budget import Budget
from .context import Context, Row
from .parts import PARTS, Part
from .results import PartFile, conflict, environment, identity
from .settings import CARD, REHEARSAL, Settings, add_tiny_shapes

DONE, FAILED, USAGE, UNFINISHED = 0, 1, 2, 3
"""Exit codes: all rows are there; something failed, or a row hung; no card, no package or a wrong argument;
nothing failed, but there was no time for some rows, which a further call measures."""
INTERRUPTED = 130
LATEST = 60
"""Seconds after the end of the time at which the process ends itself, with exit code 1."""
LONGEST = 24 * 60
"""Minutes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m illava_lab.benchmarks.gpu",
        description="Measure everything that a graphics card is needed for. The same command goes on where "
        "it was stopped.",
        epilog="Exit codes: 0 all measured; 1 something failed; 2 wrong argument, no card or no package; "
        "3 no time for some rows, which a further call measures.",
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the results: out/gpu, out/gpu-rehearsal for a rehearsal"
    )
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS], help="default: all")
    parser.add_argument("--rehearsal", action="store_true", help="the same code on the CPU, at small sizes")
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing that would end later (8)")
    parser.add_argument(
        "--discard", action="store_true", help="measure anew what depends on another card or source"
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.minutes <= LONGEST:
        print(f"--minutes {options.minutes:g}: give a number from 0 to {LONGEST}")
        return USAGE
    if (missing := requirements.missing(options.parts)) is not None:
        print(missing)
        return USAGE
    if not options.rehearsal and not torch.cuda.is_available():
        print("no graphics card was found; --rehearsal runs the same code on the CPU at small sizes")
        return USAGE
    settings = REHEARSAL if options.rehearsal else CARD
    if options.rehearsal:
        add_tiny_shapes()
    parts = {name: PARTS[name] for name in options.parts}
    folder = options.output or Path("out/gpu-rehearsal" if options.rehearsal else "out/gpu")
    if (reason := _unusable(folder, parts, settings, options.discard)) is not None:
        print(reason)
        return USAGE
    # A row that hangs must not take the machine's time: what was saved before stays.
    faulthandler.dump_traceback_later(60 * options.minutes + LATEST, exit=True)
    try:
        return run(parts, settings, folder, Budget(60 * options.minutes))
    except KeyboardInterrupt:
        _report(folder, quiet=True)
        print("\nstopped; the same command goes on from here")
        return INTERRUPTED
    finally:
        faulthandler.cancel_dump_traceback_later()


def _unusable(folder: Path, parts: Mapping[str, Part], settings: Settings, discard: bool) -> str | None:
    """One line on why results cannot be written into a folder; None if they can."""
    if "://" in str(folder) or ":/" in str(folder):
        return f"--output {folder}: give a folder of this machine"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--output {folder}: {error.strerror}"
    return None if discard else conflict(folder, parts, identity(settings))


def run(parts: Mapping[str, Part], settings: Settings, folder: Path, budget: Budget) -> int:
    """Run parts into a folder. Returns the exit code of the command."""
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(settings, budget)
    same, around = identity(settings), environment(settings)
    files = {name: PartFile(folder / f"{name}.json", same, around, name) for name in parts}
    rows = {name: _rows(part, context, files[name]) for name, part in parts.items()}
    # First every part gets its share of the time, then the time that is left goes to what was left out.
    for sparing in (True, False):
        for number, (name, part) in enumerate(parts.items()):
            waiting = [other for other in list(parts)[number + 1 :] if files[other].data["not_run"]]
            reserve = sum(parts[other].reserve for other in waiting) if sparing else 0.0
            if _run_part(part, rows[name], files[name], context, reserve):
                # A later part may hang until the process is ended.
                _report(folder, quiet=True)
    context.release()
    reported = _report(folder)
    for name, file in files.items():
        print(f"{name}: {file.status}")
        for key, failure in file.failures.items():
            print(f"  {key}: {failure.strip().splitlines()[-1]}")
        for key, why in file.data["not_run"].items():
            print(f"  {key}: {why}")
    found = {file.status for file in files.values()}
    return FAILED if "failed" in found or not reported else UNFINISHED if "incomplete" in found else DONE


def _report(folder: Path, quiet: bool = False) -> bool:
    """Write table and plot. Returns whether it worked: an error must not end the measurements."""
    try:
        with redirect_stdout(io.StringIO()) if quiet else nullcontext():
            report.write(folder)
    except Exception:
        traceback.print_exc()
        return False
    return True


def _rows(part: Part, context: Context, file: PartFile) -> list[Row]:
    """The rows of a part, stated in its file. A part that cannot even list them has failed."""
    try:
        rows = list(part.rows(context))
    except Exception:
        file.begin([])
        file.fail("rows", traceback.format_exc())
        return []
    file.begin([row.key for row in rows], {row.key: row.digest for row in rows if row.digest})
    return rows


def _run_part(part: Part, rows: Sequence[Row], file: PartFile, context: Context, reserve: float) -> bool:
    """Run the rows of a part that have no result yet and fit in the time. Returns whether any ran."""
    budget, ran = context.budget, False
    for row in rows:
        if file.has(row.key) or row.key in file.data["errors"]:
            continue
        if not budget.fits(part.name, row.kind, row.seconds, reserve):
            expected = budget.expected(part.name, row.kind, row.seconds)
            file.leave_out(row.key, expected, budget.left() - reserve)
            continue
        print(f"{part.name}: {row.key} ({budget.left():.0f} s left)", flush=True)
        began, ran = budget.now(), True
        try:
            result = row.measure()
        except Exception:
            error = traceback.format_exc()
            print(error, flush=True)
            file.fail(row.key, error)
            # The traceback held the frames, and they the tensors.
            context.release()
        else:
            took = budget.now() - began
            file.add(row.key, result, took)
            budget.learn(part.name, row.kind, row.seconds, took)
            print(f"  {took:.1f} s, {row.seconds:.1f} s predicted", flush=True)
    return ran
