"""The support table says what test results say, of every family."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import illava
from scripts import support_table
from scripts.support_table import (
    BEGIN,
    COLUMNS,
    END,
    PAGE,
    ROOT,
    TESTS,
    Outcome,
    backing,
    cell,
    family_of,
    main,
    read,
)

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


def table() -> dict[tuple[str, str], str]:
    """Family and column to the cell of the page."""
    lines = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["family", *COLUMNS]
    return {(row[0], title): said for row in rows[2:] for title, said in zip(COLUMNS, row[1:], strict=True)}


def listed() -> list[dict[str, str]]:
    """The tests behind the cells."""
    with TESTS.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_family_and_no_failure() -> None:
    cells = table()
    assert tuple(dict.fromkeys(family for family, _ in cells)) == illava.supported_families()
    assert set(cells.values()) <= {"yes", "partly", "refused", "-"}


def test_the_readme_names_every_family() -> None:
    families = (ROOT / "README.md").read_text().partition("## Model families")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"`(\w+)`", families)) == sorted(["model_type", *illava.supported_families()])


def test_every_cell_has_its_tests() -> None:
    cells = table()
    behind: dict[tuple[str, str], set[str]] = {}
    for row in listed():
        behind.setdefault((row["family"], row["column"]), set()).add(row["verdict"])
    verdicts = {"yes": {"yes"}, "refused": {"refused"}, "partly": {"yes", "refused"}, "-": set()}
    for (family, title), said in cells.items():
        assert behind.get((family, title.rstrip("*")), set()) == verdicts[said], (family, title)


def test_every_test_behind_the_table_is_there() -> None:
    """A renamed function would leave its cells without tests."""
    named = {row["test"].partition("[")[0] for row in listed()}
    assert len(named) > 10
    for test in named:
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(), test


def test_the_script_replaces_the_table_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results.xml").write_text(CASES)
    page, tests = tmp_path / "support.md", tmp_path / "support" / "tests.csv"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(support_table, "PAGE", page)
    monkeypatch.setattr(support_table, "TESTS", tests)
    main(tmp_path / "results.xml")
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| family |")
    assert text.endswith(f" |\n{END}\nafter\n")
    assert "| llava | FAILED | - | yes |" in text
    backs = "tests/battery/test_battery.py::test_cell[qwen2_vl-sdpa-one-single]"
    assert f"\nqwen2_vl,SDPA,yes,{backs}\n" in tests.read_text()
    page.write_text("no markers\n")
    with pytest.raises(SystemExit, match="markers"):
        main(tmp_path / "results.xml")
