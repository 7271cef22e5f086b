"""The published schedule at zoo/R's depths."""

import json
from pathlib import Path

import pytest
from illava_lab.real import BLOCKS
from illava_lab.real.candidates import candidates
from illava_lab.real.schedules import in_proportion, schedules, write

from illava import Illava
from illava.evaluation.compared_methods import comparison_rows

WITH_MILD_STEP = ("candidate-size-2345678-llm",)


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
    found = candidates(1 / 9)
    assert len(found) <= 12
    for name, method in found.items():
        assert method.keep == 1 / 9
        with_llm = {
            **dict.fromkeys(("candidate-former", "candidate-log"), (0.5, None)),
            **dict.fromkeys(WITH_MILD_STEP, (0.75, (10,))),
        }
        assert (method.encoder_share, method.llm_layers) == with_llm.get(name, (1.0, ()))
        assert method.proportional == (None if name == "candidate-former" else "both")
    assert len(set(found.values())) == len(found)


def test_candidates_merge_where_they_say_and_do_not_pay_for_exact_scores() -> None:
    found = candidates()
    for name, method in found.items():
        if blocks := "".join(part for part in name.split("-") if part.isdigit()):
            assert method.encoder_layers == tuple(int(block) for block in blocks)
            assert set(method.encoder_layers) <= set(range(BLOCKS))
        if "size" in name:
            assert method.experimental["encoder_score"] == "size"
        if "distance" in name:
            assert method.experimental["encoder_score"] == "none"
            assert method.select == "diverse"
        if method.experimental.get("encoder_score", "attention").startswith("attention"):
            assert method.score == "sampled"
    steps = {found[name].encoder_layers for name in found if name.startswith("candidate-size")}
    assert steps == {(4, 6, 8), (4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 8)}
    assert found["candidate-coverage-468"].select == "coverage"
    assert found["candidate-coverage-468"].experimental["encoder_score"] == "none"


def test_the_candidate_of_the_figures_is_what_it_was() -> None:
    assert candidates(1 / 9)["candidate-encoder"] == Illava(
        keep=1 / 9,
        encoder_layers=(2, 4, 6),
        llm_layers=(),
        reduce="fold",
        score="exact",
        select="diverse",
        similarity="cosine",
        where="middle",
        encoder_share=1.0,
        proportional="both",
        experimental={"encoder_score": "size"},
    )


def test_each_candidate_is_written_as_it_is(tmp_path: Path) -> None:
    for path in write(tmp_path, candidates(1 / 6)):
        assert Illava.from_pretrained(path) == candidates(1 / 6)[path.name]
