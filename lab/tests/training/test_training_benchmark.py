"""The benchmark of a training step: what it counts, and that it counts the same model plain and merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from illava_lab.benchmarks import training
from torch import nn

from illava.bench import random_weights
from illava.models.tiny_models import tiny_model
from illava.models.tiny_prompts import pictures, prompt


def test_saved_bytes_are_those_of_the_operations() -> None:
    """exp saves its output, a product both factors; weights and a second save of one tensor count nothing."""
    layer = nn.Linear(4, 8, bias=False)
    x = torch.ones(16, 4, requires_grad=True)
    with training.SavedTensors(layer) as saved:
        y = layer(x)  # saves x, 16 * 4, and the weight
        z = y.exp()  # saves z, 16 * 8
        out = (z * z).sum()  # saves z again
        assert saved.now == saved.peak == 4 * (16 * 4 + 16 * 8)
        out.backward()
        del out, z, y
    assert saved.now == 0
    assert saved.peak == 4 * (16 * 4 + 16 * 8)


def test_fewer_tokens_save_less_and_checkpoints_least(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny_model("qwen2_vl")
    inputs = prompt(model, [([*range(5, 40)], pictures(model, 1))])
    inputs["labels"] = inputs["input_ids"].clone()
    inputs["labels"][:, : -training.ANSWER] = -100
    monkeypatch.setattr(random_weights, "build", lambda *_: model)
    monkeypatch.setattr(training, "batch_of", lambda *_: inputs)
    found = {}
    for options in ([], ["--checkpoints"]):
        training.main(["--rounds", "2", "--keep", "0.5", "0.2", "--output", str(tmp_path), *options])
        result = json.loads((tmp_path / "training.json").read_text())
        assert result["checkpoints"] == bool(options)
        assert [row["name"] for row in result["rows"]] == ["plain", "keep=0.5", "keep=0.2"]
        assert all(len(row["seconds"]) == 2 for row in result["rows"])
        found[bool(options)] = [row["saved_bytes"] for row in result["rows"]]
    assert found[False] == sorted(found[False], reverse=True)
    assert len(set(found[False])) == 3
    assert found[True][0] < found[False][0]
