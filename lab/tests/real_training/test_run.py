"""Training runs: what they learn, and that a run which was stopped is the run which was not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from illava_lab.real.data import STREAMS, Turn
from illava_lab.real.training import batches, naming, reading, reading_run, recipe, run, stepping
from illava_lab.real.training.alignment import AXES, align
from illava_lab.real.training.batches import Batches
from illava_lab.real.training.encoder import squares
from illava_lab.real.training.model import TrainedModel
from illava_lab.real.training.recipe import RECIPES, Stage, place
from illava_lab.real.training.run import Run
from illava_lab.real.training.scoring import score
from transformers import AutoTokenizer

from .conftest import COLOURS, coloured

pytestmark = pytest.mark.usefixtures("coloured_stream")
STAGES = (
    Stage("first", (28,), 260, 4, {"any": 1.0}, rate=1e-2),
    Stage("second", (42, 28), 200, 6, {"any": 0.5, "other": 0.5}, rate=1e-2, turns=1),
)


def started(parts: dict[str, Path], output: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> Run:
    monkeypatch.setitem(RECIPES, "tiny", STAGES)
    said: list[str] = []
    return Run(parts["encoder"], parts["llm"], output, recipe="tiny", workers=0, say=said.append, **options)


def test_stages_follow_each_other() -> None:
    assert [place(STAGES, step) for step in (0, 3)] == [(STAGES[0], 0)] * 2
    assert [place(STAGES, step) for step in (4, 9)] == [(STAGES[1], 4)] * 2
    assert place(STAGES, 10) is None


def test_batches_depend_on_the_step_alone(parts: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    first, again = (Batches(STAGES, tokenizer, None, seed=3) for _ in range(2))
    again[8]
    for step in (0, 5):
        assert torch.equal(first[step].pictures, again[step].pictures)
        assert torch.equal(first[step].packed.tokens, again[step].packed.tokens)
    assert first[0].pictures.shape == (3, 28, 28, 3)
    # 4 and 9 patches and about 80 tokens of text: 2 rows in 200 tokens.
    assert {first[step].pictures.shape for step in range(4, 10)} == {(2, 42, 42, 3), (2, 28, 28, 3)}
    assert int(first[5].packed.turns.max()) == 1
    with pytest.raises(IndexError, match="ends before step 10"):
        first[10]


def test_kinds_of_questions_take_turns() -> None:
    turns = [Turn(f"{kind}{number}?", "yes", kind, False) for number in range(3) for kind in "aab"]
    assert "".join(turn.kind for turn in batches._balanced(turns)) == "abababaaa"


def test_pictures_that_are_too_small_for_a_stream_are_not_taught(
    parts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(
        batches, "stream", lambda name, *_: lambda number: asked.append((name, number)) or coloured(number)
    )
    monkeypatch.setitem(recipe.LEAST, "other", 42)
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    made = Batches(STAGES, tokenizer, None)
    sizes = {step: made[step].pictures.shape[1] for step in range(4, 10)}
    drawn = {size: {name for name, number in asked if sizes[number // 1000] == size} for size in (28, 42)}
    # The least size of "other" is the larger one.
    assert drawn[28] <= {"any"}
    assert drawn[42] <= {"any", "other"}
    assert any(name == "other" for name, _ in asked)


def test_every_stream_can_be_taught_in_every_recipe() -> None:
    for stages in RECIPES.values():
        for stage in stages:
            assert set(stage.mixture) <= set(STREAMS) == set(recipe.LEAST)
            assert {name for size in stage.sizes for name in stage.streams(size)} == set(stage.mixture)


def test_rows_have_the_shares_that_the_mixture_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps of small pictures have many rows, and only some streams are possible there.
    monkeypatch.setitem(recipe.LEAST, "large", 42)
    stage = Stage("both", (28, 42), 600, 20_000, {"any": 0.5, "large": 0.3, "other": 0.2})
    assert stage.rows(28) == 7
    assert stage.rows(42) == 6
    monkeypatch.setattr(batches, "Packer", lambda tokenizer: None)
    made = Batches((stage,), None, None)  # type: ignore[arg-type]
    drawn: list[str] = []
    monkeypatch.setattr(Batches, "_scene", lambda self, name, *_: drawn.append(name))
    sizes: list[int] = []
    monkeypatch.setattr(batches, "pack", lambda packer, scenes, size: sizes.extend([size] * len(scenes)))
    for step in range(2000):
        made[step]
    shares = {name: drawn.count(name) / len(drawn) for name in stage.mixture}
    assert shares == pytest.approx({"any": 0.5, "large": 0.3, "other": 0.2}, abs=0.015)
    # Half of the rows that may be small are: 0.25 + 0.1 of all.
    assert sizes.count(28) / len(sizes) == pytest.approx(0.35, abs=0.02)


def test_the_closed_form_puts_pictures_next_to_their_labels(
    parts: dict[str, Path], trained: TrainedModel
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    assert align(trained, tokenizer, [coloured(i) for i in range(90)], 28).named == 1.0
    embeddings = torch.stack(
        [trained.llm.embed(torch.tensor(tokenizer(name)["input_ids"])).mean(0) for name in COLOURS]
    )
    for i, name in enumerate(COLOURS):
        # Pictures that it was not fitted on; the direction from the labels' mean is what tells labels apart.
        token = trained.projector(trained.encoder(squares([coloured(300 + i).picture], 28))).mean((0, 1))
        nearest = torch.cosine_similarity(
            token - embeddings.mean(0), embeddings - embeddings.mean(0)
        ).argmax()
        assert list(COLOURS)[int(nearest)] == name


def test_the_closed_form_tells_where_a_patch_is(parts: dict[str, Path], trained: TrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    # A random encoder's are too small to be read from its output.
    torch.nn.init.normal_(trained.encoder.model.embeddings.position_embeddings)
    fit = align(trained, tokenizer, [coloured(i) for i in range(90)], 42)

    def embed(word: str) -> torch.Tensor:
        return trained.llm.embed(torch.tensor(tokenizer(word)["input_ids"])).mean(0)

    with torch.no_grad():
        tokens = trained.projector(
            trained.encoder(squares([coloured(300 + i).picture for i in range(9)], 42))
        )
    rows, columns = torch.arange(3.0).repeat_interleave(3).repeat(9), torch.arange(3.0).repeat(27)
    for (start, end), along, across in ((AXES[0], rows, columns), (AXES[1], columns, rows)):
        read = (tokens - tokens.mean(1, keepdim=True)).flatten(0, 1) @ (embed(end) - embed(start))
        found = torch.corrcoef(torch.stack([read, along, across]))[0, 1:]
        assert found[0] > 0.5
        assert found[0] > abs(found[1]) + 0.2
    assert min(fit.down, fit.across) > 0.5


def test_a_stopped_run_ends_where_an_unstopped_one_does(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = started(parts, tmp_path / "whole", monkeypatch)
    whole.go(5, every=1000)
    assert whole.step == 10
    part = started(parts, tmp_path / "part", monkeypatch)
    part.go(0)  # a run without time does one step
    assert part.step == 1
    (line,) = map(json.loads, (tmp_path / "part" / stepping.LOG).read_text().splitlines())
    assert (line["step"], line["stage"]) == (1, "first")
    # WARMUP counts steps since the optimizer was new; a resumed run's is not.
    rest = started(parts, tmp_path / "part", monkeypatch)
    assert rest.step == 1
    rest.go(5, every=1000)
    assert rest.step == 10
    for name, weight in whole.weights.items():
        torch.testing.assert_close(weight, rest.weights[name], rtol=0, atol=0)
        torch.testing.assert_close(whole.average[name], rest.average[name], rtol=0, atol=0)


def test_the_projector_moves_more_slowly_than_the_adapters(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started(parts, tmp_path, monkeypatch)
    before = {name: weight.detach().clone() for name, weight in job.weights.items()}
    job.go(0)
    moved = {name: (weight - before[name]).abs().max().item() for name, weight in job.weights.items()}
    # Adam's first step moves each weight with a gradient by the rate, here 1e-2 / 30 in the first step.
    for name, most in moved.items():
        if name.startswith("multi_modal_projector"):
            assert most == pytest.approx(1e-2 / 30 * 0.1, rel=0.05)
        elif name.endswith("lora_B"):
            assert most == pytest.approx(1e-2 / 30, rel=0.05)


def test_a_run_begins_with_shipped_weights(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = started(parts, tmp_path / "a", monkeypatch)
    first.go(0)
    second = started(parts, tmp_path / "b", monkeypatch, start=tmp_path / "a" / run.WEIGHTS)
    assert second.step == 1
    for name, weight in second.weights.items():
        torch.testing.assert_close(weight, first.average[name].bfloat16().float(), rtol=0, atol=0)


def test_weights_of_another_recipe_begin_at_the_stage_of_the_same_name(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = started(parts, tmp_path / "a", monkeypatch)
    first.step = 7  # in "second", which begins at 4
    first.save()
    monkeypatch.setitem(RECIPES, "longer", (replace(STAGES[0], steps=50), *STAGES[1:]))
    second = Run(
        parts["encoder"],
        parts["llm"],
        tmp_path / "b",
        recipe="longer",
        start=tmp_path / "a" / run.WEIGHTS,
        say=lambda line: None,
    )
    assert second.step == 50


def reading_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage of "tiny" shows text, and the encoder learns to read in two steps."""
    monkeypatch.setattr(recipe, "TEXT", {"other"})
    monkeypatch.setattr(reading_run, "READING_STEPS", 2)
    monkeypatch.setattr(reading_run, "SCORED", 1)
    monkeypatch.setattr(run, "SPELT", 1)
    monkeypatch.setattr(naming, "GRIDS", {(28, 1): 1.0})
    monkeypatch.setattr(reading, "SIDES", {112: 1.0})
    monkeypatch.setattr(reading, "TOKENS", 260)


def test_the_encoder_learns_to_read_before_the_first_stage_with_text(
    parts: dict[str, Path], sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading_recipe(monkeypatch)
    said: list[str] = []

    def begun(output: Path, **options: object) -> Run:
        job = started(parts, output, monkeypatch, data=sets, **options)
        job.say = said.append
        return job

    job = begun(tmp_path / "a")
    before = {name: weight.detach().clone() for name, weight in job.model.encoder_adapters().items()}
    while job.step < 4:
        job.go(0, every=1000)
        assert not job.reads
    for name, weight in job.model.encoder_adapters().items():
        assert torch.equal(weight, before[name])
    # Without time each call does one step, and here the first is the encoder's.
    job.go(0, every=1000)
    assert said[-1] == "step 1 of 2 of the encoder on text; the next call goes on"
    again = begun(tmp_path / "a")
    projector = {
        name: weight.detach().clone() for name, weight in again.weights.items() if "linear_2" in name
    }
    averages = {name: again.average[name].clone() for name in projector}
    again.go(0, every=1000)
    assert again.reads
    assert any("closed form: " in line and "character's embedding" in line for line in said)
    assert again.step == 5
    adapters = again.model.encoder_adapters()
    assert any(not torch.equal(weight, before[name]) for name, weight in adapters.items())
    pixels = torch.randint(0, 256, (1, 28, 28, 3), dtype=torch.uint8)
    frozen = again.model.encoder(pixels)
    for adapter in again.model.encoder._adapted.values():
        adapter.frozen = None
    torch.testing.assert_close(again.model.encoder(pixels), frozen, rtol=0, atol=0.02)  # bfloat16
    # The one step of the LLM after it moved the projector by a ten thousandth at most.
    for name, weight in projector.items():
        moved = (again.weights[name] - weight).abs().max().item()
        assert moved > 1e-3
        torch.testing.assert_close(
            again.average[name] - averages[name], again.weights[name].detach() - weight, rtol=0, atol=1e-3
        )
    assert begun(tmp_path / "a").reads
    shipped = begun(tmp_path / "b", start=tmp_path / "a" / run.WEIGHTS)
    assert shipped.reads
    assert shipped.step == 5
    shipped.go(0, every=1000)
    assert shipped.step == 6


def test_what_is_learnt_is_scored_and_logged(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = (Stage("long", (28,), 510, 160, {"any": 1.0}, rate=1e-2),)
    job = started(parts, tmp_path, monkeypatch)
    job.stages = long
    monkeypatch.setattr(run, "AVERAGING", 0.9)
    job.go(5, every=80, scenes=9)
    lines = [json.loads(line) for line in (tmp_path / stepping.LOG).read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    right = [line["right"] for line in lines if "right" in line][-1]
    assert right == {"colour": [9, 9], "exists": [9, 9]}
    assert job.model.trained().keys() == job.average.keys()


def test_an_answer_is_right_if_all_of_its_tokens_are(parts: dict[str, Path], trained: TrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    counts = score(trained, tokenizer, ["any"], 28, 6, None)
    assert {kind: total for kind, (_, total) in counts.items()} == {"colour": 6, "exists": 6}
    # An untrained model writes no word of three letters by chance.
    assert counts["colour"][0] == 0
