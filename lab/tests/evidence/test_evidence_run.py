"""The evidence is measured from beginning to end, on few questions."""

import json

import pytest
from illava_lab import tasks as registry
from illava_lab.benchmarks.evidence import measure
from illava_lab.benchmarks.evidence import rows as choosing
from illava_lab.benchmarks.evidence.rows import control_rows, main_rows

from illava import ask
from illava.evaluation import summary

CHOICE = {"encoder": [1], "llm": [2], "share": 0.5}
LABELS = {"plain", "blank", *(row.label for row in [*main_rows(CHOICE), *control_rows(CHOICE)])}


@pytest.mark.slow
def test_a_whole_run_on_two_tasks(monkeypatch, tmp_path):
    """Choosing, testing and the contest, on few questions: files appear, agree, and go on where they were."""
    monkeypatch.setattr(measure, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(measure, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(registry, "names", lambda: ("attribute", "video"))
    monkeypatch.setattr(choosing, "ENCODER", ((1,),))
    monkeypatch.setattr(choosing, "LLM", ((2,),))
    monkeypatch.setattr(choosing, "SHARES", (0.5, 0.8))
    # Whatever the model has learnt: here it is the machinery that is tested.
    monkeypatch.setattr(summary, "LEAST_PLAIN", 0.0)
    monkeypatch.setattr(measure, "load", lambda name, *place: ask.load("zoo/S", *place))
    for size in ("S", "L"):
        measure.main(["choose", size, "--limit", "2"])
        measure.main(["test", size, "--limit", "2"])
    measure.main(["bigger", "--limit", "1"])
    with pytest.raises(SystemExit, match="it can only grow"):
        measure.main(["test", "S", "--limit", "1"])
    figures = {file.name: json.loads(file.read_text()) for file in (tmp_path / "figures").glob("*.json")}
    assert set(figures) == {f"{kind}-{size}.json" for kind in ("layers", "test") for size in "SL"} | {
        "bigger.json"
    }
    assert set(figures["test-L.json"]["mean"]) == LABELS
    assert figures["bigger.json"]["weights"]["S"] == figures["layers-S.json"]["weights"]
