"""docs/zoo-r-equal.md: the page of ``illava compare`` with a first paragraph and its plots elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from illava_lab.benchmarks.zoo_r import equal

from illava import Illava
from illava.evaluation.comparison import Measured, compare
from illava.evaluation.rows import BLANK, PLAIN, timed_row
from illava.evaluation.summary import MEANS

ROW = timed_row(Illava.best(0.2), 2.0, 0.2, 2.0, False, "illava-best")
RIGHT = {PLAIN.label: 16, BLANK.label: 4, ROW.label: 13}


DOCS = Path(__file__).parents[3] / "docs"
SETTINGS: dict[str, Any] = {
    **{"model": "zoo/R-448", "dtype": "bfloat16", "device": "cpu", "illava": "0", "split": "test"},
    **{"weights": "abc", "seed": 0, "limit": 20, "batch_size": 4, "tasks": {"photo": ""}},
    "rows": {row.label: row.to_dict() for row in (PLAIN, BLANK, ROW)},
    "speedups": {ROW.label: 2.0},
}


def answers() -> list[dict[str, Any]]:
    """Of 20 questions plain has 16 right, grey pictures 4, and the preset at 2x 13: 75 % above blank."""
    return [
        {"task": "photo", "row": label, "sample": n, "correct": n < right, "agrees": True, "kl": 0.1}
        | {"cluster": f"{n}", "kind": "", "small": False, **dict.fromkeys(MEANS, 1.0)}
        for label, right in RIGHT.items()
        for n in range(20)
    ]


@pytest.fixture
def found() -> dict[str, Any]:
    """The comparison of these answers."""
    lines, settings = answers(), SETTINGS
    times = {label: {"median": 1.0, "low": 1.0, "high": 1.0, "interval": None} for label in RIGHT}
    times[ROW.label] = {"median": 2.0, "low": 1.9, "high": 2.1, "interval": (1.9, 2.1)}
    parts = ("encoder", "prefill", "ttft", "total")
    rows = {label: {"seconds": {}, "faster": dict.fromkeys(parts, time)} for label, time in times.items()}
    timing = {"prompts": [["photo", 0]], "threads": 2, "dtype": "float32", "rows": rows}
    measured = Measured([ROW], {}, settings, lines, timing, {"photo": ""}, None, [2.0])
    return compare({"zoo/R-448": measured}, "illava-best", 100)


def test_the_figures_are_copied_and_the_page_is_made_of_them(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, docs, page = tmp_path / "out", tmp_path / "docs", equal.PAGES["equal"]
    source.mkdir()
    (source / "comparison.json").write_text(json.dumps(found))
    monkeypatch.setattr(equal, "read", lambda folder: (SETTINGS, answers()))
    equal.publish(page, source, docs)
    text = (docs / "zoo-r-equal.md").read_text()
    assert text.startswith("# zoo/R at equal time\n\nWritten by ")
    assert "- **Best at 2x, zoo/R-448:** illava-best 75.0" in text
    assert "threads: 2, in float32." in text
    assert "| *illava-best* | 1.000 | - | - | - | - | - |" in text
    assert "(zoo-r/equal/zoo-R-448-ttft.png)" in text
    assert (docs / "zoo-r" / "equal" / "zoo-R-448-ttft.png").is_file()
    kept = json.loads((docs / "zoo-r" / "equal.json").read_text())
    assert equal.text_of(page, kept, ["zoo-R-448-ttft.png", "zoo-R-448-flops.png"], None) == text
    assert kept["trained"] in text
    (source / "comparison.json").unlink()
    with pytest.raises(FileNotFoundError):
        equal.publish(page, source, docs)


@pytest.mark.parametrize("what", equal.PAGES)
def test_the_page_is_up_to_date(what: str) -> None:
    page = equal.PAGES[what]
    assert (DOCS / f"{page.name}.md").exists() == (DOCS / page.figures).exists()
    if not (DOCS / page.figures).exists():
        # Measured by a command of its own, so far by nobody.
        assert what == "equal-2b"
        return
    figures = json.loads((DOCS / page.figures).read_text(encoding="utf-8"))
    plots = [path.name for path in (DOCS / page.plots).glob("*.png")]
    written = (DOCS / f"{page.name}.md").read_text(encoding="utf-8")
    assert written == equal.text_of(page, figures, plots, equal.costs(page, DOCS))
