"""README's support table says what test results say, of every family there is."""

from __future__ import annotations

from pathlib import Path

import pytest

import illava
from scripts import support_table
from scripts.support_table import BEGIN, END, ROOT, Outcome, backing, cell, family_of, read

CASES = """<testsuites><testsuite>
<testcase classname="tests.battery.test_battery" name="test_cell[qwen2_vl-sdpa-one-single]"/>
<testcase classname="tests.battery.test_battery" name="test_cell[llava-siglip-eager-two-batch]"/>
<testcase classname="tests.battery.test_battery" name="test_cell[llava-sdpa-one-single]"><failure/></testcase>
<testcase classname="tests.test_flash" name="test_as_with_sdpa[llava_next-two-single]"><skipped/></testcase>
<testcase classname="tests.test_flash" name="test_as_with_sdpa[llava-two-single]"/>
<testcase classname="tests.test_flash"
    name="test_masks_that_flash_attention_cannot_take_are_refused[llava-windows]"/>
<testcase classname="tests.test_published"
    name="test_a_published_size_merges_where_its_familys_schedule_says[Qwen/Qwen2-VL-7B-Instruct]"/>
</testsuite></testsuites>"""


@pytest.fixture
def outcomes(tmp_path: Path) -> list[Outcome]:
    (tmp_path / "results.xml").write_text(CASES)
    return read(tmp_path / "results.xml")


@pytest.mark.parametrize(
    ("family", "column", "said"),
    [
        ("qwen2_vl", "SDPA", "yes"),
        ("qwen2_vl", "eager", "-"),
        ("qwen2_vl", "published size", "yes"),
        ("llava", "SDPA", "FAILED"),
        ("llava", "eager", "yes"),
        ("llava", "batches", "yes"),
        ("llava", "flash*", "partly"),
        ("llava_next", "flash*", "-"),
    ],
)
def test_cells(outcomes: list[Outcome], family: str, column: str, said: str) -> None:
    assert cell(backing(outcomes, family, support_table.COLUMNS[column])) == said


@pytest.mark.parametrize(
    ("bracket", "named"),
    [
        ("llava_onevision-sdpa-one-single", ("llava_onevision", "sdpa-one-single")),
        ("paligemma-2-eager-two-batch", ("paligemma", "eager-two-batch")),
        ("settings0-gemma3", ("gemma3", "settings0")),
        ("both", None),
    ],
)
def test_names(bracket: str, named: tuple[str, str] | None) -> None:
    assert family_of(bracket) == named


def test_the_table_in_the_readme_has_every_family_and_no_failure() -> None:
    table = (ROOT / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [line.split("|")[1].strip() for line in table.strip().splitlines()[2:]]
    assert tuple(rows) == illava.supported_families()
    assert "FAILED" not in table


def test_every_test_behind_the_table_is_there() -> None:
    """Functions that were renamed since would leave cells without anything behind them."""
    page = (ROOT / "docs" / "support.md").read_text()
    named = {line.strip(" -`").partition("[")[0] for line in page.splitlines() if "::" in line}
    assert len(named) > 10
    for test in named:
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(), test
