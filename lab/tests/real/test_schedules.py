"""The published schedule at zoo/R's depths."""

import json
from pathlib import Path

import pytest
from illava_lab.real.candidates import candidates
from illava_lab.real.schedules import in_proportion, schedules, write

from illava.evaluation.compared_methods import comparison_rows


def test_layers_in_proportion_are_distinct_and_near_their_share_of_the_depth() -> None:
    # 5 to 8 of 27 blocks are 2.2, 2.7, 3.1 and 3.6 of 12; the layers 12.5, 14.2, 15.8 and 17.5 of 30.
    assert in_proportion((5, 6, 7, 8), 27, 12) == (2, 3, 4, 5)
    assert in_proportion((15, 17, 19, 21), 36, 30) == (12, 14, 15, 17)
    assert in_proportion((15, 17, 19, 21), 36, 36) == (15, 17, 19, 21)


def test_shares_are_divided_as_published() -> None:
    found = schedules(1 / 9)
    # 0.9**4 leaves 0.6561, 0.85**4 leaves 0.5220: together 0.3425.
    for name in ("published-literal", "published-in-proportion"):
        assert found[name].encoder_share == pytest.approx(0.3933, abs=1e-4)
        assert found[f"{name}-shares"].encoder_keep == 0.9
        assert found[f"{name}-shares"].llm_keep == 0.85


def test_compare_reads_what_is_written(tmp_path: Path) -> None:
    folders = write(tmp_path)
    rows = comparison_rows([str(folder) for folder in folders], [1 / 3, 1 / 9])
    labels = [row.label for row in rows]
    assert sum(label.startswith("published-literal ") for label in labels) == 2
    assert "published-in-proportion-shares as saved" in labels
    saved = json.loads((tmp_path / "published-literal" / "illava_config.json").read_text())
    assert saved["encoder_layers"] == [5, 6, 7, 8]
    assert saved["llm_layers"] == [15, 17, 19, 21]


def test_candidates_keep_the_budget_of_the_preset() -> None:
    for name, method in candidates(1 / 9).items():
        assert method.keep == 1 / 9
        with_llm = {
            "candidate-log": (0.5, None),
            "candidate-gentle": (0.5, None),
            "candidate-third": (0.75, (10,)),
        }
        assert (method.encoder_share, method.llm_layers) == with_llm.get(name, (1.0, ()))
        assert method.experimental.get("proportional") == (None if name == "candidate-no-log" else "both")
    assert candidates()["candidate-gentle"].encoder_layers == (2, 4, 6)
    assert len(set(candidates().values())) == len(candidates())


def test_each_candidate_is_written_as_it_is(tmp_path: Path) -> None:
    from illava import Illava

    for path in write(tmp_path, candidates(1 / 6)):
        assert Illava.from_pretrained(path) == candidates(1 / 6)[path.name]
