"""Write the support table: ``python scripts/support_table.py RESULTS.xml``, or `make support-table`.

RESULTS.xml is the JUnit file that pytest writes with --junitxml. The families are the registry's. A cell is
"yes" when at least one test backs it and all of its tests passed, "refused" when the tests of a refusal
passed, and "partly" when both kinds did. The table goes into docs/support.md between its markers; the tests
behind every cell go into docs/support/tests.csv.
"""

from __future__ import annotations

import csv
import functools
import io
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from illava.models.families import FAMILIES  # noqa: E402
from tests.published import CONFIGS as PUBLISHED  # noqa: E402
from tests.tiny_configs import CONFIGS, config  # noqa: E402

BEGIN, END = "<!-- support table: make support-table -->", "<!-- end of support table -->"
PAGE, TESTS = ROOT / "docs" / "support.md", ROOT / "docs" / "support" / "tests.csv"


@dataclass(frozen=True)
class Rule:
    """Tests that back a cell: a function, and a pattern for the brackets of its id, without the family."""

    function: str
    rest: str = ""
    verdict: str = "yes"
    alone: bool = False
    """Whether other rules are ignored where this one finds tests."""


CELL, SELECTION = "test_battery::test_cell", "test_selection::test_the_highest_scored_stay_in_their_order"
COLUMNS: dict[str, tuple[Rule, ...]] = {
    "images": (Rule(CELL, r"(one|two)-single"), Rule(SELECTION, "two-single")),
    "video": (Rule(CELL, "video"), Rule("test_mixed::test_videos_and_pictures_in_a_batch")),
    "batches": (Rule(CELL, "batch"), Rule(SELECTION, "batch")),
    "4K image": (Rule("test_mixed::test_a_picture_of_a_4k_screen"),),
    "LLM stage": (
        Rule(CELL, r"one"),
        Rule(
            "test_refusals::test_the_llm_stage_is_refused_behind_recurrent_layers",
            verdict="refused",
            alone=True,
        ),
    ),
    "SDPA": (Rule(CELL, "sdpa"),),
    "eager": (Rule(CELL, "eager"),),
    "flash*": (
        Rule("test_flash::test_as_with_sdpa"),
        Rule("test_flash::test_masks_that_flash_attention_cannot_take_are_refused", verdict="refused"),
    ),
    "flex*": (
        Rule("test_flex::test_as_with_sdpa"),
        Rule("test_flex::test_masks_that_are_made_ready_are_refused", verdict="refused"),
        # The encoder stage is refused; the same test then passes with SDPA in the encoder.
        Rule("test_flex::test_masked_patches_are_refused", verdict="refused"),
        Rule("test_flex::test_masked_patches_are_refused"),
    ),
    "later turns": (
        Rule("test_later_pictures::test_a_picture_after_text"),
        Rule("test_later_pictures::test_pictures_in_every_turn"),
        Rule("test_later_pictures::test_what_cannot_be_exact_is_refused", verdict="refused"),
        Rule("test_later_pictures::test_recurrent_layers_have_seen_what_they_have_seen", verdict="refused"),
    ),
    "naive reference": (
        Rule("test_reference::"),
        Rule("test_reference_more::"),
    ),
    "published size": (Rule("test_published::test_a_published_size"),),
}


@dataclass(frozen=True)
class Outcome:
    """One test: its id and whether it passed; None where it was skipped."""

    test: str
    passed: bool | None


def read(results: Path) -> list[Outcome]:
    """All tests of a JUnit file."""
    out = []
    for case in ElementTree.parse(results).iter("testcase"):
        module, name = str(case.get("classname")).replace(".", "/"), case.get("name")
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None
        out.append(Outcome(f"{module}.py::{name}", None if skipped else not failed))
    return out


@functools.cache
def family_of(bracket: str) -> tuple[str, str] | None:
    """The family named in the brackets of a test id, and the rest of the brackets."""
    if bracket in PUBLISHED:
        return str(PUBLISHED[bracket]["model_type"]), ""
    parts = [v for v in CONFIGS if re.search(rf"(^|-){re.escape(v)}(-|$)", bracket)]
    if not parts:
        return None
    variant = max(parts, key=len)
    return str(config(variant).model_type), bracket.replace(variant, "", 1).strip("-")


def backing(outcomes: list[Outcome], family: str, rules: tuple[Rule, ...]) -> dict[str, list[Outcome]]:
    """Verdict -> the tests that back it for a family."""
    found: dict[str, list[Outcome]] = {}
    only: set[str] = set()
    for outcome in outcomes:
        match = re.search(r"(\w+)\.py::(\w+)\[(.*)\]$", outcome.test)
        named = family_of(match[3]) if match else None
        if match is None or named is None or named[0] != family or outcome.passed is None:
            continue
        for rule in rules:
            if f"{match[1]}::{match[2]}".startswith(rule.function) and re.search(rule.rest, named[1]):
                found.setdefault(rule.verdict, []).append(outcome)
                only |= {rule.verdict} if rule.alone else set()
    return {verdict: tests for verdict, tests in found.items() if not only or verdict in only}


def cell(found: dict[str, list[Outcome]]) -> str:
    """The text of a table cell."""
    if any(not outcome.passed for tests in found.values() for outcome in tests):
        return "FAILED"
    if "refused" in found:
        # "partly": some variants or stages of the family are supported, others are refused.
        return "refused" if set(found) == {"refused"} else "partly"
    return "yes" if found else "-"


def write(path: Path, text: str) -> None:
    """Replace a file once its new text is complete."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def main(results: Path) -> None:
    """Write the table and the list of tests."""
    outcomes = read(results)
    lines = [f"| family | {' | '.join(COLUMNS)} |", f"| --- |{' :-: |' * len(COLUMNS)}"]
    tests: list[tuple[str, str, str, str]] = []
    for family in sorted(FAMILIES):
        cells = []
        for title, rules in COLUMNS.items():
            found = backing(outcomes, family, rules)
            cells.append(cell(found))
            tests += [
                (family, title.rstrip("*"), verdict, test)
                for verdict, group in found.items()
                for test in dict.fromkeys(outcome.test for outcome in group)
            ]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"{PAGE} lacks the markers {BEGIN} and {END}")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("family", "column", "verdict", "test"))
    writer.writerows(tests)
    TESTS.parent.mkdir(exist_ok=True)
    write(TESTS, table.getvalue())
    write(PAGE, f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python scripts/support_table.py RESULTS.xml")
    main(Path(sys.argv[1]))
