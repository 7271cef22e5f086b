"""docs/performance.md is what its script makes of the files beside it, and says where a target was missed."""

from __future__ import annotations

import json

import pytest
from benchmarks import performance


def test_the_page_is_not_written_by_hand():
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page() + "\n"


def test_a_missed_target_is_named(tmp_path, monkeypatch):
    found = json.loads((performance.FOLDER / "speed-qwen2-vl-2b.json").read_text())
    for row in found["rows"]:
        row["measured"]["ttft"] = {"median": 1.5, "low": 1.4, "high": 1.6}
    (tmp_path / "speed-qwen2-vl-2b.json").write_text(json.dumps(found))
    monkeypatch.setattr(performance, "FOLDER", tmp_path)
    page = performance.page()
    assert "ttft 4; **not reached**: 1.50, 1.50 tuned" in page
    assert "encoder 3.5; reached" in page


@pytest.mark.parametrize("name", ["speed-qwen2-vl-2b.json", "speed-llava-onevision-0.5b.json"])
def test_ratios_are_those_of_the_raw_seconds(name):
    found = json.loads((performance.FOLDER / name).read_text())
    for row in found["rows"]:
        for part in performance.PARTS:
            ratios = [
                plain / merged
                for plain, merged in zip(found["plain_seconds"][part], row["seconds"][part], strict=True)
            ]
            assert row["measured"][part]["median"] == pytest.approx(sorted(ratios)[len(ratios) // 2])
