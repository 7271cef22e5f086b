"""Who takes part in a comparison, what the text-only model sees and costs, and times that survive a kill."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from illava import UnsupportedError, accelerate
from illava.evaluation import compared_methods, speed
from illava.evaluation.compared_methods import comparison_rows, reference_name, refusals
from illava.evaluation.prompts import build_batch, without_pictures
from illava.evaluation.rows import PLAIN, TEXT_ONLY, Row, merged_row
from illava.evaluation.run import Batch, text_cost
from illava.io.pictures import InputError
from illava.methods import Illava, Random, base
from illava.methods.base import Method
from illava.methods.steps import EncoderStep, LlmStep, Plan, Units
from illava.models.located import LocatedModules, locate

from .conftest import ROWS, Squares


@pytest.fixture
def registry(monkeypatch):
    """A catalogue of its own: illava, and what the test adds."""
    monkeypatch.setattr(base, "_METHODS", {"illava": Illava})
    monkeypatch.setattr(compared_methods, "presets", dict)


@dataclass(frozen=True)
class FailingStep(LlmStep):
    attention_source: ClassVar[str] = "nothing"

    def reduce(self, units: Units):
        raise UnsupportedError("not with a filled\ncache")


# -- text only -------------------------------------------------------------------------------------


def test_text_only_has_no_pictures(loaded):
    model, processor = loaded
    modules = locate(model)
    seen, encoded = [], []
    batch = Batch(model, processor, [Squares()[n] for n in range(4)], 3)
    hooks = [
        model.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True),
        modules.encoder.register_forward_pre_hook(lambda *_: encoded.append(1)),
    ]
    try:
        batch.ask(PLAIN)
        assert not seen
        lines = batch.ask(TEXT_ONLY)
    finally:
        for hook in hooks:
            hook.remove()
    placeholders = torch.tensor([modules.config.image_token_id, modules.config.video_token_id])
    prefills = [kwargs for kwargs in seen if kwargs["input_ids"].shape[1] > 1]
    with_pictures = [k for k in prefills if torch.isin(k["input_ids"], placeholders).any()]
    # Pictures and videos are prompts of two forms; each is run plain once more, for what it costs.
    assert len(prefills) == 4
    assert len(with_pictures) == len(encoded) == 2
    for kwargs in prefills:
        if all(kwargs is not other for other in with_pictures):
            assert all(kwargs.get(key) is None for key in ("pixel_values", "pixel_values_videos"))
    questions = [line["question"] for line in lines]
    assert questions == [Squares()[n].question for n in range(4)]
    assert {line["method"] for line in lines} == {"text only"}
    assert all(line["visual_tokens"] == line["final_tokens"] == line["average_tokens"] == 0 for line in lines)
    assert all(0 < line["flops"] < 0.5 and 0 < line["kv_bytes"] < 1 for line in lines)


def test_text_only_answers_are_those_of_the_text_alone(loaded):
    model, processor = loaded
    inputs = build_batch(processor, [without_pictures(Squares()[0])])
    assert set(inputs) <= {"input_ids", "attention_mask", "mm_token_type_ids"}
    made = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    text = processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    line = Batch(model, processor, [Squares()[0]], 3).ask(TEXT_ONLY)[0]
    assert line["prediction"] == text.strip()
    assert line["kl"] > 0


def test_cost_of_text_is_that_of_a_report(loaded):
    """A prompt with pictures costs its prefill what as much text would cost."""
    model, processor = loaded
    inputs = build_batch(processor, [Squares()[0], Squares()[1]])
    with accelerate(model, keep=1.0) as handle, torch.no_grad():
        model(**inputs)
        report = handle.report
    assert text_cost(model, *inputs["input_ids"].shape) == (report.cost.prefill, report.cost.kv_bytes)


# -- who takes part --------------------------------------------------------------------------------


def test_rows_by_name(registry):
    rows = comparison_rows(["illava"], [1 / 3, 1 / 9])
    assert rows == [
        TEXT_ONLY,
        *(
            Row(f"illava {name}", Illava(keep=k), k, name="illava")
            for name, k in (("1/3", 1 / 3), ("1/9", 1 / 9))
        ),
    ]
    assert comparison_rows(["all"], [1 / 3]) == comparison_rows(["illava", "all"], [1 / 3])


def test_all_are_the_catalogue_random_in_both_stages_and_presets(monkeypatch):
    presets = {"illava-deep": lambda keep: Illava(keep=keep, encoder_layers=())}
    monkeypatch.setattr(compared_methods, "presets", lambda: presets)
    rows = {row.label: row for row in comparison_rows(["all"], [1 / 9])}
    assert rows["illava-deep 1/9"].method == Illava(keep=1 / 9, encoder_layers=())
    for stage in ("projector", "llm"):
        assert rows[f"random {stage} 1/9"].method == Random(keep=1 / 9, stage=stage)
        assert rows[f"random {stage} 1/9"].name == f"random {stage}"
    budgets = [name for name, kind in base.methods().items() if "keep" in kind.__dataclass_fields__]
    named = {row.method.name for row in rows.values() if row.method is not None}
    assert named == set(budgets)
    assert [row.name for row in comparison_rows(["random"], [0.5])[1:]] == ["random projector", "random llm"]
    assert "compose 1/9" not in rows


def test_saved_methods(registry, tmp_path):
    """Their budgets are replaced; those with shares of their own run as they are."""
    Illava(keep=0.7, reduce="drop").save_pretrained(tmp_path / "dropping")
    steps = Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=())
    (tmp_path / "steps.json").write_text(json.dumps(steps.to_dict()))
    rows = comparison_rows([str(tmp_path / "dropping"), str(tmp_path / "steps.json")], [1 / 3, 1 / 9])
    assert [row.label for row in rows] == ["text only", "dropping 1/3", "dropping 1/9", "steps as saved"]
    assert rows[2].method == Illava(keep=1 / 9, reduce="drop")
    assert (rows[3].method, rows[3].keep, rows[3].name) == (steps, None, "steps")
    same = str(tmp_path / "dropping" / base.FILE_NAME)
    assert comparison_rows([same], [1 / 3])[1] == rows[1]
    assert reference_name("steps", [str(tmp_path / "steps.json")]) == "steps"
    assert reference_name(same, ["illava"]) == "dropping"


@pytest.mark.parametrize(
    ("content", "part"),
    [("{", "not a saved method"), ('{"method": "magic"}', "unknown method"), ("[]", "expected a dictionary")],
)
def test_files_that_are_no_methods(tmp_path, content, part):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=part):
        comparison_rows([str(tmp_path / "x.json")], [0.5])


def test_names_that_are_no_methods(tmp_path):
    with pytest.raises(InputError, match=r"no such method, folder or file; give all or some of .*illava"):
        comparison_rows(["magic"], [0.5])
    Illava().save_pretrained(tmp_path / "illava")
    with pytest.raises(InputError, match="there is another method called illava; rename this one"):
        comparison_rows([str(tmp_path / "illava")], [0.5])
    with pytest.raises(InputError, match="give one of random projector, random llm"):
        reference_name("random", ["illava"])


def test_what_a_model_does_not_allow(loaded, registry):
    """Refused when put on the model, or by the first prompt: both are known before anything is asked."""

    @dataclass(frozen=True)
    class Never(Method):
        name: ClassVar[str] = "never"
        keep: float | None = None

        def plan(self, modules: LocatedModules) -> Plan:
            raise ValueError("needs a model\nwith more layers")

    @dataclass(frozen=True)
    class Late(Method):
        name: ClassVar[str] = "late"
        keep: float | None = None

        def plan(self, modules: LocatedModules) -> Plan:
            return Plan(llm={1: FailingStep()})

    model, processor = loaded
    rows = comparison_rows(["all"], [1 / 3])
    assert [row.name for row in rows[1:]] == ["illava", "never", "late"]
    found = refusals(model, processor, rows, [Squares()])
    assert found == {"never 1/3": "needs a model with more layers", "late 1/3": "not with a filled cache"}
    # The model is as it was.
    with accelerate(model, keep=0.5):
        pass
    assert compared_methods.known()["never"].make(0.5) == Never(keep=0.5)


def test_what_a_model_does_not_allow_in_batches(loaded, registry):
    """Pictures that a method refuses to encode together are known before a batch is asked."""

    @dataclass(frozen=True)
    class AloneStep(EncoderStep):
        keep: float = 1.0
        observes: ClassVar[bool] = False

        def reduce(self, units: Units):
            if len(units.lengths) > 1:
                raise UnsupportedError(f"{len(units.lengths)} pictures")

    @dataclass(frozen=True)
    class Alone(Method):
        name: ClassVar[str] = "alone"
        keep: float | None = None

        def plan(self, modules: LocatedModules) -> Plan:
            return Plan(encoder={1: AloneStep()})

    class Same(Squares):
        def __getitem__(self, number: int):
            return super().__getitem__(0)

    class Singles(Squares):
        def __getitem__(self, number: int):
            return super().__getitem__(3 * number)

    model, processor = loaded
    rows = [merged_row(Alone(), 1 / 3)]
    # The second of "squares" has two pictures; runs ask about both at once.
    assert refusals(model, processor, rows, [Squares()]) == {"alone 1/3": "3 pictures"}
    assert refusals(model, processor, rows, [Same(), Singles()]) == {"alone 1/3": "2 pictures"}
    assert refusals(model, processor, rows, [Same()], batch=9) == {}
    # One at a time, or only one there is.
    assert refusals(model, processor, rows, [Singles()], batch=1) == {}
    assert refusals(model, processor, rows, [Squares("short", 1)], batch=9) == {}


# -- times -----------------------------------------------------------------------------------------


def test_times_go_on_prompt_by_prompt(loaded, tmp_path, monkeypatch):
    samples = speed.pick((Squares(),), 9, 3)
    rows, calls, real = ROWS[1:], [], speed.measure

    def counted(model, inputs, *args, **kwargs):
        calls.append(inputs["input_ids"].shape[1])
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(model, inputs, *args, **kwargs)

    monkeypatch.setattr(speed, "measure", counted)
    # A prompt's plain answer, three rows to warm up, three rows; then stopped in the second prompt.
    stop_at = 10
    with pytest.raises(KeyboardInterrupt):
        speed.measure_rows(*loaded, samples, rows, 3, folder=tmp_path)
    kept = json.loads((tmp_path / speed.ROUNDS).read_text())
    assert [prompt[:2] for prompt in kept["prompts"]] == [["squares", 0]]
    stop_at, steps = None, []
    calls.clear()
    timing = speed.measure_rows(*loaded, samples, rows, 3, steps.append, tmp_path)
    assert len(calls) == 1 + 3 + 3 + 1 + 3
    assert sum(steps) == 3 * (1 + 3)
    first = dict(zip(kept["rows"], kept["prompts"][0][2], strict=True))
    everything = json.loads((tmp_path / speed.ROUNDS).read_text())
    assert everything["prompts"][0] == kept["prompts"][0]
    ratios = [
        plain["ttft"] / merged["ttft"]
        for plain, merged in (
            [dict(zip(everything["rows"], prompt[2], strict=True))[name] for name in ("plain", "illava 1/9")]
            for prompt in everything["prompts"]
        )
    ]
    faster = timing["rows"]["illava 1/9"]["faster"]["ttft"]
    assert (faster["median"], faster["low"], faster["high"]) == (sorted(ratios)[1], min(ratios), max(ratios))
    assert first["plain"]["ttft"] / first["illava 1/9"]["ttft"] in ratios
    # All is there: nothing is measured; other rows or threads: everything is.
    calls.clear()
    assert speed.measure_rows(*loaded, samples, rows, 3, folder=tmp_path) == timing
    assert not calls
    speed.measure_rows(*loaded, samples[:1], [*rows, merged_row(Illava(keep=0.5), 0.5)], 3, folder=tmp_path)
    assert len(calls) == 1 + 4 + 4


def test_rounds_that_do_not_fit_are_measured_anew(tmp_path):
    here = {"threads": torch.get_num_threads(), "dtype": "float32"}
    for content in ("", "[]", '{"threads": 1}', '{"threads": 99, "rows": ["plain"], "prompts": []}'):
        (tmp_path / speed.ROUNDS).write_text(content)
        assert speed._known_rounds(tmp_path, [PLAIN], here) == {}
    seconds = dict.fromkeys(("encoder", "prefill", "decode", "ttft", "total", "new_tokens"), 1)
    others = ({**here, "threads": here["threads"] + 1}, {**here, "dtype": "bfloat16"})
    cases = [(here, seconds, 1), (here, {"x": 1}, 0), *((other, seconds, 0) for other in others)]
    for setting, modules, found in cases:
        kept = {**setting, "rows": ["plain"], "prompts": [["a", 0, [modules]]]}
        (tmp_path / speed.ROUNDS).write_text(json.dumps(kept))
        assert len(speed._known_rounds(tmp_path, [PLAIN], here)) == found
